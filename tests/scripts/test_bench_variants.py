"""Decoding of the attention variants in turn."""

import json
import logging
import statistics

import pytest
from bench import contest, variants


@pytest.fixture(autouse=True)
def logs(monkeypatch):
    """The tests that come after need them."""
    monkeypatch.setattr(logging, "disable", lambda level: None)


def test_variants_take_turns_and_are_compared_within_a_round(tmp_path, capsys, monkeypatch):
    order, path = [], tmp_path / "rows.jsonl"
    decode = contest.Contest.decode

    def noted(self, mode):
        order.append((self.model.attention_variant, mode))
        return decode(self, mode)

    monkeypatch.setattr(contest.Contest, "decode", noted)
    variants.main(["--shape", "small", "--variant", "mha,mhe-mul", "--rounds", "2", "--cpu", "--json", str(path)])
    assert order == 3 * [(variant, mode) for variant in ("mha", "mhe-mul") for mode in ("stock", "auto")]
    mha, mhe = (json.loads(line) for line in path.read_text().splitlines())
    assert [row["variant"] for row in (mha, mhe)] == ["mha", "mhe-mul"]
    assert all(len(row["seconds"][mode]) == 2 for row in (mha, mhe) for mode in ("stock", "auto"))
    assert mhe["state_mib"]["stock"] == mha["state_mib"]["stock"] > mha["state_mib"]["auto"]
    assert mhe["state_mib"]["auto"] < mha["state_mib"]["auto"] / 3  # 2d instead of D a token, and 4 heads
    against = statistics.median(a / b for a, b in zip(mha["seconds"]["auto"], mhe["seconds"]["auto"]))
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("| small | mhe-mul |"))
    assert f"| {against:.2f}x | 16 of 16 identical" in line


@pytest.mark.parametrize(
    "options, message",
    [
        (["--shape", "nothing"], "--arch nothing: no architecture of fairseq"),
        (["--variant", "gqa"], "--arch small/gqa: an architecture with an mhe_ twin, and after / one of"),
        (["--rounds", "1"], "--rounds 1: at least 2"),
    ],
)
def test_bad_options_are_named(options, message, capsys):
    with pytest.raises(SystemExit):
        variants.main([*options, "--cpu"])
    assert message in capsys.readouterr().err
