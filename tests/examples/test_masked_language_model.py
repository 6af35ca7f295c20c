"""The masked language model example: corpora, what is left out of them, both trainings, the table."""

import random
import re
import shutil
import sys
import textwrap
import zipfile

import pytest
from helpers.commands import ROOT

LETTERS = "abcdefghijklmnopqrst"


def sentence(rng, words=12):
    return " ".join("".join(rng.choice(LETTERS) for _ in range(3)) for _ in range(words))


def write_zip(path, files):
    with zipfile.ZipFile(path, "w") as archive:
        for name, lines in files.items():
            archive.writestr(name, lines if isinstance(lines, bytes) else "".join(f"{line}\n" for line in lines))


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """The files of the small configuration, each with little text; the sentences by name."""
    folder, rng = tmp_path_factory.mktemp("raw"), random.Random(0)
    texts = {
        name: [sentence(rng) for _ in range(40)] for name in ("pos", "neg", "plot", "quote", "train", "dev", "test")
    }
    reviews = {f"movie_reviews/neg/cv{i:03}.txt": [sentence(rng) for _ in range(10)] for i in range(40)}
    reviews["movie_reviews/neg/cv000.txt"][3] = f"as one said , {texts['pos'][9]} , and so on"  # the 10th tests
    reviews["movie_reviews/README"] = ["not a review"]
    write_zip(folder / "movie_reviews.zip", reviews)
    polarity, subjectivity = "sentence_polarity/rt-polarity", "subjectivity/{}.tok.gt9.5000"
    texts["neg"][0] = texts["neg"][9]  # what tests is in the training part, too
    write_zip(folder / "sentence_polarity.zip", {f"{polarity}.{part}": texts[part] for part in ("pos", "neg")})
    write_zip(folder / "subjectivity.zip", {subjectivity.format(part): texts[part] for part in ("plot", "quote")})
    questions = [f"{label}:kind What is {sentence(rng, 4)} ?" for label in ("DESC", "HUM", "LOC") for _ in range(20)]
    latin = "ENTY:food Is crème\x85brûlée one line ?\n".encode("latin-1")
    write_zip(
        folder / "qc.zip", {"qc/train.txt": "\n".join(questions).encode() + b"\n" + latin, "qc/test.txt": questions[:3]}
    )
    (folder / "sst2").mkdir()
    for part in ("train", "dev", "test"):
        lines = "".join(f"{i % 2} {line}\n" for i, line in enumerate(texts[part]))
        (folder / f"sst2/stsa.binary.{part}").write_text(lines)
    return folder, texts


@pytest.fixture
def corpora(load, monkeypatch):
    """The module, as prepare.py sees it, without checksums."""
    from examples.masked_language_model import corpora

    monkeypatch.setattr(corpora, "SHA256", {})
    return corpora


@pytest.fixture
def prepare(load, corpora, monkeypatch):
    def run_script(*arguments):
        monkeypatch.setattr(sys, "argv", ["prepare.py", *map(str, arguments)])
        load("masked_language_model/prepare").main()

    return run_script


def test_parts_are_those_that_the_readme_names(corpora, raw):
    folder, texts = raw
    tasks = corpora.small(folder)
    assert {name: [len(task[part]) for part in corpora.PARTS] for name, task in tasks.items()} == {
        "mr": [66, 6, 8],
        "subj": [66, 6, 8],
        "sst-2": [40, 40, 40],
        "trec": [55, 6, 3],
    }
    assert tasks["mr"]["test"] == [
        (label, texts[name][i]) for label, name in (("positive", "pos"), ("negative", "neg")) for i in (9, 19, 29, 39)
    ]
    assert tasks["mr"]["valid"][0] == ("positive", texts["pos"][10])  # the 10th of those that do not test
    assert tasks["sst-2"]["valid"][:2] == [("negative", texts["dev"][0]), ("positive", texts["dev"][1])]
    assert ("enty", "is crème brûlée one line ?") in tasks["trec"]["train"] + tasks["trec"]["valid"]
    assert len(corpora.reviews(folder)) == 40


