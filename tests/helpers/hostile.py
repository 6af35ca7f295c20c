"""Checkpoints that would run code, and a fairseq that would let them, as its last main does."""

import functools
import os
import zipfile

import torch

CODE = "__import__('os').system('touch {}')"
ASKS_FOR_EVERYTHING = "import functools, torch\ntorch.load = functools.partial(torch.load, weights_only=False)\n"


class Reduced:
    """Pickled as a call: whoever unpickles it runs ``function(*arguments)``, and gives the result that state."""

    def __init__(self, function, *arguments, state=None):
        self.how = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.how


def touch(path):
    """What touches that file when it is unpickled."""
    return Reduced(os.system, f"touch {path}")


def ask_for_everything(monkeypatch):
    """Whatever calls ``torch.load`` asks for ``weights_only=False``. A partial has no frame: the caller stays it."""
    monkeypatch.setattr(torch, "load", functools.partial(torch.load, weights_only=False))


def save_pickle(pickled, path):
    """A checkpoint whose pickle is these bytes."""
    torch.save({}, path)
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, content in entries.items():
            archive.writestr(name, pickled if name.endswith("/data.pkl") else content)
