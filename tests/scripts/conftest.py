import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

import pytest  # noqa: E402
from sharded_work import new_work  # noqa: E402


@pytest.fixture
def work(tmp_path):
    return new_work(tmp_path)
