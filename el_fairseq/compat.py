"""Loading checkpoints, whatever fairseq asks for: data is loaded, anything else is refused and said in plain words.

``torch.load`` builds any object that a file asks for, and so runs any code, unless it is told ``weights_only=True``.
Versions of fairseq differ: some leave that to torch, whose default since 2.6 refuses fairseq's own checkpoints
(``argparse.Namespace``); the last one asks for ``weights_only=False``. Nothing here depends on either:

* ``torch.load``, called from a module of fairseq, reads with ``weights_only=True``, and builds the classes of
  ``plain_data.HARMLESS`` and those that a user allowed by ``torch.serialization.add_safe_globals``. Called from any
  other module of the same process, it is ``torch.load`` as it was. The function itself is replaced, because fairseq
  calls it in a dozen modules, and some of them are imported later.
* Modules of fairseq that call ``eval``, also with options from a checkpoint, find ``plain_data.evaluate`` instead.

Not covered, because fairseq's ``torch.load`` has no part in it: user modules that unpickle by themselves, archives that
fairseq's hub unpacks, code that replaces ``torch.load`` later.
"""

import contextlib
import functools
import os
import pickle
import re
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from el_fairseq.checksums import damaged_part
from el_fairseq.internals import name_of_caller
from el_fairseq.plain_data import HARMLESS, evaluate

GUARDED = ("fairseq", "fairseq_cli", "el_fairseq")  # packages whose calls are guarded
EVAL = re.compile(rb"(?<![\w.])eval\(")
NOT_THE_FILE = (FileNotFoundError, PermissionError, IsADirectoryError, MemoryError, torch.OutOfMemoryError)
LOCK = threading.RLock()  # torch keeps one list of allowed classes for all threads


def guard_loading() -> None:
    """Make fairseq load data alone; does nothing the second time, also if this package is imported again."""
    _guard_eval()
    if not hasattr(torch.load, "guards_fairseq"):
        torch.load = _guarded(torch.load)


def load_checkpoint(path: str | os.PathLike) -> Any:
    """Load a checkpoint onto the CPU, as it is in the file.

    Args:
        path: of the file.

    Returns:
        What was saved, a dictionary in fairseq's own checkpoints.

    Raises:
        pickle.UnpicklingError: it is damaged, or holds something that is not data.
    """
    return torch.load(path, map_location="cpu")


def _guarded(load: Callable[..., Any]) -> Any:
    @functools.wraps(load)
    def guarded(f: Any, *args: Any, **kwargs: Any) -> Any:
        caller = name_of_caller()
        if caller.partition(".")[0] not in GUARDED:
            return load(f, *args, **kwargs)
        _guard_eval()  # a model that was imported since may be built from what is read here
        try:
            part = damaged_part(f)
            if part is not None:
                raise ValueError(f"{part} is not what its checksum says")
            with _harmless_allowed():
                return load(f, *args, **{**kwargs, "weights_only": True})
        except NOT_THE_FILE:
            raise
        except Exception as error:
            name = f if isinstance(f, (str, os.PathLike)) else getattr(f, "name", "in memory")
            raise pickle.UnpicklingError(f"el_fairseq: checkpoint {name}: {load_hint(error)}") from None

    guarded.guards_fairseq = True  # type: ignore[attr-defined]
    guarded.__module__, guarded.__qualname__ = "torch", "load"  # where pickle finds it: loader=torch.load is common
    return guarded


@contextlib.contextmanager
def _harmless_allowed() -> Iterator[None]:
    """For one load, what ``HARMLESS`` says is what its names mean, whatever the user's own list says of them."""
    with LOCK:
        before = torch.serialization.get_safe_globals()
        during = [allowed for allowed in before if _name(allowed) not in HARMLESS]
        during += [(harmless, name) for name, harmless in HARMLESS.items()]
        _allow(during)
        try:
            yield
        finally:
            added = set(torch.serialization.get_safe_globals()).difference(during)  # by other threads
            _allow([*before, *added])


def _allow(classes: list) -> None:
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(classes)


def _name(allowed: Any) -> str:
    return allowed[1] if isinstance(allowed, tuple) else f"{allowed.__module__}.{allowed.__qualname__}"


@functools.cache
def _calls_eval(path: str) -> bool:
    return path.endswith(".py") and EVAL.search(Path(path).read_bytes()) is not None


def _guard_eval() -> None:
    for name, module in list(sys.modules.items()):
        if name.startswith("fairseq.") and _calls_eval(getattr(module, "__file__", None) or ""):
            vars(module)["eval"] = evaluate


def load_hint(error: BaseException) -> str:
    """Say what an error that ``torch.load`` raised for a checkpoint means, and what to do."""
    refused = re.search(r"(?:Unsupported global: GLOBAL|unsupported GLOBAL) (\S+)", str(error))
    if refused:
        return (
            f"refused: it holds {refused[1]}, which is not plain data, and building it can run any code. Nothing was "
            "run. Get the checkpoint from a source you trust, saved with plain containers; if you wrote that class "
            f"yourself, allow it in your own code with torch.serialization.add_safe_globals([{refused[1]}])."
        )
    reason = str(error).partition("WeightsUnpickler error:")[2].strip() or str(error)
    return (
        f"truncated, damaged, or no checkpoint at all ({type(error).__name__} while reading it: "
        f"{reason.partition(chr(10))[0]}). Copy or download it again and compare the sizes (and sha256sum)."
    )