def test_nothing_of_a_test_part_is_trained_on(prepare, raw, tmp_path, capsys):
    folder, texts = raw
    prepare(tmp_path, "--data-dir", folder, "--vocabulary", "60")
    printed = capsys.readouterr().out
    assert "pretraining text: 1 of 380 lines left out" in printed
    assert "mr: train 65, valid 6, test 8 examples; 1 left out" in printed
    assert "trec: train" in printed and "pretraining text, valid: 20 lines" in printed
    for name in ("mr", "subj", "sst-2", "trec"):
        for part in ("train", "valid", "test"):
            inputs, labels = (
                (tmp_path / name / f"{part}.{kind}").read_text().splitlines() for kind in ("input0", "label")
            )
            assert len(inputs) == len(labels) > 0
    pieces = (tmp_path / "pretrain/train").read_text()
    test = (tmp_path / "mr/test.input0").read_text().splitlines()
    assert all(line not in pieces for line in test)
    assert test[4] not in (tmp_path / "mr/train.input0").read_text()


def test_eight_words_in_a_row_or_a_whole_short_sentence_are_known(load):
    prepare = load("masked_language_model/prepare")
    tasks = {"task": {"test": [("label", "a b c d e f g h i"), ("label", "so short")], "train": []}}
    documents = [["x b c d e f g h i x", "x b c d e f g h x"], ["so short", "it is so short", "other"]]
    assert prepare.without_test(documents, tasks) == [["x b c d e f g h x"], ["it is so short", "other"]]


def write_glue(corpora, folder):
    """Archives of its layout, with 40 examples to train, and 3."""
    for archive, inner, columns, label, development in corpora.GLUE_TASKS.values():
        for n, part in ((40, "train"), (3, development)):
            rows = [[str(i), *(f'An {column} "{i}' for column in columns), str(i % 2)] for i in range(n)]
            lines = "".join("\t".join(row) + "\n" for row in [["index", *columns, label], *rows])
            with zipfile.ZipFile(folder / archive, "a") as file:
                file.writestr(f"{inner}/{part}.tsv", lines)


def test_the_tasks_of_glue(corpora, tmp_path):
    write_glue(corpora, tmp_path)
    tasks = corpora.full(tmp_path)
    assert {name: [len(task[part]) for part in corpora.PARTS] for name, task in tasks.items()} == {
        name: [38, 2, 3] for name in ("sst-2", "rte", "qnli", "mnli", "qqp")
    }
    assert tasks["qnli"]["valid"][0] == ("1", 'an question "19', 'an sentence "19')


