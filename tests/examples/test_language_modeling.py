"""The language modelling example: data, perplexities, summaries by prompting."""

import sys
import zipfile

import pytest
from helpers.random_gpt2 import TEXT

WORDS = ["the", "cat", "in", "the", "hat", "sat", "on", "a", "mat", "and", "then", "it", "went", "to", "the", "sea"]


def test_a_small_run_trains_on_the_validation_part(load, tmp_path, monkeypatch, capsys):
    prepare = load("language_modeling/prepare")
    monkeypatch.setattr(prepare, "SHA256", {})
    (tmp_path / "valid.txt").write_text("".join(f"line {i}\n" for i in range(20)))
    (tmp_path / "test.txt").write_text("test\n\n")
    out = tmp_path / "out"
    monkeypatch.setattr(sys, "argv", ["prepare.py", str(out), "--data-dir", str(tmp_path), "--train", "valid"])
    prepare.main()
    assert (out / "train").read_text().splitlines() == [f"line {i}" for i in range(18)]
    assert (out / "valid").read_text().splitlines() == ["line 18", "line 19"]
    assert (out / "test").read_text() == "test\n\n"
    assert "train: 18 lines, 36 words" in capsys.readouterr().out


def test_damaged_and_missing_files_are_named(load, tmp_path):
    prepare = load("language_modeling/prepare")
    options = {"download": False, "record": tmp_path / "CHECKSUMS"}
    with pytest.raises(SystemExit, match="there is no test.txt"):
        prepare.lines_of("ptb", "test", tmp_path, **options)
    (tmp_path / "test.txt").write_text("other")
    with pytest.raises(SystemExit, match=r"test.txt: SHA-256 is \w+, not dd65dff3"):
        prepare.lines_of("ptb", "test", tmp_path, **options)
    assert not options["record"].exists()


def test_an_archive_is_downloaded_once_and_checked_from_then_on(load, tmp_path, monkeypatch, capsys):
    prepare = load("language_modeling/prepare")
    with zipfile.ZipFile(tmp_path / "wikitext-103-v1.zip", "w") as archive:
        for part in ("train", "valid", "test"):
            archive.writestr(f"wikitext-103/wiki.{part}.tokens", f" \n = {part} @-@ é = \n")
    monkeypatch.setitem(prepare.SOURCES, "wikitext-103", (tmp_path / "wikitext-103-v1.zip").as_uri())
    monkeypatch.setattr(sys, "argv", ["prepare.py", str(tmp_path / "out"), "--corpus", "wikitext-103"])
    prepare.main()
    assert capsys.readouterr().out.count("no checksum of it is published") == 4
    prepare.main()
    assert "downloading" not in (printed := capsys.readouterr().out) and "is published" not in printed
    assert (tmp_path / "out/train").read_text() == "\n= train @-@ é =\n"
    assert (tmp_path / "out/CHECKSUMS").read_text().splitlines()[3].endswith("  test.txt")
    (tmp_path / "out/raw/valid.txt").write_text("cut off")
    with pytest.raises(SystemExit, match=r"valid.txt: SHA-256 is \w+, not \w+; remove it"):
        prepare.main()


def test_an_extracted_archive_is_taken_as_it_is(load, tmp_path):
    prepare = load("language_modeling/prepare")
    (tmp_path / "wiki.valid.tokens").write_text("some text\n")
    lines = prepare.lines_of("wikitext-103", "valid", tmp_path, download=False, record=tmp_path / "CHECKSUMS")
    assert lines == ["some text"]


