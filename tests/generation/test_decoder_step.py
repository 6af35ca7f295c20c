"""The fast path of a decoder step: what fairseq's decoder computes from the same state, layer by layer."""

import pytest
import torch
from fairseq.modules import FairseqDropout
from helpers.models import assert_close, batch, build_model, dictionary
from helpers.random_lms import build_lm

from el_fairseq import disable_el_attention, enable_el_attention
from el_fairseq.cache import CACHES, BeamCaches, Layout
from el_fairseq.convert.el_attention import use_el_attention
from el_fairseq.generation.attention_step import attention_step
from el_fairseq.generation.decoder_step import DecoderStep, why_no_fast_step
from el_fairseq.generation.newest_tokens import NewestTokens
from el_fairseq.modules import MHEAttention, MultiQueryAttention
from el_fairseq.modules.el_attention import ELMultiheadAttention
from el_fairseq.ops import products

WORDS = dictionary(30)
SENTENCES, BEAMS, STEPS = 3, 2, 20  # more steps than a cache has room for at first
LAYOUTS = [(kept, source) for kept in (Layout.HIDDEN, Layout.PROJECTED) for source in (Layout.HIDDEN, Layout.PROJECTED)]
OPTIONS = {
    "plain": {},
    "normalizes before": {"decoder_normalize_before": True},
    "learned positions, norm of embeddings": {"decoder_learned_pos": True, "layernorm_embedding": True},
    "no positions": {"no_token_positional_embeddings": True},
    "inputs and outputs of other widths": {"decoder_embed_dim": 16, "decoder_input_dim": 8, "decoder_output_dim": 12},
    "gelu": {"activation_fn": "gelu"},
    "layers dropped in training": {"decoder_layerdrop": 0.5},
}


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def both_ways(model, lineage, pads=False, steps=STEPS):
    """For each step the features and the attention by ``DecoderStep``, and by fairseq's decoder with a state of its
    own, while beams change places and a sentence leaves."""
    decoder, generator = model.decoder, torch.Generator().manual_seed(0)
    lengths, order = [9, 4, 7][:SENTENCES], torch.arange(SENTENCES * BEAMS)
    source = None
    if hasattr(model, "encoder"):
        source = model.encoder.forward_torchscript(batch(WORDS, lengths)["net_input"])
        source = model.encoder.reorder_encoder_out(source, order // BEAMS)
    states = [{CACHES: BeamCaches(SENTENCES, BEAMS, "cpu")} if lineage else {} for _ in range(2)]
    straight = DecoderStep(decoder, states[0])
    tokens = torch.randint(4, 30, (order.numel(), steps), generator=generator)
    if pads:
        tokens[1, 2] = WORDS.pad()
    for step in range(steps):
        features, attention = straight(NewestTokens.of(tokens[:, : step + 1]), source)
        expected, extra = decoder(
            tokens[:, : step + 1], encoder_out=source, incremental_state=states[1], features_only=True
        )
        yield features, expected[:, -1], attention, None if extra is None else extra["attn"][0]
        order = torch.arange(tokens.size(0)).view(-1, BEAMS)
        order = order.gather(1, torch.randint(BEAMS, order.shape, generator=generator))  # within each sentence
        order = order[1:].flatten() if step == steps // 2 else order.flatten()
        tokens = tokens[order]
        source = source and model.encoder.reorder_encoder_out(source, order)
        for state in states:
            decoder.reorder_incremental_state_scripting(state, order)
            if lineage:
                state[CACHES].reorder(order)


def assert_both_are_one(model, *args, **kwargs):
    seen = 0
    for features, expected, attention, stocks in both_ways(model, *args, **kwargs):
        assert features.shape == expected.shape
        assert_close(features, expected)
        assert (attention is None) == (stocks is None)
        if attention is not None:
            assert_close(attention, stocks[:, -1])
        seen += 1
    assert seen == STEPS


@pytest.mark.parametrize("lineage", [False, True], ids=["own past", "shared past"])
@pytest.mark.parametrize("layouts", LAYOUTS, ids=lambda pair: "-".join(layout.value for layout in pair))
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_is_the_decoder(options, layouts, lineage):
    model = build_model("transformer", WORDS, **options)
    use_el_attention(model, lambda request: layouts[request.kind == "cross"])
    assert why_no_fast_step(model.decoder) is None
    assert_both_are_one(model, lineage)


@pytest.mark.parametrize("few", [0, products.SMALL_PRODUCT], ids=["packed", "few"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_is_the_decoder_over_packed_weights(dtype, few, monkeypatch):
    monkeypatch.setattr(products, "SMALL_PRODUCT", few)
    model = build_model("transformer", WORDS).to(dtype)
    enable_el_attention(model)
    assert_both_are_one(model, True)
    assert model.decoder.layers[0].self_attn.q_proj in products.joint_packed_weights or dtype is torch.bfloat16


@pytest.mark.parametrize("variant", ["mhe-mul", "mhe-add", "mqa", "sha"])
@pytest.mark.parametrize("lineage", [False, True], ids=["own past", "shared past"])
def test_is_the_decoder_with_shared_keys_and_values(variant, lineage):
    options = {"attention_variant": variant, "attention_variant_where": "decoder,cross"}
    model = enable_el_attention(build_model("mhe_transformer_wmt_en_de", WORDS, **options))
    assert why_no_fast_step(model.decoder) is None
    assert_both_are_one(model, lineage)


@pytest.mark.parametrize("kind", [ELMultiheadAttention, MultiQueryAttention, MHEAttention])
def test_attention_weights_do_not_overflow(kind):
    """Products of queries and keys beyond what float16 holds, but for the scale."""
    width = 64
    attention = kind(width, 1, encoder_decoder_attention=True).eval()
    with torch.no_grad():
        for projection in (attention.q_proj, attention.k_proj):
            projection.weight.copy_(torch.eye(width))
            projection.bias.zero_()
    attention.half()
    source = torch.full((4, 1, width), 33.0).half()
    source[1] = 32.9
    query = torch.full((1, 1, width), 33.0).half()  # 64 · 33² is more than 65,504
    _, expected = attention.float()(query.float(), source.float(), source.float(), need_weights=True)
    attention.half()
    _, weights = attention_step(attention, {})(query[0], None, True, source)
    assert_close(weights, expected[0].half())


def test_is_the_decoder_of_a_language_model():
    assert_both_are_one(enable_el_attention(build_lm(WORDS)), False)


def test_padding_that_beams_were_given():
    """A beam that is lost goes on with padding, which no beam attends to."""
    assert_both_are_one(enable_el_attention(build_model("transformer", WORDS)), False, pads=True)


def test_the_joint_projection_follows_the_weights():
    model = enable_el_attention(build_model("transformer", WORDS).float())
    attention = model.decoder.layers[1].self_attn
    for change in (attention.k_proj.weight, attention.v_proj.bias, attention.q_proj.weight):
        assert_both_are_one(model, False)
        change.mul_(1.5)
    assert_both_are_one(model, False)
    attention.q_proj.bias.data.mul_(1.5)
    assert_both_are_one(model, False)
    for projection in (attention.k_proj, attention.v_proj):
        projection.weight.data.mul_(1.5)
        assert_both_are_one(model, False)


def test_layers_that_were_cut_off():
    """Attention is that of the last layer there once was, as in fairseq."""
    model = enable_el_attention(build_model("transformer", WORDS))
    model.decoder.layers = model.decoder.layers[:1]
    for features, expected, attention, stocks in both_ways(model, False):
        assert_close(features, expected)
        assert attention is None and stocks is None


def hooked(model):
    model.decoder.layers[1].fc2.register_forward_hook(lambda *_: None)


def hooked_before(model):
    model.decoder.layers[0].self_attn.register_forward_pre_hook(lambda *_: None)


class Scale(torch.nn.Module):
    def forward(self, x):
        return 2 * x


def monte_carlo(model):
    for module in model.modules():
        if isinstance(module, FairseqDropout):
            module.train()


def own_residual(model):
    layer = model.decoder.layers[0]
    layer.__class__ = type("Own", (type(layer),), {"residual_connection": lambda self, x, residual: x})


REFUSED = {
    "training": lambda model: model.train(),
    "stock attention": disable_el_attention,
    "a hook": hooked,
    "a hook before": hooked_before,
    "own residual": own_residual,
    "an object's layer": lambda model: vars(model.decoder.layers[0]).update(forward=lambda *args, **kwargs: None),
    "an object's features": lambda model: vars(model.decoder).update(extract_features=lambda *args: None),
    "an object's attention": lambda model: vars(model.decoder.layers[0].self_attn).update(forward=lambda *args: None),
    "an object's linear layer": lambda model: vars(model.decoder.layers[1].fc1).update(forward=lambda x: x),
    "own dropout": lambda model: setattr(model.decoder, "dropout_module", Scale()),
    "own dropout in a layer": lambda model: setattr(model.decoder.layers[1], "activation_dropout_module", Scale()),
    "dropout left in training": monte_carlo,
    "--retain-dropout": lambda model: model.decoder.dropout_module.__dict__.update(p=0.1, apply_during_inference=True),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_straight(case):
    model = enable_el_attention(build_model("transformer", WORDS))
    assert why_no_fast_step(model.decoder) is None
    REFUSED[case](model)
    assert why_no_fast_step(model.decoder)


def test_autocast_and_hooks_everywhere_are_not_straight():
    model = enable_el_attention(build_model("transformer", WORDS))
    with torch.autocast("cpu", torch.bfloat16):
        assert why_no_fast_step(model.decoder)
    hook = torch.nn.modules.module.register_module_forward_hook(lambda *_: None)
    assert why_no_fast_step(model.decoder)
    hook.remove()
    assert why_no_fast_step(model.decoder) is None


@pytest.mark.parametrize("option", ["scale_heads", "scale_attn", "scale_fc", "scale_resids", "quant_noise_pq"])
def test_options_that_are_not_straight(option):
    value = 0.1 if option == "quant_noise_pq" else True
    assert why_no_fast_step(enable_el_attention(build_model("transformer", WORDS, **{option: value})).decoder)


def test_projections_are_one_product_where_it_is_used():
    """So that no weight is packed twice."""
    model = enable_el_attention(build_model("transformer", WORDS).float())
    straight = DecoderStep(model.decoder, {})
    source = model.encoder.forward_torchscript(batch(WORDS, [5, 4])["net_input"])
    straight(NewestTokens.of(torch.full((2, 1), 5)), source)
    attentions = [layer.self_attn for layer in model.decoder.layers]
    assert all(attention.q_proj in products.joint_packed_weights for attention in attentions)
    assert not any(getattr(a, f"{name}_proj") in products.packed_weights for a in attentions for name in "qkv")
