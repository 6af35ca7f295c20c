import pytest
from helpers.sharded_work import new_work


@pytest.fixture
def work(tmp_path):
    return new_work(tmp_path)
