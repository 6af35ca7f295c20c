"""What fairseq's override of a checkpoint's options gets wrong, and what to write instead.

With ``task={...}`` a hub overrides that part of the task and no other: ``data`` stays the folder of the training.
``--model-overrides`` with ``arch`` alone leaves the model as it is.
"""

import logging
from typing import Any

from fairseq.models import ARCH_MODEL_REGISTRY
from torch import nn

from el_fairseq.internals import parent_of

logger = logging.getLogger(__name__)
INSTEAD = "leave out task= in from_pretrained, and call enable_el_attention(hub, mode='on') after it"


def no_such_file(error: FileNotFoundError) -> FileNotFoundError:
    """The error for a file that a task made from a checkpoint does not find."""
    where = "with task={...} from_pretrained looks in the folder of the training"
    return FileNotFoundError(f"{error}: {where}; {INSTEAD}")


def warn_of_another_folder(task_options: Any, model_options: Any) -> None:
    """Warn where a task may have read another folder than the hub was given.

    The model's options hold the folder that was given. Those of a language model hold none: then whoever overrode the
    task is told which folder it was.
    """
    read, given = getattr(task_options, "data", None), getattr(model_options, "data", None)
    if given is not None and read != given:
        logger.warning("the dictionaries are those in %s, not in %s; if that is wrong, %s", read, given, INSTEAD)
    elif given is None and _was_overridden(task_options):
        logger.warning("the dictionaries are those in %s; if that is wrong, %s", read, INSTEAD)


def _was_overridden(task_options: Any) -> bool:
    """Whether the task is ours and the checkpoint's is not: its options, not yet filled up with defaults, lack ours."""
    whole = parent_of(task_options)
    return whole is not None and "el_max_tokens" not in whole.task


def warn_of_another_architecture(model: nn.Module, options: Any) -> None:
    """Warn where ``arch`` names an architecture of this package, and the model is none of it."""
    arch = getattr(options, "arch", None)
    if str(arch).startswith(("el_", "mhe_")) and not isinstance(model, ARCH_MODEL_REGISTRY.get(arch, object)):
        logger.warning(
            "'arch': '%s' changes nothing without '_name', the model is a %s: write {'_name': '%s', 'arch': '%s'}",
            *(arch, type(model).__name__, arch, arch),
        )
