"""Products of linear layers: the sums of nn.Linear, in another order, of the weight as it is now."""

import copy
import gc
import pickle
import weakref

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from el_fairseq.ops import packed as ops
from el_fairseq.ops import products as module
from el_fairseq.ops.packed import can_pack, pack, packed_linear, round_up
from el_fairseq.ops.products import (
    apply_linear,
    drop_stale,
    joint_linear_fn,
    joint_packed_weights,
    linear_fn,
    packed_weights,
)
from el_fairseq.ops.tuner import TUNER, Tuner

pytestmark = pytest.mark.skipif(not can_pack(torch.ones(2, 2)), reason="PyTorch without oneDNN")


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


@pytest.fixture
def packed(monkeypatch):
    """The packed products that were made, of any size."""
    monkeypatch.setattr(TUNER, "fixed", True)
    monkeypatch.setattr(module, "SMALL_PRODUCT", 0)
    calls, product = [], module.packed_linear
    monkeypatch.setattr(module, "packed_linear", lambda *args: calls.append(args) or product(*args))
    return calls


def layer(*sizes, **options):
    torch.manual_seed(0)
    return nn.Linear(*(sizes or (24, 63)), **options).eval()


def exact(linear, x):
    bias = None if linear.bias is None else linear.bias.double()
    return nn.functional.linear(x.double(), linear.weight.double(), bias)


def assert_is_linear(linear, x):
    for y in (apply_linear(linear, x), linear_fn(linear)(x)):
        assert y.is_contiguous()
        torch.testing.assert_close(y.double(), exact(linear, x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1,), (0, 3), (2, 1), (63, 1), (3, 5, 2), (300,)], ids=str)
def test_is_linear(shape, bias, packed):
    linear = layer(24, 63, bias=bias)
    assert_is_linear(linear, torch.randn(*shape, 24))
    assert len(packed) == 2 and list(linear.state_dict()) == ["weight", "bias"][: 1 + bias]


def test_reads_what_is_not_contiguous(packed):
    linear = layer()
    for x in (torch.randn(5, 2, 24).transpose(0, 1), torch.randn(24, 7).t(), torch.randn(7, 48)[:, ::2]):
        assert_is_linear(linear, x)
    assert len(packed) == 6


def test_the_weight_may_change(packed):
    linear, x = layer(), torch.randn(4, 24)
    assert_is_linear(linear, x)
    linear.weight.mul_(2)
    assert_is_linear(linear, x)
    linear.load_state_dict(layer().state_dict())
    assert_is_linear(linear, x)
    linear.weight = nn.Parameter(torch.randn(63, 24))
    assert_is_linear(linear, x)
    linear.half().float()
    assert_is_linear(linear, x)
    linear.load_state_dict(layer().state_dict(), assign=True)
    assert_is_linear(linear, x)
    assert len(packed) == 12


@pytest.mark.parametrize("write", [lambda x: x.mul_(3), lambda x: x.copy_(torch.randn_like(x))], ids=["scale", "copy"])
def test_what_is_written_past_pytorch_is_noticed_once_a_batch(write, packed):
    """As averages of weights are, and some optimizers of fairseq."""
    linear, x = layer(), torch.randn(4, 24)
    assert_is_linear(linear, x)
    before = apply_linear(linear, x)
    write(linear.weight.data)
    torch.testing.assert_close(apply_linear(linear, x), before, rtol=0, atol=0)  # as long as the batch lasts
    drop_stale([linear])
    assert_is_linear(linear, x)
    write(linear.weight.data)
    torch.testing.assert_close(linear_fn(linear)(x).double(), exact(linear, x), atol=1e-5, rtol=1e-5)
    both = [linear, layer(24, 21)]
    joint_linear_fn(both)(x)
    write(both[1].weight.data)
    expected = torch.cat([exact(linear, x) for linear in both], dim=-1)
    torch.testing.assert_close(joint_linear_fn(both)(x).double(), expected, atol=1e-5, rtol=1e-5)


