"""fairseq-generate with several checkpoints, with --model-overrides, and with a part of the batches."""

import re

import pytest
from helpers.commands import BART, LSTM, assert_same_output, generate, lines_of, train

MODELS = {
    "transformer": "--arch transformer_tiny --encoder-normalize-before",
    "el_transformer": "--arch el_transformer_tiny --decoder-layers 3",
    "mhe": "--arch mhe_transformer_tiny --encoder-attention-heads 4",
    "bart": BART,
    "lstm": LSTM,
}
STOCK, EL = "--task translation --beam 2", "--task el_translation --beam 2"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def path(data, tmp_path_factory):
    """``path("a:b")``: the --path of these models, each trained once."""
    trained = {}

    def one(model):
        if model not in trained:
            trained[model] = folder = tmp_path_factory.mktemp(model)
            train(data, folder, MODELS[model], "--share-all-embeddings" * (model != "lstm"), until="--max-update 15")
        return str(trained[model] / "checkpoint_last.pt")

    return lambda models: ":".join(map(one, models.split(":")))


@pytest.mark.parametrize(
    "models",
    [
        "transformer:bart",
        *(
            pytest.param(names, marks=pytest.mark.long)
            for names in ("el_transformer:lstm", "mhe:transformer:el_transformer")
        ),
    ],
)
def test_an_ensemble_prints_what_stock_prints(data, path, models):
    expected = generate(data, path(models), STOCK)
    assert len(lines_of(expected, "H")) == 120
    for mode in ("on", "auto"):
        actual = generate(data, path(models), EL, f"--el-attention {mode}")
        assert_same_output(actual, expected)
        assert actual.count("decoder state: peak") == 1
        assert actual.count("LSTMModel decodes with stock attention") == ("lstm" in models)
    assert lines_of(generate(data, path(models.partition(":")[0]), EL), "H") != lines_of(expected, "H")


def test_model_overrides_reach_every_model(data, path):
    models = path("transformer:bart")
    override = "--model-overrides {'activation_fn':'gelu_accurate','no_scale_embedding':True}"
    expected = generate(data, models, STOCK, override)
    assert_same_output(generate(data, models, EL, override, "--el-attention on"), expected)
    assert lines_of(expected, "H") != lines_of(generate(data, models, STOCK), "H")


def shard(number, of):
    """fairseq-generate's own --num-shards and --shard-id do nothing; this is what it divides the batches by."""
    return f"--distributed-world-size {of} --distributed-rank {number}"


def ids(output):
    return [int(line[2:].split("\t")[0]) for line in lines_of(output, "S")]


@pytest.mark.parametrize("multiple", [pytest.param(1, marks=pytest.mark.long), 8])
def test_shards_are_the_whole(data, path, multiple):
    """Batch i belongs to shard i modulo their number; what an incomplete batch loses is lost before that."""
    options = f"--required-batch-size-multiple {multiple}"
    model = path("transformer")
    whole = generate(data, model, EL, options)
    assert len(ids(whole)) == {1: 60, 8: 56}[multiple]
    shards = [generate(data, model, EL, options, shard(i, of=2)) for i in range(2)]
    assert sorted(ids(shards[0]) + ids(shards[1])) == sorted(ids(whole))
    batches = [ids(whole)[i : i + 16] for i in range(0, 60, 16)]
    for i in range(2):
        assert ids(shards[i]) == batches[i] + batches[i + 2]
        assert set(lines_of(shards[i])) <= set(lines_of(whole))
        assert_same_output(shards[i], generate(data, model, STOCK, options, shard(i, of=2)))


@pytest.mark.parametrize("task", [STOCK, EL], ids=["stock", "EL"])
def test_a_shard_without_batches_ends_with_stocks_error(data, path, task):
    empty = generate(data, path("transformer"), task, shard(4, of=5), ok=False)
    assert "hypothesis and token scores are output in base 2" in empty and not lines_of(empty)
    assert re.search(r"^ZeroDivisionError", empty, re.MULTILINE)


def test_the_options_that_stock_ignores_are_refused(data, path):
    shards = "--num-shards 2 --shard-id 1"
    assert len(ids(generate(data, path("transformer"), STOCK, shards))) == 60
    refused = generate(data, path("transformer"), EL, shards, ok=False)
    assert "ValueError: --num-shards 2: fairseq-generate ignores it" in refused
    assert "--distributed-world-size 2 --distributed-rank SHARD-ID" in refused and not lines_of(refused)
