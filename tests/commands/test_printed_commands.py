"""The commands for one's own checkpoint, as README and docs print them, run on toy data and models."""

import re
import shlex

import pytest
from helpers.commands import ALL, LM, ROOT, lines_of, run, run_module, train

pytestmark = pytest.mark.slow
PAGES = ("README.md", "docs/generation.md", "docs/mhe.md", "docs/scoring.md")
CODE = re.compile(r"(?:^    .*\n)+", re.MULTILINE)
PRINTED = re.compile(r"^(?:fairseq-\S+|python scripts/check_lossless.py) (?:DATA|LM)-BIN .*$", re.MULTILINE)
TRAINING = "--arch transformer_tiny --optimizer adam --lr 0.001 --max-tokens 200 --max-update 1 --no-save"
ONE_UPDATE = {  # in place of the dots
    "--arch": TRAINING.split(maxsplit=2)[2] + " --disable-validation",
    "--eval-rouge": TRAINING,
    "--scoring": ALL,
}


def printed():
    """Each command once, in one line."""
    for page in PAGES:
        for block in CODE.findall((ROOT / page).read_text()):
            text = "\n".join(" ".join(line.split()) for line in block.replace("\\\n", " ").splitlines())
            yield from PRINTED.findall(re.sub(r"\s#\s.*", "", text))


@pytest.fixture(scope="module")
def names(data, text, tmp_path_factory):
    """What stands for the names in capitals and the checkpoints."""
    folder = tmp_path_factory.mktemp("printed")
    train(data, folder / "model", "--arch transformer_tiny")
    train(text, folder / "lm", f"--task language_modeling --arch transformer_lm {LM} --tokens-per-sample 64")
    train(data, folder / "mhe", "--arch mhe_transformer_tiny")
    found = {"model.pt": "model", "lm.pt": "lm", "checkpoints/checkpoint_best.pt": "mhe"}
    paths = {name: folder / to / "checkpoint_last.pt" for name, to in found.items()}
    return {"DATA-BIN": data, "LM-BIN": text, **paths}


@pytest.mark.parametrize("command", dict.fromkeys(printed()))
def test_a_printed_command_runs(command, names, monkeypatch):
    elided = next((more for option, more in ONE_UPDATE.items() if option in command), "")
    program, *rest = shlex.split(command.replace("...", elided))
    arguments = [names.get(part, part) for part in rest]
    if program == "python":
        script, *arguments = arguments
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        done = run_module(script.removesuffix(".py").replace("/", "."), *arguments, cwd=ROOT)
        assert done.returncode == 0 and "lossless in float32" in done.stdout, done.stdout + done.stderr
        return
    output = run(program, arguments, stdin="a b c\nh g f\n")
    if program in ("fairseq-generate", "fairseq-interactive"):
        assert lines_of(output, "H") and "decoder state: peak" in output
    else:
        assert "num_updates 1" in output and ("--eval-rouge" not in command or "rougeL" in output)


def test_there_are_such_commands():
    assert len(set(printed())) > 8
