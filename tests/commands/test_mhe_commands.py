"""fairseq's commands with the mhe_ architectures: train, resume, distribute, validate, generate, evaluate, load."""

import re
import socket
import threading

import pytest
import torch
from helpers.commands import ROOT, assert_same_output, generate, lines_of, run, train

from el_fairseq.compat import load_checkpoint
from el_fairseq.models import MHETransformerLanguageModel, MHETransformerModel
from el_fairseq.modules import MHEAttention

pytestmark = pytest.mark.slow
TINY = "--arch mhe_transformer_tiny --encoder-normalize-before --share-all-embeddings"
TINY_LM = (
    "--arch mhe_transformer_lm --decoder-layers 2 --decoder-embed-dim 32 --decoder-input-dim 32 "
    "--decoder-output-dim 32 --decoder-ffn-embed-dim 32 --decoder-attention-heads 4"
)


@pytest.fixture(scope="session")
def checkpoint(data, tmp_path_factory):
    """A translation checkpoint of MHE-mul, trained with activation checkpointing; its log is ``checkpoint.log``."""
    folder = tmp_path_factory.mktemp("mhe")
    more = f"--checkpoint-activations --tensorboard-logdir {folder}/tensorboard"
    log = train(data, folder, TINY, more, until="--max-update 60")
    path = folder / "checkpoint_last.pt"
    return path, log


def losses(log):
    return [float(loss) for loss in re.findall(r"train_inner.*? loss=([\d.]+)", log)]


def test_training_learns_and_logs(checkpoint):
    path, log = checkpoint
    found = losses(log)
    assert len(found) == 12 and found[-1] < found[0] - 1
    assert "attention variant mhe-mul (encoder,decoder,cross): " in log
    assert list((path.parent / "tensorboard").rglob("events.*"))


def test_generates_the_same_under_stock_and_el_tasks(data, checkpoint):
    expected = generate(data, checkpoint[0], "--task translation --beam 4")
    assert len(lines_of(expected, "H")) == 120
    for mode in ("on", "off"):
        actual = generate(data, checkpoint[0], f"--task el_translation --el-attention {mode} --beam 4")
        assert_same_output(actual, expected)
        measured, stock = map(float, re.search(r"peak ([\d.]+) MiB; stock would keep ([\d.]+) MiB", actual).groups())
        assert 0 < measured < stock
        assert "decodes with stock attention" not in actual


def test_interactive_agrees_with_generate_and_validate_measures(data, checkpoint):
    path = checkpoint[0]
    lines = generate(data, path, "--task translation --beam 4").splitlines()
    source = next(line.split("\t")[1] for line in lines if line.startswith("S-7\t"))
    wanted = [line.split("\t")[2] for line in lines if line.startswith("H-7\t")]
    options = f"{data} --user-dir el_fairseq --path {path} --task el_translation --beam 4 --nbest 2 --max-len-b 20"
    output = run("fairseq-interactive", options, stdin=source + "\n")
    assert [line.split("\t")[2] for line in lines_of(output, "H")] == wanted
    log = run("fairseq-validate", f"{data} --user-dir el_fairseq --task translation --path {path} --max-tokens 800")
    loss = float(re.search(r"valid on 'valid' subset \| loss ([\d.]+)", log).group(1))
    assert 0 < loss < 4


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="stock's --fp16 needs a GPU")


# fairseq's command line takes --bf16 for a TPU's: bf16 is trained by Hydra, below
@pytest.mark.parametrize("precision", ["--memory-efficient-fp16", pytest.param("--fp16", marks=needs_gpu)])
def test_half_precision_training_learns(data, tmp_path, precision):
    log = train(data, tmp_path, TINY, f"--attention-variant mhe-add {precision} --fp16-init-scale 4")
    found = losses(log)
    assert found[-1] < found[0] - 0.3


def test_training_resumes(data, tmp_path):
    options = (data, tmp_path, TINY, "--attention-variant mhe-add")
    first, second = train(*options, until="--max-epoch 1"), train(*options, until="--max-epoch 2")
    assert f"Loaded checkpoint {tmp_path}/checkpoint_last.pt (epoch 2 @ 20 updates)" in second
    assert abs(losses(second)[0] - losses(first)[-1]) < 0.3