def test_the_table(load, tmp_path, monkeypatch, capsys):
    for name, perplexity in (("mha", 100.0), ("mqa", 105.0)):
        (tmp_path / f"{name}-1").mkdir()
        (tmp_path / f"{name}-1" / "summary.log").write_text(
            f"attention variant {name} (encoder,decoder,cross): 1,000 parameters in 3 attentions\n"
            "num. shared model params: 2,000 (num. trained: 2,000)\n"
            "train | epoch 001 | loss 9 | ppl 5.5e+08 | wps\ntrain | epoch 002 | loss 8 | ppl 250.25 | wps\n"
            f"Loss (base 2): 6.0, Perplexity: {perplexity}\n"
        )
    monkeypatch.setattr(sys, "argv", ["table.py", str(tmp_path)])
    load("language_modeling/table").main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[2:] == [
        "| mha | 1,000 / 2,000 | 250.2 | 100.0 | +0.0 % |",
        "| mqa | 1,000 / 2,000 | 250.2 | 105.0 | +5.0 % |",
    ]


def test_a_perplexity_of_any_size_is_read(load, tmp_path):
    (tmp_path / "summary.log").write_text(
        "attention variant mha (decoder): 1,000 parameters in 3 attentions\n(num. trained: 2,000)\n"
        "train | epoch 001 | loss 29 | ppl 4.99298e+08 | wps\nLoss (base 2): 6.0, Perplexity: 64.00\n"
    )
    assert load("language_modeling/table").read_run(tmp_path / "summary.log")["training"] == 499298000


def test_prompts_end_in_what_asks_for_a_summary_and_fit(load, converted):
    prompts = load("language_modeling/prompts")
    bpe = prompts.bpe_of(converted)
    for text in TEXT:
        whole, left_out = prompts.prompt(bpe, text, 1000)
        assert bpe.decode(" ".join(whole)) == f"{text} TL;DR:" and left_out == 0
    ask = bpe.encode(" TL;DR:").split()
    cut, left_out = prompts.prompt(bpe, "the cat in the hat", len(ask) + 3)
    assert cut == bpe.encode("the cat in the hat").split()[:3] + ask
    assert left_out == len(bpe.encode("the cat in the hat").split()) - 3


def test_articles_are_the_lines_of_one_file(load, tmp_path):
    prompts = load("language_modeling/prompts")
    with pytest.raises(SystemExit, match="0 files"):
        prompts.articles_in(tmp_path)
    (tmp_path / "test_2.source").write_text("one\u2028article\n\n")
    (tmp_path / "train.source").write_text("not this\n")
    assert prompts.articles_in(tmp_path) == ["one\u2028article", ""]
    (tmp_path / "test.source").write_text("")
    with pytest.raises(SystemExit, match="2 files"):
        prompts.articles_in(tmp_path)


def output_of(folder, name, summaries, log=""):
    """What fairseq-generate prints for prompts of two tokens, and two hypotheses each: a file."""
    lines = [log, "INFO:x:Translated 2 sentences (9 tokens) in 1.5s (1 sentences/s)"]
    for i, numbers in summaries.items():
        lines += [f"S-{i}\t5 {i}", f"H-{i}\t-0.5\t5 {i} {numbers}", f"D-{i}\t-0.5\t", f"H-{i}\t-0.7\t5 {i} 7"]
    (folder / name).write_text("".join(f"{line}\n" for line in lines))
    return f"{name}={folder / name}"


@pytest.mark.parametrize("differ", [False, True])
def test_summaries_are_what_follows_the_prompt(load, converted, tmp_path, monkeypatch, capsys, differ):
    script = load("language_modeling/summaries")
    bpe = script.bpe_of(converted)
    a, b = bpe.encode(" the cat\nin"), bpe.encode("a hat")
    log = "INFO:x:decoder state: peak 1.50 MiB; stock would keep 6.00 MiB for the same batch, 4.0x"
    outputs = [
        output_of(tmp_path, "stock", {1: a, 0: f"{b} <unk>"}),
        output_of(tmp_path, "on", {0: b if differ else f"{b} <unk>", 1: a}, log),
    ]
    written = tmp_path / "summaries"
    monkeypatch.setattr(sys, "argv", ["summaries.py", str(converted), *outputs, "--summaries", str(written)])
    assert script.main() == int(differ)
    assert written.read_text() == "a hat\nthe cat in\n"
    assert capsys.readouterr().out.splitlines()[2:] == [
        "| stock | 4 of 4 | 1.5 | 6.0 MiB |",
        f"| on | {3 if differ else 4} of 4 | 1.5 | 1.5 MiB |",
    ]


