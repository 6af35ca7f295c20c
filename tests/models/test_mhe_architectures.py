"""The mhe_ architectures: stock's sizes, stock's other weights, the attentions that were asked for."""

import importlib
from argparse import Namespace
from itertools import permutations
from types import SimpleNamespace

import pytest
import torch
from fairseq.dataclass.configs import EMAConfig
from fairseq.models import (
    ARCH_CONFIG_REGISTRY,
    ARCH_MODEL_INV_REGISTRY,
    ARCH_MODEL_REGISTRY,
    MODEL_DATACLASS_REGISTRY,
    build_model,
)
from fairseq.models.ema.ema import EMA
from fairseq.modules import MultiheadAttention
from helpers.models import assert_close, batch, compute_in_float64, dictionary, write_out
from omegaconf import OmegaConf

from el_fairseq.convert.attention_variant import VARIANTS
from el_fairseq.convert.attentions import attentions_of
from el_fairseq.models import mhe_architectures
from el_fairseq.modules import MHEAttention, MultiQueryAttention, SingleHeadAttention

WORDS = dictionary(12)
TYPES = {
    "mhe-mul": MHEAttention,
    "mhe-add": MHEAttention,
    "mqa": MultiQueryAttention,
    "sha": SingleHeadAttention,
    "mha": MultiheadAttention,
}
SMALL = {f"{side}_{name}": n for side in ("encoder", "decoder") for name, n in [("layers", 2), ("attention_heads", 2)]}
SMALL.update(encoder_embed_dim=16, encoder_ffn_embed_dim=24, decoder_embed_dim=16, decoder_ffn_embed_dim=24)
SIDES = {"transformer": ("encoder", "decoder"), "transformer_lm": ("decoder",), "roberta": ("encoder",)}


def build(model="transformer", prefix="mhe_", seed=0, **options):
    """A small model, by fairseq's own ``build_model`` from a configuration."""
    limits = {"transformer": (50, 60), "transformer_lm": 60, "roberta": 60}[model]
    task = SimpleNamespace(source_dictionary=WORDS, target_dictionary=WORDS, max_positions=lambda: limits)
    small = {name: n for name, n in SMALL.items() if name.split("_")[0] in SIDES[model]}
    config = {"_name": f"{prefix}{model}", **small, **options}
    if model == "transformer_lm":
        config = {"tokens_per_sample": 60, "max_target_positions": 60, "add_bos_token": False, "tpu": False, **config}
    torch.manual_seed(seed)
    if config["_name"] in MODEL_DATACLASS_REGISTRY:
        return build_model(OmegaConf.create({"model": config}).model, task)
    args = Namespace(arch=f"{prefix}{model}", **small, **options)
    return build_model(args, task)


def attention_types(model):
    return {each.place: type(each.module) for each in attentions_of(model.modules())}


@pytest.mark.parametrize("model", SIDES)
def test_every_stock_architecture_has_its_twin_of_the_same_sizes(model):
    assert len(ARCH_MODEL_INV_REGISTRY[model]) >= 4
    for arch in ARCH_MODEL_INV_REGISTRY[model]:
        assert issubclass(ARCH_MODEL_REGISTRY[f"mhe_{arch}"], ARCH_MODEL_REGISTRY[arch])
        if arch == model:  # its sizes are those of the dataclass and of stock's base architecture, see below
            continue
        stock, ours = Namespace(dropout=0.7), Namespace(dropout=0.7, encoder_layers=None)
        ARCH_CONFIG_REGISTRY[arch](stock)
        ARCH_CONFIG_REGISTRY[f"mhe_{arch}"](ours)
        added = {
            "attention_variant": "mhe-mul",
            "attention_variant_where": "encoder,decoder,cross",
            "head_embed_std": 0.02,
        }
        expected = {**vars(stock), **added}
        assert {name: str(v) for name, v in vars(ours).items() if name in expected} == {
            name: str(v) for name, v in expected.items()
        }


@pytest.mark.parametrize("model", SIDES)
def test_multi_head_attention_is_stocks_model_bit_by_bit(model):
    stock, ours = (build(model, prefix, seed=3, **variant) for prefix, variant in PAIR)
    assert list(stock.state_dict()) == list(ours.state_dict())
    for name, parameter in stock.state_dict().items():
        assert torch.equal(parameter, ours.state_dict()[name]), name


