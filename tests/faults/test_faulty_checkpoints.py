"""Checkpoints that are damaged, of another model or vocabulary, or not finite: refused by name, and nothing is lost."""

import re
import shutil

import pytest
import torch
from helpers.commands import assert_same_output, generate, lines_of

from el_fairseq.compat import load_checkpoint

pytestmark = pytest.mark.slow
EL = "--task el_translation --beam 2"
ONE_BY_ONE = f"{EL} --batch-size 1"


def changed(checkpoint, path, change):
    """``path``: a copy of the checkpoint after ``change(its weights)``."""
    state = load_checkpoint(checkpoint)
    change(state["model"])
    torch.save(state, path)
    return path


def other_words(data, folder, edit):
    """A copy of the data whose dictionaries have the lines ``edit(lines)``."""
    shutil.copytree(data, folder)
    for path in folder.glob("dict.*.txt"):
        path.write_text("".join(f"{line}\n" for line in edit(path.read_text().splitlines())))
    return folder


@pytest.mark.parametrize("task", ["translation", "el_translation"])
def test_a_flipped_byte_is_found(task, data, checkpoint, tmp_path):
    """In a weight, where torch itself does not look."""
    whole = bytearray(checkpoint.read_bytes())
    weights = load_checkpoint(checkpoint)["model"]["decoder.layers.0.fc1.weight"].numpy().tobytes()
    place = bytes(whole).index(weights) + len(weights) // 2
    whole[place] ^= 0x40
    (tmp_path / "flipped.pt").write_bytes(whole)
    torch.load(tmp_path / "flipped.pt", weights_only=False)  # it loads
    printed = generate(data, tmp_path / "flipped.pt", f"--task {task}", ok=False)
    last = printed.strip().splitlines()[-1]
    assert f"checkpoint {tmp_path}/flipped.pt: truncated, damaged, or no checkpoint" in last
    assert re.search(r"archive/data/\d+ is not what its checksum says\)\. Copy or download it again", last)
    assert not lines_of(printed)


def test_weights_of_another_shape_name_the_option(data, checkpoint, tmp_path):
    def cut(weights):
        weights["encoder.layers.0.fc1.weight"] = weights["encoder.layers.0.fc1.weight"][:-1]

    printed = generate(data, changed(checkpoint, tmp_path / "cut.pt", cut), EL, ok=False)
    assert "size mismatch for encoder.layers.0.fc1.weight" in printed
    last = printed.strip().splitlines()[-1]
    assert f"--path {tmp_path}/cut.pt has weights of another size" in last and "leave out --model-overrides" in last


@pytest.mark.parametrize("edit", [lambda lines: lines[:-2], lambda lines: [*lines, "y 1", "z 1"]], ids=["less", "more"])
def test_a_checkpoint_of_another_vocabulary_names_both_sizes(edit, data, checkpoint, tmp_path):
    folder = other_words(data, tmp_path / "other", edit)
    words = len((data / "dict.src.txt").read_text().splitlines()) + 4  # special ones
    others = len((folder / "dict.src.txt").read_text().splitlines()) + 4
    last = generate(folder, checkpoint, EL, ok=False).strip().splitlines()[-1]
    assert f"--path {checkpoint} was trained with {words} words, special ones included" in last
    assert f"the dictionaries in {folder} have {others}: give the data folder" in last


def test_weights_that_are_not_finite_end_where_they_leave_no_hypothesis(data, checkpoint, tmp_path):
    """Sentences without the word, or before the first one with it, are as before; stock ends with ``21 < 21``."""
    letters = (data / "dict.src.txt").read_text().splitlines()

    def spoil(weights):
        weights["encoder.embed_tokens.weight"][4 + len("abcdefgh") - 1, 3] = float("nan")  # the last of the letters

    path = changed(checkpoint, tmp_path / "nan.pt", spoil)
    printed = generate(data, path, ONE_BY_ONE, ok=False)
    kept = lines_of(printed)
    whole = lines_of(generate(data, checkpoint, ONE_BY_ONE))
    assert 0 < len(lines_of(printed, "S")) < 60
    assert_same_output("\n".join(kept), "\n".join(whole[: len(kept)]))
    word = letters[len("abcdefgh") - 1].split()[0]
    assert not any(word in line.split("\t")[1].split() for line in kept if line.startswith("S-"))
    refusal = next(line for line in printed.splitlines() if line.startswith("ValueError: "))
    assert f"--path {path}: a sentence gets no hypothesis, because weights are NaN or infinite" in refusal
    assert "encoder.embed_tokens.weight (1 of " in refusal and "take an earlier one" in refusal


@pytest.mark.parametrize("number", ["nan", "-inf"])
def test_weights_that_no_sentence_needs_are_a_warning(number, data, checkpoint, tmp_path):
    """The last word of the dictionary fills it up: stock generates well, and so do we."""

    def spoil(weights):
        weights["encoder.embed_tokens.weight"][-1] = float(number)

    path = changed(checkpoint, tmp_path / "spoilt.pt", spoil)
    printed = generate(data, path, EL)
    assert f"--path {path}: weights are NaN or infinite: encoder.embed_tokens.weight (64 of " in printed
    assert_same_output(printed, generate(data, checkpoint, EL))