@pytest.mark.slow
def test_all_stages(prepare, raw, shell, tmp_path, capsys):
    """With prepared text, and all that makes a model small."""
    out = tmp_path / "out"
    prepare(out / "text", "--data-dir", raw[0], "--vocabulary", "60")
    (out / "text/prepared").touch()
    path = tmp_path / "copy/examples/masked_language_model/options.sh"
    text = path.read_text()
    small = text.replace("--encoder-layers 4 --encoder-embed-dim 128", "--encoder-layers 1 --encoder-embed-dim 16")
    small = small.replace('TASKS="mr:2 subj:2 sst-2:2 trec:6"', 'TASKS="mr:2"')
    small = small.replace("--max-update 12000", "--max-update 4").replace("--max-epoch 3", "--max-epoch 1")
    path.write_text(small)
    options = ("--out", out, "--variants", "mha,sha", "--seeds", "1", "--jobs", "1")
    printed = shell("masked_language_model/run.sh", *options)
    assert "mha, update 4: held-out masked perplexity" in printed
    rows = [line.split(" | ") for line in printed.splitlines() if line.startswith("| ")]
    assert [row[0] for row in rows] == ["| variant", "| mha", "| sha", "| mha-scratch"]
    assert rows[0][3:] == ["mr", "mean", "retention |"]
    assert rows[1][-1] == "100.0 % |" and rows[3][2] == "not pretrained"
    again = shell("masked_language_model/run.sh", *options)
    assert again.count("pretrained already") == 2 and again.count("fine-tuned already") == 3

    readme = (ROOT / "examples/masked_language_model/README.md").read_text()
    snippet = textwrap.dedent(re.search(r"(?m)^    from el_fairseq(?:.*\n(?=    |\n))*", readme).group())
    for there, here in (("results/masked-lm-small", str(out)), ("mhe-mul-1/trec-1", "mha-1/mr-1"), ("trec", "mr")):
        assert there in snippet
        snippet = snippet.replace(there, here)
    capsys.readouterr()
    exec(snippet, {})
    assert capsys.readouterr().out.strip() in {"negative", "positive"}

    run = out / "mha-1/mr-1"
    (run / "summary.log").unlink()
    shutil.copy(run / "checkpoint_best.pt", run / "checkpoint_last.pt")  # as if it was interrupted then
    one = ("masked_language_model/finetune.sh", "--variant", "mha", "--task", "mr", "--out", out)
    shell(*one, "--", "--max-epoch", 2)
    log = (run / "train.log").read_text()
    assert f"Loaded checkpoint {run}/checkpoint_last.pt (epoch 2 @ " in log and log.count("begin training epoch 2") == 1
    assert f"--restore-file {out}/mha-1/checkpoints/checkpoint_last.pt" in (run / "summary.log").read_text()
    message = shell(*one, ok=False)
    assert f"finetune.sh: {run} is there, and was made with other options" in message

    shutil.rmtree(run)
    (out / "mha-1/summary.log").unlink()  # as if pretraining was interrupted
    assert f"{out}/mha-1 is not pretrained, or not to its end: run pretrain.sh" in shell(*one, ok=False)
    for script, option in (("pretrain", "--variant"), ("finetune", "--variant"), ("run", "--variants")):
        given = ("--out", out, option, "mhe_mul", *(("--task", "mr") if script == "finetune" else ()))
        message = shell(f"masked_language_model/{script}.sh", *given, ok=False)
        assert message == f"{script}.sh: {option} mhe_mul: there are mha, mhe-mul, mhe-add, mqa, sha\n"


@pytest.mark.slow
def test_the_full_configuration(prepare, corpora, shell, tmp_path):
    """Pairs of sentences, and all options but --fp16, with a small model."""
    write_glue(corpora, tmp_path)
    out = tmp_path / "out"
    (out / "text/wikitext-103").mkdir(parents=True)
    for part in ("train", "valid"):
        lines = [sentence(random.Random(i)) for i in range(60)]
        (out / "text/wikitext-103" / part).write_text("".join(f"{line}\n" for line in lines))
    prepare(out / "text", "--config", "full", "--data-dir", tmp_path, "--vocabulary", "60")
    (out / "text/prepared").touch()
    path = tmp_path / "copy/examples/masked_language_model/options.sh"
    path.write_text(path.read_text().replace(" --fp16)", ")").replace('TASKS="sst-2:2 rte:2', 'TASKS="rte:2'))
    full = ("--config", "full", "--out", out)
    shell("masked_language_model/prepare.sh", *full)
    sizes = {"layers": 1, "embed-dim": 16, "ffn-embed-dim": 16, "attention-heads": 2}
    small = [word for name, n in sizes.items() for word in (f"--encoder-{name}", n)]
    one = (*full, "--variant", "mhe-mul")
    shell("masked_language_model/pretrain.sh", *one, "--", *small, "--max-update", 1)
    printed = shell("masked_language_model/finetune.sh", *one, "--task", "rte", "--", *small, "--max-epoch", 1)
    assert f"{out}/mhe-mul-1/rte-1: accuracy" in printed
    command = (out / "mhe-mul-1/rte-1/summary.log").read_text().splitlines()[0]
    assert "--lr-scheduler polynomial_decay --warmup-updates 122 --total-num-update 2036 --batch-size 16" in command


