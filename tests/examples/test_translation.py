"""The translation example's data and table."""

import io
import json
import shutil
import sys
import tarfile

import pytest


def archive(path, members):
    with tarfile.open(path, "w:gz") as tar:
        for name, text in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(text.encode())
            tar.addfile(info, io.BytesIO(text.encode()))


def sgml(sentences):
    return "<doc>\n" + "".join(f'<seg id="{i}"> {s} </seg>\n' for i, s in enumerate(sentences)) + "</doc>\n"


def test_iwslt14_holds_out_every_23rd_sentence(load, tmp_path):
    prepare = load("translation/prepare")
    members = {}
    for lang in prepare.LANGUAGES:
        body = "".join(f"{lang} {i}\n" for i in range(46))
        train = f"<url>http://x</url>\n<title>{lang} title</title>\n{body}</doc>\n"
        members[f"de-en/train.tags.de-en.{lang}"] = train
        for year in (2011, 2010):
            members[f"de-en/IWSLT14.TED.tst{year}.de-en.{lang}.xml"] = sgml([f"{lang} {year} {i}" for i in range(2)])
    archive(tmp_path / "de-en.tgz", members)
    train, valid, test = prepare.iwslt14(tmp_path)
    assert valid == [("en 21", "de 21"), ("en 44", "de 44")]
    assert len(train) == 45 and train[:2] == [("en title", "de title"), ("en 0", "de 0")] and valid[0] not in train
    assert test == [(f"en {year} {i}", f"de {year} {i}") for year in (2010, 2011) for i in range(2)]


def test_wmt14_joins_its_parts_and_drops_empty_lines(load, tmp_path):
    prepare = load("translation/prepare")
    names = ["training/europarl-v7", "commoncrawl", "training/news-commentary-v9"]
    for file, name in zip(prepare.FILES["wmt14"], names):
        lines = {lang: [f"{name} {lang} {i}" for i in range(61)] for lang in ("en", "de")}
        lines["en"][7] = ""
        archive(tmp_path / file, {f"{name}.de-en.{lang}": "\n".join(lines[lang]) + "\n" for lang in lines})
    tests = {"src.en": sgml(["a", "b"]), "ref.de": sgml(["x", "y"])}
    archive(
        tmp_path / "test-full.tgz", {f"test-full/newstest2014-deen-{part}.sgm": text for part, text in tests.items()}
    )
    train, valid, test = prepare.wmt14(tmp_path)
    assert test == [("a", "x"), ("b", "y")]
    assert valid == [("commoncrawl en 40", "commoncrawl de 40")]  # the 100th of 3 times 60 pairs
    wanted = [(f"{name} en {i}", f"{name} de {i}") for name in names for i in range(61) if i != 7]
    assert train == [pair for pair in wanted if pair not in valid]


def test_a_damaged_file_is_named(load, tmp_path, monkeypatch):
    prepare = load("translation/prepare")
    (tmp_path / "train.en.gz").write_bytes(b"other")
    monkeypatch.setattr(sys, "argv", ["prepare.py", str(tmp_path / "out"), "--data-dir", str(tmp_path)])
    with pytest.raises(SystemExit, match=r"train.en.gz: SHA-256 is \w+, not d79cfa99.*; remove it and fetch it again"):
        prepare.main()
    with pytest.raises(SystemExit, match="iwslt14: 2 English lines, 1 German ones"):
        prepare.pair_up("iwslt14", ["a", "b"], ["c"])


def write_run(folder, name, seed, bleu, parameters="60,000", state=32.0):
    run = folder / f"{name}-{seed}"
    run.mkdir()
    scores = {"name": "BLEU", "score": bleu, "signature": "nrefs:1|tok:13a"}
    (run / "summary.log").write_text(
        f"models | attention variant {name} (encoder,decoder,cross): {parameters} parameters in 9 attentions\n"
        "train | num. shared model params: 200,000 (num. trained: 200,000)\n"
        "train | epoch 001 | num_updates 145 |\ntrain | epoch 002 | num_updates 290 |\n"
        f"decoder state: peak {state} MiB; stock would keep 64.00 MiB for the same batch, 2.0x\n"
        f"bleu: {json.dumps(scores)}\n"
    )


def test_the_table_compares_the_same_seeds(load, tmp_path, monkeypatch, capsys):
    table = load("translation/table")
    for seed, bleu in ((1, 20.0), (2, 30.0)):
        write_run(tmp_path, "mha", seed, bleu)
    write_run(tmp_path, "mhe-mul", 1, 19.0, parameters="20,000", state=8.0)
    write_run(tmp_path, "mhe-mul", 2, 29.5, parameters="20,000", state=8.0)
    write_run(tmp_path, "sha", 1, 15.0)
    write_run(tmp_path, "mhe-mul-std-1", 1, 10.0)
    (tmp_path / "speed").mkdir()
    for round_, rates in ((1, "100 100 200 220"), (2, "90 90 400 400"), (3, "1 1 300 300")):
        lines = "".join(f"train_inner | wps={rate}, \n" for rate in rates.split())
        (tmp_path / "speed" / f"sha-{round_}.log").write_text(f"{lines}measured: 9.0 s, peak memory 1,{round_}00 MiB\n")
    monkeypatch.setattr(sys, "argv", ["table.py", str(tmp_path), "--also", "mhe-mul-std-1"])
    table.main()
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines() if "|" in line
    ]
    assert rows[2] == ["mha", "60,000 / 200,000", "20.0, 30.0", "100.0 %", "-", "-", "512 KiB"]
    assert rows[3] == ["mhe-mul", "20,000 / 200,000", "19.0, 29.5", "97.0 %", "-", "-", "128 KiB"]
    assert rows[4] == ["sha", "60,000 / 200,000", "15.0", "75.0 %", "300", "1,200 MiB", "512 KiB"]
    assert rows[5][:4] == ["mhe-mul-std-1", "60,000 / 200,000", "10.0", "50.0 %"]


def test_the_table_needs_its_baseline(load, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["table.py", str(tmp_path)])
    with pytest.raises(SystemExit, match=r"no mha-\*/summary.log"):
        load("translation/table").main()


@pytest.mark.slow
def test_a_run_by_another_name_with_more_options(shell, data, tmp_path):
    (tmp_path / "out/text").mkdir(parents=True)
    (tmp_path / "out/bin").symlink_to(data)
    shutil.copy(data.parent / "test.tgt", tmp_path / "out/text/raw.test.de")
    options = ["--variant", "mhe-mul", "--name", "mine", "--seed", 3, "--epochs", 1, "--out", tmp_path / "out"]
    printed = shell("translation/train.sh", *options, "--", "--max-update", 2, "--encoder-layers", 1)
    assert printed.splitlines()[-1].startswith("BLEU ")
    log = (tmp_path / "out/mine-3/summary.log").read_text()
    assert log.startswith("command: fairseq-train ") and "--seed 3" in log and "attention variant mhe-mul" in log
    assert "--max-update 2 --encoder-layers 1" in log.splitlines()[0]
    assert not list((tmp_path / "out").glob("mhe-mul*"))
