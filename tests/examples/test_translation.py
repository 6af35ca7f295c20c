"""The translation example's data and table."""

import io
import json
import random
import re
import shutil
import subprocess
import sys
import tarfile

import pytest
import torch
from helpers.commands import ROOT

from el_fairseq.compat import load_checkpoint


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


def write_run(folder, name, seed, bleu, parameters="60,000", chrf=None, nll=(2.0, 2.5)):  # chrF: BLEU + 20
    run = folder / f"{name}-{seed}"
    run.mkdir()
    verbose = "67.2/41.5/28.2/19.3 (BP = 0.898 ratio = 0.903 hyp_len = 9 ref_len = 10)"
    scores = [{"name": "BLEU", "score": bleu, "signature": "nrefs:1|tok:13a", "verbose_score": verbose}]
    scores.append({"name": "chrF2", "score": bleu + 20 if chrf is None else chrf, "signature": "nrefs:1|nc:6"})
    parts = "".join(f"valid on '{part}' subset | nll_loss {x} | ppl 5\n" for part, x in zip(("valid", "test"), nll))
    (run / "summary.log").write_text(
        f"models | attention variant {name} (encoder,decoder,cross): {parameters} parameters in 9 attentions\n"
        "train | num. shared model params: 200,000 (num. trained: 200,000)\n"
        "train | epoch 001 | num_updates 145 |\ntrain | epoch 002 | num_updates 290 |\n"
        f"{parts}lenpen 1.{seed}: validation BLEU = {bleu + 1}\nlenpen 2.5: validation BLEU = 9.0\n"
        f"lenpen: 1.{seed}\nscores: {json.dumps(scores)}\n"
    )


@pytest.fixture
def table(load, monkeypatch, capsys):
    def run_script(*arguments):
        monkeypatch.setattr(sys, "argv", ["table.py", *map(str, arguments)])
        load("translation/table").main()
        return capsys.readouterr().out.splitlines()

    return run_script


def cells(lines):
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("| ")]


def test_the_table_compares_the_same_seeds(table, tmp_path):
    for seed, bleu in ((1, 20.0), (2, 30.0)):
        write_run(tmp_path, "mha", seed, bleu, chrf=bleu + 20, nll=(2.0 + seed, 2.5))
    write_run(tmp_path, "mhe-mul", 1, 19.0, parameters="20,000", chrf=40.0)
    write_run(tmp_path, "mhe-mul", 2, 29.5, parameters="20,000", chrf=48.0)
    write_run(tmp_path, "mhe-mul", 3, 99.0, parameters="20,000", chrf=99.0)  # mha has no third
    write_run(tmp_path, "sha", 1, 15.0, parameters="10,000")
    write_run(tmp_path, "mhe-mul-std-1", 1, 10.0, chrf=20.0)
    compared = {"1": {"BLEU": {"p": 0.25}, "chrF": {"p": 0.5}}, "2": {"BLEU": {"p": 0.001}}}
    (tmp_path / "significance.json").write_text(json.dumps({"compared": {"mhe-mul": compared}}))
    rows = cells(table(tmp_path, "--also", "mhe-mul-std-1"))
    bleu = ["25.0 ± 5.0", "0.90 ± 0.00", "45.0 ± 5.0"]
    assert rows[1][:5] == ["mha", "60,000 / 200,000", "2", "3.500 ± 0.500", "2.500 ± 0.000"]
    assert rows[1][5:] == [*bleu, "26.0 ± 5.0", "100.0 %", "100.0 %", "100.0 %"]
    assert rows[2][2:5] == ["2", "2.000 ± 0.000", "2.500 ± 0.000"]
    assert rows[2][5:] == ["24.2 ± 5.2", "0.90 ± 0.00", "44.0 ± 4.0", "25.2 ± 5.2", "97.0 %", "97.8 %", "97.1 %"]
    assert rows[3][:5] == ["sha", "10,000 / 200,000", "1", "2.000", "2.500"]
    assert rows[3][5:] == ["15.0", "0.90", "35.0", "16.0", "75.0 %", "87.5 %", "76.2 %"]
    assert rows[4][0] == "mhe-mul-std-1" and rows[4][9:] == ["50.0 %", "50.0 %", "52.4 %"]
    assert rows[5:8] == [
        ["variant", "validation nll", "test nll", "BLEU", "chrF", "`--lenpen`"],
        ["mha", "-", "-", "-", "-", "1.1, 1.2"],
        [
            "mhe-mul",
            "-1.000, -2.000",
            "+0.000, +0.000",
            "-1.00 (0.250), -0.50 (0.001)",
            "+0.00 (0.500), -2.00",
            "1.1, 1.2",
        ],
    ]
    assert rows[10][0] == "variant"
    gains = {row[0]: row[1:] for row in rows[11:15]}  # of the first seed alone
    assert gains["mhe-mul"] == ["20,000", "19.00", "95.0 %", "0.267", "40.00", "100.0 %", "0.143"]
    assert gains["mha"] == ["60,000", "20.00", "100.0 %", "0.067", "40.00", "100.0 %", "0.029"]
    assert gains["sha"] == ["10,000", "15.00", "75.0 %", "-", "35.00", "87.5 %", "-"]
    assert "| BLEU | `nrefs:1\\|tok:13a` |" in table(tmp_path)


