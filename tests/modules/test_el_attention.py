"""The EL module against fairseq's, step by step, in float64."""

import pytest
import torch
from fairseq.modules import MultiheadAttention
from helpers.models import assert_close

from el_fairseq.cache import Layout
from el_fairseq.modules import ELMultiheadAttention

PLANS = [Layout.HIDDEN, Layout.PROJECTED]
pytestmark = pytest.mark.usefixtures("float64")


def pair(layout, embed_dim=12, heads=3, seed=0, device="cpu", **options):
    """A stock attention and an EL attention with the same parameters, the second without any sharing of them."""
    torch.manual_seed(seed)
    stock = MultiheadAttention(embed_dim, heads, **options).double().eval()
    for parameter in stock.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    ours = ELMultiheadAttention(embed_dim, heads, plan=lambda request: layout, **options).double().eval()
    ours.load_state_dict(stock.state_dict())
    return stock.to(device), ours.to(device)


def assert_same_step(ours, stock):
    for our, theirs in zip(ours, stock):
        assert (our is None) == (theirs is None)
        if theirs is not None:
            assert our.shape == theirs.shape and our.dtype == theirs.dtype
            assert_close(our, theirs)


@pytest.mark.parametrize("layout", PLANS)
@pytest.mark.parametrize("weights", [(False, False), (True, False), (False, True)], ids=["none", "mean", "heads"])
@pytest.mark.parametrize("heads", [1, 3, 12])
def test_self_attention_follows_beams(layout, weights, heads, device):
    stock, ours = pair(layout, heads=heads, self_attention=True, device=device)
    states = ({}, {})
    options = {"need_weights": weights[0], "need_head_weights": weights[1]}
    rows = 6
    for step in range(20):
        x = torch.randn(1, rows, 12, device=device).double()
        outputs = [a(x, x, x, incremental_state=s, **options) for a, s in zip((ours, stock), states)]
        assert_same_step(*outputs)
        rows = rows - 2 if step in (5, 11) else rows
        order = torch.randint(0, rows, (rows,), device=device)
        for attention, state in zip((ours, stock), states):
            attention.reorder_incremental_state(state, order)


@pytest.mark.parametrize("layout", PLANS)
def test_self_attention_with_padded_tokens_and_longer_queries(layout):
    stock, ours = pair(layout, self_attention=True)
    states = ({}, {})
    lengths = [1, 3, 1, 2, 1]
    seen = 0
    for step, length in enumerate(lengths):
        x = torch.randn(length, 4, 12).double()
        padding = torch.rand(4, length) < 0.4 if step in (2, 3) else None
        seen += length
        causal = torch.full((length, seen), float("-inf")).triu(seen - length + 1).double() if length > 1 else None
        outputs = [
            a(x, x, x, key_padding_mask=padding, incremental_state=s, attn_mask=causal, need_head_weights=True)
            for a, s in zip((ours, stock), states)
        ]
        assert_same_step(*outputs)


@pytest.mark.parametrize("layout", PLANS)
@pytest.mark.parametrize("source_dim", [12, 20, 7])
@pytest.mark.parametrize("query_len", [1, 3])
@pytest.mark.parametrize("padded", [True, False], ids=["padded", "unpadded"])
@pytest.mark.parametrize("beams", [1, 2, 5])
def test_cross_attention_shares_the_source_among_beams(layout, source_dim, query_len, padded, beams, device):
    sizes = {"kdim": source_dim, "vdim": source_dim}
    stock, ours = pair(layout, encoder_decoder_attention=True, device=device, **sizes)
    source = torch.randn(63, 3, source_dim, device=device).double()
    padding = None
    if padded:
        padding = torch.arange(63, device=device) >= torch.tensor([63, 1, 40], device=device).unsqueeze(1)
    states = ({}, {})
    kept = torch.arange(3, device=device)
    for step in range(4):
        shared = source[:, kept], None if padding is None else padding[kept]
        copies = kept.repeat_interleave(beams)
        expanded = source[:, copies], None if padding is None else padding[copies]
        x = torch.randn(query_len, kept.numel() * beams, 12, device=device).double()
        outputs = [
            a(x, key, key, key_padding_mask=mask, incremental_state=s, static_kv=True, need_head_weights=True)
            for a, s, (key, mask) in zip((ours, stock), states, (shared, expanded))
        ]
        assert_same_step(*outputs)
        if step == 1:  # the second sentence leaves
            rows = torch.arange(3 * beams, device=device).view(3, beams)[[0, 2]].flatten()
            kept = kept[[0, 2]]
            for attention, state in zip((ours, stock), states):
                attention.reorder_incremental_state(state, rows)


