"""The summarisation example: its corpora, its table, and a run of its small configuration."""

import hashlib
import io
import json
import os
import random
import shutil
import subprocess
import sys
import tarfile

import pytest
from helpers.commands import BIN, ROOT

PARTS = ("train", "valid", "test")


@pytest.fixture
def corpora(load, monkeypatch):
    module = load("summarization/corpora")
    monkeypatch.setattr(module, "SHA256", {})
    return module


@pytest.fixture
def prepare(load, monkeypatch):
    """``prepare(OPTIONS)``: the script, without checksums; returns the lines of a file in its output."""
    script = load("summarization/prepare")
    monkeypatch.setattr(script.corpora, "SHA256", {})

    def run_script(out, *options):
        monkeypatch.setattr(sys, "argv", ["prepare.py", str(out), *map(str, options)])
        script.main()
        return lambda name: (out / name).read_text(encoding="utf-8").splitlines()

    return run_script


def archive(path, members):
    with tarfile.open(path, "w:gz") as tar:
        for name, text in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(text.encode())
            tar.addfile(info, io.BytesIO(text.encode()))


def dialogues(folder, train, test):
    """A small DialogSum; returns its rows."""
    rng, rows = random.Random(0), {}
    letters = "abcdefghijklmnopqrstuvwxyz"
    vocabulary = ["".join(rng.choices(letters, k=rng.randint(2, 6))) for _ in range(1500)]
    for part, size in (("dev", train), ("test", test)):
        rows[part] = []
        for i in range(size):
            said = [f"#Person{j % 2 + 1}#: {' '.join(rng.choices(vocabulary, k=9))}." for j in range(4)]
            said += ["é"] * (part == "test")
            row = {"fname": f"{part}_{i}", "dialogue": "\n".join(said), "topic": "t"}
            keys = ["summary"] if part == "dev" else ["summary1", "summary2", "summary3"]
            rows[part].append(row | {key: f"#Person1# {' '.join(rng.choices(vocabulary, k=5))}." for key in keys})
        (folder / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[part]))
    return rows


def test_dialogsum_has_three_summaries_for_a_test_dialogue(prepare, tmp_path):
    (tmp_path / "dialogsum").mkdir()
    rows = dialogues(tmp_path / "dialogsum", 80, 3)
    lines = prepare(tmp_path / "out", "--corpus", "dialogsum", "--data-dir", tmp_path, "--vocabulary", 400)
    assert [len(lines(f"{part}.source")) for part in PARTS] == [30, 50, 3]
    assert lines("valid.target") == [row["summary"] for row in rows["dev"][30:]]
    assert lines("test.source") == [row["dialogue"].replace("\n", " ") for row in rows["test"]]
    for name, key in (("test.target", "summary1"), ("test.target2", "summary2"), ("test.target3", "summary3")):
        assert lines(name) == [row[key] for row in rows["test"]]
    pieces = lines("test.bpe.target")
    assert "".join(pieces[0].split()).replace("\u2581", " ").strip() == rows["test"][0]["summary1"]
    assert "#Person1#" in pieces[0].split()
    assert lines("test.bpe.source")[0].endswith(" <0xC3> <0xA9>")  # not in the training part
    words = {word for line in lines("test.bpe.source") + pieces for word in line.split()}
    assert words <= {line.split(" ")[0] for line in lines("dict.txt")}


def test_cnndm_is_in_the_order_of_its_url_lists(corpora, tmp_path):
    urls = {part: [f"http://{part}/{i}" for i in range(3)] for part in ("train", "val", "test")}
    stories = {}
    for part, addresses in urls.items():
        (tmp_path / f"all_{part}.txt").write_text("".join(f"{url}\n" for url in addresses))
        for i, url in enumerate(addresses):
            text = (
                f"(CNN) -- {part} {i}\n\nA caption\n\n“Quoted.”\n\n@highlight\n\nFirst {i}\n\n@highlight\n\nSecond!\n"
            )
            stories[hashlib.sha1(url.encode()).hexdigest()] = text
    missing, *_ = stories
    stories[missing] = "@highlight\n\nNo article\n"
    names = sorted(stories)
    for site, mine in (("cnn", names[::2]), ("dailymail", names[1::2])):
        archive(tmp_path / f"{site}_stories.tgz", {f"{site}/stories/{name}.story": stories[name] for name in mine})
    pairs = corpora.cnndm(tmp_path, PARTS)
    expected = {
        part: [(f"(CNN) -- {name} {i}. A caption. “Quoted.”", [f"First {i}. Second!"]) for i in range(3)]
        for part, name in zip(PARTS, urls)
    }
    assert pairs == {**expected, "train": expected["train"][1:]}
    assert corpora.cnndm(tmp_path, ["test"]) == {"test": expected["test"]}


def test_xsum_is_the_first_sentence_and_the_rest(corpora, tmp_path):
    ids = {"train": ["1", "2"], "validation": ["3"], "test": ["5", "4", "gone"]}
    (tmp_path / corpora.XSUM_PARTS).write_text(json.dumps(ids))
    page = (
        "[SN]URL[SN]\nhttp://x\n\n[SN]TITLE[SN]\nTitle {0}\n\n[SN]FIRST-SENTENCE[SN]\nFirst {0}.\n\n[SN]RESTBODY[SN]\n"
    )
    page += "Share this with\nEmail\nBody {0}.\n\nMore, by Email.\n"
    archive(tmp_path / corpora.XSUM, {f"bbc-summary-data/{i}.summary": page.format(i) for i in range(7)})
    pairs = corpora.xsum(tmp_path, PARTS)
    assert [[summary.strip() for _, (summary,) in pairs[part]] for part in PARTS] == [
        ["First 1.", "First 2."],
        ["First 3."],
        ["First 5.", "First 4."],
    ]
    assert pairs["test"][0][0].split("\n") == ["", "Body 5.", "More, by Email."]