def test_what_retention_reads(table, tmp_path):
    for name, bleu in (("mha", 20.0), ("sha", 15.0)):
        write_run(tmp_path, name, 1, bleu, chrf=bleu + 20)
    assert table(tmp_path, "--csv") == [
        "variant,parameters,BLEU,chrF",
        "mha,60000,20.0000,40.0000",
        "sha,60000,15.0000,35.0000",
    ]
    write_run(tmp_path, "mha", 2, 90.0, chrf=90.0)  # sha has no second seed
    assert table(tmp_path, "--csv")[1] == "mha,60000,20.0000,40.0000"


def test_the_table_needs_its_baseline(table, tmp_path):
    with pytest.raises(SystemExit, match=r"no mha-\*/summary.log"):
        table(tmp_path)


def test_significance_finds_what_is_worse(load, tmp_path, monkeypatch, capsys):
    rng = random.Random(0)
    lines = [" ".join(rng.choice(["haus", "hund", "mann", "geht", "rot"]) for _ in range(12)) for _ in range(60)]
    (tmp_path / "text").mkdir()
    (tmp_path / "text/raw.test.de").write_text("".join(f"{line}\n" for line in lines))
    worse = [line if i % 2 else "etwas ganz anderes" for i, line in enumerate(lines)]
    for name, translations in (("mha", lines), ("mhe-mul", worse), ("sha", lines)):
        write_run(tmp_path, name, 1, 10.0)
        (tmp_path / f"{name}-1/hypotheses.de").write_text("".join(f"{line}\n" for line in translations))
    monkeypatch.setattr(sys, "argv", ["significance.py", str(tmp_path), "--samples", "100"])
    load("translation/significance").main()
    written = json.loads((tmp_path / "significance.json").read_text())
    found, same = written["compared"], written["hypotheses"]
    assert same["mha-1"] == same["sha-1"] != same["mhe-mul-1"] and "bs:100" in found["sha"]["1"]["BLEU"]["signature"]
    assert set(found) == {"mhe-mul", "sha"} and set(found["sha"]["1"]) == {"BLEU", "chrF"}
    assert found["mhe-mul"]["1"]["BLEU"]["p"] < 0.02 and found["mhe-mul"]["1"]["BLEU"]["score"] < 80
    assert found["sha"]["1"]["BLEU"]["p"] > 0.5 and found["sha"]["1"]["BLEU"]["mha"] == pytest.approx(100)
    assert "mhe-mul, seed 1: BLEU" in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_by_another_name_with_more_options_and_the_mean_of_epochs(shell, data, tmp_path):
    (tmp_path / "out/text").mkdir(parents=True)
    (tmp_path / "out/bin").symlink_to(data)
    shutil.copy(data.parent / "test.tgt", tmp_path / "out/text/raw.test.de")
    options = ["--variant", "mhe-mul", "--name", "mine", "--seed", 3, "--epochs", 3, "--out", tmp_path / "out"]
    more = ["--average", 2, "--", "--encoder-layers", 1]
    printed = shell("translation/train.sh", *options, *more)
    assert re.fullmatch(r"BLEU [\d.]+ chrF2 [\d.]+", printed.splitlines()[-1])
    run = tmp_path / "out/mine-3"
    log = (run / "summary.log").read_text()
    assert log.startswith("command: fairseq-train ") and "--seed 3" in log and "attention variant mhe-mul" in log
    assert "--encoder-layers 1" in log.splitlines()[0] and "\naveraged: 2\n" in log
    tried = dict(re.findall(r"^lenpen ([\d.]+): validation BLEU = ([\d.]+)$", log, re.MULTILINE))
    chosen = re.search(r"^lenpen: ([\d.]+)$", log, re.MULTILINE)[1]
    assert list(tried) == ["1.0", "1.5", "2.0", "2.5"]
    best = max(map(float, tried.values()))
    assert chosen == next(lenpen for lenpen, bleu in tried.items() if float(bleu) == best)
    assert len(re.findall(r"valid on '(?:valid|test)' subset", log)) == 2
    assert not list((tmp_path / "out").glob("mhe-mul*"))

    second, third, mean = (
        load_checkpoint(run / f"checkpoints/{name}.pt")["model"] for name in ("checkpoint2", "checkpoint3", "averaged")
    )
    assert not (run / "checkpoints/checkpoint1.pt").exists()
    for name, value in mean.items():
        if value.is_floating_point():  # the others say which variant it is
            assert torch.allclose(value, (second[name] + third[name]) / 2, atol=1e-7), name
    assert not torch.equal(second["decoder.embed_tokens.weight"], third["decoder.embed_tokens.weight"])

    again = shell("translation/train.sh", *options, *more)
    assert "training" not in again and again.splitlines()[-1] == printed.splitlines()[-1]
    message = shell("translation/train.sh", *options, ok=False)
    assert f"train.sh: {run} is there, and was made with other options" in message
    for option, value, wanted in (("--epochs", "x", "at least 1"), ("--average", 4, "1 to 3")):
        message = shell("translation/train.sh", *options, option, value, ok=False)
        assert f"train.sh: {option} {value}: it is a number of epochs, {wanted}" in message
    message = shell("translation/train.sh", *options, "--", "--max-update", 9, ok=False)
    assert "--average 3 counts the epochs of --epochs: --max-epoch and --max-update need --average 1" in message
    assert "--variant mhe_mul: there are mha, " in shell("translation/train.sh", "--variant", "mhe_mul", ok=False)
    broken = ["--variant", "mha", "--epochs", 1, "--out", tmp_path / "out", "--", "--lr", "x"]
    message = shell("translation/train.sh", *broken, ok=False)
    assert f"train.sh: training failed; the log is {tmp_path / 'out/mha-1'}/train.log" in message