def test_training_gradients_and_other_precisions_stay_as_they_are(packed):
    linear, x = layer().train(), torch.randn(4, 24)
    for product in (linear_fn(linear), lambda x: apply_linear(linear, x)):
        assert torch.equal(product(x), linear(x))
        linear.eval()
        with torch.enable_grad():
            apply_linear(linear, x).sum().backward()
        assert linear.weight.grad is not None
        assert apply_linear(linear, x.double().float()).dtype is torch.float32
        linear.train()
    packed.clear()
    linear.eval().double()
    assert apply_linear(linear, x.double()).dtype is linear_fn(linear)(x.double()).dtype is torch.float64
    with torch.autocast("cpu", torch.bfloat16):
        assert apply_linear(linear.float(), x).dtype is linear_fn(linear)(x).dtype is torch.bfloat16
    assert not packed


def test_bfloat16(packed):
    linear, x = layer().bfloat16(), torch.randn(4, 24).bfloat16()
    torch.testing.assert_close(apply_linear(linear, x).double(), exact(linear, x), atol=2e-2, rtol=2e-2)
    assert len(packed) == can_pack(linear.weight)


@pytest.mark.parametrize("bias", [True, False])
def test_few_multiplications_are_pytorchs(bias, packed, monkeypatch):
    monkeypatch.setattr(module, "SMALL_PRODUCT", 3 * 24 * 63)
    linear = layer(24, 63, bias=bias)
    for rows, count in ((2, 0), (3, 2)):
        assert_is_linear(linear, torch.randn(rows, 24))
        assert len(packed) == count
    apply_linear(linear.bfloat16(), torch.randn(2, 24).bfloat16())
    assert len(packed) == 2 + can_pack(linear.weight)


@pytest.mark.parametrize("rows_below", [0, 1, 3])
@pytest.mark.parametrize("bias", [True, False])
def test_the_joint_product(bias, rows_below, packed, monkeypatch):
    """Of dense weights side by side for fewer rows than this; where no row is short enough, none are kept."""
    monkeypatch.setattr(module, "SMALL_PRODUCT", (rows_below + 1) * 24 * 63 - 1)
    layers = [layer(24, 21, bias=bias) for _ in range(3)]
    for rows in (1, 3, 4):
        x = torch.randn(rows, 24)
        expected = torch.cat([exact(linear, x) for linear in layers], dim=-1)
        torch.testing.assert_close(joint_linear_fn(layers)(x).double(), expected, atol=1e-5, rtol=1e-5)
    assert len(packed) == sum(rows > rows_below for rows in (1, 3, 4))
    assert (joint_packed_weights[layers[0]].made[0] is None) == (rows_below == 0)


def test_in_inference_mode(packed):
    with torch.inference_mode():
        linear = layer()  # its parameters count no versions
        for _ in range(2):
            assert_is_linear(linear, torch.randn(4, 24))
    assert len(packed) == 4


@pytest.mark.parametrize("again", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["copy", "pickle"])
def test_can_be_copied_once_it_has_multiplied(again, packed):
    linear, x = layer(), torch.randn(4, 24)
    expected = apply_linear(linear, x)
    torch.testing.assert_close(apply_linear(again(linear), x), expected)


def test_copies_go_with_the_layer(packed):
    linear = layer()
    apply_linear(linear, torch.randn(4, 24))
    joint_linear_fn([linear, layer()])
    copies = [weakref.ref(of[linear]) for of in (packed_weights, joint_packed_weights)]
    assert all(copy() is not None for copy in copies)
    del linear
    gc.collect()
    assert [copy() for copy in copies] == [None, None]


class Doubled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


CHANGES = {
    "hook": lambda linear: linear.register_forward_hook(lambda module, args, y: 2 * y),
    "hook before": lambda linear: linear.register_forward_pre_hook(lambda module, args: (2 * args[0],)),
    "hook with keywords": lambda linear: linear.register_forward_hook(lambda m, a, k, y: 2 * y, with_kwargs=True),
    "forward": lambda linear: vars(linear).update(forward=lambda x: 2 * type(linear).forward(linear, x)),
    "class": lambda linear: setattr(linear, "__class__", Doubled),
    "weight norm": parametrizations.weight_norm,
    "old weight norm": nn.utils.weight_norm,
    "pruning": lambda linear: prune.l1_unstructured(linear, "weight", amount=0.5),
}