@pytest.fixture
def corpus(tmp_path):
    """A folder with a little text and two articles."""
    for part, size in (("train", 600), ("valid", 600), ("test", 300)):
        lines = (" ".join(WORDS[(i + j) % len(WORDS)] for j in range(i % 9)) for i in range(size))
        (tmp_path / f"{part}.txt").write_text("".join(f"{line}\n" for line in lines))
    (tmp_path / "test.source").write_text("the cat sat on a mat\nthen it went\n")
    return tmp_path


@pytest.mark.long
def test_the_full_configuration(shell, corpus):
    script, out = "language_modeling/compare.sh", corpus / "out"
    small = "--decoder-layers 2 --decoder-embed-dim 32 --decoder-ffn-embed-dim 32 --decoder-attention-heads 4 "
    small += "--max-update 2 --update-freq 1"
    options = ["--config", "full", "--data-dir", corpus, "--out", out, "--"]
    printed = shell(script, *options, *small.split())
    rows = [line.split("|")[1:4] for line in printed.splitlines() if line.startswith("| mh")]
    # 2 layers of 4 (D² + D) or, of 4 heads of width 8, 3 (8 D + 8) + 3 · 4 · 8 + D² + D
    assert [row[1].split(" / ")[0].strip() for row in rows] == ["8,448", f"{2 * (3 * 264 + 96 + 1056):,}"]
    assert printed.splitlines()[-1].startswith("Trained: mha mhe-mul. ")
    for variant in ("mha", "mhe-mul"):
        for part in ("train", "valid"):
            assert list((out / f"{variant}-1/tensorboard" / part).glob("events.out.tfevents.*"))
    again = shell(script, *options)
    assert "training" not in again.replace("perplexity: training", "") and again.splitlines()[:4] == [
        line for line in printed.splitlines() if line.startswith("|")
    ]


def check_summaries(printed, out):
    """What summarize.sh printed and wrote for the two articles, at most 4 tokens each."""
    rows = [line.split("|")[2:5] for line in printed.splitlines() if line.startswith(("| stock", "| el_"))]
    assert [row[0] for row in rows] == [" 8 of 8 "] * 3
    stock, auto, on = (float(row[2].split()[0]) for row in rows)
    assert stock >= auto >= on > 0
    assert (out / "summaries.txt").read_text().count("\n") == 2
    assert printed.splitlines()[-1].startswith(f"Done: 2 summaries in {out}/summaries.txt")
    log = (out / "summary.log").read_text()
    assert log.count("Translated 2 sentences") == 3 and log.count("decoder state: peak") == 2
    assert "prompts are read token by token, without a prefill" not in (out / "generate.on").read_text()


@pytest.mark.long
@pytest.mark.slow
def test_a_converted_gpt2_summarizes(shell, corpus, converted):
    options = ["--config", "full", "--model", converted, "--data-dir", corpus, "--tokens", 20, "--out", corpus / "out"]
    printed = shell("language_modeling/summarize.sh", *options, "--", "--max-len-b", 3)
    assert "2 articles: prompts of 17 to 20 tokens, 1 articles are cut" in printed
    check_summaries(printed, corpus / "out")


@pytest.mark.long
@pytest.mark.slow
def test_a_tiny_gpt2_is_trained_and_summarizes(shell, corpus):
    out = corpus / "out"
    (out / "text").mkdir(parents=True)
    (corpus / "train.txt").rename(out / "text/train")
    options = ["--config", "tiny", "--updates", 2, "--data-dir", corpus, "--out", out, "--", "--max-len-b", 3]
    printed = shell("language_modeling/summarize.sh", *options)
    assert "meaningless" in printed
    check_summaries(printed, out)
    assert list((out / "tensorboard").glob("*/events.out.tfevents.*"))