def test_the_runs_of_the_table_are_those_of_today(shell, tmp_path):
    """What is finished is not trained again, unless its options are others; and nothing is trained here."""
    project = tmp_path / "copy"
    environment = project / "scripts/environment.sh"
    environment.write_text(environment.read_text().replace(f'cd "{ROOT}"', f'cd "{project}"'))
    seeds = {}
    for log in (ROOT / "docs/results/multi30k").glob("*/summary.log"):
        variant, seed = log.parent.name.rsplit("-", 1)
        run = project / "results/multi30k" / log.parent.name
        run.mkdir(parents=True)
        shutil.copy(log, run)
        (run / "scores.json").write_text(re.search(r"^scores: (.*)$", log.read_text(), re.MULTILINE)[1])
        options = ["--variant", variant, "--seed", seed, "--out", run.parent]
        assert re.fullmatch(r"lenpen: [\d.]+\nBLEU [\d.]+ chrF2 [\d.]+\n", shell("translation/train.sh", *options))
        assert "\naveraged: 4\n" in log.read_text()
        seeds.setdefault(variant, set()).add(seed)
    assert seeds == {variant: {"1", "2", "3"} for variant in ("mha", "mhe-mul", "mhe-add", "mqa", "sha")}


def test_compare_trains_each_variant_with_each_seed(shell, tmp_path):
    """Its trainings are noted instead of run; the tables are those of logs that lie there."""
    folder, out = tmp_path / "copy/examples/translation", tmp_path / "out"
    (out / "text").mkdir(parents=True)
    lines = [f"der Hund {i} geht in das Haus\n" for i in range(20)]
    (out / "text/raw.test.de").write_text("".join(lines))
    for name, bleu in (("mha", 20.0), ("sha", 15.0)):
        for seed in (4, 5):
            write_run(out, name, seed, bleu)
            (out / f"{name}-{seed}/hypotheses.de").write_text("".join(lines))
    (folder / "prepare.sh").write_text('#!/usr/bin/env bash\necho "prepare: $*"\n')
    (folder / "train.sh").write_text('#!/usr/bin/env bash\necho "train: $*"\n')
    options = ["--out", out, "--variants", "mha,sha", "--seeds", "4,5", "--jobs", 1]
    printed = shell("translation/compare.sh", *options, "--data-dir", tmp_path)
    assert f"prepare: --out {out} --data-dir {tmp_path}" in printed
    runs = [f"train: --out {out} --seed {seed} --variant {variant}" for seed in (4, 5) for variant in ("mha", "sha")]
    assert [line for line in printed.splitlines() if line.startswith("train: ")] == runs
    assert "sha, seed 5: BLEU 100.00, p = 1.000" in printed and "| sha | 60,000 / 200,000 | 2 |" in printed
    for wrong, message in (
        (["--variants", "mha,mhe_mul"], "--variants mhe_mul: there are mha, mhe-mul, mhe-add, mqa, sha, stock"),
        (["--out", tmp_path / "other", "--variants", "sha"], "--variants sha: the tables compare with mha"),
        (["--jobs", "x"], "--jobs x: it is a number of trainings, at least 1"),
    ):
        assert shell("translation/compare.sh", *wrong, ok=False) == f"compare.sh: {message}\n"
    (folder / "train.sh").write_text("#!/usr/bin/env bash\necho broken\nexit 2\n")
    message = shell("translation/compare.sh", *options, ok=False)
    assert message.count("broken\n") == 4 and message.splitlines()[-1].startswith(
        "compare.sh: a model was not finished"
    )


