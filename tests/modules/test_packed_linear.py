"""Linear layers over packed weights: the sums of nn.Linear, in another order, of the weight as it is now."""

import copy
import pickle

import pytest
import torch
from helpers import build_model, dictionary
from torch import nn

from el_fairseq.modules import packed_linear as module
from el_fairseq.modules.convert import use_el_attention, use_stock_attention
from el_fairseq.modules.packed_linear import PackedLinear
from el_fairseq.ops.packed import can_pack

pytestmark = pytest.mark.skipif(not can_pack(torch.ones(2, 2)), reason="PyTorch without oneDNN")


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


@pytest.fixture
def products(monkeypatch):
    """The packed products that were made, of any size."""
    monkeypatch.setattr(module, "FEW", 0)
    calls, product = [], module.packed_linear
    monkeypatch.setattr(module, "packed_linear", lambda *args: calls.append(args) or product(*args))
    return calls


def exact(layer, x):
    return nn.functional.linear(x.double(), layer.weight.double(), None if layer.bias is None else layer.bias.double())


def assert_is_linear(layer, x):
    y = layer(x)
    assert y.is_contiguous()
    torch.testing.assert_close(y.double(), exact(layer, x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1,), (0, 3), (2, 1), (63, 1), (3, 5, 2)], ids=str)
def test_is_linear(shape, bias, products):
    torch.manual_seed(0)
    assert_is_linear(PackedLinear(24, 63, bias=bias).eval(), torch.randn(*shape, 24))
    assert len(products) == 1


def test_reads_what_is_not_contiguous(products):
    torch.manual_seed(0)
    layer = PackedLinear(24, 63).eval()
    assert_is_linear(layer, torch.randn(5, 2, 24).transpose(0, 1))
    assert_is_linear(layer, torch.randn(24, 7).t())
    assert_is_linear(layer, torch.randn(7, 48)[:, ::2])
    assert len(products) == 3


def test_the_weight_may_change(products):
    torch.manual_seed(0)
    layer, x = PackedLinear(24, 63).eval(), torch.randn(4, 24)
    assert_is_linear(layer, x)
    layer.weight.mul_(2)
    assert_is_linear(layer, x)
    layer.load_state_dict(nn.Linear(24, 63).state_dict())
    assert_is_linear(layer, x)
    layer.weight = nn.Parameter(torch.randn(63, 24))
    assert_is_linear(layer, x)
    layer.train()
    layer.weight.data.mul_(3)  # as optimizers of fairseq write
    layer.eval()
    assert_is_linear(layer, x)
    assert len(products) == 5


def test_training_gradients_and_other_precisions_stay_as_they_are(products):
    layer, x = PackedLinear(24, 63), torch.randn(4, 24)
    torch.testing.assert_close(layer(x), nn.functional.linear(x, layer.weight, layer.bias), rtol=0, atol=0)
    layer.eval()
    with torch.enable_grad():
        layer(x).sum().backward()
    assert layer.weight.grad is not None
    layer.double()(x.double())
    layer.half()(x.half())
    assert not products


def test_bfloat16(products):
    layer, x = PackedLinear(24, 63).eval().bfloat16(), torch.randn(4, 24).bfloat16()
    torch.testing.assert_close(layer(x).double(), exact(layer, x), atol=2e-2, rtol=2e-2)
    assert len(products) == can_pack(layer.weight)


def test_no_copy_outlives_the_weight_it_is_of(products):
    layer, x = PackedLinear(24, 63).eval(), torch.randn(4, 24)
    layer(x)
    layer.half()
    assert layer._packed is None
    layer.float()
    assert_is_linear(layer, x)
    layer.load_state_dict(nn.Linear(24, 63).state_dict(), assign=True)
    assert_is_linear(layer, x)


@pytest.mark.parametrize("bias", [True, False])
def test_few_multiplications_are_pytorchs(bias, products, monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(module, "FEW", 3 * 24 * 63)
    layer = PackedLinear(24, 63, bias=bias).eval()
    for rows, packed in ((2, 0), (3, 1)):
        x = torch.randn(rows, 24)
        assert_is_linear(layer, x)
        torch.testing.assert_close(module.product_of(layer)(x), layer(x), rtol=0, atol=0)
        assert len(products) == 3 * packed
    layer.bfloat16()(torch.randn(2, 24).bfloat16())
    assert len(products) == 3 + can_pack(layer.weight)


@pytest.mark.parametrize("rows_below", [0, 1, 3])
@pytest.mark.parametrize("bias", [True, False])
def test_the_joint_product(bias, rows_below, products, monkeypatch):
    """Of dense weights side by side for fewer rows than this; where no row is short enough, none are kept."""
    torch.manual_seed(0)
    monkeypatch.setattr(module, "FEW", (rows_below + 1) * 24 * 63 - 1)
    layers = [PackedLinear(24, 21, bias=bias).eval() for _ in range(3)]
    for rows in (1, 3, 4):
        x = torch.randn(rows, 24)
        expected = torch.cat([exact(layer, x) for layer in layers], dim=-1)
        torch.testing.assert_close(module.joint_product(layers)(x).double(), expected, atol=1e-5, rtol=1e-5)
    assert len(products) == sum(rows > rows_below for rows in (1, 3, 4))
    assert (layers[0]._joined.made[0] is None) == (rows_below == 0)


def test_autocast_is_stocks(products):
    layer = PackedLinear(24, 63).eval()
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.randn(4, 24)).dtype is torch.bfloat16
    assert not products


def test_in_inference_mode(products):
    with torch.inference_mode():
        layer = PackedLinear(24, 63).eval()  # its parameters count no versions
        for _ in range(2):
            assert_is_linear(layer, torch.randn(4, 24))
    assert len(products) == 2


@pytest.mark.parametrize(
    "again", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))], ids=["copy", "pickle"]
)
def test_can_be_copied_once_it_has_multiplied(again):
    layer, x = PackedLinear(24, 63).eval(), torch.randn(4, 24)
    expected = layer(x)
    torch.testing.assert_close(again(layer)(x), expected)


def test_a_converted_model_has_it_and_gives_it_back():
    model = build_model("transformer", dictionary(12))
    linear = {name: m.weight for name, m in model.named_modules() if type(m) is nn.Linear}
    keys = list(model.state_dict())
    use_el_attention(model)
    assert linear and {name: m.weight for name, m in model.named_modules() if type(m) is PackedLinear} == linear
    assert list(model.state_dict()) == keys
    use_stock_attention(model)
    assert {name: m.weight for name, m in model.named_modules() if type(m) is nn.Linear} == linear


def test_what_a_hook_recomputes_stays_stock():
    model = build_model("transformer", dictionary(12))
    hooked = model.decoder.layers[0].fc1
    hooked.register_forward_pre_hook(lambda *_: None)
    use_el_attention(model)
    assert model.decoder.layers[0].fc1 is hooked and type(hooked) is nn.Linear
