"""The question generation example's data, options and table, and all its stages on a few sentences."""

import subprocess
import sys

import count_parameters
import pytest
from helpers.commands import ROOT, run

SENTENCES = ["the cat sat on the mat .", "a dog ( brown ) saw ² trees .", "rome is in italy .", "the sun is hot ."]
QUESTIONS = ["where did the cat sit ?", "what did the ² dog see ?", "where is rome ?", "what is hot ?"]


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """Files as they are published, but small: 40 pairs to train on, 20 of the dev part, 8 of the test part."""
    folder = tmp_path_factory.mktemp("raw")
    for part, times in (("train", 10), ("dev", 5), ("test", 2)):
        (folder / f"src-{part}.txt").write_text("".join(f"{each} \n" for each in SENTENCES * times))
        (folder / f"tgt-{part}.txt").write_text("".join(f"{each}\n" for each in QUESTIONS * times))
    return folder


@pytest.fixture(scope="module")
def prepare(load):
    """``prepare(folder, *options)``: the script's ``main`` without the checksums of the real files."""
    script = load("question_generation/prepare")

    def run_script(*arguments):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(script, "SHA256", {})
            patch.setattr(sys, "argv", ["prepare.py", *map(str, arguments)])
            script.main()

    return run_script


@pytest.fixture(scope="module")
def text(raw, prepare, tmp_path_factory):
    """The small configuration's text."""
    folder = tmp_path_factory.mktemp("text")
    prepare(folder, "--data-dir", raw, "--train-on", "dev", "--vocabulary", "80")
    return folder


def options(config):
    """``(options of prepare.py, options of fairseq-train)`` that options.sh sets, a list of words each."""
    command = 'source examples/question_generation/options.sh && set_options "$1" && printf "%s\\n" '
    command += '"${PREPARE[@]}" -- "${MODEL[@]}"'
    done = subprocess.run(["bash", "-c", command, "_", config], capture_output=True, text=True, check=True, cwd=ROOT)
    words = done.stdout.splitlines()
    return words[: words.index("--")], words[words.index("--") + 1 :]


def test_the_small_configuration_trains_on_the_dev_part(text):
    lines = {path.name: path.read_text().splitlines() for path in text.iterdir() if path.suffix != ".model"}
    sizes = {name: len(lines[name]) for name in lines if name.endswith(("sentence", "question"))}
    parts = {"train": 18, "valid": 2, "test": 8}
    assert sizes == {f"{part}.{side}": n for part, n in parts.items() for side in ("sentence", "question")} | {
        "raw.test.question": 8
    }
    assert lines["raw.test.question"] == QUESTIONS * 2
    assert [line.replace(" ", "").replace("▁", " ").strip() for line in lines["test.question"]] == QUESTIONS * 2
    assert [line.replace(" ", "").replace("▁", " ").strip() for line in lines["valid.sentence"]] == SENTENCES[2:]
    assert len(lines["dict.txt"]) + 4 == 80  # fairseq's special symbols
    entries = {line.split()[0] for line in lines["dict.txt"]}
    assert {
        piece for name in sizes if name.startswith("train") for line in lines[name] for piece in line.split()
    } <= entries


def test_the_full_configuration_trains_on_the_training_part(raw, prepare, tmp_path):
    prepare(tmp_path / "out", "--data-dir", raw, "--vocabulary", "80")
    assert len((tmp_path / "out/train.sentence").read_text().splitlines()) == 40
    assert len((tmp_path / "out/valid.sentence").read_text().splitlines()) == 20


def test_a_checksum_that_is_not_published_is_that_of_the_first_time(raw, load, tmp_path, capsys):
    prepare = load("question_generation/prepare")
    (tmp_path / "src-train.txt").write_text("one\n")
    arguments = ("src-train.txt", tmp_path, False, tmp_path / "CHECKSUMS")
    for _ in range(2):
        assert prepare.lines_of(*arguments) == ["one"]
    assert capsys.readouterr().out.count("SHA-256") == 1
    (tmp_path / "src-train.txt").write_text("two\n")
    with pytest.raises(SystemExit, match=r"src-train.txt: SHA-256 is \w+, not \w+; remove it and fetch it again"):
        prepare.lines_of(*arguments)


def test_damaged_missing_and_unequal_files_are_named(load, tmp_path, monkeypatch):
    prepare = load("question_generation/prepare")
    record = tmp_path / "CHECKSUMS"
    with pytest.raises(SystemExit, match=r"--data-dir .*: there is no src-dev.txt"):
        prepare.pairs_of("dev", tmp_path, False, record)
    (tmp_path / "src-dev.txt").write_text("other\n")
    with pytest.raises(SystemExit, match=r"src-dev.txt: SHA-256 is \w+, not d540a569"):
        prepare.pairs_of("dev", tmp_path, False, record)
    monkeypatch.setattr(prepare, "SHA256", {})
    (tmp_path / "tgt-dev.txt").write_text("a\nb\n")
    with pytest.raises(SystemExit, match="dev has 1 sentences and 2 questions"):
        prepare.pairs_of("dev", tmp_path, False, record)


