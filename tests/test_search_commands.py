"""The options that choose and shape a search, by fairseq's commands: el_translation prints what translation prints."""

import pytest
from commands import ALL, assert_same_output, lines_of, run, train

pytestmark = pytest.mark.slow
EL = ("el_translation --el-attention on", "el_translation")
SEARCHES = {
    "lengths, scores": "--beam 3 --min-len 6 --unkpen -2 --temperature 1.3 --unnormalized --no-early-stop --nbest 3",
    "match source": "--beam 3 --match-source-len",
    "siblings, soft alignment": "--beam 4 --diversity-rate 0.6 --print-alignment soft --lenpen 0.4",
    "sampling": "--beam 3 --sampling --temperature 0.8 --print-alignment hard --seed 5 --nbest 3",
    "top-k": "--beam 2 --nbest 2 --sampling --sampling-topk 4 --seed 7 --prefix-size 2",
    "top-p": "--beam 2 --nbest 2 --sampling --sampling-topp 0.7 --seed 8",
    "fusion": "--beam 3 --lm-weight 0.3 --max-len-a 1.1 --max-len-b 2 --lm-path",
    "reference": "--score-reference --print-alignment hard",
}
CONSTRAINED = "a b c d\td c\nh g f e d\te\tg h\nc\nb a\ta a b\n"


@pytest.fixture(scope="module")
def models(data, tmp_path_factory):
    """Paths of a translation model and of a language model for its targets."""
    folder = tmp_path_factory.mktemp("models")
    train(data, folder, "--arch transformer_tiny --share-all-embeddings --dropout 0.2 --attention-dropout 0.2")
    texts = folder / "text"
    texts.mkdir()
    # fairseq-preprocess names the parts of a pair train.src-tgt.tgt; a language model reads train
    for part in ("bin", "idx"):
        (texts / f"train.{part}").write_bytes((data / f"train.src-tgt.tgt.{part}").read_bytes())
    (texts / "dict.txt").write_bytes((data / "dict.tgt.txt").read_bytes())
    run(
        "fairseq-train",
        f"{texts} --task language_modeling --arch transformer_lm --decoder-layers 1 --decoder-embed-dim 16",
        "--decoder-input-dim 16 --decoder-output-dim 16 --decoder-ffn-embed-dim 16 --decoder-attention-heads 2",
        f"--save-dir {folder}/lm --optimizer adam --lr 0.01 --max-tokens 400 --tokens-per-sample 32 --max-update 20",
        "--no-epoch-checkpoints --disable-validation",
    )
    return folder / "checkpoint_last.pt", folder / "lm" / "checkpoint_last.pt"


def generate(data, path, task, *options, **kwargs):
    fixed = f"{data} --user-dir el_fairseq --path {path} --task {task} --max-len-b 20 --batch-size 32 {ALL}"
    return run("fairseq-generate", fixed, *options, **kwargs)


@pytest.mark.parametrize("search", SEARCHES)
def test_generate_prints_what_stock_prints(data, models, search):
    options = SEARCHES[search] + f" {models[1]}" * (search == "fusion")
    expected = generate(data, models[0], "translation", options)
    assert len(lines_of(expected, "H")) == 60 * int(options.partition("--nbest ")[2][:1] or 1)
    assert bool(lines_of(expected, "A")) == ("--print-alignment" in options)
    for task in EL:
        assert_same_output(generate(data, models[0], task, options), expected)


@pytest.mark.parametrize("order", ["ordered", "unordered"])
def test_interactive_keeps_constraints_as_stock(data, models, order):
    def interactive(task):
        options = f"{data} --user-dir el_fairseq --path {models[0]} --task {task} --beam 5 --buffer-size 4 --nbest 2"
        return run("fairseq-interactive", options, f"--constraints {order} --max-tokens 200", stdin=CONSTRAINED)

    expected = interactive("translation")
    best = {int(line.split("\t")[0][2:]): line.split("\t")[2] for line in reversed(lines_of(expected, "H"))}
    assert "d c" in best[0] and "e" in best[1] and "g h" in best[1] and "a a b" in best[3]
    for task in EL:
        assert_same_output(interactive(task), expected)
