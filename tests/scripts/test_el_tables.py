"""Tables and figures from rows: the fastest batch, what does not fit, and the published numbers beside."""

import json

import pytest
from bench import el_tables, plot

ABOUT = {"device": "a CPU", "threads": 2, "torch": "2", "commit": "abc"}
SHAPE = {"arch": "bart_large", "source": 1024, "tokens": 140, "search": "beam", "beam": 4, "dtype": "float16"}


def row(label, batch, budget=None, **speeds):
    """A row of speeds, sentences a second by mode; None is out of memory."""
    fit = {mode: speed for mode, speed in speeds.items() if speed is not None}
    return {
        **ABOUT,
        **SHAPE,
        "label": label,
        "batch": batch,
        "memory_budget_gib": budget,
        "weights": "random",
        "seconds": {mode: batch / speed for mode, speed in fit.items()},
        "sentences_per_second": fit,
        "peak_mib": dict.fromkeys(fit, 1000.0),
        "out_of_memory": [mode for mode in speeds if mode not in fit],
    }


def state(batch, source, **mib):
    sizes = {name.replace("_", "-"): size for name, size in mib.items() if size is not None}
    missing = [name.replace("_", "-") for name, size in mib.items() if size is None]
    where = {"batch": batch, "source": source, "memory_budget_gib": None}
    return {**ABOUT, **SHAPE, **where, "state_mib": sizes, "out_of_memory": missing}


SPEED = [
    row("xsum", 32, stock=2.0, shared=3.0, on=4.0),
    row("xsum", 320, stock=None, shared=2.5, on=9.0),
    row("mine", 8, stock=None, shared=None, on=1.0),
    row("batch", 32, stock=2.0, shared=3.0, on=4.0),
    row("batch", 64, stock=None, shared=3.5, on=5.0),
    row("batch-budget", 16, budget=16.0, stock=None, shared=None, on=6.0),
]
STATE = [
    state(32, 256, per_beam=1536.0, stock=400.0, shared=384.0, on=16.0),
    state(8, 512, per_beam=None, stock=200.0, shared=192.0, on=8.0),
]


@pytest.fixture
def files(tmp_path):
    for name, rows in (("speed", SPEED), ("state", STATE)):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "speed", tmp_path / "state"


def test_all_tables(files, capsys):
    assert el_tables.main([str(file) for file in files]) == 0
    lines = capsys.readouterr().out.splitlines()
    for line in (
        "| XSum, BART | bart_large | beam 4 | 2.00 (32) | 3.00 (32) | 9.00 (320) | 4.50x | 14.7 | 69.4 | 4.7x |",
        "| mine | bart_large | beam 4 | OOM | OOM | 1.00 (8) |  | | | |",
        "| 32 | 2.00 | 3.00 | 4.00 | 1,000.00 | 1,000.00 | 1,000.00 | 5.7 | 8.0 |",
        "| 64 | OOM | 3.50 | 5.00 | OOM | 1,000.00 | 1,000.00 | OOM | 12.6 |",
        "| 320 |  |  |  |  |  |  | OOM | 28.6 |",  # published, and not measured here
        "| 16 | OOM | OOM | 6.00 | OOM | OOM | 1,000.00 |  |  |",
        "| 32 | 256 | 1,536.00 | 400.00 | 384.00 | 16.00 | 96x | 1.5 GB | 0.02 GB |",
        "| 8 | 512 | OOM | 200.00 | 192.00 | 8.00 |  |  |  |",
        "| 320 | 1024 |  |  |  |  |  | 60 GB | 0.63 GB |",
    ):
        assert line in lines, line
    assert sum("within 16 GiB" in line for line in lines) == 1
    assert sum("V100 16 GB" in line and "not measured here" in line for line in lines) == 4
    widths = [line.count("|") for line in lines]
    for i, line in enumerate(lines):
        if line.startswith("|---"):  # each table is as wide as its head, all the way down
            end = next((j for j in range(i, len(lines)) if not lines[j].startswith("|")), len(lines))
            assert set(widths[i - 1 : end]) == {widths[i]}, lines[i - 1]


def test_no_rows(tmp_path):
    with pytest.raises(SystemExit, match="have no rows"):
        el_tables.main([str(tmp_path / "none"), str(tmp_path / "neither")])


def test_figures(files, tmp_path, capsys):
    speed, state = map(str, files)
    plot.main(["throughput", str(tmp_path / "a.png"), speed, "--label", "batch"])
    plot.main(["memory", str(tmp_path / "b.png"), state])
    for name in "ab":
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(SystemExit):
        plot.main(["throughput", str(tmp_path / "c.png"), speed, "--label", "nobody"])
    assert "has no rows with the label nobody" in capsys.readouterr().err


def test_a_figure_shows_what_was_measured(monkeypatch, tmp_path):
    drawn = []
    monkeypatch.setattr(plot, "_save", lambda figure, path: drawn.append(figure))
    plot.throughput([r for r in SPEED if r["label"] == "batch"], tmp_path / "a.png")
    (axis,) = drawn[0].axes
    lines = {
        line.get_label(): line.get_xydata().tolist() for line in axis.lines if not line.get_label().startswith("_")
    }
    assert lines["stock"] == [[32, 2.0]] and lines["EL-attention"] == [[32, 4.0], [64, 5.0]]
    (cross,) = [line for line in axis.lines if line.get_marker() == "x"]
    assert cross.get_xdata().tolist() == [64]
