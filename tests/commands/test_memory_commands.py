"""Batches by free memory, and what TensorBoard shows of a run, by fairseq's commands."""

import re

import pytest
from helpers.commands import ALL, assert_same_output, lines_of, run, train
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

pytestmark = pytest.mark.slow
AUTO = "--el-max-tokens auto"
LIMITS = re.compile(r"--el-max-tokens auto: at most (\d+) tokens and (\d+) sentences a batch; (\d+) MiB are free")


@pytest.fixture(scope="module")
def checkpoint(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("memory")
    train(data, folder, "--arch transformer_tiny --share-all-embeddings")
    return folder / "checkpoint_last.pt"


def generate(data, path, *options):
    return run(
        "fairseq-generate",
        f"{data} --user-dir el_fairseq --path {path} --task el_translation --beam 3 --nbest 2 --max-len-b 20 {ALL}",
        *options,
    )


def by_number(output):
    """The result lines, sentence by sentence as in the data: the order of sentences depends on the batches."""
    return "\n".join(sorted(lines_of(output), key=lambda line: int(re.match(r".-(\d+)", line)[1])))


def points(folder):
    """``{name: [(step, value), ...]}`` of the event files in a folder."""
    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_batches_by_free_memory_and_a_run_in_tensorboard(data, checkpoint, tmp_path):
    expected = generate(data, checkpoint, "--batch-size 16")
    actual = generate(data, checkpoint, f"{AUTO} --el-tensorboard {tmp_path}")
    assert_same_output(by_number(actual), by_number(expected))
    assert len(lines_of(actual, "H")) == 120 and not LIMITS.search(expected)
    tokens, sentences, _ = map(int, LIMITS.search(actual).groups())
    assert tokens > 12000 and sentences > 60  # what fairseq takes by default; these models are tiny
    seen = points(tmp_path)
    assert [step for step, _ in seen["generation/sentences"]] == [60]  # all in one batch

    limited = generate(data, checkpoint, f"{AUTO} --batch-size 16 --el-tensorboard {tmp_path / 'limited'}")
    assert_same_output(by_number(limited), by_number(expected))
    seen = points(tmp_path / "limited")
    assert seen["generation/sentences"] == [(16, 16), (32, 16), (48, 16), (60, 12)]
    state = float(re.search(r"decoder state: peak ([\d.]+) MiB", limited)[1])
    assert max(value for _, value in seen["generation/decoder_state_MiB"]) == pytest.approx(state, abs=0.01)
    reported = float(re.search(r"peak memory ([\d.]+) MiB \(the whole process\)", limited)[1])
    assert max(value for _, value in seen["generation/peak_memory_MiB"]) == pytest.approx(reported, abs=0.1)
    for name in ("sentences_per_second", "tokens_per_second", "stock_decoder_state_MiB"):
        assert [step for step, _ in seen[f"generation/{name}"]] == [16, 32, 48, 60]
        assert all(value > 0 for _, value in seen[f"generation/{name}"])


def test_interactive_limits_its_batches(data, checkpoint):
    options = f"{data} --user-dir el_fairseq --path {checkpoint} --task el_translation --beam 3 --buffer-size 4"
    stdin = "a b c\nh g f e d c b a\nc\na unknown d\n"
    expected = run("fairseq-interactive", options, "--max-tokens 200", stdin=stdin)
    actual = run("fairseq-interactive", options, "--batch-size 4", AUTO, stdin=stdin)
    assert_same_output(actual, expected)
    assert int(LIMITS.search(actual)[2]) > 4


def test_training_keeps_its_batches(data, tmp_path):
    log = train(data, tmp_path, "--arch transformer_tiny --task el_translation", AUTO, until="--max-update 5")
    assert "el-max-tokens auto: at most" not in log


def test_a_task_whose_options_are_one_namespace(data, tmp_path):
    task = "multilingual_translation --lang-pairs src-tgt"
    sizes = "--encoder-embed-dim 32 --encoder-ffn-embed-dim 32 --encoder-layers 1 --encoder-attention-heads 2"
    train(
        data,
        tmp_path,
        f"--task {task} --arch multilingual_transformer {sizes} {sizes.replace('encoder', 'decoder')}",
        until="--max-update 3",
    )
    options = (
        f"{data} --user-dir el_fairseq --path {tmp_path}/checkpoint_last.pt --beam 3 --nbest 2 --max-len-b 20 {ALL}"
    )
    expected, actual = (
        run("fairseq-generate", options, f"--task el_{task} --source-lang src --target-lang tgt", more)
        for more in ("", f"{AUTO} --el-tensorboard {tmp_path}/events")
    )
    assert_same_output(by_number(actual), by_number(expected))
    assert int(LIMITS.search(actual)[2]) > 60
    assert [step for step, _ in points(tmp_path / "events")["generation/sentences"]] == [60]
