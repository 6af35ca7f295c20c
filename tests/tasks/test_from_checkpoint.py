"""Overrides of a checkpoint's options that change nothing are reported."""

import logging
from argparse import Namespace

import pytest
from fairseq.tasks import TASK_DATACLASS_REGISTRY, TASK_REGISTRY
from helpers.models import dictionary

OPTIONS = {f"{side}_{name}": 16 for side in ("encoder", "decoder") for name in ("embed_dim", "ffn_embed_dim")}
NAMES = {  # arch, _name, what the warning says
    "both": ("el_transformer", "el_transformer", None),
    "a size": ("el_transformer_tiny", "el_transformer_tiny", None),
    "stock": ("transformer", "transformer", None),
    "no _name at all": ("el_transformer", None, None),
    "arch alone": ("el_transformer", "transformer", "the model is a TransformerModel"),
    "mhe": ("mhe_transformer", "transformer", "write {'_name': 'mhe_transformer', 'arch': 'mhe_transformer'}"),
}


@pytest.mark.parametrize("case", NAMES)
def test_arch_without_name_is_reported(case, caplog):
    arch, name, said = NAMES[case]
    words = dictionary(12)
    task = TASK_REGISTRY["el_translation"](TASK_DATACLASS_REGISTRY["el_translation"](), words, words)
    options = {**OPTIONS, "arch": arch, "encoder_layers": 1, "decoder_layers": 1}
    with caplog.at_level(logging.WARNING, logger="el_fairseq"):
        task.build_model(Namespace(**options, **({"_name": name} if name else {})))
    assert len(caplog.messages) == (said is not None)
    assert said is None or f"'arch': '{arch}' changes nothing without '_name'" in caplog.text and said in caplog.text
