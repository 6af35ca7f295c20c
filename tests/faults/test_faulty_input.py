"""Texts and data that are not as they should be, in fairseq-generate and -interactive: what is good is answered."""

import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy
import pytest
from helpers.commands import BIN, ROOT, assert_same_output, fork, generate, lines_of, run

pytestmark = pytest.mark.slow
EL = "--task el_translation --beam 2"
TASKS = ["translation", "el_translation"]
ODD = "a \U0001f600 \x01\x02\x1b[31m b\u2028c \x85d"  # one line, six words for fairseq, two of them known to nobody
TOO_LONG = "Size of sample #{} is invalid .* since max_positions=.* skip this example with --skip-invalid-size-inputs"


def interactive(data, checkpoint, folder, typed, *options, task="el_translation", ok=True):
    """What fairseq-interactive prints for the bytes ``typed``, which it reads strictly."""
    (folder / "in").write_bytes(typed)
    (folder / "out").write_text("")
    arguments = f"{data} --user-dir el_fairseq --task {task} --path {checkpoint} --beam 2 --max-len-b 8".split()
    status = fork("fairseq-interactive", [*arguments, *options], folder / "in", folder / "out", ROOT)
    printed = (folder / "out").read_text()
    assert (status == 0) == ok, printed[-4000:]
    return printed


def answers(printed):
    """``{number: its hypothesis}``, without scores."""
    return {int(line.split("\t")[0][2:]): line.split("\t")[2] for line in lines_of(printed, "D")}


@pytest.fixture(scope="module")
def good(data, checkpoint, tmp_path_factory):
    """The answers to ``a b c`` and ``d e``."""
    folder = tmp_path_factory.mktemp("good")
    return list(answers(interactive(data, checkpoint, folder, b"a b c\nd e\n")).values())


@pytest.mark.parametrize("task", TASKS)
def test_empty_lines_and_odd_characters_are_answered(task, data, checkpoint, good, tmp_path):
    """As stock answers them; control characters and such beyond the BMP are unknown words."""
    typed = f"a b c\n\n   \n{ODD}\nd e\n".encode()
    printed = interactive(data, checkpoint, tmp_path, typed, "--buffer-size", "5", "--batch-size", "5", task=task)
    given = answers(printed)
    assert sorted(given) == [0, 1, 2, 3, 4] and [given[0], given[4]] == good and given[1] == given[2]
    assert lines_of(printed, "S")[1:4] == ["S-1\t", "S-2\t", "S-3\ta <unk> <unk> b c d"]


def test_no_lines_are_no_error(data, checkpoint, tmp_path):
    assert answers(interactive(data, checkpoint, tmp_path, b"")) == {}


def test_a_line_of_10000_tokens_is_refused_and_can_be_skipped(data, checkpoint, good, tmp_path):
    typed = b"a b c\n" + b"a " * 10000 + b"\nd e\n"
    printed = interactive(data, checkpoint, tmp_path, typed, ok=False)
    assert answers(printed) == {0: good[0]} and re.search(TOO_LONG.format(0), printed)
    skipped = interactive(data, checkpoint, tmp_path, typed, "--skip-invalid-size-inputs-valid-test")
    assert answers(skipped) == {0: good[0], 2: good[1]}


def test_bytes_that_are_no_utf8_are_an_unknown_word(data, checkpoint, good, tmp_path):
    """Where Python reads strictly, stock ends without an answer to any line of the block."""
    typed = b"a b c\na \xff\xfe b\nd e\n"
    printed = interactive(data, checkpoint, tmp_path, typed)
    given = answers(printed)
    assert sorted(given) == [0, 1, 2] and [given[0], given[2]] == good
    assert "S-1\ta <unk> b" in printed
    assert "the line of S-1 has bytes that are not UTF-8, read as an unknown word: convert the text by iconv" in printed
    stock = interactive(data, checkpoint, tmp_path, typed, task="translation", ok=False)
    assert answers(stock) == {} and "UnicodeDecodeError" in stock


def test_a_file_that_is_no_utf8_is_refused_before_anything_is_read(data, checkpoint, good, tmp_path):
    path = tmp_path / "latin"
    path.write_bytes("a b c\nd e\nçà\n".encode("latin-1"))
    printed = interactive(data, checkpoint, tmp_path, b"", "--input", str(path), ok=False)
    refusal = next(line for line in printed.splitlines() if line.startswith("ValueError: "))
    assert f"--input {path}: line 3 is not UTF-8" in refusal and "iconv -f ENCODING -t UTF-8" in refusal
    path.write_text("a b c\nd e\n")
    assert list(answers(interactive(data, checkpoint, tmp_path, b"", "--input", str(path))).values()) == good


