"""fairseq's hub interfaces, before and after ``enable_el_attention``: the same texts and scores."""

import json
import logging
import re
import shutil
from pathlib import Path

import pytest
import torch
from fairseq import options, tasks
from fairseq.data import Dictionary
from fairseq.data.encoders.gpt2_bpe_utils import bytes_to_unicode
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.models.bart import BARTModel
from fairseq.models.transformer import TransformerDecoderBase, TransformerModel
from fairseq.models.transformer_lm import TransformerLanguageModel
from helpers.models import assert_close, assert_same_hypotheses
from omegaconf import OmegaConf

from el_fairseq import disable_el_attention, enable_el_attention
from el_fairseq.compat import load_checkpoint
from el_fairseq.generation import ELSequenceGenerator, prefill
from el_fairseq.generation.plan import PLANS
from el_fairseq.modules import ELMultiheadAttention

pytestmark = pytest.mark.usefixtures("float64")
ENCODER = "--encoder-embed-dim 16 --encoder-ffn-embed-dim 24 --encoder-layers 2 --encoder-attention-heads 2"
DECODER = "--decoder-embed-dim 16 --decoder-ffn-embed-dim 24 --decoder-layers 2 --decoder-attention-heads 2"
KINDS = {  # interface, task and architecture, attentions in the decoder
    "transformer": (TransformerModel, f"--task translation -s src -t tgt --arch transformer {ENCODER} {DECODER}", 4),
    "bart": (BARTModel, f"--task denoising --arch bart_base {ENCODER} {DECODER}", 4),
    "transformer_lm": (
        TransformerLanguageModel,
        f"--task language_modeling --arch transformer_lm --decoder-input-dim 16 --decoder-output-dim 16 {DECODER}",
        2,
    ),
}
LETTERS = "abcdefgh"
SENTENCES = ["a b c", "h g f e d c b a", "c", "d d a b"]
SEARCHES = {
    "beam": {"beam": 4, "lenpen": 0.6, "min_len": 3},
    "groups": {"beam": 4, "diverse_beam_groups": 2},
    "sampling": {"beam": 3, "sampling": True, "sampling_topk": 5},
}


@pytest.fixture(scope="session")
def saved(tmp_path_factory):
    """``saved(kind)``: a folder with the checkpoint of a random model, its dictionaries and its byte-pair encoding."""
    folders = {}

    def get(kind):
        if kind not in folders:
            folders[kind] = tmp_path_factory.mktemp(kind)
            _save(folders[kind], kind)
        return folders[kind]

    return get


