"""MHE attention and its baselines against the oracle, and against stock attention with the weights written out."""

import pytest
import torch
import torch.nn.functional as F
from fairseq.modules import MultiheadAttention
from helpers.models import TOLERANCE, assert_close, written_out
from torch.utils._python_dispatch import TorchDispatchMode

from el_fairseq.modules import MHEAttention, MultiQueryAttention, SingleHeadAttention
from el_fairseq.ops import naive

WIDTH = 12
KINDS = {"self": {"self_attention": True}, "cross": {"encoder_decoder_attention": True, "kdim": 7, "vdim": 5}}
BUILDERS = {
    "mhe-mul": lambda *args, **options: MHEAttention(*args, variant="mul", **options),
    "mhe-add": lambda *args, **options: MHEAttention(*args, variant="add", **options),
    "mqa": MultiQueryAttention,
    "sha": SingleHeadAttention,
}


def build(name, heads=3, seed=0, dtype=torch.float64, device="cpu", **options):
    torch.manual_seed(seed)
    attention = BUILDERS[name](WIDTH, heads, **options).to(device, dtype)
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return attention


def inputs(kind, t=5, n=4, dtype=torch.float64, device="cpu"):
    torch.manual_seed(1)
    widths = (WIDTH,) if kind == "self" else (WIDTH, 7, 5)
    lengths = (t,) if kind == "self" else (t, 63, 63)
    return [
        torch.randn(s, n, w, dtype=torch.float64).to(device, dtype).requires_grad_() for s, w in zip(lengths, widths)
    ]


def masks(which, t, s, n, device="cpu"):
    lengths = torch.tensor([s, 1, s - 2, 2], device=device)[:n]
    padding = torch.arange(s, device=device) >= lengths.unsqueeze(1) if "padding" in which else None
    causal = (
        torch.full((t, s), float("-inf"), dtype=torch.float64, device=device).triu(1) if "causal" in which else None
    )
    return padding, causal


def added(padding, causal, t, s, n):
    """Both masks as one that is added, ``[n, t, s]``."""
    mask = torch.zeros(n, t, s, dtype=torch.float64)
    if causal is not None:
        mask = mask + causal.cpu()
    return mask if padding is None else mask.masked_fill(padding.cpu()[:, None], float("-inf"))


def oracle(attention, operation, xs, mask, kept=None):
    params = {
        p[0] if p != "out_proj" else "out": getattr(attention, p) for p in ("q_proj", "k_proj", "v_proj", "out_proj")
    }
    params = {name: (linear.weight, linear.bias) for name, linear in params.items()}
    embeds = {name: getattr(attention, f"{name}_head_embed") for name in "qkv"}
    query, key, value = (x.transpose(0, 1) for x in (xs if len(xs) == 3 else xs * 3))
    output, weights = naive.mhe_attention(query, key, value, params, embeds, operation, mask, kept)
    return output.transpose(0, 1), weights


def call(attention, xs, **options):
    return attention(*(xs if len(xs) == 3 else xs * 3), **options)


@pytest.mark.parametrize("weights", [True, False], ids=["weights", "fused"])
@pytest.mark.parametrize("which", ["none", "padding", "causal", "padding+causal"])
@pytest.mark.parametrize("heads", [1, 3, 12])
@pytest.mark.parametrize("operation", ["mul", "add"])
@pytest.mark.parametrize("kind", KINDS)
def test_outputs_and_all_gradients_are_the_papers(kind, operation, heads, which, weights, device):
    attention = build(f"mhe-{operation}", heads=heads, device=device, **KINDS[kind]).train()
    xs = inputs(kind, device=device)
    t, s, n = 5, len(xs[-1]), 4
    padding, causal = masks(which, t, s, n, device)
    expected, expected_weights = oracle(attention, operation, xs, added(padding, causal, t, s, n).to(device))
    leaves = [*attention.parameters(), *xs]
    torch.manual_seed(2)
    direction = torch.randn_like(expected)
    expected_grads = torch.autograd.grad((expected * direction).sum(), leaves)
    options = {"key_padding_mask": padding, "attn_mask": causal, "static_kv": kind == "cross"}
    output, got_weights = call(attention, xs, need_weights=False, need_head_weights=weights, **options)
    assert_close(output, expected)
    for gradient, wanted in zip(torch.autograd.grad((output * direction).sum(), leaves), expected_grads):
        assert_close(gradient, wanted)
    if weights:
        assert_close(got_weights, expected_weights.transpose(0, 1))
        assert_close(call(attention, xs, **options)[1], expected_weights.mean(dim=1))
    else:
        assert got_weights is None