def let_sigint_end():
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def waits(process):
    """Whether it has slept for half a second: it reads, and nobody types."""
    states = []
    for _ in range(10):
        states.append(Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0])
        time.sleep(0.05)
    return set(states) == {"S"}


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="needs /proc")
def test_sigint_in_fairseq_interactive_keeps_all_answers(data, checkpoint, good, tmp_path):
    """Its output is a file, which Python fills in blocks."""
    options = f"--user-dir el_fairseq {EL} --max-len-b 8 --path {checkpoint}".split()
    with open(tmp_path / "out", "w") as out, open(tmp_path / "log", "w") as log:
        command = [BIN / "fairseq-interactive", data, *options]
        files = {"stdin": subprocess.PIPE, "stdout": out, "stderr": log}
        # a shell lets what it starts in the background ignore SIGINT, these tests among it
        process = subprocess.Popen(command, **files, cwd=ROOT, preexec_fn=let_sigint_end)
        process.stdin.write(b"a b c\nd e\n")
        process.stdin.flush()
        end = time.monotonic() + 60
        printed = ""
        while "Type the input sentence" not in printed or not waits(process):
            assert time.monotonic() < end and process.poll() is None, printed
            printed = (tmp_path / "log").read_text() + (tmp_path / "out").read_text()
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == -signal.SIGINT  # 130 for a shell
        process.stdin.close()
    assert list(answers((tmp_path / "out").read_text()).values()) == good
    assert "KeyboardInterrupt" in (tmp_path / "log").read_text()


def preprocess(data, folder, text):
    """Test data of ``text`` on both sides, with the dictionary of ``data``."""
    for side in ("src", "tgt"):
        (folder / f"test.{side}").write_text(text)
    options = f"-s src -t tgt --testpref {folder}/test --srcdict {data}/dict.src.txt --joined-dictionary"
    run("fairseq-preprocess", options, f"--destdir {folder}/bin")
    return folder / "bin"


def test_data_with_empty_lines_odd_characters_and_a_line_of_10000_tokens(data, checkpoint, tmp_path):
    """Nothing is generated before the line is refused; --skip-... leaves it out, and all others are as in stock."""
    prepared = preprocess(data, tmp_path, f"a b\n\n{ODD}\n{'a ' * 10000}\nc\n")
    refused = generate(prepared, checkpoint, EL, ok=False)
    assert re.search(TOO_LONG.format(3), refused.strip().splitlines()[-1]) and not lines_of(refused)
    skip = "--skip-invalid-size-inputs-valid-test"
    ours, stock = (generate(prepared, checkpoint, f"--task {task} --beam 2 {skip}") for task in reversed(TASKS))
    assert sorted(line.split("\t")[0] for line in lines_of(ours, "S")) == ["S-0", "S-1", "S-2", "S-4"]
    assert_same_output(ours, stock)
    assert "1 samples have invalid sizes and will be skipped" in ours and "first few sample ids=[3]" in ours


def test_data_without_a_sentence_is_named(data, checkpoint, tmp_path):
    prepared = preprocess(data, tmp_path, "")
    printed = generate(prepared, checkpoint, EL, ok=False)
    assert f"ValueError: {prepared}: the subset 'test' has no sentence; choose another one (--gen-subset)" in printed


def test_data_of_another_dictionary_is_named_by_sentence_and_word(data, checkpoint, tmp_path):
    """Found in the batch that has it; the ones before are kept."""
    shutil.copytree(data, tmp_path / "bin")
    path = tmp_path / "bin/test.src-tgt.src.bin"
    tokens = numpy.fromfile(path, numpy.uint16)
    place = int(numpy.flatnonzero(tokens == 2)[30]) + 1  # the first word of sentence 31
    tokens[place] = 99
    tokens.tofile(path)
    printed = generate(tmp_path / "bin", checkpoint, EL, "--batch-size 1", ok=False)
    words = len((data / "dict.src.txt").read_text().splitlines()) + 4
    refusal = next(line for line in printed.splitlines() if line.startswith("ValueError: "))
    assert f"S-31 has word number 99, and the dictionary in {tmp_path}/bin ends at {words - 1}: " in refusal
    assert "fairseq-preprocess --srcdict" in refusal
    kept = lines_of(printed)
    assert 0 < len(lines_of(printed, "S")) < 60
    whole = lines_of(generate(data, checkpoint, EL, "--batch-size 1"))
    assert_same_output("\n".join(kept), "\n".join(whole[: len(kept)]))