def test_heads_that_start_as_signs(load, tmp_path):
    state = {f"a.{name}_head_embed": torch.randn(4, 16) for name in "qkv"} | {"a.weight": torch.ones(2)}
    model = {"attention_variant": "mhe-mul"}
    torch.save({"model": state, "cfg": {"model": model}}, tmp_path / "in.pt")
    module = load("translation/signs")
    module.main([str(tmp_path / "in.pt"), str(tmp_path / "out.pt")])
    changed = load_checkpoint(tmp_path / "out.pt")["model"]
    for name, value in changed.items():
        assert set((1 + value).flatten().tolist()) == ({2.0} if name == "a.weight" else {1.0, -1.0}), name
    model["attention_variant"] = "mhe-add"
    torch.save({"model": state, "cfg": {"model": model}}, tmp_path / "in.pt")
    with pytest.raises(SystemExit, match="--attention-variant is mhe-add, not mhe-mul"):
        module.main([str(tmp_path / "in.pt"), str(tmp_path / "out.pt")])


def explored(folder, name, options, nll, scores):
    (folder / name).mkdir()
    (folder / name / "summary.log").write_text(
        f"command: fairseq-train DATA --arch mhe_transformer --lr 0.004 {options} --save-dir {name} --fast\n"
        f"valid | valid on 'valid' subset | loss 4.9 | nll_loss {nll} | ppl 11\n"
        + "".join(f"lenpen {lenpen}: validation BLEU = {score}\n" for lenpen, score in scores.items())
    )