PAIR = [("", {}), ("mhe_", {"attention_variant": "mha"})]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("model", SIDES)
def test_all_other_parameters_start_as_stocks(model, variant):
    stock, ours = build(model, "", seed=3), build(model, seed=3, attention_variant=variant)
    others = {name: p for name, p in ours.named_parameters() if "attn." not in name}
    assert len(others) > 10 and others.keys() == {n for n, _ in stock.named_parameters() if "attn." not in n}
    for name, parameter in stock.named_parameters():
        assert name not in others or torch.equal(parameter, others[name])
    assert set(attention_types(ours).values()) == {TYPES[variant]}
    for attention in (each.module for each in attentions_of(ours.modules())):
        if variant.startswith("mhe"):
            assert attention.variant == variant and attention.q_head_embed.shape == (2, 8)


@pytest.mark.parametrize("where", ["encoder", "decoder", "cross", "cross,encoder", "encoder, decoder"])
def test_only_where_it_was_asked_for(where):
    model = build(attention_variant="mqa", attention_variant_where=where)
    wanted = {place.strip() for place in where.split(",")}
    assert attention_types(model) == {
        place: MultiQueryAttention if place in wanted else MultiheadAttention
        for place in ("encoder", "decoder", "cross")
    }
    assert ("reorder_encoder_out" in vars(model.encoder)) == ("cross" in wanted)


def test_sizes_that_follow_from_others_follow_in_hydra_too():
    """What is not given is filled by the architecture: a decoder as wide as the encoder, of the task's lengths."""
    options = {name: n for name, n in SMALL.items() if name.startswith("encoder")}
    model = build_from({"_name": "mhe_transformer", **options, "decoder_layers": 1})
    assert model.decoder.embed_dim == 16 and model.decoder.layers[0].fc1.out_features == 24
    assert model.max_positions() == (50, 60)
    tiny = build_from({"_name": "mhe_transformer_tiny"})
    assert tiny.encoder.layers[0].embed_dim == 64 and len(tiny.decoder.layers) == 2


def build_from(given):
    """As Hydra: the defaults of the dataclass, and over them what was given."""
    default = MODEL_DATACLASS_REGISTRY["mhe_transformer"]()
    config = OmegaConf.create({"model": OmegaConf.merge(OmegaConf.structured(default), given)})
    task = SimpleNamespace(source_dictionary=WORDS, target_dictionary=WORDS, max_positions=lambda: (50, 60))
    return build_model(config.model, task)


def test_roberta_starts_with_berts_weights():
    model = build("roberta", encoder_embed_dim=256, encoder_attention_heads=2)
    attention = model.encoder.sentence_encoder.layers[0].self_attn
    for projection in (attention.q_proj, attention.k_proj, attention.v_proj, attention.out_proj):
        assert projection.weight.std().item() == pytest.approx(0.02, rel=0.05)
        assert not projection.bias.any()


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_roberta_computes_what_stock_computes_with_the_weights_written_out(variant, monkeypatch):
    compute_in_float64(monkeypatch)
    options = {"activation_fn": "gelu", "pooler_activation_fn": "tanh", "head_embed_std": 0.5, "dropout": 0.0}
    model = build("roberta", attention_variant=variant, **options).double().eval()
    model.register_classification_head("sentences", num_classes=3)
    model.classification_heads["sentences"].double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.endswith("_head_embed"):
                parameter.normal_(std=0.3)  # a new model's biases are zero, and its weights small
    tokens = batch(WORDS, [9, 4, 1], left_pad=False)["net_input"]["src_tokens"]
    stock = write_out(model)
    for head in (None, "sentences"):
        options = {"features_only": head is not None, "classification_head_name": head}
        ours, theirs = (each(tokens, **options)[0] for each in (model, stock))
        read = tokens.ne(WORDS.pad()) if head is None else slice(None)
        assert_close(ours[read], theirs[read], 1e-9)
        assert theirs.std() > 0.1


def test_the_spread_of_the_embeddings_can_be_chosen():
    model = build(head_embed_std=0.01, encoder_embed_dim=256, decoder_embed_dim=256)
    assert model.encoder.layers[1].self_attn.v_head_embed.std().item() == pytest.approx(0.01, rel=0.2)


