"""Self-attention of encoders over packed projections: stock's output, and stock itself wherever more is asked for."""

import pytest
import torch
from fairseq.modules import MultiheadAttention
from helpers import build_model, dictionary
from torch import nn

from el_fairseq.modules import packed_attention as module
from el_fairseq.modules.convert import use_el_attention, use_stock_attention
from el_fairseq.modules.packed_attention import PackedAttention, has_plain_projections
from el_fairseq.modules.packed_linear import PackedLinear


def pair(**options):
    torch.manual_seed(0)
    stock = MultiheadAttention(12, 3, self_attention=True, **options).eval()
    ours = PackedAttention(12, 3, self_attention=True, **options).eval()
    for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
        setattr(ours, name, PackedLinear(12, 12).eval())
    ours.load_state_dict(stock.state_dict())
    return stock, ours


@pytest.fixture
def fused(monkeypatch):
    """The calls of PyTorch's attention from this module."""
    calls, attention = [], module.scaled_dot_product_attention
    monkeypatch.setattr(module, "scaled_dot_product_attention", lambda *a: calls.append(a) or attention(*a))
    return calls


@pytest.mark.parametrize("future", [False, True], ids=["all", "past"])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@torch.no_grad()
def test_is_stocks(dtype, padded, future, fused):
    stock, ours = (attention.to(dtype) for attention in pair(dropout=0.1))
    x = torch.randn(7, 3, 12, dtype=dtype)
    padding = torch.zeros(3, 7, dtype=torch.bool)
    padding[0, 5:] = padding[2, 4:] = True
    padding[1, :2] = not future  # else the first token would see nothing
    options = {
        "need_weights": False,
        "attn_mask": torch.full((7, 7), -torch.inf, dtype=dtype).triu(1) if future else None,
    }
    expected, actual = (a(x, x, x, padding if padded else None, **options) for a in (stock, ours))
    tolerance = 1e-12 if dtype is torch.float64 else 1e-5
    torch.testing.assert_close(actual[0], expected[0], atol=tolerance, rtol=tolerance)
    assert actual[1] is expected[1] is None and len(fused) == 1


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"need_weights": True},
        {"need_head_weights": True},
        {"attn_mask": torch.eye(7, dtype=torch.bool)},
        {"attn_mask": torch.randn(9, 7, 7)},
    ],
    ids=["weights by default", "weights", "head weights", "boolean mask", "masks by head"],
)
@torch.no_grad()
def test_is_stock_itself_where_more_is_asked_for(options, fused):
    stock, ours = pair()
    x = torch.randn(7, 3, 12)
    options = {"need_weights": False, **options} if options else {}
    for expected, actual in zip(*(a(x, x, x, **options) for a in (stock, ours))):
        assert (expected is None and actual is None) or torch.equal(expected, actual)
    assert not fused


@torch.no_grad()
def test_dropout_has_stocks_draws(fused):
    stock, ours = (attention.train() for attention in pair(dropout=0.5))
    x, outputs = torch.randn(7, 3, 12), []
    for attention in (stock, ours):
        torch.manual_seed(1)
        outputs.append(attention(x, x, x, need_weights=False)[0])
    assert torch.equal(*outputs) and not fused


def test_gradients_are_stocks(fused):
    x = torch.randn(7, 3, 12)
    gradients = []
    for attention in pair():
        attention(x, x, x, need_weights=False)[0].pow(2).sum().backward()
        gradients.append(attention.v_proj.weight.grad)
    assert torch.equal(*gradients) and not fused


@pytest.mark.parametrize("change", ["xformers", "pruned", "replaced"])
@torch.no_grad()
def test_what_is_changed_later_is_stocks(change, fused):
    stock, ours = pair()
    x = torch.randn(7, 3, 12)
    for attention in (stock, ours):
        if change == "xformers":
            attention.use_xformers, attention._xformers_attn_forward = True, lambda *args: ("xformers", None)
        elif change == "pruned":
            attention._adaptive_prune_heads([(0, 4), (8, 12)])
            attention._set_skip_embed_dim_check()
        else:
            torch.manual_seed(1)
            attention.v_proj = nn.Linear(12, 12)
    expected, actual = (a(x, x, x, need_weights=False)[0] for a in (stock, ours))
    if change == "xformers":
        assert actual == expected
    else:
        torch.testing.assert_close(actual, expected)
    assert not fused


@pytest.mark.parametrize("change", ["bias_kv", "zero_attn", "pruned", "replaced"])
def test_other_attentions_stay_as_they_are(change):
    attention = MultiheadAttention(
        12, 3, self_attention=True, add_bias_kv=change == "bias_kv", add_zero_attn=change == "zero_attn"
    )
    for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
        linear = getattr(attention, name)
        if change != "replaced" or name != "v_proj":
            setattr(attention, name, PackedLinear(linear.in_features, linear.out_features))
    if change == "pruned":
        attention._set_skip_embed_dim_check()
    assert not has_plain_projections(attention)


def test_a_converted_encoder_has_it_and_gives_it_back():
    model = build_model("transformer", dictionary(12))
    keys = list(model.state_dict())
    use_el_attention(model)
    assert {type(layer.self_attn) for layer in model.encoder.layers} == {PackedAttention}
    assert list(model.state_dict()) == keys
    use_stock_attention(model)
    assert {type(layer.self_attn) for layer in model.encoder.layers} == {MultiheadAttention}
    assert type(model.encoder.layers[0].self_attn.q_proj) is nn.Linear
