"""The Triton kernels against the oracles: on a GPU where there is one, else in Triton's interpreter."""

import importlib
from types import SimpleNamespace

import numpy
import pytest
import torch
from helpers.kernel_bounds import watch_bounds
from helpers.models import assert_close

from el_fairseq.ops import hidden_attention, kernels, shared_kv_attention
from el_fairseq.ops.kernels import trial

fused = pytest.importorskip("el_fairseq.ops.kernels.fused", exc_type=ModuleNotFoundError, reason="no triton")
triton = pytest.importorskip("triton", exc_type=ModuleNotFoundError)
InterpreterError = pytest.importorskip("triton.runtime.errors").InterpreterError
pytestmark = pytest.mark.cuda

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
HALVES = [torch.float16, torch.bfloat16]
HOPPER = 227 * 1024  # bytes of shared memory a block may have
SHAPES = [  # B, R, S, D, splits
    (1, 4, 1, 64, 1),
    (2, 20, 65, 192, 1),
    (3, 4, 150, 64, 1),
    (3, 4, 150, 64, 3),
    (1, 64, 33, 512, 1),
    (1, 17, 130, 768, 3),
    (1, 16, 65, 1024, 1),
    (1, 4, 40, 1280, 2),
]


@pytest.fixture(autouse=True)
def products_of_bfloat16(monkeypatch):
    """Triton's interpreter multiplies bfloat16 as if its bits were integers (triton issue 11584)."""
    if DEVICE == "cuda":
        return
    interpreter = importlib.import_module("triton.runtime.interpreter")
    wrong = interpreter.InterpreterBuilder.create_dot

    def create_dot(builder, a, b, *options):
        return wrong(builder, *(in_float32(x) for x in (a, b)), *options)

    def in_float32(x):
        if x.dtype.scalar != triton.language.bfloat16:
            return x
        bits = x.data.astype(numpy.uint32) << 16
        return interpreter.TensorHandle(bits.view(numpy.float32), triton.language.float32)

    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", create_dot)


@pytest.fixture(autouse=True)
def accesses(monkeypatch):
    """No kernel reads or writes outside of its tensors, in any of these tests."""
    return watch_bounds(monkeypatch) if DEVICE == "cpu" else []


def random(*shape, dtype=torch.float32):
    return torch.randn(*shape).to(DEVICE, dtype)


def launch_for(rows, dim, dtype):
    shared = torch.cuda.get_device_properties(0).shared_memory_per_block_optin if DEVICE == "cuda" else HOPPER
    return fused.launch_for(rows, dim, dtype.itemsize, shared)


def attend(query, hidden, splits, **options):
    return fused.fused_attention(query, hidden, launch_for(*query.shape[1:], query.dtype), splits, **options)


def oracle(query, hidden, padding):
    """``softmax(query · hiddenᵀ) · hidden`` in float64, sentence by sentence, of its visible tokens alone."""
    rows = [(q.double(), x[~pad].double()) for q, x, pad in zip(query, hidden, padding)]
    return torch.stack([torch.softmax(q @ x.T, dim=-1) @ x for q, x in rows])


