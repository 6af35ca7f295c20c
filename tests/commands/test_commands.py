"""fairseq's own commands with the plugin: the output is stock's, line by line."""

import re
import shutil
from pathlib import Path

import fairseq
import pytest
import torch
from fairseq.models.bart import BARTModel
from fairseq.models.transformer import TransformerModel
from helpers.commands import BART, LSTM, ROOT, assert_same_output, generate, lines_of, run, train

from el_fairseq import enable_el_attention
from el_fairseq.compat import load_checkpoint
from el_fairseq.modules import ELMultiheadAttention

MODELS = {
    "transformer": "--arch transformer_tiny --encoder-normalize-before",
    "bart": BART,
    "lstm": LSTM,
    "el_transformer": "--arch el_transformer_tiny --encoder-normalize-before",
}
pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def checkpoint(data, tmp_path_factory):
    """``checkpoint(model)``: a small checkpoint of that model, trained once."""
    trained = {}

    def get(model):
        if model not in trained:
            folder = tmp_path_factory.mktemp(model)
            trained[model] = (
                folder / "checkpoint_last.pt",
                train(data, folder, MODELS[model], "--share-all-embeddings" * (model != "lstm")),
            )
        return trained[model][0]

    get.logs = trained
    return get


@pytest.mark.parametrize("model", ["transformer", pytest.param("bart", marks=pytest.mark.long)])
@pytest.mark.parametrize("options", ["--beam 4", "--beam 3 --print-alignment --prefix-size 1 --lenpen 0.5"])
def test_generate_prints_what_stock_prints(data, checkpoint, model, options):
    path = checkpoint(model)
    expected = generate(data, path, "--task translation", options)
    assert len(lines_of(expected, "H")) == 120
    for mode in ("on", "auto", "off"):
        actual = generate(data, path, f"--task el_translation --el-attention {mode}", options)
        assert_same_output(actual, expected)
        assert actual.count("decoder state: peak") == 1
    assert "decoder state" not in expected


def test_a_model_that_cannot_take_part_says_so_once(data, checkpoint):
    path = checkpoint("lstm")
    expected = generate(data, path, "--task translation --beam 3")
    actual = generate(data, path, "--task el_translation --beam 3")
    assert_same_output(actual, expected)
    assert actual.count("LSTMModel decodes with stock attention: LSTMDecoder is not a Transformer decoder") == 1


def test_interactive_prints_what_stock_prints(data, checkpoint):
    stdin = "a b c\nh g f e d c b a\nc\na unknown d\n"
    options = (
        f"{data} --user-dir el_fairseq --path {checkpoint('transformer')} --beam 3 --buffer-size 4 --max-tokens 200"
    )
    expected = run("fairseq-interactive", options, "--task translation", stdin=stdin)
    actual = run("fairseq-interactive", options, "--task el_translation --el-attention on", stdin=stdin)
    assert_same_output(actual, expected)
    assert len(lines_of(expected, "H")) == 4
    assert "decoder state: peak" in actual


def test_el_architecture_trains_as_stock_and_exchanges_checkpoints(data, checkpoint):
    stock, ours = checkpoint("transformer"), checkpoint("el_transformer")
    losses = [re.findall(r" loss=([\d.]+)", checkpoint.logs[m][1]) for m in ("transformer", "el_transformer")]
    assert losses[0] == losses[1] and len(losses[0]) >= 6
    states = [load_checkpoint(path)["model"] for path in (stock, ours)]
    assert list(states[0]) == list(states[1])
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    expected = generate(data, stock, "--task translation --beam 4")
    # under the stock task, under the el_ task, and each checkpoint as a model of the other kind
    assert_same_output(generate(data, ours, "--task translation --beam 4"), expected)
    assert_same_output(generate(data, ours, "--task el_translation --el-attention off --beam 4"), expected)
    for path, name in ((stock, "el_transformer"), (ours, "transformer")):
        override = f"--model-overrides {{'_name':'{name}','arch':'{name}'}}"
        assert_same_output(generate(data, path, "--task translation --beam 4", override), expected)


