"""``mhe_`` twins of every stock architecture of the models ``transformer``, ``transformer_lm`` and ``roberta``.

Stock code builds the model, then the attentions named by ``--attention-variant-where`` are exchanged for those of
``--attention-variant``; with ``mha`` the model is stock's, bit for bit. All other parameters start the same whatever
the variant, if the seed is the same.
"""

import logging
from argparse import ArgumentParser
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.dataclass.utils import gen_parser_from_dataclass
from fairseq.models import (
    ARCH_CONFIG_REGISTRY,
    ARCH_MODEL_INV_REGISTRY,
    ARCH_MODEL_REGISTRY,
    register_model,
    register_model_architecture,
)
from fairseq.models.roberta import RobertaModel
from fairseq.models.transformer import TransformerModel, TransformerModelBase
from fairseq.models.transformer_lm import TransformerLanguageModel, TransformerLanguageModelConfig
from fairseq.modules.transformer_sentence_encoder import init_bert_params

from el_fairseq.convert.attention_variant import (
    MHA,
    PLACES,
    VARIANTS,
    parse_places,
    refuse_other_variant,
    shares_source,
    use_attention_variant,
)
from el_fairseq.convert.attentions import attentions_of
from el_fairseq.convert.shared_source import share_beams
from el_fairseq.models.argparse_config import dataclass_of, fills, given
from el_fairseq.modules.mhe_attention import HEAD_EMBED_STD
from el_fairseq.modules.shared_kv_attention import SharedKVAttention

if TYPE_CHECKING:
    from fairseq.models import BaseFairseqModel as StockModel  # which stands after it among the bases of a model
else:
    StockModel = object

logger = logging.getLogger(__name__)


@dataclass
class AttentionVariantConfig(FairseqDataclass):
    """What every ``mhe_`` architecture adds to its stock twin."""

    attention_variant: ChoiceEnum(VARIANTS) = field(  # type: ignore[valid-type]
        default="mhe-mul",
        metadata={
            "help": "mhe-mul, mhe-add: one projection and an embedding per head (arXiv 2310.07911); mqa: a query "
            "projection per head, one key and value; sha: one head; mha: stock multi-head attention"
        },
    )
    attention_variant_where: str = field(
        default=",".join(PLACES),
        metadata={"help": "which attentions: encoder and decoder (self-attention), cross; comma-separated"},
    )
    head_embed_std: float = field(
        default=HEAD_EMBED_STD,
        metadata={"help": "standard deviation of the head embeddings of mhe-mul and mhe-add at the start"},
    )


class HasAttentionVariant(StockModel):
    """Mixin for a model class: its attentions are those of ``--attention-variant``."""

    @classmethod
    def add_args(cls, parser: ArgumentParser) -> None:
        """Stock's options and ours."""
        super().add_args(parser)
        gen_parser_from_dataclass(parser, AttentionVariantConfig(), delete_default=True)

    @classmethod
    def hub_models(cls) -> dict[str, Any]:
        """None: the checkpoints that stock names have stock's attention."""
        return {}

    @classmethod
    def build_model(cls, cfg: Any, task: Any) -> Any:
        """Build as stock, then exchange the attentions.

        Args:
            cfg: the options of the model.
            task: fairseq's, set up.

        Raises:
            ValueError: an unknown variant or place; heads that do not divide the width; an option that no variant has.
        """
        places = parse_places(cfg.attention_variant_where)
        options = cls.stock_options(cfg, task)
        for part in ("encoder", "decoder"):
            width, heads = (getattr(options, f"{part}_{name}", None) for name in ("embed_dim", "attention_heads"))
            if width and heads is not None and (heads < 1 or width % heads):
                raise ValueError(f"--{part}-embed-dim {width} is not divisible by --{part}-attention-heads {heads}")
        if str(cfg.attention_variant) != MHA and (
            getattr(options, "mha_heads_to_keep", -1) != -1 or getattr(options, "mha_reg_scale_factor", 0) > 0
        ):
            raise ValueError(
                "--mha-heads-to-keep and --mha-reg-scale-factor prune heads of stock attention: they need "
                f"--attention-variant mha, not {cfg.attention_variant}"
            )
        model = super().build_model(options, task)
        model.attention_variant, model.attention_places = str(cfg.attention_variant), places
        model.adapt(use_attention_variant(model, model.attention_variant, places, head_embed_std=cfg.head_embed_std))
        attentions = [each.module for each in attentions_of(model.modules())]
        logger.info(
            "attention variant %s (%s): %s parameters in %d attentions",
            model.attention_variant,
            cfg.attention_variant_where,
            f"{sum(p.numel() for attention in attentions for p in attention.parameters()):,}",
            len(attentions),
        )
        return model

    @classmethod
    def stock_options(cls, cfg: Any, task: Any) -> Any:
        """The options in the form that stock's ``build_model`` takes."""
        return cfg

    def adapt(self, attentions: list[SharedKVAttention]) -> None:
        """What else the new attentions need."""

    def load_state_dict(self, state_dict: dict[str, torch.Tensor], *args: Any, **kwargs: Any) -> Any:
        """As stock.

        Raises:
            ValueError: the attentions in ``state_dict`` are of another variant.
        """
        refuse_other_variant(self, state_dict, self.attention_variant, self.attention_places)
        return super().load_state_dict(state_dict, *args, **kwargs)