@pytest.mark.parametrize("checkpoint, wanted", permutations(VARIANTS, 2))
def test_a_checkpoint_of_another_variant_is_refused_by_name(checkpoint, wanted):
    state = build(attention_variant=checkpoint).state_dict()
    model = build(attention_variant=wanted)
    with pytest.raises(ValueError) as error:
        model.load_state_dict(state)
    message = str(error.value)
    assert message.startswith(f"--attention-variant {wanted} (--attention-variant-where cross,decoder,encoder): ")
    assert f"encoder.layers.0.self_attn is {wanted} here, but {checkpoint} in the checkpoint" in message


def test_a_checkpoint_of_other_places_is_refused_and_its_own_loads():
    state = build(attention_variant="mqa", attention_variant_where="encoder").state_dict()
    with pytest.raises(ValueError, match=r"decoder.layers.0.encoder_attn is mqa here, but mha in the checkpoint"):
        build(attention_variant="mqa", attention_variant_where="encoder,cross").load_state_dict(state)
    build(attention_variant="mqa", attention_variant_where="encoder", seed=1).load_state_dict(state)


@pytest.mark.parametrize("variant", VARIANTS)
def test_with_a_single_head_its_own_checkpoint_loads(variant):
    options = {"encoder_attention_heads": 1, "decoder_attention_heads": 1, "attention_variant": variant}
    build(**options).load_state_dict(build(seed=1, **options).state_dict())


@pytest.mark.parametrize(
    "options, message",
    [
        (
            {"attention_variant_where": "encoder,head"},
            "--attention-variant-where encoder,head: choose from encoder, dec",
        ),
        ({"attention_variant_where": ""}, "--attention-variant-where : choose from"),
        ({"encoder_attention_heads": 3}, "--encoder-embed-dim 16 is not divisible by --encoder-attention-heads 3"),
        ({"decoder_attention_heads": 0}, "--decoder-embed-dim 16 is not divisible by --decoder-attention-heads 0"),
        ({"decoder_attention_heads": 5}, "--decoder-embed-dim 16 is not divisible by --decoder-attention-heads 5"),
        ({"cross_self_attention": True, "no_cross_attention": True}, "does not cover --cross-self-attention"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_bad_options_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)


def test_places_that_a_model_does_not_have_are_refused_by_name():
    message = "--attention-variant mqa --attention-variant-where cross,encoder: the model only has decoder"
    with pytest.raises(ValueError, match=message):
        build("transformer_lm", attention_variant="mqa", attention_variant_where="cross,encoder")


@pytest.mark.parametrize("fp32", [True, False])
def test_a_moving_average_of_the_parameters_is_kept(fp32):
    """fairseq's EMA goes through all of the state."""
    model = build(attention_variant="mhe-add")
    ema = EMA(model, EMAConfig(store_ema=True, ema_decay=0.5, ema_fp32=fp32))
    before = model.encoder.layers[0].self_attn.q_head_embed.detach().clone()
    with torch.no_grad():
        model.encoder.layers[0].self_attn.q_head_embed += 1
    ema.step(model)
    averaged = ema.get_model()
    torch.testing.assert_close(averaged.encoder.layers[0].self_attn.q_head_embed, before + 0.5)
    build(attention_variant="mhe-add", seed=1).load_state_dict(averaged.state_dict())


def test_an_unknown_variant_is_refused_by_name():
    with pytest.raises(ValueError, match="--attention-variant gqa: choose one of mhe-mul, mhe-add, mqa, sha, mha"):
        build_tiny(attention_variant="gqa")


def build_tiny(**options):
    args = Namespace(arch="mhe_transformer_tiny", **options)
    task = SimpleNamespace(source_dictionary=WORDS, target_dictionary=WORDS, max_positions=lambda: None)
    return build_model(args, task)


def test_pruning_heads_needs_multi_head_attention():
    with pytest.raises(ValueError, match="--mha-heads-to-keep .* need --attention-variant mha, not mhe-mul"):
        build("roberta", mha_heads_to_keep=1)
    build("roberta", mha_heads_to_keep=1, attention_variant="mha")


def test_a_second_import_changes_nothing():
    before = dict(ARCH_MODEL_REGISTRY)
    importlib.reload(mhe_architectures)
    assert before == ARCH_MODEL_REGISTRY
