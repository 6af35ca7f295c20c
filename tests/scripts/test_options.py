"""How the examples and scripts read their options."""

import subprocess

import pytest
from helpers.commands import ROOT

SCRIPT = """
source scripts/lib/options.sh
usage() { echo "usage: it"; }
OUT=results/default UPDATES=3 DATA_DIR="" CPU="" MY_PAIR=()
read_options "out updates data-dir cpu:0 my-pair:2 --" "$@"
printf "%s\\n" "$OUT" "$UPDATES" "$DATA_DIR" "${MORE[@]}"
printf "%s\\n" "$CPU" "${MY_PAIR[@]}" >&2
"""


def read(*arguments):
    command = ["bash", "-euo", "pipefail", "-c", SCRIPT, "./script.sh", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def test_defaults_stay_and_what_is_given_wins():
    assert read().stdout.splitlines() == ["results/default", "3", ""]
    given = read("--updates", "5", "--out", "a folder", "--", "--lr", "1 2")
    assert given.stdout.splitlines() == ["a folder", "5", "", "--lr", "1 2"]


def test_paths_count_from_where_the_user_is(tmp_path):
    command = SCRIPT.replace("source scripts", f"cd '{tmp_path}'\nsource {ROOT}/scripts")
    done = subprocess.run(["bash", "-c", command, "x", "--data-dir", "../data"], capture_output=True, text=True)
    assert done.stdout.splitlines()[2] == str(tmp_path.parent / "data")
    assert read("--data-dir", str(ROOT / "results/x")).stdout.splitlines()[2] == "results/x"  # where scripts go to


def test_switches_and_pairs(tmp_path):
    assert read().stderr == "\n"
    done = read("--my-pair", str(ROOT / "a.pt"), f"{tmp_path}/some data", "--cpu", "--out", "there")
    assert done.stderr.splitlines() == ["yes", "a.pt", f"{tmp_path}/some data"]
    assert done.stdout.splitlines()[0] == "there"


def test_help_is_the_usage():
    done = read("--updates", "5", "--help", "--nonsense")
    assert (done.returncode, done.stdout) == (0, "usage: it\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--update", "5"], "there is no option --update (--help lists them)"),
        (["out"], "there is no option out (--help lists them)"),
        (["--updates"], "--updates needs a value"),
        (["--my-pair", "one"], "--my-pair needs two values"),
        (["--cpu:0"], "there is no option --cpu:0 (--help lists them)"),
        (["-x"], "there is no option -x (--help lists them)"),
    ],
    ids=["unknown", "positional", "no value", "half a pair", "no name", "one dash"],
)
def test_what_is_wrong_is_named(arguments, message):
    done = read(*arguments)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"script.sh: {message}\n")
