"""Imported for its effect: the el_fairseq that a script imports is this checkout's, also where none is installed.

The scripts import it before el_fairseq; this is the one place that changes where Python looks.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))


def find_tests():
    """Let a script that tests import what the tests share."""
    sys.path.append(str(ROOT / "tests"))
