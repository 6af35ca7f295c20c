"""Exchange the attentions of a built model: stock for EL and back, over the same parameters."""

from typing import Any

from fairseq.distributed import LegacyDistributedDataParallel, ModuleProxyWrapper
from fairseq.models.speech_to_text.s2t_conformer import S2TConformerEncoder
from fairseq.models.speech_to_text.s2t_transformer import S2TTransformerEncoder, TransformerDecoderScriptable
from fairseq.models.transformer import TransformerDecoderBase, TransformerEncoderBase
from fairseq.modules import FairseqDropout, MultiheadAttention
from fairseq.modules.transformer_layer import TransformerDecoderLayerBase
from torch import nn

from el_fairseq.cache import LayoutPlan, hidden_everywhere
from el_fairseq.convert.attentions import Attention, attentions_of, layers_of
from el_fairseq.convert.shared_source import share_beams, unshare_beams
from el_fairseq.internals import compiled, own_registries
from el_fairseq.modules.el_attention import ELMultiheadAttention, why_not
from el_fairseq.modules.shared_kv_attention import SharedKVAttention

# Whose own code is known to read and to order encoder output as the others do.
KNOWN_DECODERS = (TransformerDecoderBase, TransformerDecoderScriptable)
KNOWN_ENCODERS = (TransformerEncoderBase, S2TTransformerEncoder, S2TConformerEncoder)
WRAPPERS = (ModuleProxyWrapper, LegacyDistributedDataParallel, nn.DataParallel, nn.parallel.DistributedDataParallel)


def use_el_attention(model: Any, plan: LayoutPlan = hidden_everywhere) -> list[str]:
    """Let the decoder of a model decode with EL-attention, in place; parameters and ``state_dict`` stay as they are.

    Cross-attention is converted in all layers or in none: only together can they share one encoder output.

    Args:
        model: a fairseq model.
        plan: of its attentions, see ``ELMultiheadAttention``.

    Returns:
        Why the model, or part of it, keeps stock attention, each reason once; empty if all of it was converted.
    """
    decoder = getattr(model, "decoder", None)
    foreign = why_foreign(decoder)
    if foreign is not None:
        return [foreign]
    attentions = attentions_of(layers_of(decoder))
    crosses = any(each.module.encoder_decoder_attention for each in attentions)
    keep_cross = _why_not_shared(model.encoder, attentions) if crosses else []
    reasons = list(keep_cross)
    for each in attentions:
        attention = each.module
        if isinstance(attention, SharedKVAttention):  # MHE and its baselines share the source among beams as they are
            continue
        reason = None if attention.encoder_decoder_attention else why_not(attention)
        if reason is not None:
            reasons.append(f"{each.name}: {reason}")
        if reason is not None or (attention.encoder_decoder_attention and keep_cross):
            _make_stock(each)
        # What is as it should be stays: another thread may be decoding with it.
        elif type(attention) is not ELMultiheadAttention or attention.plan is not plan:
            setattr(each.layer, each.name, _recast(attention, ELMultiheadAttention, plan=plan))
    if keep_cross:
        unshare_beams(model.encoder)
    elif crosses:
        share_beams(model)
    return list(dict.fromkeys(reasons))


def use_stock_attention(model: Any) -> None:
    """Let a model decode as stock again, in place: one that ``use_el_attention`` converted, or built as ``el_*``."""
    decoder = getattr(model, "decoder", None)
    if why_foreign(decoder) is not None:
        return
    attentions = attentions_of(layers_of(decoder))
    for each in attentions:
        _make_stock(each)
    cross = [each.module for each in attentions if each.module.encoder_decoder_attention]
    if cross and not all(isinstance(attention, SharedKVAttention) for attention in cross):
        unshare_beams(model.encoder)


def unwrapped(model: nn.Module) -> Any:
    """The model in a wrapper for several processes or devices, or for ``torch.compile``; any other as it is."""
    while True:
        inner = model.module if isinstance(model, WRAPPERS) else compiled(model)
        if inner is None:
            return model
        model = inner


def is_converted(model: nn.Module) -> bool:
    """Whether an attention of the decoder decodes with EL-attention, or with keys and values that heads share."""
    decoder = getattr(model, "decoder", None)
    return why_foreign(decoder) is None and any(
        isinstance(each.module, (ELMultiheadAttention, SharedKVAttention)) for each in attentions_of(layers_of(decoder))
    )


def draws_dropout(model: nn.Module) -> bool:
    """Whether ``model`` draws random numbers while it generates (``--retain-dropout``, or dropout left in training)."""
    dropouts = (m for m in model.modules() if isinstance(m, FairseqDropout) and m.p > 0)
    return any(dropout.training or dropout.apply_during_inference for dropout in dropouts)


def why_foreign(decoder: Any) -> str | None:
    """Say what keeps a decoder from being one whose use of attention and encoder output is known here.

    Args:
        decoder: of a model, or None where it has none.

    Returns:
        What is not stock's, or None where all is.
    """
    if not isinstance(decoder, TransformerDecoderBase):
        return f"{type(decoder).__name__} is not a Transformer decoder"
    for method in ("forward", "extract_features", "extract_features_scriptable"):
        if getattr(type(decoder), method) not in [getattr(known, method) for known in KNOWN_DECODERS]:
            return f"{type(decoder).__name__}.{method} is not stock's"
    if decoder.cross_self_attention:
        return "cross_self_attention=True: self-attention also reads the encoder output"
    for layer in layers_of(decoder):
        if getattr(type(layer), "forward", None) is not TransformerDecoderLayerBase.forward:
            return f"{type(layer).__name__} is not a stock decoder layer"
    return None


def _why_not_shared(encoder: nn.Module, attentions: list[Attention]) -> list[str]:
    cross = [(each.name, each.module) for each in attentions if each.module.encoder_decoder_attention]
    reasons = [f"{name}: {why_not(a)}" for name, a in cross if not isinstance(a, SharedKVAttention) and why_not(a)]
    if getattr(type(encoder), "reorder_encoder_out", None) not in [k.reorder_encoder_out for k in KNOWN_ENCODERS]:
        reasons.append(f"{type(encoder).__name__} orders its output in its own way")
    return reasons


def _make_stock(attention: Attention) -> None:
    """Recast an ``Attention`` that is an ``ELMultiheadAttention``, and leave any other as it is."""
    if type(attention.module) is ELMultiheadAttention:
        setattr(attention.layer, attention.name, _recast(attention.module, MultiheadAttention))


def _recast(module: nn.Module, cls: Any, **attributes: Any) -> Any:
    """The same module, with the same parameters and submodules, as an object of ``cls``."""
    twin = cls.__new__(cls)
    state = {key: value for key, value in module.__dict__.items() if key != "plan"}
    twin.__dict__.update(state, **own_registries(state), **attributes)
    return twin
