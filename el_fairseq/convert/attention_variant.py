"""``--attention-variant``: exchange the attentions of a built model for MHE attention or one of its baselines."""

from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any

import torch
from fairseq.modules import MultiheadAttention
from torch import nn

from el_fairseq.convert.attentions import attentions_of
from el_fairseq.modules.baselines import MultiQueryAttention, SingleHeadAttention
from el_fairseq.modules.mhe_attention import OPERATIONS, MHEAttention
from el_fairseq.modules.shared_kv_attention import SharedKVAttention

StateDict = Mapping[str, torch.Tensor]

MHA = "mha"
CLASSES: dict[str, Callable[..., SharedKVAttention]] = {
    "mhe-mul": partial(MHEAttention, variant="mul"),
    "mhe-add": partial(MHEAttention, variant="add"),
    "mqa": MultiQueryAttention,
    "sha": SingleHeadAttention,
}
VARIANTS = (*CLASSES, MHA)
PLACES = ("encoder", "decoder", "cross")


def parse_places(text: str) -> set[str]:
    """Parse ``--attention-variant-where``.

    Args:
        text: some of ``PLACES``, comma-separated.

    Returns:
        The places.

    Raises:
        ValueError: an unknown place, or none at all.
    """
    places = {place.strip() for place in text.split(",")}
    if not places <= set(PLACES):
        raise ValueError(f"--attention-variant-where {text}: choose from {', '.join(PLACES)}, separated by commas")
    return places


def use_attention_variant(
    model: nn.Module, variant: str, places: Collection[str] = PLACES, **options: Any
) -> list[SharedKVAttention]:
    """Exchange, in place, the attentions of the Transformer layers of a model.

    Args:
        model: a fairseq model as stock builds it.
        variant: one of ``VARIANTS``; ``mha`` changes nothing.
        places: which attentions: ``encoder`` and ``decoder`` (self-attention), ``cross``.
        options: further arguments of ``MHEAttention``; the baselines get none.

    Returns:
        The new attentions.

    Raises:
        ValueError: an unknown ``variant``; an attention with an option that no variant has; no attention at ``places``.
    """
    if variant not in VARIANTS:
        raise ValueError(f"--attention-variant {variant}: choose one of {', '.join(VARIANTS)}")
    if variant == MHA:
        return []
    if any(type(module).__name__ == "FullyShardedDataParallel" for module in model.modules()):
        raise ValueError(f"--ddp-backend fully_sharded has flattened layers before --attention-variant {variant} could")
    build = partial(CLASSES[variant], **options) if variant.startswith("mhe-") else CLASSES[variant]
    attentions, new = attentions_of(model.modules()), []
    for each in attentions:
        if each.place in places:
            reason = _why_not(each.module, each.layer)
            if reason is not None:
                raise ValueError(f"--attention-variant {variant} does not cover {reason}")
            new.append(_like(build, each.module, each.layer))
            setattr(each.layer, each.name, new[-1])
    if not new:
        raise ValueError(
            f"--attention-variant {variant} --attention-variant-where {','.join(sorted(places))}: the model only has "
            f"{', '.join(sorted({each.place for each in attentions}))}"
        )
    return new


def shares_source(model: nn.Module) -> bool:
    """Whether every cross-attention of ``model`` works from a source given once a sentence; False without any."""
    cross = [each.module for each in attentions_of(model.modules()) if each.place == "cross"]
    return bool(cross) and all(isinstance(attention, SharedKVAttention) for attention in cross)


def _like(build: Callable[..., SharedKVAttention], stock: Any, layer: Any) -> SharedKVAttention:
    return build(
        stock.embed_dim,
        stock.num_heads,
        kdim=stock.kdim,
        vdim=stock.vdim,
        dropout=stock.dropout_module.p,
        bias=stock.q_proj.bias is not None,
        self_attention=stock.self_attention,
        encoder_decoder_attention=stock.encoder_decoder_attention,
        q_noise=layer.quant_noise,
        qn_block_size=layer.quant_noise_block_size,
    )


def _why_not(stock: Any, layer: nn.Module) -> str | None:
    if type(stock) is not MultiheadAttention:
        return f"{type(stock).__name__}: it is not fairseq's MultiheadAttention"
    if stock.use_xformers:
        return "--encoder-xformers-att-config or --decoder-xformers-att-config: attention by xFormers"
    if stock.bias_k is not None or stock.add_zero_attn:
        return "add_bias_kv=True or add_zero_attn=True: an extra key for each head"
    if getattr(layer, "cross_self_attention", False):
        return "--cross-self-attention: self-attention that also reads the encoder output"
    return None


def refuse_other_variant(model: nn.Module, state_dict: StateDict, variant: str, places: Collection[str]) -> None:
    """Compare the attentions in a ``state_dict`` with those of a model.

    Args:
        model: built with ``variant`` at ``places``.
        state_dict: that is to be loaded into it.
        variant: ``--attention-variant``.
        places: ``--attention-variant-where``.

    Raises:
        ValueError: an attention in ``state_dict`` is of another variant.
    """
    paths = {module: path for path, module in model.named_modules()}
    for each in attentions_of(model.modules()):
        prefix = f"{paths[each.layer]}.{each.name}".lstrip(".")
        attention = each.module
        found = variants_in(state_dict, prefix, attention)
        own = attention.variant if isinstance(attention, SharedKVAttention) else MHA
        if found and own not in found:
            raise ValueError(
                f"--attention-variant {variant} (--attention-variant-where {','.join(sorted(places))}): {prefix} is "
                f"{own} here, but {found[0]} in the checkpoint; give the options that it was trained with"
            )


def variants_in(state_dict: StateDict, prefix: str, attention: Any) -> list[str]:
    """Find which variants an attention in a ``state_dict`` can be, by its widths.

    Args:
        state_dict: of a whole model.
        prefix: where the attention is in it.
        attention: any variant of it, for ``embed_dim`` and ``head_dim``.

    Returns:
        Of ``VARIANTS``: none if it is not there or has other widths; more than one where there is a single head.
    """
    if f"{prefix}.q_head_embed" in state_dict:
        number = state_dict.get(f"{prefix}.variant_version")  # not in the parameters that fairseq's EMA hands around
        return [f"mhe-{operation}" for i, operation in enumerate(OPERATIONS) if number is None or i == int(number)]
    full, head = attention.embed_dim, attention.head_dim
    rows = {"mqa": (full, head), "sha": (head, head), MHA: (full, full)}
    query, key = (state_dict.get(f"{prefix}.{name}.weight") for name in ("q_proj", "k_proj"))
    if query is None or key is None:
        return []
    return [name for name, widths in rows.items() if widths == (query.size(0), key.size(0))]
