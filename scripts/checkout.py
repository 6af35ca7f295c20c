"""Imported for its effect: the el_fairseq that a script imports is this checkout's, also where none is installed.

The scripts import it before el_fairseq; this is the one place that changes where Python looks.
"""

import sys
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))


def module_of_tests(name):
    """A module below tests/, for a script that tests."""
    sys.path.append(str(ROOT / "tests"))
    return import_module(name)
