"""The benchmark of training steps, and the figures of attention variants."""

import json

import pytest
import torch
from bench import plot, training
from torch import nn

TINY = ["--layers", "1", "--sentences", "3", "--length", "5", "--vocabulary", "20", "--rounds", "1"]


class Squares(nn.Module):
    """Log-probabilities of which each is kept for the backward pass once, beside what the loss keeps."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(7))

    def forward(self, src_tokens, **others):
        hidden = torch.arange(src_tokens.numel() * 7.0).view(*src_tokens.shape, 7) * self.weight
        return hidden * hidden

    def get_normalized_probs(self, output, log_probs):
        return output


def test_what_backward_keeps_is_counted_once_and_without_parameters(monkeypatch):
    tokens = torch.full((2, 5), 4)
    monkeypatch.setattr(training, "label_smoothed_nll_loss", lambda scores, *rest, **options: (scores.sum(), None))
    kept = training.kept_bytes(Squares(), {"net_input": {"src_tokens": tokens}}, pad=1)
    assert (
        kept == 2 * 2 * 5 * 7 * 4
    )  # the numbers that the weight multiplies; hidden, of which the square keeps both sides


def test_a_row_for_each_variant_and_number_of_heads(tmp_path, capsys):
    path = tmp_path / "rows.jsonl"
    training.main([*TINY, "--variant", "mha,sha", "--heads", "2,4", "--head-width", "8", "--json", str(path)])
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(row["heads"], row["width"], row["variant"]) for row in rows] == [
        (2, 16, "mha"),
        (2, 16, "sha"),
        (4, 32, "mha"),
        (4, 32, "sha"),
    ]
    for mha, sha in (rows[:2], rows[2:]):
        n, d = mha["heads"], 8  # of three attentions: projections with biases, and the output projection
        fewer = 3 * ((3 * n**2 - 3 * n) * d**2 + 3 * (n - 1) * d + n * d * (n - 1) * d)
        assert mha["parameters"] - sha["parameters"] == fewer
        assert mha["mib"] > sha["mib"] > 0 and mha["ms"] > 0
    printed = capsys.readouterr().out
    assert printed.count("| mha |") == printed.count("| sha |") == 2 and "1.00x" in printed
    drawn = tmp_path / "a.png"
    plot.main(["training", str(drawn), str(path)])
    assert drawn.read_bytes().startswith(b"\x89PNG")


def test_a_profile_has_the_operators_of_a_step(capsys):
    training.main([*TINY, "--variant", "mha,mhe-mul", "--width", "16", "--heads", "2", "--profile"])
    lines = capsys.readouterr().out.splitlines()
    rows = {line.split(" | ")[0][2:]: line.split(" | ")[1:] for line in lines if line.startswith("| ")}
    assert rows["operator"] == ["mha, ms", "mhe-mul, ms |"] and len(rows) == 2 + training.OPERATORS
    assert any("addmm" in name for name in rows)
    del rows["operator"]
    for column in (0, 1):
        times = {name: float(cells[column].removesuffix(" |")) for name, cells in rows.items()}
        assert 0 < sum(times.values()) - times["all"] <= times["all"] + 1  # rounded


def test_an_encoder_alone_is_trained(capsys):
    training.main([*TINY, "--arch", "mhe_roberta", "--variant", "mhe-mul", "--width", "8"])
    assert "| 4 | 8 | mhe-mul |" in capsys.readouterr().out


@pytest.mark.parametrize(
    "options, message",
    [
        (["--variant", "gqa"], "--variant gqa: choose of"),
        (["--heads", "3", "--width", "8"], "--heads 3 does not divide --width 8"),
        (["--arch", "transformer"], "--arch transformer: choose an architecture with attention variants"),
        (["--arch", "mhe_nothing"], "--arch mhe_nothing: choose an architecture with attention variants"),
        (["--heads", "4,0"], "--heads 0: it is at least 1"),
        (["--rounds", "0"], "--rounds 0: it is at least 1"),
        (["--head-width", "0"], "--head-width 0: it is at least 1"),
    ],
)
def test_bad_options_are_named(options, message, capsys):
    with pytest.raises(SystemExit):
        training.main(options)
    assert message in capsys.readouterr().err


def test_the_figure_of_parameters_has_the_formulas(monkeypatch, tmp_path):
    drawn = []
    monkeypatch.setattr(plot, "_save", lambda figure, path: drawn.append(figure))
    plot.main(["parameters", str(tmp_path / "a.png")])
    wide, narrow = ({line.get_label(): dict(line.get_xydata()) for line in axis.lines} for axis in drawn[0].axes)
    assert wide["mha"][8] == 3 * 512**2 and wide["sha"][8] == 3 * 512 * 64 and wide["mhe"][8] == 3 * 512 * 65
    assert narrow["mha"][2] == narrow["mha"][32] == 3 * 1024**2 and narrow["mqa"][4] == 1024**2 + 2 * 1024 * 256


def test_figures_name_what_they_do_not_read(tmp_path, capsys):
    with pytest.raises(SystemExit):
        plot.main(["parameters", str(tmp_path / "a.png"), str(tmp_path / "rows.jsonl")])
    assert "parameters reads no rows" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        plot.main(["training", str(tmp_path / "a.png")])
    assert "training reads a file of rows" in capsys.readouterr().err
    rows = [{"arch": "mhe_transformer", "layers": layers, "capability": "AVX2"} for layers in (2, 3)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(SystemExit, match="the rows are of several models"):
        plot.main(["training", str(tmp_path / "a.png"), str(tmp_path / "rows.jsonl")])
    with pytest.raises(SystemExit):
        plot.main(["training", str(tmp_path / "a.png"), str(tmp_path / "rows.jsonl"), "--label", "other"])
    assert "has no rows with the label other" in capsys.readouterr().err
