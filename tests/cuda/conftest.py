import pytest
import torch

from el_fairseq.ops.kernels import trial


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.parent.name == "cuda":
            item.add_marker(pytest.mark.cuda)
            if not torch.cuda.is_available():
                item.add_marker(pytest.mark.skip(reason="no GPU"))


@pytest.fixture
def verified(monkeypatch):
    """What the kernels' trials find in this test: variants and whether they are used."""
    monkeypatch.setattr(trial, "verified", {})
    return trial.verified