@pytest.mark.parametrize("operation", ["mul", "add"])
def test_dropout_of_the_weights_is_exact(operation):
    """The probabilities of a row no longer sum to 1: the added value embeddings have to follow."""
    attention = build(f"mhe-{operation}", self_attention=True, dropout=0.4).train()
    xs = inputs("self")
    torch.manual_seed(3)
    # rows are laid out [n, heads · t, s]
    kept = F.dropout(torch.ones(4, 3 * 5, 5, dtype=torch.float64), 0.4).view(4, 3, 5, 5)
    expected, _ = oracle(attention, operation, xs, torch.zeros(4, 5, 5).double(), kept)
    leaves = [*attention.parameters(), *xs]
    direction = torch.randn(5, 4, WIDTH, generator=torch.Generator().manual_seed(4)).double()
    expected_grads = torch.autograd.grad((expected * direction).sum(), leaves)
    torch.manual_seed(3)
    output, _ = call(attention, xs, need_weights=False)
    assert_close(output, expected)
    for gradient, wanted in zip(torch.autograd.grad((output * direction).sum(), leaves), expected_grads):
        assert_close(gradient, wanted)
    assert not torch.equal(call(attention, xs)[0], output)
    attention.eval()
    assert torch.equal(call(attention, xs)[0], call(attention, xs)[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("operation", ["mul", "add"])
@pytest.mark.parametrize("weights", [True, False], ids=["weights", "fused"])
def test_lower_precision(operation, dtype, weights, device):
    attention = build(f"mhe-{operation}", dtype=dtype, device=device, self_attention=True)
    (x,) = inputs("self", dtype=dtype, device=device)
    padding, causal = masks("padding+causal", 5, 5, 4, device)
    output, _ = call(attention, [x], key_padding_mask=padding, attn_mask=causal.to(dtype), need_weights=weights)
    assert output.dtype == dtype
    exact = attention.double()
    expected, _ = oracle(exact, operation, [x.double()], added(padding, causal, 5, 5, 4).to(device))
    scale = expected.abs().max()
    assert_close(output / scale, expected / scale, TOLERANCE[dtype])


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", BUILDERS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("which", ["none", "padding", "causal", "padding+causal"])
def test_called_as_stock_gives_what_stock_gives(name, kind, which):
    attention = build(name, **KINDS[kind]).eval()
    stock = written_out(attention)
    xs = inputs(kind)
    padding, causal = masks(which, 5, len(xs[-1]), 4)
    for options in ({}, {"need_weights": False}, {"need_head_weights": True}):
        calls = [call(a, xs, key_padding_mask=padding, attn_mask=causal, **options) for a in (attention, stock)]
        assert_close(calls[0][0], calls[1][0])
        assert (calls[0][1] is None) == (options == {"need_weights": False})
        # stock's training path, which it takes here, knows no weights per head
        if options == {} and calls[1][1] is not None:
            assert_close(calls[0][1], calls[1][1])


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", BUILDERS)
def test_decoding_follows_the_beams_as_stock_does(name, device):
    attention = build(name, self_attention=True, device=device).eval()
    stock = written_out(attention.cpu()).to(device)
    attention.to(device)
    states, rows = ({}, {}), 6
    for step in range(20):
        x = torch.randn(1, rows, WIDTH, device=device).double()
        padding = torch.rand(rows, 1, device=device) < 0.3 if step in (3, 4) else None
        outputs = [
            call(a, [x], incremental_state=state, key_padding_mask=padding, need_head_weights=True)
            for a, state in zip((attention, stock), states)
        ]
        assert_close(outputs[0][0], outputs[1][0])
        if name != "sha":  # one head instead of several equal ones
            assert_close(outputs[0][1], outputs[1][1])
        rows = rows - 2 if step in (5, 11) else rows
        order = torch.randint(0, rows, (rows,), device=device)
        for a, state in zip((attention, stock), states):
            a.reorder_incremental_state(state, order)
    (kept,) = states[0].values()
    assert kept.entries.filled.shape == (2, 2, 1, 20, WIDTH // 3)  # one key and one value of width d a token


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", BUILDERS)
@pytest.mark.parametrize("query_len", [1, 3])
@pytest.mark.parametrize("beams", [1, 2, 5])
def test_the_source_is_kept_once_a_sentence(name, query_len, beams, device):
    attention = build(name, encoder_decoder_attention=True, kdim=7, vdim=7).eval()
    stock = written_out(attention).to(device)
    attention.to(device)
    source = torch.randn(63, 3, 7, device=device).double()
    padding = torch.arange(63, device=device) >= torch.tensor([63, 1, 40], device=device).unsqueeze(1)
    states, kept = ({}, {}), torch.arange(3, device=device)
    for step in range(4):
        shared, copies = (source[:, kept], padding[kept]), kept.repeat_interleave(beams)
        expanded = source[:, copies], padding[copies]
        x = torch.randn(query_len, len(copies), WIDTH, device=device).double()
        outputs = [
            a(x, key, key, key_padding_mask=mask, incremental_state=state, static_kv=True)
            for a, state, (key, mask) in zip((attention, stock), states, (shared, expanded))
        ]
        for ours, stocks in zip(*outputs):
            assert_close(ours, stocks)
        (state,) = states[0].values()
        assert state.entries.shape == (2, len(kept), 1, 63, WIDTH // 3)
        if step == 1:  # the second sentence leaves
            rows = torch.arange(3 * beams, device=device).view(3, beams)[[0, 2]].flatten()
            kept = kept[[0, 2]]
            for a, state in zip((attention, stock), states):
                a.reorder_incremental_state(state, rows)


class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor that any operation returns."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if torch.is_tensor(tensor):
                self.elements = max(self.elements, tensor.untyped_storage().nbytes() // tensor.element_size())
        return result


@pytest.mark.parametrize("name", BUILDERS)
@pytest.mark.parametrize("how", ["fused", "weights", "dropout"])
def test_keys_and_values_are_never_copied_for_the_heads(name, how):
    n, s, heads, d = 2, 500, 8, 16
    attention = BUILDERS[name](heads * d, heads, kdim=4, vdim=4, dropout=0.1, encoder_decoder_attention=True)
    attention.train(how == "dropout")
    x = torch.randn(1, n, heads * d)
    source = torch.randn(s, n, 4)
    with Largest() as largest:
        output, _ = attention(x, source, source, static_kv=True, need_weights=how == "weights")
        output.sum().backward()
    assert n * s * d <= largest.elements <= 2 * n * s * d  # keys or values once; the copies would be 8 times that


@pytest.mark.parametrize("operation", ["mul", "add"])
def test_the_papers_parameters(operation):
    attention = MHEAttention(WIDTH, 3, variant=operation)
    shapes = {name: tuple(parameter.shape) for name, parameter in attention.named_parameters()}
    projection = {
        f"{part}_proj.{kind}": shape for part in "qkv" for kind, shape in (("weight", (4, 12)), ("bias", (4,)))
    }
    embeds = {f"{part}_head_embed": (3, 4) for part in "qkv"}
    assert shapes == {**projection, **embeds, "out_proj.weight": (12, 12), "out_proj.bias": (12,)}
    assert set(attention.state_dict()) == {*shapes, "variant_version"}


def test_heads_start_as_stock_heads_do():
    """The shared projection has the spread of one head of stock's, not that of a matrix of its own shape."""
    torch.manual_seed(0)
    ours, stock = MHEAttention(512, 8, head_embed_std=0.25), MultiheadAttention(512, 8, self_attention=True)
    for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
        spread = [getattr(attention, part).weight.std().item() for attention in (ours, stock)]
        assert spread[0] == pytest.approx(spread[1], rel=0.02)
    assert ours.q_head_embed.std().item() == pytest.approx(0.25, rel=0.1)


def test_options_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match=r"variant='both': choose one of mul, add"):
        MHEAttention(12, 3, variant="both")
    with pytest.raises(ValueError, match=r"num_heads=5 does not divide embed_dim=12"):
        MHEAttention(12, 5)
    with pytest.raises(ValueError, match=r"kdim=7"):
        MHEAttention(12, 3, kdim=7, self_attention=True)
    for option in ({"add_bias_kv": True}, {"add_zero_attn": True}, {"xformers_att_config": "{}"}):
        with pytest.raises(ValueError, match=f"{next(iter(option))}=.*: MHEAttention has no such option"):
            MHEAttention(12, 3, **option)
    MHEAttention(12, 3, None, None, 0.1, True, False, False, True)  # stock's positions
    attention, x = MHEAttention(12, 3, encoder_decoder_attention=True), torch.randn(2, 4, 12)
    with pytest.raises(ValueError, match="before_softmax=True"):
        attention(x, x, x, before_softmax=True)
    with pytest.raises(ValueError, match="static_kv=False"):
        attention(x, x, x, incremental_state={})
    with pytest.raises(ValueError, match="4 query rows cannot share 3 sources"):
        attention(x, x[:, :3], x[:, :3], static_kv=True)
    with pytest.raises(ValueError, match=r"attn_mask of shape \[4, 2, 2\]"):
        attention(x, x, x, attn_mask=torch.zeros(4, 2, 2))


def test_the_state_of_the_other_variant_is_refused():
    with pytest.raises(ValueError, match=r"variant='add': the state of this module is 'mul'"):
        MHEAttention(12, 3, variant="add").load_state_dict(MHEAttention(12, 3, variant="mul").state_dict())
    whole = torch.nn.ModuleDict({"attention": MHEAttention(12, 3, variant="mul")})
    with pytest.raises(ValueError, match=r"the state of attention is 'add'"):
        whole.load_state_dict({f"attention.{k}": v for k, v in MHEAttention(12, 3, variant="add").state_dict().items()})


def test_quantization_noise_is_applied():
    attention = MHEAttention(16, 2, self_attention=True, q_noise=0.5, qn_block_size=4).train()
    x = torch.randn(3, 2, 16)
    assert not torch.equal(attention(x, x, x)[0], attention(x, x, x)[0])
