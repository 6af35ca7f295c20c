"""scripts.bench.cpu_table: one command a shape, and the table of what was found."""

import json
import subprocess

import pytest
from bench import cpu_table, plot


@pytest.fixture
def calls(monkeypatch):
    """The commands that were run, with what differs in their environment; those of tiny models fail."""
    made = []

    def run(command, cwd, env):
        made.append((command[2:], {name for name in cpu_table.AVX2 if name in env}))
        return subprocess.CompletedProcess(command, int("transformer_tiny" in command))

    monkeypatch.setattr(cpu_table.subprocess, "run", run)
    return made


def test_a_command_for_each_shape(calls, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        cpu_table.main(["run", "--only", "base 1,BART base 8,trained 1", "--json", str(tmp_path / "rows")])
    assert ended.value.code and len(calls) == 2 and calls[0][1] == set()
    assert "--label base 1 --resume" in " ".join(calls[0][0]) and calls[0][0][-2:] == ["--peer", "ctranslate2"]
    assert calls[1][0][calls[1][0].index("--rounds") + 1] == "1"
    assert "2 of 3 shapes are in" in capsys.readouterr().out


def test_the_other_kind_of_processor_and_a_trained_model(calls, capsys):
    with pytest.raises(SystemExit) as ended:
        cpu_table.main(
            ["run", "--avx2", "--only", "trained 64,tiny 1", "--trained", "model.pt", "--trained-data", "bin"]
        )
    assert ended.value.code and calls[0][1] == set(cpu_table.AVX2)
    assert calls[0][0][-4:] == ["--path", "model.pt", "--data", "bin"]
    assert "not tiny 1" in capsys.readouterr().out


def test_the_table_has_the_newest_row_of_each_kind(tmp_path, capsys):
    row = {
        "label": "base 1",
        "capability": "AVX2",
        "seconds": {"stock": 2.0, "auto": 1.0, "on": 1.5, "ctranslate2": 1.1},
    }
    row["speedup"] = {"auto": 2.0, "on": 1.33}
    other = {"label": "base 1", "capability": "AVX512", "seconds": {"stock": 1, "auto": 1}, "speedup": {"auto": 1.0}}
    old = {**row, "seconds": {"stock": 9.0, "auto": 9.0}}
    (tmp_path / "rows").write_text("\n".join(map(json.dumps, (old, row, other))))
    cpu_table.main(["print", "--json", str(tmp_path / "rows")])
    lines = capsys.readouterr().out.splitlines()
    assert lines[2] == "| base 1 | 1.00 | 1.00x |  |  |  | 2.00 | 2.00x | 1.33x |  | 1.10x |"
    assert len(lines) == 3 and len({line.count("|") for line in lines}) == 1


def test_the_tables_and_the_figure_of_the_front_page(tmp_path, capsys, monkeypatch):
    rows = [
        {
            "label": name,
            "capability": kind,
            "seconds": {"stock": 3.0 + i, "auto": 1.0},
            "speedup": {"auto": 3.0 + i, "on": 1.5},
            "state_mib": {"stock": 1200.0, "auto": 60.0, "on": 24.0},
        }
        for i, kind in enumerate(cpu_table.CPUS)
        for name in cpu_table.SUMMARY
    ]
    (tmp_path / "rows").write_text("\n".join(map(json.dumps, rows)))
    cpu_table.main(["summary", "--json", str(tmp_path / "rows")])
    lines = capsys.readouterr().out.splitlines()
    cells = "| 3.00 s | 3.00x | 1.50x | 4.00 s | 4.00x | 1.50x | 1,200.0 MiB | 60.0 MiB | 24.0 MiB |"
    assert [line.removesuffix(cells) for line in lines[2:]] == [f"| {name} " for name in cpu_table.SUMMARY.values()]
    assert len({line.count("|") for line in lines}) == 1
    drawn = []
    monkeypatch.setattr(plot, "_save", lambda figure, path, about: drawn.append(figure))
    plot.main(["overview", str(tmp_path / "a.png"), str(tmp_path / "rows")])
    widths = [[round(bar.get_width(), 1) for bar in axis.patches[::5]] for axis in drawn[0].axes]
    assert widths == [[5.0, 2.0], [33.3, 66.7], [25.0, 66.7]]
    capsys.readouterr()
    cpu_table.main(["state", "--json", str(tmp_path / "rows")])
    assert capsys.readouterr().out.splitlines()[2] == "| base 1 | 1,200.0 MiB | 60.0 MiB | 24.0 MiB | 50.0x less |"


@pytest.mark.parametrize("options", [["--only", "huge"], ["--trained", "model.pt"]])
def test_wrong_options_are_named(options, capsys):
    with pytest.raises(SystemExit):
        cpu_table.main(["run", *options])
    assert options[0] in capsys.readouterr().err