class ConfiguredByArgparse(HasAttentionVariant):
    """Mixin for a model class that stock configures by argparse."""

    stock_arch: str  # of stock, which fills the options

    @classmethod
    def stock_options(cls, cfg: Any, task: Any) -> Any:
        options = given(cfg)
        ARCH_CONFIG_REGISTRY[cls.stock_arch](options)
        return options


MHETransformerConfig = dataclass_of(
    TransformerModelBase.add_args,
    ARCH_CONFIG_REGISTRY["transformer"],
    name="MHETransformerConfig",
    base=AttentionVariantConfig,
    from_task=("max_source_positions", "max_target_positions"),
)


@register_model("mhe_transformer", dataclass=MHETransformerConfig)
class MHETransformerModel(ConfiguredByArgparse, TransformerModel):
    """``transformer`` with another attention; the beams of a sentence share what cross-attention keeps."""

    stock_arch = "transformer"

    @classmethod
    def stock_options(cls, cfg: Any, task: Any) -> Any:
        options = super().stock_options(cfg, task)
        limits = task.max_positions()
        if isinstance(limits, tuple) and len(limits) == 2:
            for name, limit in zip(("max_source_positions", "max_target_positions"), limits):
                setattr(options, name, getattr(options, name, limit))
        return options

    def adapt(self, attentions: list[SharedKVAttention]) -> None:
        if shares_source(self):
            share_beams(self)


@dataclass
class MHETransformerLanguageModelConfig(AttentionVariantConfig, TransformerLanguageModelConfig):
    """The options of ``transformer_lm`` and ours."""


@register_model("mhe_transformer_lm", dataclass=MHETransformerLanguageModelConfig)
class MHETransformerLanguageModel(HasAttentionVariant, TransformerLanguageModel):
    """``transformer_lm`` with another attention."""


MHERobertaConfig = dataclass_of(
    RobertaModel.add_args, ARCH_CONFIG_REGISTRY["roberta"], name="MHERobertaConfig", base=AttentionVariantConfig
)


@register_model("mhe_roberta", dataclass=MHERobertaConfig)
class MHERobertaModel(ConfiguredByArgparse, RobertaModel):
    """``roberta`` with another attention."""

    stock_arch = "roberta"

    def adapt(self, attentions: list[SharedKVAttention]) -> None:
        for attention in attentions:
            attention.apply(init_bert_params)


def _register_twins(model_name: str) -> None:
    own = {name: getattr(AttentionVariantConfig(), name) for name in AttentionVariantConfig.__dataclass_fields__}
    del own["_name"]
    for arch in list(ARCH_MODEL_INV_REGISTRY[model_name]):
        if f"mhe_{arch}" in ARCH_MODEL_REGISTRY:  # this package can be imported again: a worker, a second path
            continue
        register_model_architecture(f"mhe_{model_name}", f"mhe_{arch}")(fills(ARCH_CONFIG_REGISTRY[arch], own))


_register_twins("transformer")
_register_twins("transformer_lm")
_register_twins("roberta")
