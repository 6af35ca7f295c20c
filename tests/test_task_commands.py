"""Tasks beyond translation, end to end: fairseq-generate prints under the el_ twin what it prints under stock's."""

import re

import pytest
from commands import ALL, assert_same_output, lines_of, run

pytestmark = pytest.mark.slow
TINY = "--arch transformer_tiny --share-all-embeddings"
PAIR = "--source-lang src --target-lang tgt"
TASKS = {  # options of the task, the model to train
    "multilingual_translation": (
        "--lang-pairs src-tgt",
        "--arch multilingual_transformer --encoder-embed-dim 32 --encoder-ffn-embed-dim 32 --encoder-layers 2 "
        "--encoder-attention-heads 2 --decoder-embed-dim 32 --decoder-ffn-embed-dim 32 --decoder-layers 2 "
        "--decoder-attention-heads 2",
    ),
    "translation_multi_simple_epoch": ("--langs src,tgt --lang-pairs src-tgt --decoder-langtok", TINY),
}


@pytest.mark.parametrize("task", TASKS)
def test_generates_as_stock(data, tmp_path, task):
    options, model = TASKS[task]
    run(
        "fairseq-train",
        f"{data} --user-dir el_fairseq --save-dir {tmp_path} --task {task} {options} {model}",
        "--optimizer adam --lr 0.005 --max-tokens 800 --max-update 15 --seed 2 --no-epoch-checkpoints",
        "--disable-validation",
    )
    outputs = [
        run(
            "fairseq-generate",
            f"{data} --user-dir el_fairseq --path {tmp_path}/checkpoint_last.pt --task {name} {options} {PAIR}",
            f"--beam 3 --nbest 2 --max-len-b 20 --batch-size 16 {ALL}",
        )
        for name in (task, f"el_{task} --el-attention on", f"el_{task}")
    ]
    assert len(lines_of(outputs[0], "H")) == 120
    for output in outputs[1:]:
        assert_same_output(output, outputs[0])
        assert "decoder state: peak" in output and "decodes with stock attention" not in output


def test_a_language_model_continues_prompts_as_stock(text, tmp_path):
    losses = []
    for arch in ("transformer_lm", "el_transformer_lm"):
        log = run(
            "fairseq-train",
            f"{text} --user-dir el_fairseq --task language_modeling --arch {arch} --decoder-layers 2",
            "--decoder-embed-dim 32 --decoder-input-dim 32 --decoder-output-dim 32 --decoder-ffn-embed-dim 32",
            f"--decoder-attention-heads 4 --save-dir {tmp_path}/{arch} --optimizer adam --lr 0.01 --max-tokens 400",
            "--tokens-per-sample 32 --max-update 30 --no-epoch-checkpoints --disable-validation --log-format simple",
        )
        losses.append(re.search(r"train \| epoch .* \| loss ([\d.]+)", log).group(1))
    assert losses[0] == losses[1]
    outputs = [
        run(
            "fairseq-generate",
            f"{text} --user-dir el_fairseq --path {tmp_path}/{arch}/checkpoint_last.pt --sample-break-mode eos",
            f"--beam 3 --nbest 2 --prefix-size 3 --max-len-b 20 --batch-size 16 {ALL} --task {task}",
        )
        for arch, task in (
            ("transformer_lm", "language_modeling"),
            ("transformer_lm", "el_language_modeling --el-attention on"),
            ("transformer_lm", "el_language_modeling"),
            ("el_transformer_lm", "language_modeling"),
        )
    ]
    assert len(lines_of(outputs[0], "H")) == 80
    for output in outputs[1:]:
        assert_same_output(output, outputs[0])
        assert "decodes with stock attention" not in output
        assert "decoder state: peak" in output or output is outputs[-1]
