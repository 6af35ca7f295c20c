"""Tasks beyond translation, end to end: fairseq-generate prints under the el_ twin what it prints under stock's."""

import re
import shutil

import pytest
from helpers.commands import ALL, BART, LM, S2T, assert_same_output, lines_of, run

pytestmark = pytest.mark.slow
TINY = "--arch transformer_tiny --share-all-embeddings"
MULTI = (
    "--arch multilingual_transformer --encoder-embed-dim 32 --encoder-ffn-embed-dim 32 --encoder-layers 2 "
    "--encoder-attention-heads 2 --decoder-embed-dim 32 --decoder-ffn-embed-dim 32 --decoder-layers 2 "
    "--decoder-attention-heads 2"
)
PAIR = "--source-lang src --target-lang tgt"
MASKED = "--tokens-per-sample 32 --sample-break-mode eos --mask 0.3 --replace-length 1"
LANGS = "--langs src,tgt"
BOTH_MODES = ("--el-attention on", "")
TASKS = {  # data, options of the task, the model to train, options of generation, modes, how many hypotheses
    "multilingual_translation": ("data", "--lang-pairs src-tgt", MULTI, PAIR, BOTH_MODES, 120),
    "translation_multi_simple_epoch": (
        "data",
        f"{LANGS} --lang-pairs src-tgt --encoder-langtok src --decoder-langtok",  # as M2M-100 and NLLB-200
        f"{TINY} --encoder-normalize-before --decoder-normalize-before",
        PAIR,
        BOTH_MODES,
        120,
    ),
    "denoising": ("mono", MASKED, BART, "", BOTH_MODES, 40),
    "multilingual_denoising": ("mono", f"{MASKED} {LANGS} --add-lang-token", BART, "", BOTH_MODES[:1], 80),
    "multilingual_language_modeling": (
        "mono",
        f"--tokens-per-sample 32 --sample-break-mode eos {LANGS} --multilang-sampling-alpha 0.7",
        f"--arch transformer_lm {LM}",
        "--prefix-size 3",
        BOTH_MODES[:1],
        80,
    ),
    "span_masked_lm": ("mono", "--tokens-per-sample 32 --sample-break-mode eos", BART, "", BOTH_MODES[:1], 40),
    "speech_to_text": ("speech", "", S2T, "", BOTH_MODES, 40),
}


@pytest.fixture(scope="session")
def mono(data, tmp_path_factory):
    """The toy data as each task of two languages expects it: a folder a language, and the pairs beside them."""
    folder, raw = tmp_path_factory.mktemp("mono"), data.parent
    for part in [*data.glob("test*"), *data.glob("valid*")]:
        shutil.copy(part, folder)
    shutil.copy(data / "dict.src.txt", folder / "dict.txt")
    for language, size in (("src", 200), ("tgt", 100)):  # stock's multilingual sampling fails with equal sizes
        for split, lines in (("train", size), ("test", 20)):
            whole = (raw / f"{split}.{language}").read_text().splitlines(keepends=True)
            (folder / f"{split}.{language}").write_text("".join(whole[:lines]))
        run(
            "fairseq-preprocess",
            f"--only-source --srcdict {folder}/dict.txt --trainpref {folder}/train.{language}",
            f"--testpref {folder}/test.{language} --destdir {folder}/{language}",
        )
        if language == "src":  # where denoising, which knows no languages, looks for its data
            for part in (folder / language).iterdir():
                if re.match(r"(train|test)\.(bin|idx)", part.name):
                    shutil.copy(part, folder)
    return folder


def train(folder, save_dir, task, options, model, updates=15):
    return run(
        "fairseq-train",
        f"{folder} --user-dir el_fairseq --save-dir {save_dir} --task {task} {options} {model} --optimizer adam",
        f"--lr 0.005 --max-tokens 2000 --max-update {updates} --seed 2 --no-epoch-checkpoints --disable-validation",
        "--log-format simple --log-interval 1",
    )


