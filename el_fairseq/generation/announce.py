"""Say how a model decodes: whether EL-attention is active, in which mode and where, or why it is not."""

import logging
from collections import Counter
from collections.abc import Iterable
from weakref import WeakKeyDictionary

from torch import nn

from el_fairseq.modules.el_attention import ELMultiheadAttention
from el_fairseq.modules.shared_kv_attention import SharedKVAttention

logger = logging.getLogger(__name__)
said: WeakKeyDictionary[nn.Module, str] = (
    WeakKeyDictionary()
)  # the last line about each model: tasks and hubs convert theirs again for every generator


def announce(model: nn.Module, mode: str, reasons: Iterable[str] = ()) -> None:
    """Log one line at INFO where the way in which ``model`` decodes has changed.

    Args:
        model: a fairseq model, after its conversion.
        mode: what was asked for.
        reasons: why the model, or part of it, keeps stock attention.
    """
    if mode == "off" and model not in said:  # it decodes as it always did
        return
    line = f"{type(model).__name__} decodes with {_what(model, mode, '; '.join(reasons))}"
    if said.get(model) != line:
        said[model] = line
        logger.info("%s", line)


def _what(model: nn.Module, mode: str, reasons: str) -> str:
    decoder = getattr(model, "decoder", None)
    modules = list(decoder.modules()) if isinstance(decoder, nn.Module) else []
    ours = [module for module in modules if isinstance(module, ELMultiheadAttention)]
    counts = Counter("cross" if attention.encoder_decoder_attention else "self" for attention in ours)
    if counts:
        where = f"{counts['self']} self-attentions, {counts['cross']} cross-attentions"
        rest = f"; the others with stock attention: {reasons}" if reasons else ""
        return f"EL-attention (mode {mode}): {where}{rest}"
    if any(isinstance(module, SharedKVAttention) for module in modules):
        return "the keys and values that its heads share"
    return f"stock attention: {reasons or f'mode {mode}'}"
