"""Models in wrappers, copied, pickled, and transformed by PyTorch's own tools: as stock models are."""

import copy
import gc
import pickle
import weakref

import pytest
import torch
from fairseq.distributed import ModuleProxyWrapper
from fairseq.sequence_generator import SequenceGenerator
from helpers.models import assert_same_hypotheses, batch, build_model, dictionary
from torch import nn
from torch.nn.utils import prune

from el_fairseq import enable_el_attention
from el_fairseq.generation import ELSequenceGenerator
from el_fairseq.modules import ELMultiheadAttention

WORDS = dictionary(12)
SAMPLE = batch(WORDS, [9, 4, 6])
SEARCH = {"beam_size": 3, "max_len_a": 0, "max_len_b": 8}
PEAKED = {"seed": 1, "gain": 2.0}


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


@pytest.fixture
def process_group(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def generate(cls, model):
    generator = cls([model], WORDS, **SEARCH)
    return generator, generator.generate([model], SAMPLE)


def distributed(model):
    return ModuleProxyWrapper(nn.parallel.DistributedDataParallel(model))


WRAPPERS = {"ModuleProxyWrapper": distributed, "torch.compile": lambda model: torch.compile(model, backend="eager")}


@pytest.mark.usefixtures("float64", "process_group")
@pytest.mark.parametrize("first", ["wrapped first", "enabled first"])
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_wrapped_models_decode_with_el_attention(wrapper, first):
    """As when a task generates within ``train_step``."""
    wrap = WRAPPERS[wrapper]
    _, expected = generate(SequenceGenerator, wrap(build_model("transformer", WORDS, **PEAKED)))
    model = build_model("transformer", WORDS, **PEAKED)
    model = (
        enable_el_attention(wrap(model), "on") if first == "wrapped first" else wrap(enable_el_attention(model, "on"))
    )
    generator, actual = generate(ELSequenceGenerator, model)
    assert_same_hypotheses(actual, expected)
    bare, _ = generate(ELSequenceGenerator, enable_el_attention(build_model("transformer", WORDS, **PEAKED), "on"))
    assert generator.meter.peak == bare.meter.peak


def test_data_parallel_is_looked_into(caplog):
    model = enable_el_attention(nn.DataParallel(build_model("transformer", WORDS)), "on")
    assert type(model.module.decoder.layers[0].self_attn) is ELMultiheadAttention
    assert "stock attention" not in caplog.text


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    "again", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=["copy", "pickle"]
)
@pytest.mark.parametrize("arch", ["transformer", "bart_base", "el_transformer", "mhe_transformer_wmt_en_de"])
def test_copies_keep_what_beams_share(arch, again):
    options = {"attention_variant": "mqa", "attention_variant_where": "cross"} if arch.startswith("mhe") else {}
    model = build_model(arch, WORDS, **PEAKED, **options)
    if "_" not in arch or arch == "bart_base":
        enable_el_attention(model, "on")
    generator, expected = generate(ELSequenceGenerator, model)
    twin = again(model)
    del model
    gc.collect()
    other, actual = generate(ELSequenceGenerator, twin)
    assert_same_hypotheses(actual, expected)
    assert other.meter.peak == generator.meter.peak
    assert_same_hypotheses(generate(SequenceGenerator, twin)[1], expected)


def test_generators_go_at_once():
    """A served model makes one for every call; waiting for the garbage collector, they pile up."""
    model = enable_el_attention(build_model("transformer", WORDS), "on")
    gc.disable()
    try:
        generator, _ = generate(ELSequenceGenerator, model)
        gone = weakref.ref(generator)
        del generator
        assert gone() is None
        twin = ELSequenceGenerator.adopt(SequenceGenerator([model], WORDS, **SEARCH))
        twin.generate([model], SAMPLE)
        gone = weakref.ref(twin)
        del twin
        assert gone() is None
    finally:
        gc.enable()


def quantize(model):
    """The decoder: stock's encoder reads the biases past its linear layers, which int8 layers do not allow."""
    model.decoder = torch.ao.quantization.quantize_dynamic(model.decoder, {nn.Linear}, dtype=torch.qint8)
    return model


def prune_half(model):
    for layer in model.modules():
        if type(layer) is nn.Linear:
            prune.l1_unstructured(layer, "weight", amount=0.5)
    return model


def prune_for_good(model):
    for layer in prune_half(model).modules():
        if type(layer) is nn.Linear:
            prune.remove(layer, "weight")
    return model


def fuse(model):
    """A normalisation behind a linear layer becomes part of it."""
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(24).eval()
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 1.5)
    fc1 = model.decoder.layers[0].fc1
    model.decoder.layers[0].fc1 = nn.utils.fusion.fuse_linear_bn_eval(fc1, norm.to(fc1.weight.dtype))
    return model


def spectral(model):
    nn.utils.parametrizations.spectral_norm(model.decoder.layers[0].fc2)
    return model.eval()


TRANSFORMATIONS = {
    "dynamic quantization": quantize,
    "pruning": prune_half,
    "pruning for good": prune_for_good,
    "fusion": fuse,
    "spectral norm": spectral,
}


@pytest.mark.parametrize("mode", ["on", "auto"])
@pytest.mark.parametrize("when", ["before", "after", "after decoding"])
@pytest.mark.parametrize("transformation", TRANSFORMATIONS)
def test_pytorchs_own_transformations(transformation, when, mode):
    transform, cast = TRANSFORMATIONS[transformation], torch.float32
    stock = transform(build_model("transformer", WORDS, cast, **PEAKED))
    _, expected = generate(SequenceGenerator, stock)
    _, unchanged = generate(SequenceGenerator, build_model("transformer", WORDS, cast, **PEAKED))
    model = build_model("transformer", WORDS, cast, **PEAKED)
    if when == "before":
        model = transform(model)
    enable_el_attention(model, mode)
    if when == "after decoding":
        generate(ELSequenceGenerator, model)
    if when != "before":
        model = transform(model)
    _, actual = generate(ELSequenceGenerator, model)
    # int8 activations are rounded to other steps where float32 differs in its last digit
    assert_same_hypotheses(actual, expected, tolerance=0.05 if transform is quantize else 1e-4)
    assert str(expected) != str(unchanged)
    assert str(model).count("DynamicQuantizedLinear") == str(stock).count("DynamicQuantizedLinear")