@pytest.mark.parametrize("layout", PLANS)
def test_no_biases(layout):
    stock, ours = pair(layout, self_attention=True, bias=False)
    states = ({}, {})
    for _ in range(3):
        x = torch.randn(1, 2, 12).double()
        assert_same_step(*(a(x, x, x, incremental_state=s) for a, s in zip((ours, stock), states)))


def test_hidden_layout_keeps_only_inputs_and_cross_attention_keeps_nothing():
    _, own = pair(Layout.HIDDEN, self_attention=True)
    _, cross = pair(Layout.HIDDEN, encoder_decoder_attention=True)
    x, source, state = torch.randn(1, 2, 12).double(), torch.randn(5, 1, 12).double(), {}
    own(x, x, x, incremental_state=state)
    cross(x, source, source, incremental_state=state, static_kv=True)
    kept, nothing = state.values()
    assert (
        torch.equal(kept.entries.filled[0, :, 0], x.transpose(0, 1))
        and len(kept.tensors()) == 1
        and not nothing.tensors()
    )


def test_dropout_while_decoding_is_exact_with_stocks_draws():
    """``--retain-dropout``: weights that do not sum to 1 meet the value bias as they should."""
    stock, ours = pair(Layout.HIDDEN, self_attention=True, dropout=0.5)
    states = ({}, {})
    for attention in (stock, ours):
        attention.dropout_module.apply_during_inference = True
    for _ in range(5):
        x = torch.randn(1, 4, 12).double()
        outputs = []
        for attention, state in zip((ours, stock), states):
            torch.manual_seed(1)
            outputs.append(attention(x, x, x, incremental_state=state))
        assert_same_step(*outputs)


@pytest.mark.parametrize("kind", ["self_attention", "encoder_decoder_attention"])
def test_without_incremental_state_it_is_stock_bit_by_bit(kind):
    stock, ours = pair(Layout.HIDDEN, dropout=0.3, **{kind: True})
    stock.train(), ours.train()
    x = torch.randn(5, 2, 12).double()
    grads = []
    for attention in (ours, stock):
        torch.manual_seed(1)
        output, weights = attention(x, x, x)
        output.sum().backward()
        grads.append([output, weights, *(p.grad for p in attention.parameters())])
    for our, theirs in zip(*grads):
        assert torch.equal(our, theirs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"self_attention": True, "add_bias_kv": True}, "add_bias_kv=True"),
        ({"self_attention": True, "add_zero_attn": True}, "add_zero_attn=True"),
        ({"encoder_decoder_attention": True, "kdim": 8, "vdim": 10}, "kdim=8 and vdim=10"),
        ({}, "self_attention=False and encoder_decoder_attention=False"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_options_outside_the_identities_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        ELMultiheadAttention(12, 3, **options)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"before_softmax": True, "static_kv": True}, "before_softmax=True"),
        ({"static_kv": False}, "static_kv=False"),
        ({"key": None, "static_kv": True}, "key=None"),
        ({"key": torch.zeros(5, 4, 12).double(), "static_kv": True}, "6 query rows cannot share 4 sources"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_calls_outside_the_identities_are_refused(call, message):
    _, cross = pair(Layout.HIDDEN, encoder_decoder_attention=True)
    source = torch.zeros(5, 2, 12).double()
    arguments = {"key": source, "value": source, "incremental_state": {}, **call}
    with pytest.raises(ValueError, match=message):
        cross(torch.zeros(1, 6, 12).double(), **arguments)
