"""The benchmark reports a speed only with identical outputs; memory that runs out is a result."""

import json

import pytest
import torch
from bench import contest, decode, models
from helpers.commands import train
from helpers.fake_graph import capture

from el_fairseq.generation import attention_step, plan
from el_fairseq.modules import el_attention

TINY = "--arch transformer_tiny --batch 2 --source 20 --tokens 6 --rounds 1 --cpu"


@pytest.fixture(autouse=True)
def small_vocabulary(monkeypatch):
    monkeypatch.setattr(models, "VOCABULARY", {"transformer": 50, "bart": 50, "lm": 50})


@pytest.fixture
def bench(tmp_path):
    """``bench(options, ...)``: what the file of rows has afterwards."""

    def run_with(*options):
        out = tmp_path / "out.json"
        decode.main([word for option in options for word in option.split()] + ["--json", str(out)])
        return [json.loads(line) for line in out.read_text().splitlines()]

    return run_with


@pytest.fixture
def tiny_base(monkeypatch):
    tiny = models.Shape("transformer_tiny", {"encoder_layers": 1})
    monkeypatch.setitem(models.SHAPES, "base", tiny)


def test_prints_and_writes_one_row(bench, capsys):
    (row,) = bench(TINY)
    printed = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[3] for line in printed[3:]] == ["stock", "auto", "on"]
    assert [line.endswith("2 of 2 identical, 0 ties |") for line in printed[3:]] == [False, True, True]
    assert set(row["seconds"]) == {"stock", "auto", "on"} and set(row["speedup"]) == {"auto", "on"}
    assert row["state_mib"]["on"] < row["state_mib"]["auto"] < row["state_mib"]["stock"]
    for mode, took in row["seconds"].items():
        assert row["sentences_per_second"][mode] == pytest.approx(2 / took)
        assert row["tokens_per_second"][mode] == pytest.approx(2 * 6 / took)
    assert row["weights"] == "random" and row["out_of_memory"] == [] and row["peers"] == {}


@pytest.mark.usefixtures("tiny_base")
def test_a_row_for_each_combination(bench):
    rows = bench(TINY, "--arch base,transformer_tiny --batch 3 --search greedy,diverse --beam 2,3 --modes shared,mixed")
    searches = [("greedy", 1), ("diverse", 2), ("diverse", 3)]
    expected = [(arch, *search) for arch in ("base", "transformer_tiny") for search in searches]
    assert [(row["arch"], row["search"], row["beam"]) for row in rows] == expected
    assert {found for row in rows for found in row["lossless"].values()} == {"3 of 3 identical, 0 ties"}
    assert all(set(row["speedup"]) == {"shared", "mixed"} for row in rows)


def test_eager_steps_are_captured_again_afterwards(bench, monkeypatch):
    captured = []
    monkeypatch.setattr(plan, "capturer", lambda device: lambda run: captured.append(1) or capture(run))
    (row,) = bench(TINY, "--modes eager")
    assert not captured
    (row, *_) = bench(TINY, "--modes eager,auto")[1:]
    assert captured and set(row["lossless"].values()) == {"2 of 2 identical, 0 ties"}


def test_bart_is_stock_again_for_one_beam_after_four(bench):
    """BART's attention remembers the beams of the last search, and a generator with one beam does not tell it."""
    bart = {"encoder_embed_dim": 32, "encoder_ffn_embed_dim": 32, "encoder_layers": 1, "decoder_layers": 2}
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 4}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(models.SHAPES, "tiny_bart", models.Shape("bart_base", {**bart, **heads}))
        rows = bench(TINY.replace("transformer_tiny", "tiny_bart"), "--search beam,greedy --modes shared,on")
    assert [set(row["lossless"].values()) for row in rows] == [{"2 of 2 identical, 0 ties"}] * 2


def test_language_models_continue_prompts(bench):
    (row,) = bench("--arch transformer_lm_gpt2_tiny --batch 3 --source 20 --shortest 9 --tokens 5 --rounds 1 --cpu")
    assert set(row["lossless"].values()) == {"3 of 3 identical, 0 ties"} and row["shortest"] == 9
    assert row["state_mib"]["on"] < row["state_mib"]["stock"]
    lengths = models.random_lengths(models.Random(1), 3, 9, 20)
    generated = sum(20 + 5 - length for length in lengths)  # all hypotheses end where the longest one does
    assert row["tokens_per_second"]["on"] * row["seconds"]["on"] == pytest.approx(generated)


def test_lengths_of_a_text_in_batches_of_neighbours(bench, tmp_path):
    (tmp_path / "text").write_text("".join("word " * n + "\n" for n in (3, 30, 7, 11, 5, 9)))
    assert models.lengths_of(tmp_path / "text", 3, 2.0, 100) == [61, 19, 11]
    assert models.lengths_of(tmp_path / "text", 6, 2.0, 20) == [20, 20, 19, 15, 11, 7]
    (row,) = bench(TINY, f"--lengths-of {tmp_path / 'text'} --sentences 5 --batch 2 --modes on")
    assert (row["sentences"], row["batch"], row["lossless"]["on"]) == (5, 2, "5 of 5 identical, 0 ties")


