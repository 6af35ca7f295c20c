"""fairseq checkpoints on today's torch: what is harmless loads, everything else is refused and said in plain words.

Since torch 2.6 ``torch.load`` builds only classes that are known to be harmless, and so refuses fairseq's own
checkpoints (``argparse.Namespace``). The classes that those hold are containers of data; they are allowed here, and
nothing else: a checkpoint that names anything else stays refused, because building an arbitrary object runs code.
"""

import argparse
import collections
import re
import sys
import typing

import numpy
import omegaconf
import torch
from fairseq.logging import meters
from omegaconf.base import ContainerMetadata, Metadata
from omegaconf.nodes import AnyNode

NUMPY_SCALAR = numpy.float64(0).__reduce__()[0]  # the module's name of both depends on the version of numpy
NUMPY_ARRAY = numpy.zeros(0).__reduce__()[0]
HARMLESS = (
    argparse.Namespace,  # the arguments of every legacy model and task
    # checkpoints from before 0.10 keep their meters, under the module's old name
    meters.AverageMeter,
    meters.StopwatchMeter,
    meters.TimeMeter,
    (meters.AverageMeter, "fairseq.meters.AverageMeter"),
    (meters.StopwatchMeter, "fairseq.meters.StopwatchMeter"),
    (meters.TimeMeter, "fairseq.meters.TimeMeter"),
    # checkpoints of 0.12 may keep their configuration as it was
    omegaconf.DictConfig,
    omegaconf.ListConfig,
    AnyNode,
    ContainerMetadata,
    Metadata,
    typing.Any,
    collections.defaultdict,
    dict,
    list,
    int,
    # a best score that was a numpy number
    numpy.dtype,
    type(numpy.dtype(numpy.float32)),
    type(numpy.dtype(numpy.float64)),
    (NUMPY_SCALAR, "numpy.core.multiarray.scalar"),
    (NUMPY_SCALAR, "numpy._core.multiarray.scalar"),
    # counts of n-grams, which --eval-bleu keeps in its meters
    numpy.ndarray,
    type(numpy.dtype(numpy.int64)),
    (NUMPY_ARRAY, "numpy.core.multiarray._reconstruct"),
    (NUMPY_ARRAY, "numpy._core.multiarray._reconstruct"),
)


def load_stock_checkpoints():
    """Let ``torch.load`` take fairseq's checkpoints, and add a hint below the traceback of one that it cannot load."""
    torch.serialization.add_safe_globals(list(HARMLESS))
    if not hasattr(sys.excepthook, "hints"):  # once, also if this package is imported again
        sys.excepthook = _with_hint(sys.excepthook)


def load_hint(error):
    """What an error that ``torch.load`` raised for a checkpoint means, and what to do."""
    refused = re.search(r"(?:Unsupported global: GLOBAL|unsupported GLOBAL) (\S+)", str(error))
    if refused:
        return (
            f"refused: it holds {refused[1]}, which is not plain data, and building it can run any code. Nothing was "
            "run. Get the checkpoint from a source you trust, saved with plain containers; if you wrote that class "
            f"yourself, allow it in your own code with torch.serialization.add_safe_globals([{refused[1]}])."
        )
    return (
        f"truncated, damaged, or no checkpoint at all ({type(error).__name__} while reading it). Copy or download it "
        "again and compare the sizes."
    )


def _checkpoint_in(traceback):
    """The path of the checkpoint that ``torch.load`` was reading for fairseq when the error came up, or None."""
    path = None
    while traceback is not None:
        code = traceback.tb_frame.f_code
        if code.co_name == "load_checkpoint_to_cpu":
            path = traceback.tb_frame.f_locals.get("path")
        if path is not None and code is torch.load.__code__:
            return path
        traceback = traceback.tb_next
    return None


def _with_hint(previous):
    def excepthook(kind, error, traceback):
        previous(kind, error, traceback)
        path = _checkpoint_in(traceback)
        if path is not None:
            print(f"el_fairseq: checkpoint {path}: {load_hint(error)}", file=sys.stderr)

    excepthook.hints = True
    return excepthook
