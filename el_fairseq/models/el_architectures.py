"""``el_`` twins of every stock architecture of the models ``transformer``, ``bart`` and ``transformer_lm``.

They are built and trained by stock code, have the same ``state_dict`` keys, and decode with EL-attention under every
task: stock checkpoints load into them and theirs into stock.
"""

from typing import TYPE_CHECKING, Any

from fairseq.models import (
    ARCH_CONFIG_REGISTRY,
    ARCH_MODEL_INV_REGISTRY,
    ARCH_MODEL_REGISTRY,
    register_model,
    register_model_architecture,
)
from fairseq.models.bart import BARTModel
from fairseq.models.transformer import TransformerModel
from fairseq.models.transformer_lm import TransformerLanguageModel, TransformerLanguageModelConfig
from torch import nn

from el_fairseq.convert.el_attention import use_el_attention
from el_fairseq.generation.announce import announce

if TYPE_CHECKING:
    from fairseq.models import BaseFairseqModel as StockModel  # which stands after it among the bases of a model
else:
    StockModel = object


class DecodesWithEL(StockModel):
    """Mixin for a model class: what ``build_model`` returns decodes with EL-attention."""

    @classmethod
    def build_model(cls, args: Any, task: Any) -> nn.Module:
        """Build as stock, and convert the attentions.

        Args:
            args: the options of the model.
            task: fairseq's, set up.

        Raises:
            ValueError: an option keeps the model, or part of it, from EL-attention.
        """
        model = super().build_model(args, task)
        reasons = use_el_attention(model)
        if getattr(args, "quant_noise_scalar", 0) > 0:  # the task replaces the projections when the model is built
            reasons.append(f"--quant-noise-scalar {args.quant_noise_scalar}: the projections are quantized")
        if reasons:
            name = getattr(args, "arch", cls.__name__)
            raise ValueError(f"--arch {name}: EL-attention does not cover {'; '.join(reasons)}")
        announce(model, "on")
        return model


@register_model("el_transformer")
class ELTransformerModel(DecodesWithEL, TransformerModel):
    """``transformer`` that decodes with EL-attention."""


@register_model("el_bart")
class ELBARTModel(DecodesWithEL, BARTModel):
    """``bart`` that decodes with EL-attention."""


@register_model("el_transformer_lm", dataclass=TransformerLanguageModelConfig)
class ELTransformerLanguageModel(DecodesWithEL, TransformerLanguageModel):
    """``transformer_lm`` that decodes with EL-attention."""


def _register_twins(model_name: str) -> None:
    for arch in list(ARCH_MODEL_INV_REGISTRY[model_name]):
        if f"el_{arch}" in ARCH_MODEL_REGISTRY:  # this package can be imported again: a worker, a second path
            continue
        register_model_architecture(f"el_{model_name}", f"el_{arch}")(ARCH_CONFIG_REGISTRY[arch])


_register_twins("transformer")
_register_twins("bart")
_register_twins("transformer_lm")
