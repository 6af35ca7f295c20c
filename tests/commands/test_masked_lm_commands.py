"""Masked language models with each attention variant: pretrained, resumed, fine-tuned with another head, predicting."""

import random
import re
from types import SimpleNamespace

import pytest
import torch
from fairseq.models.roberta import RobertaHubInterface
from helpers.commands import run
from helpers.models import assert_close, write_out

from el_fairseq.models import MHERobertaModel

pytestmark = pytest.mark.slow
VARIANTS = ("mhe-mul", "mhe-add", "mqa", "sha", "mha")
SIZES = (
    "--encoder-layers 2 --encoder-embed-dim 32 --encoder-ffn-embed-dim 32 --encoder-attention-heads 4 "
    "--max-positions 64 --dropout 0 --attention-dropout 0 --optimizer adam --batch-size 16 --seed 1 --log-format simple"
)
NEW_HEAD = "--reset-optimizer --reset-dataloader --reset-meters --reset-lr-scheduler"
LOSS = r"train_inner.*? loss=([\d.]+)"


def binarise(folder, name, texts, dictionary=None):
    """``{part: lines}`` as ``folder/bin/name``."""
    for part, lines in texts.items():
        (folder / f"{part}.{name}").write_text("".join(f"{line}\n" for line in lines))
    parts = " ".join(f"--{part}pref {folder}/{part}.{name}" for part in texts)
    words = f"--srcdict {dictionary}" if dictionary else ""
    run("fairseq-preprocess", f"--only-source {parts} --destdir {folder}/bin/{name} {words}")


def word(rng, early):
    """A letter of one half of the alphabet, and then as many of both: a bag of words does not tell the halves apart."""
    halves = ["abcd", "efgh"] if early else ["efgh", "abcd"]
    n = rng.randint(2, 7)
    return " ".join(rng.choice(half) for half in halves for _ in range(n))


@pytest.fixture(scope="session")
def tasks(text, tmp_path_factory):
    """Which half of the alphabet comes first in a sentence; in which of two the first half does, and a context."""
    rng = random.Random(1)
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    halves = {part: [rng.random() < 0.5 for _ in range(n)] for part, n in (("train", 320), ("valid", 64))}

    def lines(of_half):
        return {part: [of_half(early) for early in found] for part, found in halves.items()}

    binarise(one, "input0", lines(lambda early: word(rng, early)), f"{text}/dict.txt")
    binarise(one, "label", lines(lambda early: "early" if early else "late"))
    binarise(two, "input0", lines(lambda early: "a"), f"{text}/dict.txt")
    binarise(two, "input1", lines(lambda early: word(rng, early)), f"{text}/dict.txt")
    binarise(two, "input2", lines(lambda early: word(rng, not early)), f"{text}/dict.txt")
    (two / "bin/label").mkdir()
    for part, found in halves.items():
        (two / f"bin/label/{part}.label").write_text("".join("0\n" if early else "1\n" for early in found))
    return one / "bin", two / "bin"


def pretrain(text, folder, variant, updates):
    return run(
        "fairseq-train",
        f"{text} --user-dir el_fairseq --task masked_lm --criterion masked_lm --arch mhe_roberta {SIZES}",
        f"--attention-variant {variant} --lr 0.01 --tokens-per-sample 32 --max-update {updates} --log-interval 10",
        f"--sample-break-mode complete --no-epoch-checkpoints --save-dir {folder}",
    )


@pytest.fixture(scope="session", params=VARIANTS)
def body(request, text, tmp_path_factory):
    """``(variant, checkpoint, log)`` of a masked language model that was trained, and trained on."""
    folder = tmp_path_factory.mktemp(request.param)
    log = pretrain(text, folder, request.param, 20)
    return request.param, folder / "checkpoint_last.pt", log + pretrain(text, folder, request.param, 60)


def fine_tune(data, kind, body, folder, *options, new=True):
    """On what a body has learnt with a ``new`` head, or on from a checkpoint."""
    variant, checkpoint, _ = body
    start = f"--restore-file {checkpoint} {NEW_HEAD}" if new else ""
    return run(
        "fairseq-train",
        f"{data} --user-dir el_fairseq --task {kind} --criterion {kind} --arch mhe_roberta {SIZES} --num-classes 2",
        f"--attention-variant {variant} --init-token 0 --separator-token 2 --lr 0.005 --max-epoch 4 --log-interval 20",
        f"{start} --best-checkpoint-metric accuracy --maximize-best-checkpoint-metric",
        f"--no-epoch-checkpoints --save-dir {folder}",
        *options,
    )


def accuracy_of(log):
    """The last one of the validation part."""
    return float(re.findall(r"valid on 'valid' subset \|.* accuracy ([\d.]+) ", log)[-1])


