"""On a GPU that is not there nothing mixes devices, no replayed step waits, and the documented waits are all."""

import pytest
import torch
from helpers.commands import ROOT
from helpers.fake_gpu import DEVICE, MayNotWaitError, fake_gpu, on_gpu
from helpers.gpu_rehearsal import LEARNED, SEARCHES, SHORT, WORDS, Rehearsal, cells_of
from helpers.models import batch, build_model

from el_fairseq import enable_el_attention
from el_fairseq.generation import plan
from el_fairseq.generation.encode import why_whole_batch
from el_fairseq.generation.live_beams import LiveBeams

TABLE = ROOT / "docs/results/gpu_rehearsal.txt"
CAPTURED = [name for name in SEARCHES if not name.endswith("not captured")]
WAITING = ("sampling", "diverse", "constrained")  # fairseq's searches do
pytestmark = [
    pytest.mark.skipif(torch.version.cuda is not None, reason="this PyTorch has CUDA, and asks for a driver"),
    pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor"),
]


def documented():
    """``{search: cells}`` of the table."""
    searches = TABLE.read_text().partition("\n\n")[0]
    lines = [line.strip("| ").split(" | ") for line in searches.splitlines() if line.startswith("| ")]
    return {cells[0]: cells for cells in lines[1:]}


LONG = ("constrained, not captured", "diverse, not captured", "sampling, one beam")


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.long] * (name in LONG)) for name in SEARCHES])
def test_a_step_waits_as_often_as_documented(name):
    found, written = cells_of(name), documented()[name]
    assert (found[0], *found[2:]) == (written[0], *written[2:])
    assert int(found[1]) == pytest.approx(int(written[1]), abs=3)  # versions of PyTorch compose operators differently
    if name in CAPTURED:
        assert (found[2] == "0") == (not any(search in name for search in WAITING))
        assert not any(part in found[4] for part in ("decoder_step.py", "cuda_graph.py", "cache/", "static_rows.py"))


@pytest.mark.parametrize("name", ["beam search", "language model after prompts"])
def test_places_where_a_batch_waits_are_documented(name):
    places = TABLE.read_text().partition("\n\n")[2]
    for what, place in SEARCHES[name].run(SHORT).waits:
        assert f"| {place} | {what} | " in places


def test_the_table_has_every_search():
    assert list(documented()) == list(SEARCHES)


@pytest.mark.parametrize(
    "name", [name for name in CAPTURED if name != "constrained"]
)  # which takes long, and waits above
def test_steps_are_captured(name):
    assert SEARCHES[name].run(SHORT).captures == len(SEARCHES[name].models)


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.long] * (name in LONG)) for name in SEARCHES])
def test_sentences_end_and_leave(name):
    """What is done where something ends: hypotheses are stored, sentences are pruned, steps are captured anew."""
    answers = {"hypotheses.py: add": 1, "pruning.py": 2, "buffer.py": 1}
    watch = SEARCHES[name].run(SHORT, answers)
    ours = {place for _, place in watch.waits if place.startswith("el_fairseq")}
    assert any("live_beams.py: advance" in place for place in ours)


def test_mixed_devices_are_noticed():
    with fake_gpu(), pytest.raises(RuntimeError, match="device"):
        torch.zeros(3, device=DEVICE) + torch.zeros(3)


def test_an_index_on_the_cpu_is_noticed():
    with fake_gpu(), pytest.raises(RuntimeError, match="device"):
        torch.zeros(3, 3, device=DEVICE).index_select(0, torch.tensor([1]))


def test_waits_are_noticed_with_their_place():
    with fake_gpu() as watch:
        x = torch.zeros(3, 2, device=DEVICE)
        bool(x.any()), x.nonzero(), x[x > 0], x.cpu(), torch.tensor([1], device=DEVICE), x.to("cpu", non_blocking=True)
    assert [what for what, _ in watch.waits] == ["value", "nonzero", "index by booleans", "copy"]
    assert sum(watch.waits.values()) == 5


def test_a_wait_in_a_captured_step_is_an_error():
    with fake_gpu() as watch:
        x = torch.zeros(3, device=DEVICE)
        with pytest.raises(MayNotWaitError, match="value at"):
            plan.capturer(DEVICE)(lambda: bool(x.any()))
        assert not watch.capturing


def test_a_search_that_is_wrong_on_a_gpu_is_found(monkeypatch):
    """A search that leaves a tensor on the CPU, and one that waits."""
    stock = LiveBeams.row_of
    monkeypatch.setattr(LiveBeams, "row_of", lambda self, beams: stock(self, beams) + torch.zeros(3, 1).long())
    with pytest.raises(RuntimeError, match="device"):
        Rehearsal().run(SHORT)
    monkeypatch.setattr(LiveBeams, "row_of", lambda self, beams: stock(self, beams) + int(beams.max()))
    assert sum(Rehearsal().of_a_step()[1].values()) == 1


def test_the_encoder_that_looks_at_lengths_is_not_for_a_gpu():
    model = enable_el_attention(build_model("transformer", WORDS, torch.float16, **LEARNED))
    sample = batch(WORDS, [9, 4, 7])
    with torch.no_grad():
        assert why_whole_batch(model, sample["net_input"]) is None
    with fake_gpu(), torch.no_grad():
        assert why_whole_batch(on_gpu(model), on_gpu(sample)["net_input"]) == "not a CPU"