def test_two_processes_train_what_one_trains_with_twice_the_batches(data, tmp_path):
    """Gradients are averaged as they should be, k_head_embed's among them, which is zero."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    model = f"{TINY} --attention-variant mhe-add --cpu --dropout 0"
    options = (
        f"--distributed-world-size 2 --distributed-init-method tcp://localhost:{port} --distributed-no-spawn "
        "--distributed-backend gloo --ddp-backend legacy_ddp --distributed-rank"
    )
    ranks = [
        threading.Thread(target=train, args=(data, tmp_path / "two", model, f"{options} {rank}"), kwargs=SHORT)
        for rank in range(2)
    ]
    for rank in ranks:
        rank.start()
    train(data, tmp_path / "one", model, "--update-freq 2", **SHORT)
    for rank in ranks:
        rank.join()
    one, two = (load_checkpoint(tmp_path / n / "checkpoint_last.pt")["model"] for n in ("one", "two"))
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-3, atol=1e-4, msg=lambda m, name=name: f"{name}: {m}")


SHORT = {"until": "--max-update 8"}


@pytest.mark.parametrize(
    "precision",
    ["", pytest.param("common.bf16=true common.memory_efficient_bf16=true", marks=pytest.mark.long)],
    ids=["fp32", "bf16"],
)
def test_hydra_trains_the_example(data, tmp_path, precision):
    overrides = (
        f"task.data={data} task.source_lang=src task.target_lang=tgt model.attention_variant=mhe-add {precision} "
        f"optimization.max_update=2 model.encoder_embed_dim=32 dataset.max_tokens=800 hydra.run.dir={tmp_path}"
    )
    log = run("fairseq-hydra-train", f"--config-dir {ROOT}/examples/translation --config-name mhe", overrides)
    (path,) = tmp_path.rglob("checkpoint_last.pt")
    state = load_checkpoint(path)
    assert state["model"]["decoder.layers.2.encoder_attn.q_head_embed"].shape == (2, 16)
    assert ("MemoryEfficientFP16Optimizer" in str(state["optimizer_history"])) == bool(precision), log[-3000:]
    assert state["cfg"]["model"]["attention_variant"] == "mhe-add"
    assert len(lines_of(generate(data, path, "--task el_translation --beam 2"), "H")) == 120


def test_language_model_trains_evaluates_and_loads(text, tmp_path):
    log = run(
        "fairseq-train",
        f"{text} --user-dir el_fairseq --task language_modeling {TINY_LM} --attention-variant mhe-add",
        f"--save-dir {tmp_path} --optimizer adam --lr 0.01 --max-tokens 400 --tokens-per-sample 32 --max-update 60",
        "--no-epoch-checkpoints --log-format simple --log-interval 10 --attention-dropout 0.1",
    )
    assert losses(log)[-1] < losses(log)[0] - 1
    options = f"{text} --user-dir el_fairseq --path {tmp_path}/checkpoint_last.pt --tokens-per-sample 32"
    log = run("fairseq-eval-lm", options, "--context-window 16")
    assert float(re.search(r"Perplexity: ([\d.]+)", log).group(1)) < 3  # nine types; the alphabet is soon learnt
    hub = MHETransformerLanguageModel.from_pretrained(str(tmp_path), "checkpoint_last.pt", str(text))
    assert isinstance(hub.models[0].decoder.layers[0].self_attn, MHEAttention)
    assert hub.sample("a b c d", beam=2, max_len_b=8).startswith("a b c d e")


def test_translation_hub_translates(data, checkpoint):
    path = checkpoint[0]
    hub = MHETransformerModel.from_pretrained(str(path.parent), path.name, str(data))
    assert not MHETransformerModel.hub_models()
    lines = generate(data, path, "--task translation --beam 4").splitlines()
    sources = {line.split("\t")[0][2:]: line.split("\t")[1] for line in lines if line.startswith("S-")}
    best = {}
    for line in (line for line in lines if line.startswith("H-")):
        best.setdefault(line.split("\t")[0][2:], line.split("\t")[2])
    some = sorted(sources)[:8]
    assert hub.translate([sources[n] for n in some], beam=4, max_len_b=20) == [best[n] for n in some]


@pytest.mark.parametrize(
    "options, message",
    [
        ("--attention-variant gqa", "argument --attention-variant: invalid choice: 'gqa'"),
        (
            "--attention-variant-where head",
            "ValueError: --attention-variant-where head: choose from encoder, decoder, cro",
        ),
        (
            "--encoder-attention-heads 7",
            "ValueError: --encoder-embed-dim 64 is not divisible by --encoder-attention-heads 7",
        ),
    ],
    ids=["variant", "where", "heads"],
)
def test_bad_options_end_training_with_their_names(data, tmp_path, options, message):
    log = run(
        "fairseq-train",
        f"{data} --user-dir el_fairseq {TINY} --save-dir {tmp_path} --optimizer adam --max-tokens 800",
        options,
        ok=False,
    )
    assert message in log


def test_a_checkpoint_of_another_variant_is_refused_by_training_and_generation(data, checkpoint, tmp_path):
    message = "ValueError: --attention-variant mqa (--attention-variant-where cross,decoder,encoder): "
    log = run(
        "fairseq-train",
        f"{data} --user-dir el_fairseq {TINY} --attention-variant mqa --save-dir {tmp_path} --optimizer adam",
        f"--restore-file {checkpoint[0]} --max-tokens 800",
        ok=False,
    )
    assert message in log and "is mqa here, but mhe-mul in the checkpoint" in log
    log = generate(data, checkpoint[0], "--task translation --model-overrides {'attention_variant':'mqa'}", ok=False)
    assert message in log
