"""Which attentions a model has: the one place that knows where Transformer layers keep them."""

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

from fairseq.modules.transformer_layer import TransformerDecoderLayerBase, TransformerEncoderLayerBase
from torch import nn


class Attention(NamedTuple):
    """One attention of a Transformer layer."""

    layer: nn.Module
    name: str  # of the layer's attribute
    place: Literal["encoder", "decoder", "cross"]

    @property
    def module(self) -> Any:
        """The attention itself, as the layer has it now."""
        return getattr(self.layer, self.name)


def attentions_of(modules: Iterable[nn.Module]) -> list[Attention]:
    """All attentions of the Transformer layers among ``modules``, in order.

    Args:
        modules: ``model.modules()`` for those of a whole model, ``layers_of(decoder)`` for those of a decoder.
    """
    found = []
    for module in modules:
        if isinstance(module, TransformerEncoderLayerBase):
            found.append(Attention(module, "self_attn", "encoder"))
        elif isinstance(module, TransformerDecoderLayerBase):
            found.append(Attention(module, "self_attn", "decoder"))
            if module.encoder_attn is not None:
                found.append(Attention(module, "encoder_attn", "cross"))
    return found


def layers_of(part: Any) -> list[Any]:
    """All layers of an encoder or decoder, by number: iterating with ``--decoder-layerdrop`` skips some at random."""
    return [part.layers[i] for i in range(len(part.layers))]