def generate(folder, save_dir, task, *options):
    return run(
        "fairseq-generate",
        f"{folder} --user-dir el_fairseq --path {save_dir}/checkpoint_last.pt --task {task}",
        f"--beam 3 --nbest 2 --max-len-b 20 --batch-size 16 {ALL}",
        *options,
    )


LONG = ("multilingual_denoising", "span_masked_lm", "multilingual_language_modeling", "translation_multi_simple_epoch")


@pytest.mark.parametrize("task", [pytest.param(task, marks=[pytest.mark.long] * (task in LONG)) for task in TASKS])
def test_generates_as_stock(task, tmp_path, request):
    data, options, model, more, modes, hypotheses = TASKS[task]
    folder = request.getfixturevalue(data)
    train(folder, tmp_path, task, options, model)
    expected = generate(folder, tmp_path, task, options, more)
    assert len(lines_of(expected, "H")) == hypotheses
    for mode in modes:
        output = generate(folder, tmp_path, f"el_{task} {mode}", options, more)
        assert_same_output(output, expected)
        assert "decoder state: peak" in output and "decodes with stock attention" not in output


def test_semisupervised_translation_generates_as_stock(data, tmp_path):
    """By a model of multilingual_translation: stock's own training step ends with a KeyError, for any data."""
    train(data, tmp_path, "multilingual_translation", "--lang-pairs src-tgt", MULTI)
    task = f"semisupervised_translation --lang-pairs src-tgt {PAIR}"
    expected = generate(data, tmp_path, task)
    output = generate(data, tmp_path, f"el_{task} --el-attention on")
    assert len(lines_of(expected, "H")) == 120
    assert_same_output(output, expected)
    assert "decoder state: peak" in output and "decodes with stock attention" not in output


@pytest.mark.long
def test_online_backtranslation_trains_and_generates_as_stock(mono, tmp_path):
    options = "--mono-langs src,tgt --valid-lang-pairs src-tgt"
    losses, outputs = [], []
    for task in ("online_backtranslation", "el_online_backtranslation --el-attention on"):
        log = train(mono, tmp_path / task.split()[0], task, options, f"{TINY} --dropout 0.1", updates=6)
        losses.append(re.findall(r"train_inner .* bt_loss=([\d.]+)", log))
        outputs.append(generate(mono, tmp_path / "online_backtranslation", task, options))
    assert losses[0] == losses[1] and len(losses[0]) == 6
    assert_same_output(*outputs)
    assert len(lines_of(outputs[0], "H")) == 120
    assert "decoder state: peak" in outputs[1] and "decodes with stock attention" not in outputs[1]


def test_mbart_generates_as_with_stock_attention(data, tmp_path):
    """Stock's own task fails (no attribute 'args'), so its twin with stock attention is what to compare with."""
    mbart = BART.replace("bart_base", "mbart_base")
    mbart = f"{mbart} --encoder-normalize-before --decoder-normalize-before --layernorm-embedding"
    options = f"{PAIR} --langs src,tgt,other"
    task = "el_translation_from_pretrained_bart --el-attention"
    train(data, tmp_path, f"{task} off", options, mbart, updates=30)
    expected, output = [generate(data, tmp_path, f"{task} {mode}", options) for mode in ("off", "on")]
    assert len(lines_of(expected, "H")) == 120
    assert_same_output(output, expected)
    assert "decoder state: peak" in output and "decodes with stock attention" not in output


def test_an_adaptive_language_model_continues_prompts_as_stock(text, tmp_path):
    cutoffs = (
        "--adaptive-input-cutoff 5,8 --adaptive-softmax-cutoff 5,8 --criterion adaptive_loss --ddp-backend legacy_ddp"
    )
    options = "--tokens-per-sample 32 --sample-break-mode eos"
    train(text, tmp_path, "language_modeling", options, f"--arch transformer_lm_wiki103 {LM} {cutoffs}")
    expected, output = [
        generate(text, tmp_path, task, options, "--prefix-size 3")
        for task in ("language_modeling", "el_language_modeling --el-attention on")
    ]
    assert len(lines_of(expected, "H")) == 80
    assert_same_output(output, expected)
    assert "decoder state: peak" in output and "decodes with stock attention" not in output
