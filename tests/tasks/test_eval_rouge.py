"""``--eval-rouge``: what training logs is what fairseq-generate says of the same checkpoint."""

import re
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from fairseq.data import Dictionary
from fairseq.logging import metrics
from fairseq.tasks import TASK_DATACLASS_REGISTRY, TASK_REGISTRY
from helpers.commands import ALL, BART, ROOT, generate, run

from el_fairseq.scoring.rouge import MEASURES

ROUGE = "--scoring rouge --rouge-sentences newline --rouge-tokenizer 13a"


def validate(data, folder, *options):
    """Train for moments and validate; returns the last validation's ``{measure: value}``."""
    log = run(
        "fairseq-train",
        f"{data} --user-dir el_fairseq --task el_translation --save-dir {folder} --optimizer adam --lr 0.005 --seed 2",
        f"--max-tokens 800 --max-update 20 --no-epoch-checkpoints --log-format simple --max-tokens-valid 200 {ALL}",
        BART,
        *options,
    )
    lines = [line for line in log.splitlines() if re.search(r"valid on 'valid' subset.*num_updates 20\b", line)]
    # The first process logs, and the others do not.
    assert log.count("--eval-rouge: nrefs:1|case:lc|stem:no|tok:13a|sent:newline|rouge-score:") == len(lines)
    return {name: float(value) for name, value in re.findall(r"\| (\w*rouge\w+) ([\d.]+)", "".join(lines))}


@pytest.mark.slow
@pytest.mark.parametrize("processes", [pytest.param(1, marks=pytest.mark.long), 2])
def test_training_logs_what_generation_scores(processes, data, tmp_path):
    options = [
        f"""--eval-rouge --eval-rouge-args {{"beam":2,"max_len_b":20}} {ROUGE}""",
        "--best-checkpoint-metric rougeL --maximize-best-checkpoint-metric",
    ]
    if processes == 1:
        found = validate(data, tmp_path, *options)
    else:
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        options.append(
            f"--distributed-world-size 2 --distributed-init-method tcp://localhost:{port} --distributed-no-spawn "
            "--distributed-backend gloo --ddp-backend legacy_ddp --cpu --distributed-rank"
        )
        with ThreadPoolExecutor(2) as ranks:
            found, of_rank_1 = ranks.map(lambda rank: validate(data, tmp_path, *options, str(rank)), range(2))
        assert not of_rank_1
    output = generate(data, tmp_path / "checkpoint_last.pt", f"--gen-subset valid --beam 2 {ROUGE}")
    (scored,) = (line for line in output.splitlines() if line.startswith("Generate valid with beam=2: ROUGE-1"))
    expected = [float(score) for score in re.findall(r" = ([\d.]+)", scored)]
    assert [found[name] for name in ("rouge1", "rouge2", "rougeL", "rougeLsum")] == pytest.approx(expected, abs=0.011)
    assert found["rouge1"] > 0


@pytest.mark.long
@pytest.mark.slow
def test_hydra_validates_with_it(data, tmp_path):
    overrides = (
        f"task._name=el_translation task.data={data} task.source_lang=src task.target_lang=tgt +task.eval_rouge=true "
        "optimization.max_update=2 model.encoder_embed_dim=32 dataset.max_tokens=800 "
        f"dataset.disable_validation=false dataset.validate_interval_updates=2 hydra.run.dir={tmp_path}"
    )
    log = run("fairseq-hydra-train", f"--config-dir {ROOT}/examples/translation --config-name mhe", overrides)
    assert re.search(r'"valid_rougeL": "[\d.]+"|rougeL [\d.]+', log), log[-3000:]


class Criterion:
    @staticmethod
    def reduce_metrics(logs):
        """Nothing of its own."""


def build_task(**options):
    words = Dictionary()
    return TASK_REGISTRY["el_translation"](TASK_DATACLASS_REGISTRY["el_translation"](**options), words, words), words


@pytest.mark.parametrize("number", [float, torch.tensor], ids=["one process", "summed over processes"])
def test_batches_count_by_their_texts(number):
    task, _ = build_task(eval_rouge=True)
    with metrics.aggregate(new_root=True) as total:
        for texts, score in ((1, 10.0), (3, 90.0)):
            sums = {f"_{name}": number(texts * score) for name in MEASURES}
            task.reduce_metrics([{"_rouge_texts": number(texts), "ntokens": 1, "nsentences": 1, **sums}], Criterion())
    assert [total.get_smoothed_values()[name] for name in MEASURES] == [70.0] * 4


def test_texts_are_made_as_by_fairseq_generate():
    task, words = build_task(eval_rouge=True, eval_rouge_remove_bpe="@@ ")
    tokens = torch.tensor([words.add_symbol(word) for word in ("un@@", "known", "word")] + [words.unk(), words.eos()])
    task._rouge_decoders = []
    assert task._text(tokens) == "unknown word <unk>"
    assert task._text(tokens, escape_unk=True) == "unknown word <<unk>>"