def test_what_was_tried_in_its_order(load, tmp_path, monkeypatch, capsys):
    module = load("translation/explored")
    explored(tmp_path, "a-1", "--max-tokens 4096", 3.5, {"1.0": 26.0, "1.5": 26.0})
    with (tmp_path / "a-1/summary.log").open("a") as log:
        log.write("averaged: 3\n")
    explored(tmp_path, "b-1", "--max-tokens 4096 --max-tokens 1024 --heads 2", 3.25, {"1.0": 28.0, "2.0": 29.5})
    monkeypatch.setattr(sys, "argv", ["explored", str(tmp_path)])
    module.main()
    assert capsys.readouterr().out.splitlines() == [
        "| `--max-tokens` | `--heads` | `--average` | validation nll | BLEU | `--lenpen` |",
        "|---|---|---|---|---|---|",
        "| 1024 | 2 | 1 | 3.250 | 29.50 | 2.0 |",
        "| 4096 | default | 3 | 3.500 | 26.00 | 1.0 |",
    ]
    (tmp_path / "a-1/summary.log").write_text("command: fairseq-train\n")
    with pytest.raises(SystemExit, match="a-1/summary.log: no command"):
        module.main()


def test_what_was_tried_is_what_explore_runs(shell, load, tmp_path):
    """Its trainings are noted instead of run, and held to the options in the logs of those that were."""
    folder, out = tmp_path / "copy/examples/translation", tmp_path / "out"
    shutil.copytree(ROOT / "docs/results/multi30k-explored", out)
    (out / "signs.pt").touch()
    (folder / "prepare.sh").write_text("#!/usr/bin/env bash\n")
    (folder / "train.sh").write_text('#!/usr/bin/env bash\necho "train: $*"\n')
    printed = shell("translation/explore.sh", "--out", out, "--jobs", 1)
    trained = [re.split(" --(?= |$)", line[7:]) for line in printed.splitlines() if line.startswith("train: ")]
    options_of = load("translation/explored").options_of
    print_options = f'source {folder}/options.sh; set_options mha; printf "%q " "${{OPTIONS[@]}}"'
    common = options_of(subprocess.run(["bash", "-c", print_options], stdout=subprocess.PIPE, text=True).stdout)
    names = set()
    for ours, fairseqs in trained:
        ours, fairseqs = options_of(ours), options_of(fairseqs)
        names.add(f"{ours['--name']}-1")
        log = (out / f"{ours['--name']}-1/summary.log").read_text()
        logged = options_of(log.splitlines()[0])
        given = {"--attention-variant": ours["--variant"], "--max-epoch": ours["--epochs"]}
        assert logged == {**common, **fairseqs, **given, "--seed": "1", "--log-interval": "100"}
        averaged = re.search(r"^averaged: (\d+)$", log, re.MULTILINE)
        assert ours["--average"] == (averaged[1] if averaged else "1")
    assert names == {path.name for path in out.iterdir() if path.is_dir()}
    assert "| mhe-mul | 4 | 4 | 0.004 | 4096 |" in printed
    message = shell("translation/explore.sh", "--out", out, "--runs", "mha-3heads", ok=False)
    assert "--runs mha-3heads: there is no such run" in message