OVERRIDES = {  # --model-overrides under a stock task and under ours, which lines of the log say so
    "both names": ("translation", "{'_name':'el_transformer','arch':'el_transformer'}", [("ELTransformerModel", "on")]),
    "arch alone, a stock task": ("translation", "{'arch':'el_transformer'}", []),
    "arch alone, an el_ task": ("el_translation", "{'arch':'el_transformer'}", [("TransformerModel", "auto")]),
}


@pytest.mark.parametrize("case", OVERRIDES)
def test_the_log_says_once_whether_el_attention_is_active(data, checkpoint, case):
    task, overrides, active = OVERRIDES[case]
    log = generate(data, checkpoint("transformer"), f"--task {task} --beam 2 --model-overrides {overrides}")
    assert re.findall(r"(\w+) decodes with EL-attention \(mode (\w+)\): 2 self-.*, 2 cross-", log) == active
    warned = "'arch': 'el_transformer' changes nothing without '_name', the model is a TransformerModel"
    assert log.count(warned) == (case == "arch alone, an el_ task")


def test_training_resumes_from_a_stock_checkpoint(data, tmp_path):
    """The second epoch starts where the first one ended: optimizer, updates and loss go on."""
    first = train(data, tmp_path, MODELS["transformer"], until="--max-epoch 1")
    second = train(data, tmp_path, MODELS["transformer"], until="--max-epoch 2")
    assert f"Loaded checkpoint {tmp_path}/checkpoint_last.pt (epoch 2 @ 20 updates)" in second
    losses = [[float(loss) for loss in re.findall(r"train_inner.* loss=([\d.]+)", log)] for log in (first, second)]
    assert len(losses[0]) == len(losses[1]) == 4
    assert losses[0][0] > 3.9 and abs(losses[1][0] - losses[0][-1]) < 0.3


BLEU = r"valid on 'valid' subset.*\| bleu ([\d.]+)"
EVALUATED = ("translation", "el_translation --el-attention on")


@pytest.fixture(scope="session")
def evaluated(data, tmp_path_factory):
    """Two trainings with ``--eval-bleu``, by stock's task and by ours: each folder and its log."""
    trained = {}
    for task in EVALUATED:
        folder = tmp_path_factory.mktemp("evaluated")
        trained[task] = (
            folder,
            run(
                "fairseq-train",
                f"{data} --user-dir el_fairseq --save-dir {folder} --optimizer adam --lr 0.005 --no-epoch-checkpoints",
                f"--max-tokens 800 --max-update 60 --seed 2 --task {task} --eval-bleu --max-target-positions 64",
                f"{MODELS['transformer']} --log-format simple",
            ),
        )
    return trained


def test_validation_with_bleu_while_training_is_stocks(evaluated):
    (_, stock), (_, ours) = (evaluated[task] for task in EVALUATED)
    assert re.findall(BLEU, ours) == re.findall(BLEU, stock) != []
    assert "decoder state: peak" in ours and "decoder state: peak" not in stock


def test_fairseq_validate_gives_stocks_bleu(data, evaluated):
    """Its task is that of the checkpoint."""
    logs = [
        run(
            "fairseq-validate",
            f"{data} --user-dir el_fairseq --path {evaluated[task][0]}/checkpoint_last.pt --task {task}",
            "--max-tokens 800 --valid-subset valid --log-format simple",
        )
        for task in EVALUATED
    ]
    stock, ours = ([line.split("|", 3)[3] for line in log.splitlines() if re.search(BLEU, line)] for log in logs)
    assert ours == stock and len(stock) == 1
    assert "decoder state: peak" in logs[1] and "decoder state: peak" not in logs[0]