def nothing_hidden(b, s):
    return torch.zeros(b, s, dtype=torch.bool, device=DEVICE)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_fused_attention_reads_no_padding(shape):
    b, rows, s, dim, splits = shape
    torch.manual_seed(0)
    query, hidden, padding = random(b, rows, dim) * 0.3, random(b, s, dim), nothing_hidden(b, s)
    assert_close(attend(query, hidden, splits), oracle(query, hidden, padding).float())
    padding[0, (s + 1) // 2 :] = True  # at the right, ...
    padding[1:2, : s - 1] = True  # at the left, all but one token, ...
    padding[2:3, 40 : s - 15] = True  # and in the middle, a whole split and more
    hidden[:2][padding[:2]] = float("nan")
    assert_close(attend(query, hidden, splits, padding=padding), oracle(query, hidden, padding).float())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_half_precision_is_within_its_bound(dtype, shape):
    """Sums are in float32. What is rounded to u, half the distance of numbers, are the weights, which sum to 1, and the
    output: the error is at most 2 u of the largest hidden state."""
    b, rows, s, dim, splits = shape
    torch.manual_seed(0)
    query, hidden = random(b, rows, dim, dtype=dtype) * 0.1, random(b, s, dim, dtype=dtype)
    padding = nothing_hidden(b, s)
    padding[0, (s + 1) // 2 :] = True
    actual = attend(query, hidden, splits, padding=padding)
    assert actual.dtype == dtype
    u, largest = torch.finfo(dtype).eps / 2, hidden.abs().max().item()
    error = (actual.double() - oracle(query, hidden, padding)).abs().max().item()
    assert error <= 2 * u * largest + 1e-5
    exact = oracle(query, hidden, padding).to(dtype)
    assert (actual - exact).abs().max() > 0 or s == 1  # or the products would have been in another dtype


def test_fused_attention_over_states_with_the_token_first():
    query, hidden = random(3, 4, 64), random(9, 3, 64).transpose(0, 1)
    assert_close(attend(query, hidden, 1), oracle(query, hidden, nothing_hidden(3, 9)).float())


@pytest.mark.parametrize("splits", [1, 3])
def test_a_row_without_any_token_is_nan_as_in_stock(splits):
    query, hidden, padding = random(2, 4, 64), random(2, 70, 64), nothing_hidden(2, 70)
    padding[1] = True
    actual = attend(query, hidden, splits, padding=padding)
    assert actual[1].isnan().all()
    assert_close(actual[:1], oracle(query[:1], hidden[:1], padding[:1]).float())


@pytest.mark.parametrize("shared", [HOPPER, 163 * 1024, 99 * 1024])
def test_every_width_has_a_launch(shared):
    for dim in range(64, 1281, 64):
        for rows in (1, 16, 17, 64):
            launch = fused.launch_for(rows, dim, 2, shared)
            if launch is None:
                assert dim % 128 and dim > 1024  # few warps would have to keep too much
            else:
                assert launch.warps * launch.chunks * launch.width == dim
                assert launch.width >= 16
    assert fused.launch_for(4, 100, 2, shared) is None
    assert fused.launch_for(4, 2**14, 2, shared) is None


def test_a_source_is_divided_until_all_processors_have_work():
    launch = fused.launch_for(64, 1024, 2, HOPPER)
    assert launch.block_r == 32
    assert fused.splits_for(320, 64, 1024, launch, 132) == 1
    assert fused.splits_for(10, 64, 1024, launch, 132) == 6  # times two blocks of rows
    assert fused.splits_for(1, 64, 1024, launch, 132) == 16  # 64 tokens each
    assert fused.splits_for(1, 64, 1, launch, 132) == 1


@pytest.fixture
def warnings(monkeypatch, caplog):
    monkeypatch.setattr(trial, "verified", {})
    return lambda: [record.getMessage() for record in caplog.records if record.name == trial.logger.name]


def reference(part=slice(None), dtype=torch.float16):
    return torch.tensor([[1.0, float("nan")], [2.0, 1.0]])[part].to(dtype)


def assert_is_reference(actual):
    assert torch.equal(actual.nan_to_num(9.0), reference().nan_to_num(9.0))


def test_a_kernel_that_agrees_is_used_from_then_on(warnings):
    rounded = reference() * 1.001
    assert_is_reference(trial.tried(("attention", 1), lambda: rounded, reference))
    assert trial.tried(("attention", 1), lambda: rounded, reference) is rounded
    assert warnings() == []


@pytest.mark.parametrize("factor", [1.1, float("nan")])
def test_a_kernel_that_differs_is_never_used(warnings, factor):
    for _ in range(3):
        assert_is_reference(trial.tried(("attention", 1), lambda: reference() * factor, reference))
    (warning,) = warnings()
    assert warning.startswith("PyTorch instead of the Triton kernel for attention: its output is off by")


def test_a_kernel_that_fails_is_never_used(warnings):
    calls = []

    def kernel():
        calls.append(1)
        raise RuntimeError("out of shared memory")

    for _ in range(3):
        assert_is_reference(trial.tried(("attention", 1), kernel, reference))
    assert len(calls) == 1
    assert warnings() == ["PyTorch instead of the Triton kernel for attention: RuntimeError: out of shared memory"]


def test_running_out_of_memory_is_not_held_against_a_kernel(warnings):
    def kernel():
        raise torch.OutOfMemoryError("out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        trial.tried(("attention", 1), kernel, reference)
    rounded = reference() * 1.001
    trial.tried(("attention", 1), lambda: rounded, reference)
    assert trial.tried(("attention", 1), lambda: rounded, reference) is rounded


@pytest.fixture
def as_on_a_gpu(monkeypatch, warnings):
    """Dispatch as for a GPU of 8 processors, wherever this runs."""
    device = SimpleNamespace(shared_memory_per_block_optin=HOPPER, multi_processor_count=8)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device_: device)
    monkeypatch.setattr(kernels, "_served", lambda *tensors: tensors[0].dtype in kernels.DTYPES)
    return warnings


@pytest.mark.parametrize("batch", [1, 9], ids=["divided", "whole"])
@pytest.mark.parametrize("padded", [True, False], ids=["padded", "unpadded"])
def test_hidden_attention_goes_to_the_kernel(as_on_a_gpu, batch, padded):
    query = random(batch, 20, 64, dtype=torch.float16) * 0.3
    hidden = random(batch, 70, 64, dtype=torch.float16)
    padding = torch.arange(70, device=DEVICE).expand(batch, 70) > 64 if padded else None
    proven, by_kernel = (hidden_attention(query, hidden, padding) for _ in range(2))
    ((variant, trusted),) = trial.verified.items()
    assert trusted and not as_on_a_gpu()
    assert variant[-2:] == (padded, batch == 1)
    assert not torch.equal(proven, by_kernel)  # the kernel rounds less
    assert_close(by_kernel, proven, 1e-2)


@pytest.mark.parametrize("case", ["float32", "mask by row", "one mask for two", "spread mask", "odd width"])
def test_what_no_kernel_serves_goes_to_pytorch(as_on_a_gpu, case):
    dtype, width = torch.float32 if case == "float32" else torch.float16, 40 if case == "odd width" else 64
    query, hidden = random(2, 4, width, dtype=dtype), random(2, 7, width, dtype=dtype)
    masks = {"mask by row": (2, 4, 7), "one mask for two": (1, 7)}
    mask = torch.zeros(masks.get(case, (2, 7)), dtype=torch.bool, device=DEVICE)
    mask = mask.t().contiguous().t() if case == "spread mask" else mask
    expected, _, _ = shared_kv_attention(query, hidden, hidden, mask)
    assert torch.equal(hidden_attention(query, hidden, mask), expected)
    assert not trial.verified and not as_on_a_gpu()


@pytest.mark.skipif(DEVICE != "cpu", reason="only the interpreter is watched")
class TestBounds:
    def test_a_launch_is_watched(self, accesses):
        attend(random(2, 4, 64), random(2, 70, 64), 2)
        assert {what for what, _ in accesses} == {"load", "store"}

    @pytest.mark.parametrize("hidden, padding", [((1, 70), (2, 70)), ((2, 70), (2, 60)), ((2, 70), (1, 70))], ids=str)
    def test_tensors_smaller_than_the_launch_says(self, hidden, padding):
        with pytest.raises(InterpreterError, match="load outside"):
            attend(random(2, 4, 64), random(*hidden, 64), 2, padding=nothing_hidden(*padding))

    @pytest.mark.parametrize("step", [0, 1])
    def test_one_place_is_written_once(self, step):
        @triton.jit
        def write(x, step):
            triton.language.store(x + triton.language.program_id(0) * step, 1.0)

        if step:
            write[(3,)](torch.empty(3), step)
        with pytest.raises(InterpreterError, match="two stores" if step == 0 else "store outside"):
            write[(4,)](torch.empty(3), step)