def test_refuses_a_speed_when_outputs_differ(monkeypatch, capsys):
    right = attention_step.el_output
    for module in (attention_step, el_attention):  # in a step, and in float64, which goes through modules
        monkeypatch.setattr(module, "el_output", lambda *args: right(*args).flip(-1) * 50)
    with pytest.raises(SystemExit, match="no speed to report: --el-attention on differs for sentences"):
        decode.main([*TINY.split(), "--modes", "on"])
    assert "| stock |" not in capsys.readouterr().out.splitlines()[-1]


def test_differences_that_float64_resolves_are_ties(bench, monkeypatch):
    right = attention_step.el_output

    def wrong_in_float32(*args):
        return right(*args) if args[0].dtype is torch.float64 else right(*args).flip(-1) * 50

    monkeypatch.setattr(attention_step, "el_output", wrong_in_float32)
    (row,) = bench(TINY, "--modes on")
    assert row["lossless"]["on"].endswith(" 2 ties")


def test_out_of_memory_is_a_result(bench, monkeypatch, capsys):
    """Stock runs out of memory with more than one sentence: what it is compared with comes from halves."""
    right = contest.Contest._step

    def step(self, generator, sample):
        if type(generator) is contest.SequenceGenerator and len(sample["id"]) > 1:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")
        return right(self, generator, sample)

    monkeypatch.setattr(contest.Contest, "_step", step)
    (row,) = bench(TINY, "--batch 3 --modes on")
    assert row["out_of_memory"] == ["stock"] and set(row["seconds"]) == {"on"} and row["speedup"] == {}
    assert row["lossless"] == {"on": "3 of 3 identical, 0 ties"}
    assert "| stock | OOM |" in capsys.readouterr().out


def test_other_errors_are_no_result(monkeypatch):
    def step(*args):
        raise RuntimeError("shapes cannot be multiplied")

    monkeypatch.setattr(contest.Contest, "_step", step)
    with pytest.raises(RuntimeError, match="multiplied"):
        decode.main(TINY.split())


def test_resumes(bench, monkeypatch, capsys):
    (first,) = bench(TINY, "--modes on")
    built = []
    right = decode.Subject
    monkeypatch.setattr(decode, "Subject", lambda *args: built.append(args[0]) or right(*args))
    assert bench(TINY, "--modes on --resume") == [first] and not built
    assert f"| on | {first['seconds']['on']:.3f} |" in capsys.readouterr().out.splitlines()[-1]
    assert len(bench(TINY, "--modes shared,on --resume")) == 2  # a mode more
    assert len(bench(TINY, "--modes on --tokens 5 --resume")) == 3 and len(built) == 2


@pytest.mark.parametrize(
    "options, message",
    [
        ("--search best", "--search best: choose of greedy, beam, diverse"),
        ("--peer marian", "--peer marian: choose of ctranslate2, transformers"),
        ("--path model.pt", "--path and --data go together"),
        ("--resume", "--resume needs --json"),
    ],
)
def test_wrong_command_lines(options, message, capsys):
    with pytest.raises(SystemExit):
        decode.main(options.split())
    assert message in capsys.readouterr().err


def test_unknown_shapes_are_refused():
    with pytest.raises(ValueError, match="--arch gpt5: no architecture of fairseq, and none of base, small, big"):
        decode.main(["--arch", "gpt5", "--cpu"])


def test_a_shape_with_another_attention(bench):
    (row,) = bench(TINY.replace("transformer_tiny", "transformer_tiny/mhe-mul"), "--modes auto")
    assert row["arch"] == "transformer_tiny/mhe-mul" and row["lossless"]["auto"].startswith("2 of 2 identical")
    whole, fewer = (
        models.build_model(shape, models.build_task(shape))
        for shape in map(models.shape_of, ("small/mha", "small/mhe-mul"))
    )
    assert fewer.attention_variant == "mhe-mul"
    n, d = 4, 32  # of nine attentions: the projections of Q, K and V with their biases
    saved = sum(p.numel() for p in whole.parameters()) - sum(p.numel() for p in fewer.parameters())
    assert saved == 9 * ((3 * n**2 - 3 * n) * d**2 - 3 * n * d + 3 * (n - 1) * d)


@pytest.mark.parametrize("name", ["small/gqa", "bart_base/mhe-mul"])
def test_a_shape_without_that_attention_is_refused(name):
    with pytest.raises(ValueError, match=f"--arch {name}: an architecture with an mhe_ twin, and after / one of"):
        models.shape_of(name)


@pytest.mark.slow
def test_a_real_checkpoint(data, tmp_path, bench):
    options = "--arch transformer_tiny --share-all-embeddings"
    train(data, tmp_path / "model", options, until="--max-update 2")
    path = tmp_path / "model/checkpoint_last.pt"
    (row,) = bench(f"--path {path} --data {data} --batch 8 --sentences 20 --source 9 --tokens 12 --rounds 1 --cpu")
    assert set(row["lossless"].values()) == {"20 of 20 identical, 0 ties"}
    assert (row["arch"], row["weights"], row["min_tokens"]) == (path.name, str(path), 1)
    assert row["tokens_per_second"]["on"] * row["seconds"]["on"] < 20 * 12  # hypotheses end by themselves
