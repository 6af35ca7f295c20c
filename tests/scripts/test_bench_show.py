"""scripts.bench.show: tables from rows of the benchmarks."""

import json

import pytest
from bench import show

SIZES = {"batch": 2, "source": 25, "shortest": 13, "tokens": 30, "beam": 4, "dtype": "float32", "search": "beam"}


@pytest.fixture
def shown(tmp_path, capsys):
    """``shown(kind, rows)``: the cells of the table, without its header."""

    def get(kind, rows):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        show.main([kind, str(path)])
        lines = capsys.readouterr().out.splitlines()
        assert len({line.count("|") for line in lines}) == 1
        return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]

    return get


def decoded(seconds, **more):
    speedup = {name: seconds["stock"] / took for name, took in seconds.items() if name != "stock"}
    return {"arch": "base", **SIZES, "seconds": seconds, "speedup": speedup, "commit": "abc", **more}


def test_of_rows_that_measure_the_same_the_last_one_counts(shown):
    rows = [
        decoded({"stock": 9, "auto": 1}),
        decoded({"stock": 4, "auto": 2}),
        decoded({"stock": 8, "auto": 2}, batch=1),
    ]
    found = shown("decode", rows)
    assert found == [
        ["base", "2 x 13-25, 30", "4.000 s", "2.00x", "abc"],
        ["base", "1 x 13-25, 30", "8.000 s", "4.00x", "abc"],
    ]


def test_another_engine_has_a_table_of_its_own(shown):
    peer = decoded({"stock": 6, "auto": 2, "ctranslate2": 3}, peers={"ctranslate2": {}}, shortest=25)
    rows = [decoded({"stock": 4, "auto": 2}), peer]
    assert shown("peers", rows) == [["base", "2 x 25, 30", "6.000 s", "2.000 s", "3.000 s", "1.50x", "abc"]]
    assert len(shown("decode", rows)) == 1


def test_variants_are_compared_with_mha_round_by_round(shown):
    row = {"capability": "AVX2", "shape": "small", "state_mib": {"stock": 8, "auto": 4}}
    rows = [
        {**row, "variant": "sha", "seconds": {"stock": [4, 8, 6], "auto": [2, 4, 3]}},
        {**row, "variant": "mha", "seconds": {"stock": [9, 9, 9], "auto": [2, 8, 3]}},
        {**row, "variant": "mha", "seconds": {"stock": [9, 9, 9], "auto": [2, 8, 4.5]}},  # measured again
    ]
    assert shown("variants", rows) == [
        ["AVX2", "small", "sha", "6.000", "3.000", "2.00x", "1.50x (1.00 to 2.00)", "8.0 MiB", "4.0 MiB"],
        ["AVX2", "small", "mha", "9.000", "4.500", "2.00x", "1.00x", "8.0 MiB", "4.0 MiB"],
    ]


def test_training_has_a_row_a_model(shown):
    model = {"arch": "mhe_transformer", "layers": 3, "width": 64, "heads": 2, "sentences": 9}
    rows = [
        {**model, "variant": name, "ms": ms, "mib": 7.4, "attention_dropout": dropout, "capability": capability}
        for dropout, capability in ((0.0, "AVX2"), (0.1, "AVX2"), (0.0, "AVX512"))
        for name, ms in (("mha", 1200), ("mhe-mul", 1000))
    ]
    name = "`mhe_transformer`, 3+3 layers, width 64, 2 heads, 9 sentences"
    cells = ["1,200 ms, 7 MiB", "1.20x, 7 MiB"]
    assert shown("training", rows) == [
        ["AVX-512", name, *cells],
        ["AVX2", name, *cells],
        ["AVX2", f"{name}, attention dropout 0.1", *cells],
    ]
    with pytest.raises(SystemExit, match=f"AVX2, {name}, attention dropout 0.1: no row of mha".replace("+", r"\+")):
        shown("training", rows[3:])


def test_products_and_attention(shown):
    product = {"rows": 4, "shape": "8x16"}
    rows = [
        {**product, "dtype": f"torch.{t}", "gflops": {"linear": g, "packed": 2 * g}}
        for t, g in (("float32", 3), ("bfloat16", 5))
    ]
    assert shown("linear", rows) == [["4 x 8 x 16", "3", "6", "5", "10"]]
    row = {"batch": 1, "beam": 4, "source": 9, "dim": 64, "heads": 2, "dtype": "float32", "layout": "el"}
    row |= {"milliseconds": 1.234, "mebibytes": 5.67, "of_floor": 0.285}
    assert shown("attention", [row]) == [["1 x 4 x 9", "64, 2", "float32", "el", "1.23", "5.7", "28 %"]]


def test_no_rows_are_an_error(tmp_path, capsys):
    with pytest.raises(SystemExit):
        show.main(["decode", str(tmp_path / "none")])
    assert "none has no rows" in capsys.readouterr().err