def _save(folder, kind):
    words = Dictionary()
    if kind == "bart":  # what GPT-2's encoding makes of letters: numbers, in the dictionary as words
        pieces = [*LETTERS, "\u0120", *(f"\u0120{letter}" for letter in LETTERS)]
        (folder / "encoder.json").write_text(json.dumps({piece: i for i, piece in enumerate(pieces)}))
        (folder / "vocab.bpe").write_text("#version\n" + "".join(f"\u0120 {letter}\n" for letter in LETTERS))
        types = range(len(pieces))
    else:
        types = LETTERS
    for word in types:
        words.add_symbol(str(word))
    for name in ("dict.txt", "dict.src.txt", "dict.tgt.txt"):
        words.save(str(folder / name))
    arguments = f"{folder} {KINDS[kind][1]}".split()
    args = options.parse_args_and_arch(options.get_training_parser(), arguments)
    cfg = convert_namespace_to_omegaconf(args)
    model = tasks.setup_task(cfg.task).build_model(cfg.model)
    torch.manual_seed(3 if kind == "transformer" else 1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():  # so that what it says depends on what it reads
            if name.endswith("bias"):
                parameter.normal_(std=0.3)
            elif "norm" not in name:
                parameter.normal_(std=1.0 if "embed" in name or "attn" in name else 0.5)
    # BART's published checkpoints are from before 0.10; with "cfg" stock's own hub cannot load those of denoising
    how = {"args": args} if kind == "bart" else {"cfg": OmegaConf.to_container(cfg, resolve=True, enum_to_str=True)}
    history = [{"optimizer_name": "", "criterion_name": "", "lr_scheduler_state": {}, "num_updates": 0}]
    extra = {"train_iterator": {"epoch": 1}}
    torch.save(
        {**how, "model": model.state_dict(), "optimizer_history": history, "extra_state": extra}, folder / "model.pt"
    )


def load(folder, kind, **overrides):
    if kind == "bart":
        overrides.update(gpt2_encoder_json=f"{folder}/encoder.json", gpt2_vocab_bpe=f"{folder}/vocab.bpe")
    hub = KINDS[kind][0].from_pretrained(str(folder), "model.pt", str(folder), **overrides)
    return hub.eval().double()


def converted(hub):
    return sum(isinstance(module, ELMultiheadAttention) for module in hub.modules())


def answers(hub, kind, **search):
    """Texts and hypotheses that the interface gives; every request draws the same random numbers."""
    search.setdefault("max_len_b", 12)
    torch.manual_seed(3)
    texts = hub.translate(SENTENCES, **search) if kind == "transformer" else hub.sample(SENTENCES, **search)
    torch.manual_seed(3)
    hypotheses = hub.generate([hub.encode(sentence) for sentence in SENTENCES], **search)
    return texts, hypotheses


def assert_same_answers(actual, expected):
    assert actual[0] == expected[0]
    assert_same_hypotheses(actual[1], expected[1])


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("kind", KINDS)
def test_texts_and_scores_are_the_same_before_and_after(saved, kind, search):
    hub = load(saved(kind), kind)
    expected = answers(hub, kind, **SEARCHES[search])
    assert len(set(map(str, expected[0]))) > 1, "the same texts for all: the test shows little"
    for mode in ("on", "auto"):
        assert enable_el_attention(hub, mode) is hub
        assert converted(hub) == KINDS[kind][2]
        assert_same_answers(answers(hub, kind, **SEARCHES[search]), expected)
    disable_el_attention(hub)
    assert converted(hub) == 0
    assert_same_answers(answers(hub, kind, **SEARCHES[search]), expected)


@pytest.mark.parametrize("given", [{}, {"topk": 2, "beam": 4}, {"match_source_len": False, "max_len_b": 12}], ids=str)
def test_fill_mask(saved, given):
    hub = load(saved("bart"), "bart")
    masked = ["a b <mask> d", "<mask> c", "a b c d e f <mask> h"]
    expected = hub.fill_mask(masked, **given)
    assert [len(filled) for filled in expected] == [given.get("topk", 5)] * 3
    for mode in ("on", "auto", "off"):
        actual = enable_el_attention(hub, mode).fill_mask(masked, **given)
        for ours, stocks in zip(actual, expected, strict=True):
            assert [text for text, _ in ours] == [text for text, _ in stocks]
            assert_close(torch.stack([score for _, score in ours]), torch.stack([score for _, score in stocks]))


@pytest.mark.parametrize("kind", KINDS)
def test_scores_of_given_texts_and_features_are_the_same(saved, kind):
    """What does not generate goes through the converted modules too."""
    hub = load(saved(kind), kind)

    def outputs():
        if kind == "bart":
            return [hub.extract_features(hub.encode("a b c"))]
        tokens = hub.encode("a b c")[None]
        prefix = [tokens, torch.tensor([4]), tokens] if kind == "transformer" else [tokens]
        return [hub.models[0](*prefix)[0]]

    expected = outputs()
    enable_el_attention(hub, "on")
    for ours, stocks in zip(outputs(), expected, strict=True):
        assert torch.equal(ours, stocks)


@pytest.mark.parametrize("kind", KINDS)
def test_a_hub_of_an_el_task_generates_with_its_generator(saved, kind, monkeypatch):
    """Its task can be given when it is loaded; then requests go through ELSequenceGenerator."""
    stock = load(saved(kind), kind)
    task = f"el_{stock.cfg.task._name}"
    overrides = (
        {"task": task, "el_attention": "on"} if kind == "bart" else {"task": {"_name": task, "el_attention": "on"}}
    )
    hub = load(saved(kind), kind, **overrides)
    used, build = [], type(hub.task).build_generator
    monkeypatch.setattr(
        type(hub.task), "build_generator", lambda *args, **kwargs: used.append(build(*args, **kwargs)) or used[-1]
    )
    for search in SEARCHES.values():
        assert_same_answers(answers(hub, kind, **search), answers(stock, kind, **search))
    assert {type(generator) for generator in used} == {ELSequenceGenerator}
    assert converted(hub) == KINDS[kind][2] and converted(stock) == 0


@pytest.mark.parametrize("task", [None, "el_language_modeling"])
def test_sample_reads_all_prompts_at_once_after_enabling_and_not_before(saved, task, monkeypatch):
    """Whatever task the hub has, the mode that was asked for last counts."""
    hub = load(saved("transformer_lm"), "transformer_lm", **({"task": {"_name": task}} if task else {}))
    decoder, calls = hub.models[0].decoder, []
    forward, read = TransformerDecoderBase.forward, prefill.prefill_pass

    def forward_spy(self, tokens, *args, **kwargs):
        calls.append(tuple(tokens.shape))
        return forward(self, tokens, *args, **kwargs)

    def read_spy(decoder, tokens, keep):
        calls.append(tuple(tokens.shape))
        return read(decoder, tokens, keep)

    monkeypatch.setattr(TransformerDecoderBase, "forward", forward_spy)
    monkeypatch.setattr(prefill, "prefill_pass", read_spy)
    longest = max(len(hub.encode(sentence)) for sentence in SENTENCES)

    def first_pass():
        calls.clear()
        hub.sample(SENTENCES, beam=2, max_len_b=12)
        return calls[0]

    for mode in ("on", "auto"):
        enable_el_attention(hub, mode)
        assert first_pass()[0] == len(SENTENCES) and first_pass()[1] > longest - 2
        assert decoder.layers[0].self_attn.plan is PLANS[mode]
    disable_el_attention(hub)
    assert first_pass() == (2 * len(SENTENCES), 1) and converted(hub) == 0


def test_a_checkpoint_of_a_training_in_bf16_or_with_shards_loads_as_any_other(saved, tmp_path):
    folder = saved("transformer_lm")
    state = load_checkpoint(folder / "model.pt")
    state["cfg"]["task"].update(_name="el_language_modeling", el_attention="on")
    state["cfg"]["common"]["bf16"], state["cfg"]["dataset"]["num_shards"] = True, 4
    torch.save(state, tmp_path / "model.pt")
    (tmp_path / "dict.txt").write_text((folder / "dict.txt").read_text())
    hub, stock = load(tmp_path, "transformer_lm"), load(folder, "transformer_lm")
    assert_same_answers(answers(hub, "transformer_lm", beam=2), answers(stock, "transformer_lm", beam=2))
    assert next(hub.parameters()).dtype is torch.float64 and converted(hub) == 2


PAGE = (Path(__file__).parents[1] / "docs/generation.md").read_text()
IN_PYTHON = PAGE[PAGE.index("## Python\n") : PAGE.index("## Architectures\n")]
SNIPPETS = re.findall(r"```python\n(.*?)```", IN_PYTHON, re.DOTALL)


@pytest.fixture
def moved(saved, tmp_path):
    """A translation checkpoint whose training folder is gone, and a folder with the dictionaries, made as they are
    asked for: ``moved("cfg")`` as fairseq saves it today, ``moved("args")`` as it did before 0.10."""

    def get(form):
        model, data = tmp_path / "model", tmp_path / "data-bin"
        for folder in (model, data):
            folder.mkdir()
        for side in ("src", "tgt"):
            shutil.copy(saved("transformer") / f"dict.{side}.txt", data)
        state = load_checkpoint(saved("transformer") / "model.pt")
        if form == "args":
            arguments = f"gone {KINDS['transformer'][1]}".split()
            state["args"] = options.parse_args_and_arch(options.get_training_parser(), arguments)
            del state["cfg"]
        else:
            state["cfg"]["task"]["data"] = state["cfg"]["model"].data = "gone"
        torch.save(state, model / "model.pt")
        return str(model), str(data)

    return get


GIVEN = {"folder": {}, "languages": {"source_lang": "src", "target_lang": "tgt"}}


@pytest.mark.parametrize("given", GIVEN)
@pytest.mark.parametrize("form", ["cfg", "args"])
def test_whatever_loads_as_stock_is_enabled(saved, moved, form, given):
    """The recipe of docs/generation.md, where the training folder is gone."""
    expected = answers(load(saved("transformer"), "transformer"), "transformer", beam=4)
    model, data = moved(form)
    hub = TransformerModel.from_pretrained(model, "model.pt", data, **GIVEN[given]).eval().double()
    enable_el_attention(hub, "on")
    assert converted(hub) == 4
    assert_same_answers(answers(hub, "transformer", beam=4), expected)


@pytest.mark.parametrize("given", GIVEN)
def test_a_task_in_from_pretrained_that_misses_the_training_folder_says_what_to_write(moved, given):
    model, data = moved("cfg")
    task = {"_name": "el_translation", "el_attention": "on"}
    with pytest.raises(FileNotFoundError, match=r"leave out task= .* call enable_el_attention\(hub, mode='on'\) after"):
        TransformerModel.from_pretrained(model, "model.pt", data, task=task, **GIVEN[given])
    hub = TransformerModel.from_pretrained(model, "model.pt", data, task={**task, "data": data}, **GIVEN[given])
    assert len(hub.src_dict) == 12


def test_dictionaries_of_another_folder_than_the_one_given_are_reported(saved, moved, caplog):
    """Stock reads those of the training, where that folder is still there."""
    model, data = moved("cfg")
    task = {"_name": "el_translation", "data": str(saved("transformer"))}  # as if the checkpoint said so
    with caplog.at_level(logging.WARNING, logger="el_fairseq"):
        TransformerModel.from_pretrained(model, "model.pt", data)
        TransformerModel.from_pretrained(model, "model.pt", data, task={**task, "data": data})
        assert not caplog.messages
        TransformerModel.from_pretrained(model, "model.pt", data, task=task)
    (message,) = caplog.messages
    assert message.startswith(f"the dictionaries are those in {saved('transformer')}, not in {data}; ")


def test_a_language_model_with_another_task_says_whose_dictionaries_it_reads(saved, tmp_path, caplog):
    """Its options do not tell which folder was given."""
    folder = saved("transformer_lm")
    other = shutil.copytree(folder, tmp_path / "other")
    task = {"_name": "el_language_modeling", "el_attention": "on"}
    with caplog.at_level(logging.WARNING, logger="el_fairseq"):
        TransformerLanguageModel.from_pretrained(str(other), "model.pt")
        assert not caplog.messages
        TransformerLanguageModel.from_pretrained(str(other), "model.pt", task=task)
    (message,) = caplog.messages
    assert message.startswith(f"the dictionaries are those in {folder}; if that is wrong, leave out task= ")


@pytest.mark.parametrize("snippet", range(2), ids=["bart", "translation"])
def test_snippets_of_the_readme_run_as_printed(saved, moved, snippet, tmp_path, monkeypatch):
    """With a tiny BART in the place of the one to download, whose byte-pair encoding knows all bytes."""
    assert len(SNIPPETS) == 2
    moved("cfg")
    bart = shutil.copytree(saved("bart"), tmp_path / "bart")
    known = json.loads((bart / "encoder.json").read_text())
    (bart / "encoder.json").write_text(json.dumps({**dict.fromkeys(bytes_to_unicode().values(), 0), **known}))
    files = {"gpt2_encoder_json": f"{bart}/encoder.json", "gpt2_vocab_bpe": f"{bart}/vocab.bpe"}
    monkeypatch.setattr(BARTModel, "hub_models", lambda: {"bart.large.cnn": {"path": str(bart), **files}})
    monkeypatch.chdir(tmp_path)
    modes = []
    monkeypatch.setattr(
        "el_fairseq.enable_el_attention", lambda hub, mode: modes.append(mode) or enable_el_attention(hub, mode)
    )
    exec(SNIPPETS[snippet], {})
    assert modes == ["on"]
