"""What a checkpoint may hold: the classes that are built, numbers of numpy, and options that are data.

The list has the classes that fairseq's own checkpoints hold, all containers of data, under the names that files have
for them. Two things that look like data are not taken from the libraries that they belong to:

* numpy's own functions believe what a file says about a type. A crafted one makes numpy read bytes as pointers to
  objects, so arrays and numbers are put together here, from types of plain numbers alone.
* fairseq passes options of a model, which are in its checkpoint, to ``eval``. ``evaluate`` takes an expression of
  constants, ``[(512, 3)] * 15`` for example, and no code.
"""

import argparse
import ast
import collections
import pickle
import re
from typing import Any

import numpy
import omegaconf
from fairseq.data import Dictionary
from fairseq.logging import meters
from omegaconf.base import ContainerMetadata, Metadata
from omegaconf.nodes import AnyNode

from el_fairseq.internals import tensor_placeholders

NUMBER = re.compile(r"[<>=|]?[biufc]\d+")  # as numpy writes a type: f8, i4, b1
DATA = (
    *(ast.Expression, ast.Constant, ast.Tuple, ast.List, ast.Dict, ast.Set),
    *(ast.BinOp, ast.UnaryOp, ast.operator, ast.unaryop, ast.expr_context),
)


class NumberType:
    """Stands for ``numpy.dtype`` in a file: the type of a number, and its byte order."""

    def __init__(self, code: Any, *_copy: Any):
        if not (isinstance(code, str) and NUMBER.fullmatch(code)):
            raise pickle.UnpicklingError(f"numpy data of type {code!r}, which is not a number")
        self.dtype = numpy.dtype(code)

    def __setstate__(self, state: tuple) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])


class Array(numpy.ndarray):
    """Stands for ``numpy.ndarray`` in a file: an array of numbers, which is saved as a plain array again."""

    def __new__(cls, *_arguments: Any) -> "Array":
        return numpy.zeros(0).view(cls)

    def __setstate__(self, state: tuple) -> None:
        _version, shape, of, is_fortran, data = state
        if not isinstance(of, NumberType):
            raise pickle.UnpicklingError("a numpy array whose type is not given as one of numbers")
        super().__setstate__((1, shape, of.dtype, is_fortran, data))

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.view(numpy.ndarray).__reduce_ex__(protocol)


def number(of: Any, data: bytes) -> Any:
    """Stands for numpy's function ``scalar`` in a file.

    Args:
        of: a ``NumberType``.
        data: the number's bytes.

    Returns:
        The number.

    Raises:
        pickle.UnpicklingError: another type.
    """
    if not isinstance(of, NumberType):
        raise pickle.UnpicklingError("a numpy number whose type is not given as one of numbers")
    return numpy.frombuffer(data, of.dtype, count=1)[0]


HARMLESS = {
    "argparse.Namespace": argparse.Namespace,  # the arguments of every legacy model and task
    # checkpoints from before 0.10 keep their meters, under the module's old name
    **{f"fairseq.meters.{name}": getattr(meters, name) for name in ("AverageMeter", "StopwatchMeter", "TimeMeter")},
    "fairseq.logging.meters.AverageMeter": meters.AverageMeter,
    "fairseq.logging.meters.StopwatchMeter": meters.StopwatchMeter,
    "fairseq.logging.meters.TimeMeter": meters.TimeMeter,
    "fairseq.data.dictionary.Dictionary": Dictionary,  # the state of tasks on audio
    # stands for a tensor in what a process of a training sends to the others, its checkpoint for example
    **{f"{cls.__module__}.{cls.__qualname__}": cls for cls in tensor_placeholders()},
    # checkpoints of 0.12 may keep their configuration as it was
    "omegaconf.dictconfig.DictConfig": omegaconf.DictConfig,
    "omegaconf.listconfig.ListConfig": omegaconf.ListConfig,
    "omegaconf.nodes.AnyNode": AnyNode,
    "omegaconf.base.ContainerMetadata": ContainerMetadata,
    "omegaconf.base.Metadata": Metadata,
    "typing.Any": Any,
    "collections.defaultdict": collections.defaultdict,
    "builtins.dict": dict,
    "builtins.list": list,
    "builtins.int": int,
    "builtins.bytes": bytes,  # of an empty array
    # a best score that was a numpy number; counts of n-grams, which --eval-bleu keeps in its meters
    "numpy.dtype": NumberType,
    "numpy.ndarray": Array,
    "numpy.core.multiarray.scalar": number,
    "numpy._core.multiarray.scalar": number,  # as numpy 2 calls it
    "numpy.core.multiarray._reconstruct": Array,
    "numpy._core.multiarray._reconstruct": Array,
}


def evaluate(text: Any, *_scopes: Any) -> Any:
    """``eval`` for expressions that are data: constants, containers of them, and arithmetic.

    Args:
        text: an expression, as ``eval`` takes it. What ``eval`` takes besides is not used.

    Returns:
        Its value.

    Raises:
        ValueError: anything else than data.
        TypeError: ``text`` is none.
        SyntaxError: it is no expression.
    """
    if not isinstance(text, (str, bytes, bytearray)):
        raise TypeError("eval() arg 1 must be a string")  # fairseq catches it
    expression = ast.parse(text.strip(), mode="eval")
    if not all(isinstance(node, DATA) for node in ast.walk(expression)):
        raise ValueError(
            f"el_fairseq: refused: fairseq would run the option {text!r} as Python. Nothing was run. If it is from "
            "a checkpoint, get that from a source you trust; options may hold numbers, strings, lists and the like."
        )
    return eval(compile(expression, "<option>", "eval"), {"__builtins__": {}})
