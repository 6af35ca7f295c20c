"""The output layer for few rows: the sums of nn.Linear, in another order."""

import pytest
import torch
from helpers import build_model, dictionary
from torch import nn

from el_fairseq.modules import output_layer
from el_fairseq.modules.convert import use_el_attention, use_stock_attention
from el_fairseq.modules.output_layer import ROWS, FewRowsLinear


@pytest.fixture
def products(monkeypatch):
    """How often the weight came first."""
    calls, mm = [], torch.mm
    monkeypatch.setattr(output_layer, "CACHED", 0)
    monkeypatch.setattr(torch, "mm", lambda *args: calls.append(args) or mm(*args))
    return calls


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1,), (2, 1), (4, 1), (2, 4), (3, 3), (64, 1)], ids=str)
def test_is_linear(shape, bias, products):
    torch.manual_seed(0)
    layer = FewRowsLinear(24, 63, bias=bias).eval()
    x = torch.randn(*shape, 24)
    expected = nn.functional.linear(x.double(), layer.weight.double(), None if not bias else layer.bias.double())
    y = layer(x)
    assert y.shape == expected.shape and y.is_contiguous()
    torch.testing.assert_close(y.double(), expected, atol=1e-5, rtol=1e-5)
    assert len(products) == (x.numel() // 24 in ROWS)


def test_training_and_other_precisions_stay_as_they_are(products):
    layer = FewRowsLinear(24, 63)
    layer(torch.randn(4, 24))
    layer.eval().double()(torch.randn(4, 24).double())
    assert not products


def test_a_converted_model_has_it_and_gives_it_back():
    model = build_model("transformer", dictionary(12))
    keys, weight = list(model.state_dict()), model.decoder.output_projection.weight
    use_el_attention(model)
    assert type(model.decoder.output_projection) is FewRowsLinear
    assert model.decoder.output_projection.weight is weight and list(model.state_dict()) == keys
    use_stock_attention(model)
    assert type(model.decoder.output_projection) is nn.Linear and model.decoder.output_projection.weight is weight