def test_text_in_lines_is_cut_into_pieces_of_gpt2(prepare, converted, bpe, tmp_path):
    from fairseq.data.encoders.gpt2_bpe_utils import get_encoder

    for name, file in (("encoder.json", "vocab.json"), ("vocab.bpe", "merges.txt"), ("dict.txt", "dict.txt")):
        (tmp_path / name).write_bytes((converted / file).read_bytes())
    texts = {"source": ["the cat in the hat", "", "an Äpfel\u2028x"], "target": ["a cat", "dropped", "an Äpfel"]}
    for side, lines in texts.items():
        (tmp_path / f"test.{side}").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    options = ("--corpus", "cnndm", "--data-dir", tmp_path, "--parts", "test")
    lines = prepare(tmp_path / "out", *options)
    assert lines("test.source") == ["the cat in the hat", "an Äpfel x"] and lines("test.target") == [
        "a cat",
        "an Äpfel",
    ]
    encoder = get_encoder(*bpe.values())
    assert [encoder.decode(map(int, line.split())) for line in lines("test.bpe.source")] == lines("test.source")
    (tmp_path / "test.target").write_text("one\n")
    with pytest.raises(SystemExit, match="test: 4 lines of source, 2 of target"):
        prepare(tmp_path / "out", *options)


def test_the_table_takes_the_best_of_the_references(load, tmp_path, monkeypatch, capsys):
    stock = "H-1\t-0.1\tx\nD-1\t-0.1\ta b\nH-0\t-0.1\ty\nD-0\t-0.1\tc d\n"
    timing = "INFO: Translated 2 sentences (5 tokens) in 1.5s (1.00 sentences/s)\n"
    state = "decoder state: peak 2.50 MiB; stock would keep 7.50 MiB for the same batch, 3.0x\n"
    (tmp_path / "stock").write_text(stock + timing)
    (tmp_path / "ours").write_text(stock.replace("y\n", "z\n").replace("c d", "c x") + timing + state)
    (tmp_path / "one").write_text("c d\nx\n")
    (tmp_path / "two").write_text("x\na b\n")
    refs = ["--ref", str(tmp_path / "one"), "--ref", str(tmp_path / "two")]
    monkeypatch.setattr(sys, "argv", ["table.py", *refs, f"stock={tmp_path}/stock", f"ours={tmp_path}/ours"])
    load("summarization/table").main()
    *_, first, second, _, signature = capsys.readouterr().out.splitlines()
    assert first == "| stock | 100.00 | 100.00 | 100.00 | 100.00 | 2 of 2 | 1.5 | 7.5 MiB |"
    assert second == "| ours | 83.33 | 50.00 | 83.33 | 83.33 | 1 of 2 | 1.5 | 2.5 MiB |"
    assert signature.startswith("nrefs:2|case:lc|stem:no|tok:rouge|sent:punctuation|")


@pytest.fixture
def tree(tmp_path):
    """A copy of the project's folders, with the tests' environment instead of one that is installed."""
    for name in ("examples/summarization", "scripts"):
        shutil.copytree(ROOT / name, tmp_path / name)
    (tmp_path / "el_fairseq").symlink_to(ROOT / "el_fairseq")
    (tmp_path / "scripts/environment.sh").write_text(f'set -euo pipefail\ncd "{tmp_path}"\nPATH="{BIN}:$PATH"\n')
    return tmp_path


@pytest.mark.long
def test_the_small_configuration_runs_and_is_not_made_again(tree):
    dialogues(tree, 80, 4)

    def run_script(*options, ok=True):
        command = ["examples/summarization/run.sh", "--data-dir", tree, "--out", "out", *options]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=tree, capture_output=True, text=True, env=environment)
        assert (done.returncode == 0) == ok, done.stdout + done.stderr
        return done.stdout + done.stderr

    printed = run_script("--updates", "2", "--", "--max-len-b", "12")
    assert (
        "validation: nll_loss " in printed
        and "lossless in float32" in printed
        and "nrefs:3|" in printed
        and "trained: out/model.pt" in printed
    )
    rows = [line for line in printed.splitlines() if line.startswith(("| stock", "| el_"))]
    assert len(rows) == 3 and all("| 4 of 4 |" in row for row in rows)
    assert list((tree / "out/tensorboard").iterdir())
    before = {path: path.stat().st_mtime_ns for path in (tree / "out").rglob("*") if path.is_file()}
    again = run_script()
    assert [line for line in again.splitlines() if line.startswith("|")] == [
        line for line in printed.splitlines() if line.startswith("|")
    ]
    after = {path: path.stat().st_mtime_ns for path in (tree / "out").rglob("*") if path.is_file()}
    assert {path.name for path in after if after[path] != before.get(path)} == {"table.md"}
    assert "--config xsum needs --model" in run_script("--config", "xsum", ok=False)
    assert "--config other: there are tiny, cnndm and xsum" in run_script("--config", "other", ok=False)
