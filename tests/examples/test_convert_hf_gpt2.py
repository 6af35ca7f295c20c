"""GPT-2 from transformers to fairseq: the same log-probabilities, tokens and text."""

import json
from types import SimpleNamespace

import pytest
import torch
from fairseq import utils
from fairseq.data.encoders.gpt2_bpe import GPT2BPE
from fairseq.models.transformer_lm import TransformerLanguageModel
from fairseq.sequence_generator import SequenceGenerator
from helpers.models import assert_close
from helpers.random_gpt2 import (
    END,
    MERGES,
    PROMPTS,
    SIZES,
    TEXT,
    TOKENS,
    in_fairseq,
    random_gpt2,
    random_tokens,
    write_vocabulary,
)

from el_fairseq import enable_el_attention
from el_fairseq.compat import load_checkpoint
from el_fairseq.generation import ELSequenceGenerator


def assert_same_logits(gpt2, out):
    model, _, numbers = in_fairseq(out)
    tokens = random_tokens(3, gpt2.config.n_positions, gpt2.config.vocab_size)
    order = torch.tensor([numbers[i] for i in range(len(numbers))])
    with torch.no_grad():
        expected = gpt2(tokens).logits
        actual = model(order[tokens])[0][..., order]
    assert_close(actual, expected, 1e-5)
    assert expected.std() > 0.5
    assert_close(actual.log_softmax(-1), expected.log_softmax(-1), 1e-5)


def test_the_logits_are_gpt2s(gpt2, converted):
    assert_same_logits(gpt2, converted)


@pytest.mark.parametrize(
    "options",
    [
        {"activation_function": "relu", "tie_word_embeddings": False},
        {"activation_function": "gelu", "reorder_and_upcast_attn": True, "attn_implementation": "eager"},
        {"n_layer": 1, "n_head": 1, "n_inner": None, "vocab_size": len(TOKENS)},
    ],
    ids=lambda options: "-".join(f"{key}={value}" for key, value in options.items()),
)
def test_options_that_fairseq_has(options, hf, convert, tmp_path):
    model = random_gpt2(hf, **options)
    model.save_pretrained(tmp_path)
    write_vocabulary(tmp_path)
    assert_same_logits(model, convert(tmp_path, tmp_path / "out"))


def test_the_activation_functions(hf, load):
    x = torch.linspace(-6, 6, 1001)
    for theirs, ours in load("language_modeling/convert_hf_gpt2").ACTIVATIONS.items():
        assert_close(utils.get_activation_fn(ours)(x), hf.activations[theirs](x), 1e-6)


def test_every_form_of_the_folder_gives_the_same(gpt2, hf, folder, tokenizer, converted, convert, tmp_path):
    forms = {name: tmp_path / name for name in ("bin", "shards", "double")}
    for form in forms.values():
        form.mkdir()
        (form / "config.json").write_text((folder / "config.json").read_text())
        write_vocabulary(form)
    # as old versions wrote it: no prefix, causal masks, the tied output once more;
    # merges.txt without header and last newline
    tensors = {name.removeprefix("transformer."): tensor for name, tensor in gpt2.state_dict().items()}
    for i in range(SIZES["n_layer"]):
        tensors.update({f"h.{i}.attn.bias": torch.ones(1, 1, 32, 32).tril(), f"h.{i}.attn.masked_bias": torch.ones(())})
    torch.save(tensors, forms["bin"] / "pytorch_model.bin")
    (forms["bin"] / "merges.txt").write_text("\n".join(MERGES), encoding="utf-8")
    gpt2.save_pretrained(forms["shards"], max_shard_size="20KB")
    assert len(list(forms["shards"].glob("*.safetensors"))) > 1
    # as transformers 5 saves a tokenizer
    (forms["shards"] / "vocab.json").unlink()
    tokenizer.save_pretrained(forms["shards"])
    assert not (forms["shards"] / "vocab.json").exists()
    torch.save({name: tensor.double() for name, tensor in tensors.items()}, forms["double"] / "pytorch_model.bin")
    expected = load_checkpoint(converted / "model.pt")
    for form in forms.values():
        out = convert(form, form / "out")
        actual = load_checkpoint(out / "model.pt")
        assert actual["model"].keys() == expected["model"].keys()
        for name, tensor in expected["model"].items():
            assert tensor.equal(actual["model"][name]) and actual["model"][name].dtype == torch.float32, name
        for name in ("dict.txt", "merges.txt"):
            assert (out / name).read_bytes() == (converted / name).read_bytes()
        assert json.loads((out / "vocab.json").read_text()) == json.loads((converted / "vocab.json").read_text())


