"""checkpoints.md: the numbers are those measured, the addresses fairseq's, the commands ones that fairseq parses."""

import json
import re
import shlex
from pathlib import Path

import fairseq
import pytest
from bench import checkpoints
from fairseq import options

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "checkpoints.md").read_text()
CHECKPOINTS = checkpoints.load_checkpoints()
ROWS = json.loads((ROOT / "docs/results/checkpoints.json").read_text())
BLOCKS = re.findall(r"(?:^    .*\n)+", TEXT, re.MULTILINE)
COMMANDS = [" ".join(block.replace("\\\n", " ").split()) for block in BLOCKS if "fairseq-" in block]


def test_the_table_is_what_was_measured():
    assert checkpoints.table(CHECKPOINTS, ROWS) in TEXT


def test_every_checkpoint_was_measured_and_generated_the_same():
    assert set(ROWS) == set(CHECKPOINTS)
    assert all(row["same_hypotheses"] for row in ROWS.values())


def test_as_many_parameters_as_fairseq_says():
    """To the last digit of the name, or nearly. The shape of M2M-100's 418M has 484M."""
    named = {name: checkpoint["named"] for name, checkpoint in CHECKPOINTS.items() if "named" in checkpoint}
    assert ROWS["m2m_100 418M"]["parameters"] == 483_905_536 and named.pop("m2m_100 418M") == "418M"
    for name, size in named.items():
        expected = float(size[:-1]) * {"M": 1e6, "B": 1e9}[size[-1]]
        assert ROWS[name]["parameters"] == pytest.approx(expected, rel=0.06), name


def test_the_addresses_are_fairseqs():
    """Those of NLLB-200 are in its branch nllb, and so not in a release."""
    folder = Path(fairseq.__file__).parent
    known = "".join(path.read_text() for path in [*folder.glob("examples/**/*.md"), *folder.glob("models/**/*.py")])
    known = known.replace("http://", "https://")
    ours = set(re.findall(r"https://dl\.fbaipublicfiles\.com/[^)\s]+", TEXT))
    assert len(ours) > 20 and {url for url in ours if url not in known} == set()


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: re.search(r"--path ([^/:\s]+)", c).group(1))
def test_the_command_is_one_that_fairseq_parses(command):
    program, *arguments = shlex.split(command)
    assert program in ("fairseq-generate", "fairseq-interactive")
    parser = options.get_generation_parser(interactive=program == "fairseq-interactive")
    parsed = options.parse_args_and_arch(parser, arguments)
    assert parsed.task.startswith("el_") and parsed.el_attention == "auto" and parsed.path and parsed.beam >= 4


def test_every_family_has_its_commands():
    assert len(COMMANDS) == 17 and len(set(re.findall(r"--task (\w+)", TEXT))) == 5
