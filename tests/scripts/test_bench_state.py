"""What is kept of the source, measured, is what the shapes say."""

import json

import pytest
import torch
from bench import models, state

LAYERS, WIDTH, BATCH, SOURCE, BEAMS, FLOAT = 2, 32, 3, 17, 4, 4
SIZES = {
    f"{part}_{name}": size
    for part in ("encoder", "decoder")
    for name, size in (("layers", LAYERS), ("embed_dim", WIDTH))
}
HEADS = {"encoder_attention_heads": 4, "decoder_attention_heads": 4}
HIDDEN = SOURCE * WIDTH * FLOAT
MASK = SOURCE + FLOAT  # a sentence's padding mask and its length
PER_BEAM = BATCH * BEAMS * (2 * HIDDEN + MASK + LAYERS * (2 * HIDDEN + FLOAT * SOURCE))  # output, embedding, K and V


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(models, "VOCABULARY", dict.fromkeys(models.VOCABULARY, 50))
    for name, arch in (("plain", "transformer"), ("bart", "bart_base")):
        monkeypatch.setitem(models.SHAPES, name, models.Shape(arch, {**SIZES, **HEADS}))


@pytest.fixture(params=["plain", "bart"])
def kept(request):
    """Bytes by layout, all measured with one model, first in one order and then in the other."""
    model = state.build(request.param, "float32", torch.device("cpu"))
    measured = {}
    for layout in [*state.LAYOUTS, *reversed(state.LAYOUTS)]:
        size = state.kept_of_source(model, layout, BATCH, SOURCE, BEAMS)
        assert measured.setdefault(layout, size) == size, layout
    return request.param, measured


def test_sizes_are_those_of_the_shapes(kept):
    name, measured = kept
    assert measured["per-beam"] == PER_BEAM
    if name == "plain":  # BART shares keys and values among beams since fairseq 0.12
        assert measured["stock"] == PER_BEAM
    else:
        assert BATCH * (2 + 2 * LAYERS) * HIDDEN < measured["stock"] < PER_BEAM / 3
    assert BATCH * HIDDEN <= measured["on"] <= BATCH * (HIDDEN + 2 * MASK)
    assert 2 * LAYERS * BATCH * HIDDEN <= measured["shared"] <= BATCH * ((2 * LAYERS + 1) * HIDDEN + 2 * MASK)


def test_rows_and_resuming(tmp_path, capsys, monkeypatch):
    out = tmp_path / "rows"
    options = ["--arch", "plain", "--batch", "1,2", "--source", "9", "--dtype", "float32", "--cpu", "--json", str(out)]
    state.main(options)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(row["batch"], row["out_of_memory"]) for row in rows] == [(1, []), (2, [])]
    assert rows[1]["state_mib"]["on"] == pytest.approx(2 * rows[0]["state_mib"]["on"], rel=0.1)
    monkeypatch.setattr(state, "build", lambda *args: pytest.fail("measured again"))
    state.main([*options, "--resume"])
    assert capsys.readouterr().out.count("| plain | 2 | 9 |") == 2


def test_out_of_memory_is_a_result(monkeypatch, capsys):
    right = state.kept_of_source

    def kept_of_source(model, layout, *shape):
        if layout == "per-beam":
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")
        return right(model, layout, *shape)

    monkeypatch.setattr(state, "kept_of_source", kept_of_source)
    state.main(
        ["--arch", "plain", "--batch", "1", "--source", "9", "--dtype", "float32", "--cpu", "--layout", "per-beam,on"]
    )
    assert "| plain | 1 | 9 | OOM | 0.00 |" in capsys.readouterr().out


def test_language_models_have_no_source():
    with pytest.raises(SystemExit, match="a language model keeps nothing of a source"):
        state.main(["--arch", "gpt2_small", "--cpu"])
