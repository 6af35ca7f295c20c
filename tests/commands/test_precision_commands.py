"""--bf16 under the el_ tasks: what float32 says, within what bfloat16 leaves open."""

import re

import pytest
from compare_outputs import Output, compare
from helpers.commands import ALL, LM, S2T, run

pytestmark = pytest.mark.slow
TASKS = {  # data, model, options of generation
    "translation": ("data", "--arch transformer_tiny --share-all-embeddings", ""),
    "language_modeling": (
        "text",
        f"--arch transformer_lm {LM} --tokens-per-sample 32",
        "--prefix-size 9 --sample-break-mode eos",
    ),
    "speech_to_text": ("speech", S2T, ""),
    "multilingual_translation": (  # a task that is configured by argparse
        "data",
        "--lang-pairs src-tgt --arch multilingual_transformer --encoder-embed-dim 32 --decoder-embed-dim 32 "
        "--encoder-layers 2 --decoder-layers 2 --encoder-ffn-embed-dim 32 --decoder-ffn-embed-dim 32 "
        "--encoder-attention-heads 2 --decoder-attention-heads 2",
        "--lang-pairs src-tgt -s src -t tgt",
    ),
}


LONG = ("language_modeling", "speech_to_text", "multilingual_translation")


@pytest.mark.parametrize("task", [pytest.param(task, marks=[pytest.mark.long] * (task in LONG)) for task in TASKS])
def test_bfloat16_is_float32_but_for_rounding(task, tmp_path, request):
    data, model, options = TASKS[task]
    folder = request.getfixturevalue(data)
    run(
        "fairseq-train",
        f"{folder} --user-dir el_fairseq --save-dir {tmp_path} --task {task} {model} --optimizer adam --lr 0.005",
        "--max-tokens 2000 --max-update 30 --seed 2 --no-epoch-checkpoints --disable-validation",
    )
    outputs, states = [], []
    for precision in ("", "--bf16"):
        printed = run(
            "fairseq-generate",
            f"{folder} --user-dir el_fairseq --path {tmp_path}/checkpoint_last.pt --task el_{task} --el-attention on",
            f"--beam 3 --max-len-b 12 --min-len 12 --batch-size 16 {ALL} {options} {precision}",
        )
        assert ("generates in bfloat16" in printed) == bool(precision)
        (tmp_path / "out").write_text(printed)
        outputs.append(Output(tmp_path / "out"))
        states.append(float(re.search(r"decoder state: peak ([\d.]+) MiB", printed)[1]))
    assert states[1] < 0.7 * states[0]
    best, _, drifts = compare(*outputs)
    assert best > 0.3 * len(outputs[0].hypotheses)
    assert 0 < max(drifts) < 0.1