def test_a_body_is_trained_trained_on_and_validated(text, body):
    variant, checkpoint, log = body
    losses = [float(loss) for loss in re.findall(LOSS, log)]
    assert len(losses) == 6 and losses[-1] < losses[0] - 0.5 and f"Loaded checkpoint {checkpoint}" in log
    trained = float(re.findall(r"valid on 'valid' subset \| loss ([\d.]+)", log)[-1])
    log = run("fairseq-validate", f"{text} --user-dir el_fairseq --task masked_lm --path {checkpoint} --batch-size 16")
    assert float(re.search(r"valid on 'valid' subset \| loss ([\d.]+)", log)[1]) == pytest.approx(trained, abs=0.2)

    hub = MHERobertaModel.from_pretrained(str(checkpoint.parent), checkpoint.name, str(text), bpe=None)
    hub.bpe = SimpleNamespace(encode=str.strip, decode=str.strip)  # the text is of words
    stock = RobertaHubInterface(hub.cfg, hub.task, write_out(hub.model))
    stock.bpe = hub.bpe
    ours, theirs = (each.fill_mask("a b c <mask> e f", topk=3) for each in (hub, stock))
    assert [word for _, _, word in ours] == [word for _, _, word in theirs]
    assert_close(torch.tensor([p for _, p, _ in ours]), torch.tensor([p for _, p, _ in theirs]), 1e-5)


def test_a_body_is_fine_tuned_fine_tuned_on_and_predicts(tasks, body, tmp_path):
    variant = body[0]
    fine_tune(tasks[0], "sentence_prediction", body, tmp_path, "--max-epoch 2")
    whole = (variant, tmp_path / "checkpoint_last.pt", None)
    log = fine_tune(tasks[0], "sentence_prediction", whole, tmp_path, new=False)
    assert f"Loaded checkpoint {whole[1]} (epoch 3 @ 40 updates)" in log and "epoch 004" in log
    found = accuracy_of(log)
    assert found > 90
    fairseq_validate = f"{tasks[0]} --user-dir el_fairseq --task sentence_prediction --criterion sentence_prediction"
    log = run(
        "fairseq-validate", fairseq_validate, f"--path {tmp_path}/checkpoint_last.pt --num-classes 2 --batch-size 16"
    )
    assert accuracy_of(log) == pytest.approx(found, abs=0.1)

    hub = MHERobertaModel.from_pretrained(str(tmp_path), "checkpoint_last.pt", str(tasks[0]), bpe=None)
    assert hub.model.attention_variant == variant
    stock = RobertaHubInterface(hub.cfg, hub.task, write_out(hub.model))
    words, labels = hub.task.source_dictionary, hub.task.label_dictionary
    rng, right = random.Random(2), 0
    for i in range(40):
        tokens = words.encode_line(f"<s> {word(rng, i % 2)}", add_if_not_exist=False).long()
        ours, theirs = (each.predict("sentence_classification_head", tokens) for each in (hub, stock))
        assert_close(ours, theirs, 1e-4)
        right += labels[ours.argmax().item() + labels.nspecial] == ("late", "early")[i % 2]
    assert right >= 36


@pytest.mark.parametrize("body", ["mhe-mul"], indirect=True)
def test_fine_tuning_starts_from_the_body(tasks, body, tmp_path):
    _, checkpoint, _ = body
    fine_tune(tasks[0], "sentence_prediction", body, tmp_path, "--lr 0 --max-update 1")
    kept = torch.load(checkpoint)["model"]
    started = torch.load(tmp_path / "checkpoint_last.pt")["model"]
    assert {name for name in started if name not in kept} == {
        f"classification_heads.sentence_classification_head.{layer}.{kind}"
        for layer in ("dense", "out_proj")
        for kind in ("weight", "bias")
    }
    for name in kept:
        torch.testing.assert_close(started[name], kept[name], rtol=0, atol=0)


@pytest.mark.parametrize("body", ["mhe-mul", "mha"], indirect=True)  # mha is stock's attention
def test_sentence_ranking(tasks, body, tmp_path):
    assert accuracy_of(fine_tune(tasks[1], "sentence_ranking", body, tmp_path)) > 90


@pytest.mark.parametrize("body", ["mhe-mul"], indirect=True)
def test_a_body_of_another_variant_is_refused(tasks, body, tmp_path):
    log = run(
        "fairseq-train",
        f"{tasks[0]} --user-dir el_fairseq --task sentence_prediction --criterion sentence_prediction {SIZES}",
        f"--arch mhe_roberta --attention-variant mhe-add --num-classes 2 --restore-file {body[1]} {NEW_HEAD}",
        f"--save-dir {tmp_path}",
        ok=False,
    )
    assert "mhe-mul" in log.splitlines()[-1] and "--attention-variant" in log