@pytest.mark.parametrize("model", ["transformer", "bart"])
def test_hub_interfaces_generate_the_same_with_el_attention(data, checkpoint, model):
    folder, name = checkpoint(model).parent, checkpoint(model).name
    cls = {"transformer": TransformerModel, "bart": BARTModel}[model]
    options = {"bpe": None} if model == "bart" else {}
    hub = cls.from_pretrained(str(folder), name, str(data), **options)
    sentences = [hub.binarize(line) for line in ("a b c", "h g f e d c b a", "c")]
    outputs = []
    for mode in ("off", "on", "auto", "off"):
        assert enable_el_attention(hub, mode) is hub
        converted = [isinstance(module, ELMultiheadAttention) for module in hub.modules()]
        assert sum(converted) == (0 if mode == "off" else 4)
        generated = hub.generate(sentences, beam=3, max_len_b=20)
        outputs.append([[hypo["tokens"].tolist() for hypo in sentence] for sentence in generated])
        if model == "transformer":
            outputs[-1].append(hub.translate(["a b c", "d"], beam=2))
    assert outputs[0] == outputs[1] == outputs[2] == outputs[3]


@pytest.fixture
def installed(tmp_path):
    """A folder as site-packages is where pip has installed this package, not as a link, beside fairseq."""
    source, folder = tmp_path / "source", tmp_path / "site-packages"
    shutil.copytree(ROOT / "el_fairseq", source / "el_fairseq")
    for name in ("setup.py", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source)
    pip = f"-m pip install --quiet --no-deps --no-build-isolation --target {folder} {source}"
    run("python", pip)
    (folder / "fairseq").mkdir()  # fairseq looks for a --user-dir in the folder above its own
    for path in Path(fairseq.__file__).parent.iterdir():
        (folder / "fairseq" / path.name).symlink_to(path)
    return folder


def test_user_dir_works_from_any_folder_once_installed(data, checkpoint, installed, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(installed))
    options = f"--task el_translation --beam 2 --path {checkpoint('transformer')} --batch-size 16"
    output = run("fairseq-generate", f"{data} --user-dir el_fairseq", options, cwd=tmp_path, fresh=True)
    assert "decoder state: peak" in output


def check_lossless(*arguments, ok=True):
    return run("python", "scripts/check_lossless.py", *arguments, ok=ok)


@pytest.mark.parametrize("model", ["transformer", pytest.param("bart", marks=pytest.mark.long)])
def test_check_lossless_finds_stock_and_el_identical(model, data, checkpoint):
    output = check_lossless(data, f"--path {checkpoint(model)} --beam 4 --batch-size 16 --no-repeat-ngram-size 2")
    assert "identical best hypotheses  60" in output and "lossless in float32" in output
    assert "4 / 4 sentences=60, identical=60" in output  # progress


@pytest.mark.long
def test_check_lossless_fails_where_scores_drift(data, checkpoint):
    output = check_lossless(data, f"--path {checkpoint('transformer')} --beam 4 --max-drift 0 --limit 16", ok=False)
    assert re.search(r"NOT lossless in float32: a score drifts by \S+, more than --max-drift 0", output)


@pytest.mark.parametrize("level", [*(pytest.param(level, marks=pytest.mark.long) for level in (None, "INFO")), "DEBUG"])
def test_the_plan_is_logged_where_fairseqs_log_level_asks_for_it(level, data, checkpoint, monkeypatch):
    """Some modules of fairseq set the level of all logs to DEBUG when they are imported."""
    monkeypatch.delenv("LOGLEVEL", raising=False)
    if level is not None:
        monkeypatch.setenv("LOGLEVEL", level)
    output = generate(data, checkpoint("transformer"), "--task el_translation", fresh=True)
    assert ("el_fairseq.generation.plan" in output) == (level == "DEBUG")
    assert "decodes with EL-attention (mode auto)" in output


@pytest.mark.parametrize("form", ["--replace-unk", "--replace-unk words.txt"], ids=["copies", "dictionary"])
def test_replace_unk_is_refused_by_name(form, data, checkpoint):
    options = f"{data} --user-dir el_fairseq --path {checkpoint('transformer')} --task el_translation"
    output = run("fairseq-interactive", options, form, stdin="a b c\n", ok=False)
    assert "ValueError: --replace-unk" in output and "Leave it out; --print-alignment hard" in output