def greedy(cls, model, task, prompt, **options):
    words = task.target_dictionary
    generator = cls([model], words, beam_size=1, **options)
    net_input = {"src_tokens": prompt, "src_lengths": torch.full((len(prompt),), prompt.size(1))}
    sample = {"id": torch.arange(len(prompt)), "net_input": net_input}
    return [hypos[0] for hypos in generator.generate([model], sample, prefix_tokens=prompt, bos_token=words.eos())]


@pytest.mark.parametrize("cls", [SequenceGenerator, ELSequenceGenerator])
@pytest.mark.parametrize("ends", [True, False], ids=["may end", "to the last position"])
def test_greedy_output_and_its_scores(ends, cls, gpt2, converted, continue_in_hf):
    """Prompts of several lengths; in one batch where they may end (elsewhere fairseq's min_len would not hold)."""
    model, task, numbers = in_fairseq(converted)
    words, back = task.target_dictionary, {ours: theirs for theirs, ours in numbers.items()}
    lengths, longest = [1, 4, 9, 17], SIZES["n_positions"] - 1
    prompts = [random_tokens(1, n, END, seed=n)[0].tolist() for n in lengths]
    if cls is ELSequenceGenerator:
        enable_el_attention(model, "on")
    batches = [prompts] if ends else [[prompt] for prompt in prompts]
    hypotheses = []
    for batch in batches:
        rows = [torch.tensor([numbers[token] for token in prompt]) for prompt in batch]
        rows = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=words.pad())
        hypotheses += greedy(cls, model, task, rows, max_len_b=1000, min_len=1 if ends else longest)
    ended = 0
    for prompt, hypothesis in zip(prompts, hypotheses):
        expected = continue_in_hf(tuple(prompt), longest - len(prompt), ends)
        if expected[-1] == END:
            ended += 1
        else:
            expected = [*expected, END]  # fairseq ends what has come to the last position
        assert [back[index] for index in hypothesis["tokens"].tolist()] == expected
        with torch.no_grad():
            lprobs = gpt2(torch.tensor([[END, *expected[:-1]]])).logits[0].log_softmax(-1)
        scores = lprobs.gather(1, torch.tensor(expected).unsqueeze(1)).squeeze(1)
        assert_close(hypothesis["positional_scores"], scores, 2e-5)
        assert_close(hypothesis["score"], scores.mean(), 2e-5)
    assert 0 < ended < len(prompts) if ends else ended == 0


@pytest.mark.parametrize("text", TEXT)
def test_the_bpe_is_gpt2s(text, bpe, converted, tokenizer):
    bpe = GPT2BPE(SimpleNamespace(**bpe))
    encoded = bpe.encode(text)
    assert [int(token) for token in encoded.split()] == tokenizer(text).input_ids
    assert bpe.decode(encoded) == text
    words = in_fairseq(converted)[1].source_dictionary
    assert words.unk() not in words.encode_line(encoded, add_if_not_exist=False)


def test_rows_without_a_token_have_a_text(bpe):
    assert GPT2BPE(SimpleNamespace(**bpe)).decode(f"{TOKENS.index('the')} {len(TOKENS)}") == f"the<|{len(TOKENS)}|>"


def test_the_hub_interface(converted, bpe, text_in_hf):
    hub = TransformerLanguageModel.from_pretrained(str(converted), "model.pt", bpe="gpt2", **bpe)
    for prompt in PROMPTS:
        assert hub.sample(prompt, beam=1, max_len_a=1, max_len_b=9) == text_in_hf(prompt)
