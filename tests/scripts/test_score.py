"""Scoring texts and outputs of fairseq-generate."""

import pytest
import score as script


@pytest.fixture
def texts(tmp_path):
    files = {"sys": "a b c\nd e\n", "one": "a b x\nd e\n", "two": "a b c\nf\n"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.fixture
def score(capsys):
    def score_(line):
        script.main(line.split())
        return capsys.readouterr().out.strip()

    return score_


def test_score_files(score, texts):
    assert score(f"--sys {texts}/sys --ref {texts}/one").startswith("ROUGE-1 = 83.33 ROUGE-2 = 75.00 ROUGE-L = 83.33 ")
    both = score(f"--sys {texts}/sys --ref {texts}/one --ref {texts}/two --rouge-stemming")
    assert both.startswith("ROUGE-1 = 100.00") and "nrefs:2|case:lc|stem:yes|" in both
    assert score(f"--sys {texts}/sys --ref {texts}/one --scoring chrf").startswith("chrF2 = ")


def test_score_what_was_generated(score, texts):
    lines = ["S-1\tx", "T-1\td e", "H-1\t-0.1\td e", "D-1\t-0.1\td e", "D-1\t-0.2\tz"]
    lines += ["T-0\ta b x", "H-0\t-0.1\ta b c", "D-0\t-0.1\ta b c"]
    (texts / "out").write_text("\n".join(lines) + "\n")
    assert score(f"--generated {texts}/out") == score(f"--sys {texts}/sys --ref {texts}/one")
    assert score(f"--generated {texts}/out --ref {texts}/two") == score(f"--sys {texts}/sys --ref {texts}/two")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--sys {0}/sys", "--sys needs --ref"),
        ("--sys {0}/sys --ref {0}/one --ref {0}/two --scoring sacrebleu", "--scoring sacrebleu takes one --ref"),
        ("--sys {0}/sys --ref {0}/short", "short: 1 lines, but there are 2 hypotheses"),
        ("--generated {0}/out", "give --ref FILE"),
    ],
)
def test_what_cannot_be_scored_is_named(score, texts, capsys, options, message):
    (texts / "short").write_text("a\n")
    (texts / "out").write_text("H-0\t-0.1\ta b c\nD-0\t-0.1\ta b c\n")
    with pytest.raises(SystemExit) as stop:
        score(options.format(texts))
    assert message in f"{stop.value} {capsys.readouterr().err}"
