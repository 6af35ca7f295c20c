"""What constraints.txt installs together also works together."""

import subprocess
import sys
from importlib.util import find_spec

import pytest


@pytest.mark.skipif(find_spec("transformers") is None, reason="no transformers")
def test_transformers_imports_beside_fairseqs_torchaudio():
    """fairseq requires torchaudio, which need not load beside a torch of another build: what else imports it fails."""
    subprocess.run([sys.executable, "-c", "from transformers import GPT2LMHeadModel"], check=True)