@pytest.mark.parametrize("before", [False, True], ids=["after a product", "before"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_layer_is_called(change, before, packed):
    with torch.enable_grad():
        linear, x = layer(), torch.randn(4, 24)
    if not before:
        apply_linear(linear, x)
    count = len(packed)
    CHANGES[change](linear)
    assert torch.equal(apply_linear(linear, x), linear(x)) and torch.equal(linear_fn(linear)(x), linear(x))
    assert joint_linear_fn([linear, layer()]) is None and len(packed) == count


def test_few_numbers_of_rows_are_multiplied():
    assert [round_up(rows) for rows in (0, 1, 8, 9, 64, 65, 256, 257, 1024, 1025)] == [
        0, 1, 8, 16, 64, 80, 256, 288, 1024, 1088,
    ]  # fmt: skip
    assert len({round_up(rows) for rows in range(2049)}) < 75


@pytest.mark.parametrize("rows", [1, 9, 63, 100])
def test_rows_of_zeros_change_nothing(rows, monkeypatch):
    made, product = [], ops.linear_pointwise
    monkeypatch.setattr(ops, "linear_pointwise", lambda x, *args: made.append(x.size(0)) or product(x, *args))
    linear, x = layer(), torch.randn(rows, 24)
    x[-1] = torch.nan
    y = packed_linear(x, pack(linear.weight), linear.bias)
    assert made == [round_up(rows)] and y.shape == (rows, 63) and y[-1].isnan().all()
    torch.testing.assert_close(y[:-1].double(), exact(linear, x[:-1]), atol=1e-5, rtol=1e-5)


@pytest.fixture
def tuner(monkeypatch):
    """One that has chosen nothing yet."""
    fresh = Tuner()
    monkeypatch.setattr(module, "TUNER", fresh)
    return fresh


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1,), (2, 1), (63, 1), (3, 5, 2), (300,)], ids=str)
@pytest.mark.parametrize("way", module._WAYS)
def test_all_ways_agree(way, shape, bias, dtype, tuner, monkeypatch):
    """Whichever is the fastest."""
    linear, x = layer(24, 63, bias=bias).to(dtype), torch.randn(*shape, 24).to(dtype)
    if not can_pack(linear.weight):
        pytest.skip("no packed product in bfloat16")
    monkeypatch.setattr(tuner, "choose", lambda key, candidates, default: way)
    for y in (apply_linear(linear, x), linear_fn(linear)(x)):
        assert y.is_contiguous() and y.dtype is dtype
        tolerance = 1e-5 if dtype is torch.float32 else 2e-2
        torch.testing.assert_close(y.double(), exact(linear, x), atol=tolerance, rtol=tolerance)


def test_a_choice_holds_for_a_shape_a_dtype_and_about_as_many_rows(tuner):
    for rows in (4, 5, 7, 8, 300, 3000):
        linear_fn(layer())(torch.randn(rows, 24))
    assert len(tuner.chosen) == 3  # 4 to 7, 8 to 15, and 256 and more
    linear_fn(layer(24, 30))(torch.randn(4, 24))
    linear_fn(layer(bias=False))(torch.randn(4, 24))
    assert len(tuner.chosen) == 5
    linear_fn(layer())(torch.randn(0, 24))
    assert len(tuner.chosen) == 5


def test_another_number_of_threads_is_another_choice(tuner):
    threads, linear, x = torch.get_num_threads(), layer(), torch.randn(4, 24)
    expected = exact(linear, x)
    try:
        for count in (1, 2, 1):
            torch.set_num_threads(count)
            torch.testing.assert_close(linear_fn(linear)(x).double(), expected, atol=1e-5, rtol=1e-5)
    finally:
        torch.set_num_threads(threads)
    assert len(tuner.chosen) == 2


def test_without_mkl_and_onednn_products_are_pytorchs(monkeypatch):
    monkeypatch.setattr(ops, "has_packed_products", lambda: False)
    linear, x = layer(), torch.randn(4, 24)
    assert torch.equal(linear_fn(linear)(x), linear(x)) and torch.equal(apply_linear(linear, x), linear(x))
    assert joint_linear_fn([linear, layer()]) is None
