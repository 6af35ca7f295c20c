"""The options that choose and shape a search, by fairseq's commands: el_translation prints what translation prints."""

import re
import shutil

import pytest
from helpers.commands import ALL, assert_same_output, lines_of, run, train

pytestmark = pytest.mark.slow
ON, AUTO = "el_translation --el-attention on", "el_translation"
SEARCHES = {  # the task to compare with stock's, and options
    "lengths and scores": (ON, "--beam 3 --min-len 6 --unkpen -2 --temperature 1.3 --unnormalized --no-early-stop"),
    "length of the source": (AUTO, "--beam 3 --match-source-len --nbest 2"),
    # stock looks for a sentence's diversity under its number in the data set: one batch has to hold all of it
    "groups": (ON, "--beam 4 --diverse-beam-groups 2 --diverse-beam-strength 0.7 --batch-size 60 --nbest 4"),
    "siblings, soft alignment": (AUTO, "--beam 4 --diversity-rate 0.6 --print-alignment soft --lenpen 0.4"),
    "top-p, hard alignment": (
        AUTO,
        "--beam 3 --nbest 3 --sampling --sampling-topp 0.7 --seed 5 --print-alignment hard",
    ),
    "top-k": (ON, "--beam 2 --nbest 2 --sampling --sampling-topk 4 --temperature 0.8 --seed 7 --prefix-size 2"),
    "fusion": (ON, "--beam 3 --lm-weight 0.3 --max-len-a 1.1 --max-len-b 2 --lm-path"),
    "reference": (AUTO, "--score-reference --print-alignment hard"),
    "retained dropout": (
        AUTO,
        "--beam 3 --seed 3 --retain-dropout --retain-dropout-modules TransformerDecoderLayerBase",
    ),
}
CONSTRAINED = "a b c d\td c\nh g f e d\te\tg h\nc\nb a\ta a b\n"


@pytest.fixture(scope="module")
def models(data, tmp_path_factory):
    """The data, a translation model and a language model of its targets."""
    folder = tmp_path_factory.mktemp("models")
    train(data, folder, "--arch transformer_tiny --share-all-embeddings --dropout 0.2 --attention-dropout 0.2")
    # the targets under the names that a language model reads, beside the pairs: --lm-path looks there for dict.txt
    both = shutil.copytree(data, folder / "data")
    for part in ("bin", "idx"):
        shutil.copy(data / f"train.src-tgt.tgt.{part}", both / f"train.{part}")
    shutil.copy(data / "dict.tgt.txt", both / "dict.txt")
    run(
        "fairseq-train",
        f"{both} --task language_modeling --arch transformer_lm --decoder-layers 1 --decoder-embed-dim 16",
        "--decoder-input-dim 16 --decoder-output-dim 16 --decoder-ffn-embed-dim 16 --decoder-attention-heads 2",
        f"--save-dir {folder}/lm --optimizer adam --lr 0.01 --max-tokens 400 --tokens-per-sample 32 --max-update 20",
        "--no-epoch-checkpoints --disable-validation",
    )
    return both, folder / "checkpoint_last.pt", folder / "lm" / "checkpoint_last.pt"


LONG = ("top-k", "siblings, soft alignment", "length of the source")


@pytest.mark.parametrize("search", [pytest.param(name, marks=[pytest.mark.long] * (name in LONG)) for name in SEARCHES])
def test_generate_prints_what_stock_prints(models, search):
    data, path, lm = models
    task, options = SEARCHES[search]
    fixed = f"{data} --user-dir el_fairseq --path {path} --batch-size 32 {ALL} -s src -t tgt"
    limits = "" if "--max-len" in options else "--max-len-b 20"
    expected, actual = (
        run("fairseq-generate", fixed, f"--task {name} {limits} {options}", *[lm] * (search == "fusion"))
        for name in ("translation", task)
    )
    assert len(lines_of(expected, "H")) == 60 * int(options.partition("--nbest ")[2][:1] or 1)
    assert bool(lines_of(expected, "A")) == ("--print-alignment" in options)
    for output in (expected, actual):
        assert ("Enabling dropout during inference for module" in output) == ("--retain-dropout" in options)
    assert_same_output(actual, expected)


@pytest.mark.parametrize("order, task", [("ordered", ON), ("unordered", AUTO)])
def test_interactive_keeps_constraints_as_stock(models, order, task):
    data, path, _ = models
    options = f"{data} --user-dir el_fairseq --path {path} --beam 5 --buffer-size 4 --nbest 2 -s src -t tgt"
    options += f" --constraints {order} --max-tokens 200"
    expected, actual = (
        run("fairseq-interactive", options, f"--task {name}", stdin=CONSTRAINED) for name in ("translation", task)
    )
    best = {int(line.split("\t")[0][2:]): line.split("\t")[2] for line in reversed(lines_of(expected, "H"))}
    assert "d c" in best[0] and "e" in best[1] and "g h" in best[1] and "a a b" in best[3]
    assert_same_output(actual, expected)


def test_a_context_window_scores_text_as_stock(models):
    data, _, lm = models
    losses = []
    for name in ("language_modeling", "el_language_modeling --el-attention on"):
        options = f"--user-dir el_fairseq --path {lm} --gen-subset train --tokens-per-sample 16 --context-window 6"
        output = run("fairseq-eval-lm", f"{data} {options} --max-tokens 2000 --task {name}")
        losses.append(re.search(r"Loss \(base 2\): ([\d.]+), Perplexity: ([\d.]+)", output).groups())
    assert losses[0] == losses[1]