def test_the_full_model_has_270_million_parameters():
    prepare, model = options("full")
    arch, vocabulary = model[model.index("--arch") + 1], prepare[prepare.index("--vocabulary") + 1]
    assert not any(word.startswith("--share") for word in model)
    built = count_parameters.build(count_parameters.parse(["--arch", arch, "--vocabulary", vocabulary]), "mha")
    assert sum(parameter.numel() for parameter in built.parameters()) == 270_120_960


def test_an_unknown_configuration_is_named():
    with pytest.raises(subprocess.CalledProcessError) as error:
        options("medium")
    assert error.value.stderr == "--config medium: there are small and full\n"


def table(load, monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["table.py", *map(str, arguments)])
    load("question_generation/table").main()
    return capsys.readouterr().out.splitlines()


def test_the_table_scores_against_the_references_as_they_were(load, tmp_path, monkeypatch, capsys):
    (tmp_path / "references").write_text("where did the cat sit ²\nwhat is\u2028hot ?\n")
    stock = (
        "T-1\twhat is <unk>\nH-1\t-0.1\t▁what ▁is\nD-1\t-0.1\twhat is\u2028hot ?\nH-1\t-0.5\t▁what\nD-1\t-0.5\twhat\n"
        "T-0\twhere\nH-0\t-0.2\t▁where\nD-0\t-0.2\twhere did the cat sit ²\n"
    )
    timing = "Translated 2 sentences (5 tokens) in {}s (1.00 sentences/s)\n"
    state = "decoder state: peak 2.50 MiB; stock would keep 7.50 MiB for the same batch, 3.0x\n"
    worse = stock.replace("▁where\n", "▁how\n").replace("did the cat sit ²", "the cat did sit ²")
    (tmp_path / "stock").write_text(stock + timing.format("1.5"))
    (tmp_path / "ours").write_text(worse + timing.format("0.9") + state)
    outputs = [f"{name}={tmp_path / name}" for name in ("stock", "ours")]
    *_, first, second, empty, bleu, rouge = table(
        load, monkeypatch, capsys, "--references", tmp_path / "references", *outputs
    )
    assert first == "| stock | 3 of 3 | 100.00 | 100.00 | 1.5 | 7.5 MiB |"
    cells = [cell.strip() for cell in second.split("|")[1:-1]]
    assert cells[:2] == ["ours", "2 of 3"] and cells[4:] == ["0.9", "2.5 MiB"]
    assert 0 < float(cells[2]) < 100
    assert float(cells[3]) == pytest.approx((80 + 100) / 2)  # four of five words in order; three of three
    assert (
        empty == "" and bleu.startswith("BLEU|nrefs:1|") and "tok:none" in bleu and rouge.startswith("ROUGE|nrefs:1|")
    )
    (tmp_path / "references").write_text("one\n")
    with pytest.raises(SystemExit, match="1 references, but hypotheses for 2 sentences"):
        table(load, monkeypatch, capsys, "--references", tmp_path / "references", *outputs)


@pytest.mark.slow
def test_all_stages_on_a_few_sentences(load, text, tmp_path, monkeypatch, capsys):
    """What run.sh does after its first stage, with its options but few updates."""
    parts = " ".join(f"--{part}pref {text / part}" for part in ("train", "valid", "test"))
    run(
        "fairseq-preprocess",
        f"-s sentence -t question {parts} --srcdict {text}/dict.txt --joined-dictionary",
        f"--destdir {tmp_path}/bin",
    )
    train = [word.replace(" ", "") for word in options("small")[1]]  # run() splits at spaces
    train += ["--task", "translation", "--save-dir", tmp_path, "--tensorboard-logdir", tmp_path / "tensorboard"]
    log = run("fairseq-train", tmp_path / "bin", "--user-dir el_fairseq", *train, "--max-epoch 1")
    assert "valid on 'valid' subset" in log and list((tmp_path / "tensorboard").rglob("events*"))
    log = run("fairseq-train", tmp_path / "bin", "--user-dir el_fairseq", *train, "--max-epoch 2")
    assert "Loaded checkpoint" in log and "epoch 002 |" in log and "epoch 001 |" not in log
    for name, task in (
        ("stock", "translation"),
        ("auto", "el_translation"),
        ("on", "el_translation --el-attention on"),
    ):
        printed = run(
            "fairseq-generate",
            f"{tmp_path}/bin --user-dir el_fairseq --task {task} --path {tmp_path}/checkpoint_best.pt",
            "--beam 4 --nbest 4 --max-len-b 8 --batch-size 3 --required-batch-size-multiple 1",
            "--remove-bpe sentencepiece",
        )
        (tmp_path / name).write_text(printed)
    outputs = [f"{name}={tmp_path / name}" for name in ("stock", "auto", "on")]
    rows = table(load, monkeypatch, capsys, "--references", text / "raw.test.question", *outputs)[2:5]
    assert all("| 32 of 32 |" in row and row.endswith("MiB |") for row in rows)
