"""Language models by fairseq's commands: prompts of different lengths in one batch, however they are searched."""

import re

import pytest
from helpers.commands import ALL, LM, assert_same_output, lines_of, run

pytestmark = pytest.mark.slow
ARCHS = ("transformer_lm", "el_transformer_lm")
STEP_BY_STEP = "prompts are read token by token, without a prefill: "
OPTIONS = {  # of fairseq-generate; why prompts are consumed step by step, if they are
    "--beam 3 --nbest 2 --prefix-size 3": None,
    "--beam 2 --prefix-size 9": None,  # longer than some sentences: end-of-sentence and padding among the prompts
    "--beam 2 --nbest 2 --prefix-size 5 --sampling --sampling-topk 4 --seed 3": None,
    "--beam 2 --prefix-size 5 --lm-path {lm} --lm-weight 0.3": "--lm-path: another model scores every step",
    "--beam 2 --prefix-size 5 --retain-dropout --seed 3": "dropout (--retain-dropout): every step draws its own",
}


@pytest.fixture(scope="module")
def trained(text, tmp_path_factory):
    """The folder with a checkpoint of each architecture, and their losses."""
    folder, losses = tmp_path_factory.mktemp("lm"), []
    for arch in ARCHS:
        log = run(
            "fairseq-train",
            f"{text} --user-dir el_fairseq --task language_modeling --arch {arch} {LM} --dropout 0.1 --seed 4",
            f"--save-dir {folder}/{arch} --optimizer adam --lr 0.01 --max-tokens 400 --tokens-per-sample 32",
            "--max-update 30 --no-epoch-checkpoints --disable-validation --log-format simple",
        )
        losses.append(re.search(r"train \| epoch .* \| loss ([\d.]+)", log).group(1))
    return folder, losses


def path(trained, arch="transformer_lm"):
    return trained[0] / arch / "checkpoint_last.pt"


def generate(text, trained, task, options, arch="transformer_lm"):
    return run(
        "fairseq-generate",
        f"{text} --user-dir el_fairseq --path {path(trained, arch)} --task {task} --sample-break-mode eos",
        f"--max-len-b 20 --batch-size 16 {ALL}",
        options.format(lm=path(trained)),
    )


def test_the_el_architecture_trains_as_stock_and_continues_prompts_under_stocks_task(text, trained):
    assert trained[1][0] == trained[1][1]
    option = "--beam 2 --prefix-size 9"
    outputs = [generate(text, trained, "language_modeling", option, arch) for arch in ARCHS]
    assert_same_output(*outputs)


@pytest.mark.parametrize("options", OPTIONS)
def test_generate_prints_what_stock_prints(text, trained, options):
    expected = generate(text, trained, "language_modeling", options)
    assert len(lines_of(expected, "H")) == (80 if "--nbest 2" in options else 40)
    for mode in ("on", "auto"):
        actual = generate(text, trained, f"el_language_modeling --el-attention {mode}", options)
        assert_same_output(actual, expected)
        assert "decoder state: peak" in actual and "decodes with stock attention" not in actual
        said = re.findall(f"{STEP_BY_STEP}(.*)", actual)
        assert said == ([OPTIONS[options]] if OPTIONS[options] else [])


def test_interactive_continues_many_prompts_at_once(text, trained):
    lines = ["a b c d e f g h a", "h", "", "d e", "a b c", "g h a b c d", "c d e f g h a b"]
    command = f"{text} --user-dir el_fairseq --path {path(trained)} --buffer-size 8 --batch-size 8 --beam 3"
    outputs = [
        run("fairseq-interactive", command, f"--max-len-b 20 --task {task}", stdin="".join(f"{x}\n" for x in lines))
        for task in ("language_modeling", "el_language_modeling --el-attention on", "el_language_modeling")
    ]
    assert len(lines_of(outputs[0], "H")) == len(lines)
    for output in outputs[1:]:
        assert_same_output(output, outputs[0])
        assert "decoder state: peak" in output and STEP_BY_STEP not in output