def write_run(folder, name, attention=None, accuracies=()):
    """The logs of one model; ``accuracies``: task, seed, and of each epoch (validation, test)."""
    if attention:
        (folder / name).mkdir()
        (folder / name / "summary.log").write_text(
            f"attention variant {name[:-2]} (encoder,decoder,cross): {attention:,} parameters in 4 attentions\n"
            "num. shared model params: 9,000 (num. trained: 9,000)\n"
            "begin validation; valid on 'valid' subset | loss 6 | ppl 64.5 | wps 1\n"
            "valid on 'valid' subset | loss 5 | ppl 32.25 | wps 1\n"
        )
    for task, seed, epochs in accuracies:
        path = folder / name / f"{task}-{seed}"
        path.mkdir(parents=True)
        lines = [
            f"{part} | valid on '{part}' subset | loss 1 | accuracy {value} | wps 1 | num_updates {10 * number}\n"
            for number, epoch in enumerate(epochs, 1)
            for part, value in zip(("valid", "test"), epoch)
        ]
        (path / "summary.log").write_text("".join(lines))


@pytest.fixture
def table(load, monkeypatch, capsys):
    def run_script(*arguments):
        monkeypatch.setattr(sys, "argv", ["table.py", *map(str, arguments)])
        load("masked_language_model/table").main()
        return capsys.readouterr().out.splitlines()

    return run_script


def test_the_table_takes_the_epoch_that_was_best_on_the_validation_part(table, tmp_path):
    write_run(
        tmp_path, "mha-1", 4000, [("mr", 1, [(70.0, 90), (80.0, 60.0)]), ("mr", 2, [(70, 70.0)]), ("mr", 3, [(1, 1)])]
    )
    write_run(tmp_path, "sha-1", 1000, [("mr", 1, [(75, 99.0), (75, 50.0)]), ("mr", 2, [(70, 54.0)])])
    write_run(tmp_path, "mha-scratch", None, [("mr", 1, [(1, 39.0)]), ("mr", 2, [(1, 39.0)])])
    lines = table(tmp_path)
    assert lines[2:5] == [
        "| mha | 4,000 / 9,000 | 32.25 | 65.0 ± 5.0 | 65.0 | 100.0 % |",
        "| sha | 1,000 / 9,000 | 32.25 | 52.0 ± 2.0 | 52.0 | 80.0 % |",
        "| mha-scratch | 4,000 / 9,000 | not pretrained | 39.0 ± 0.0 | 39.0 | 60.0 % |",
    ]
    assert "seeds 1, 2; one pretraining" in lines[-1]
    assert table(tmp_path, "--csv") == [
        "variant,parameters,mr,mean",
        "mha,4000,65.0000,65.0000",
        "sha,1000,52.0000,52.0000",
    ]


def test_an_epoch_that_was_interrupted_counts_once(table, tmp_path):
    write_run(tmp_path, "mha-1", 4000, [("mr", 1, [(70.0, 60.0), (80.0, 65.0)])])
    path = tmp_path / "mha-1/mr-1/summary.log"
    first = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*first[:3], *first[2:]]))  # stopped between the parts of the second epoch
    assert "| 65.0 | 65.0 |" in table(tmp_path)[2]


def test_the_table_needs_what_is_compared(table, tmp_path):
    with pytest.raises(SystemExit, match="no mha-1 that is fine-tuned"):
        table(tmp_path)
    write_run(tmp_path, "mha-1", 4000, [("mr", 1, [(70, 90)])])
    write_run(tmp_path, "sha-1", 1000, [("mr", 2, [(70, 90)])])
    with pytest.raises(SystemExit, match="no seed with which every model is fine-tuned on mr"):
        table(tmp_path)
    (tmp_path / "mha-1/mr-1/summary.log").write_text("valid on 'valid' subset | accuracy 70 | num_updates 5\n")
    with pytest.raises(SystemExit, match="no epoch with both .*; remove it"):
        table(tmp_path)
