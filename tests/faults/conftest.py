import pytest
from helpers.commands import train


@pytest.fixture(scope="session")
def checkpoint(data, tmp_path_factory):
    """A stock model of seconds, with one embedding for its source words and another for its target words."""
    folder = tmp_path_factory.mktemp("checkpoint")
    train(data, folder, "--arch transformer_tiny", until="--max-update 20")
    return folder / "checkpoint_last.pt"
