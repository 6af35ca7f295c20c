"""The script that converts GPT-2 as a command, and fairseq's commands on what it wrote."""

import math
import re

import pytest
import torch
from helpers.commands import ALL, ROOT, run
from helpers.random_gpt2 import END, PROMPTS

from el_fairseq.compat import load_checkpoint

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def printed(folder, tmp_path_factory):
    """The output folder, and what the script prints when it runs as a command."""
    out = tmp_path_factory.mktemp("printed") / "out"
    return out, run("python", ROOT / "examples/language_modeling/convert_hf_gpt2.py", folder, out)


@pytest.mark.parametrize("task", ["language_modeling", "el_language_modeling"])
def test_the_command_that_the_script_prints(task, gpt2, printed, text_in_hf):
    out, output = printed
    parameters = sum(parameter.numel() for parameter in gpt2.parameters())
    *_, last = output.splitlines()
    assert last == f"wrote {out}: {parameters:,} parameters, 3 layers, 267 tokens"
    command = output[output.index("fairseq-interactive") : output.index(last)].replace("\\\n", " ")
    if task == "language_modeling":  # nothing of this package
        command = command.replace("--user-dir el_fairseq --task el_language_modeling", "--task language_modeling")
    command = command.replace("--max-len-b 50", "--max-len-b 9")
    output = run(*command.split(), stdin="".join(f"{prompt}\n" for prompt in PROMPTS))
    texts = re.findall(r"^D-\d+\t[^\t]+\t(.*)\nP-", output, re.MULTILINE)
    assert texts == [text_in_hf(prompt) for prompt in PROMPTS]


@pytest.fixture(scope="session")
def corpus(converted, tokenizer, tmp_path_factory):
    """Lines of text, binarised with the converted dictionary, and their numbers in transformers."""
    corpus = tmp_path_factory.mktemp("corpus")
    numbers = [tokenizer(prompt).input_ids for prompt in PROMPTS]
    (corpus / "text").write_text("".join(" ".join(map(str, line)) + "\n" for line in numbers))
    parts = f"--trainpref {corpus}/text --testpref {corpus}/text"
    run("fairseq-preprocess", f"--only-source --srcdict {converted}/dict.txt {parts} --destdir {corpus}/bin")
    assert (corpus / "bin/dict.txt").read_text() == (converted / "dict.txt").read_text()
    return corpus / "bin", numbers


def test_perplexity(corpus, gpt2, converted):
    data, lines = corpus
    losses = []
    for line in lines:
        tokens = torch.tensor([[END, *line, END]])
        with torch.no_grad():
            lprobs = gpt2(tokens[:, :-1]).logits.log_softmax(-1)
        losses += lprobs.gather(2, tokens[:, 1:].unsqueeze(2)).flatten().tolist()
    output = run("fairseq-eval-lm", f"{data} --path {converted}/model.pt --sample-break-mode eos --batch-size 2 {ALL}")
    loss = float(re.search(r"Loss \(base 2\): ([\d.]+)", output)[1])
    assert loss == pytest.approx(-sum(losses) / len(losses) / math.log(2), abs=1e-3)


def test_fine_tuning_starts_from_it(corpus, converted, tmp_path):
    sizes = "--decoder-layers 3 --decoder-embed-dim 32 --decoder-ffn-embed-dim 48 --decoder-attention-heads 4"
    run(
        "fairseq-train",
        f"{corpus[0]} --task language_modeling --arch transformer_lm_gpt --finetune-from-model {converted}/model.pt",
        "--decoder-learned-pos --no-scale-embedding --share-decoder-input-output-embed --activation-fn gelu_accurate",
        f"--tokens-per-sample 32 --max-target-positions 32 --sample-break-mode eos --save-dir {tmp_path} {sizes}",
        f"--optimizer sgd --lr 0 --max-tokens 64 {ALL} --max-update 1 --disable-validation --no-epoch-checkpoints",
        "--user-dir el_fairseq",
    )
    before, after = (
        load_checkpoint(path)["model"] for path in (converted / "model.pt", tmp_path / "checkpoint_last.pt")
    )
    assert before.keys() == after.keys()
    assert all(before[name].equal(after[name]) for name in before)
