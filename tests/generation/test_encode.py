"""The encoder a few sentences at a time: stock's output for every token."""

import pytest
import torch
from fairseq.models.transformer import TransformerEncoderBase
from fairseq.modules import FairseqDropout
from fairseq.sequence_generator import EnsembleModel
from helpers.models import batch, build_model, dictionary
from helpers.random_lms import build_lm

from el_fairseq import disable_el_attention, enable_el_attention
from el_fairseq.generation import ELSequenceGenerator
from el_fairseq.generation import encode as module
from el_fairseq.generation.encode import encode, neighbours

WORDS = dictionary(30)
LENGTHS = [12, 11, 7, 7, 3, 2, 9]


@pytest.fixture
def calls(monkeypatch):
    """Shapes of what is encoded at once; ten tokens a part."""
    monkeypatch.setattr(module, "CHUNK_ROWS", 10)
    shapes, embed = [], TransformerEncoderBase.forward_embedding

    def spy(self, src_tokens, *args, **kwargs):
        shapes.append(tuple(src_tokens.shape))
        return embed(self, src_tokens, *args, **kwargs)

    monkeypatch.setattr(TransformerEncoderBase, "forward_embedding", spy)
    return shapes


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def both_ways(model, net_input):
    ensemble = EnsembleModel([enable_el_attention(model)])
    return ensemble.forward_encoder(net_input)[0], encode(ensemble, net_input)[0]


@pytest.mark.parametrize("lengths, tokens, parts", [
    ([5, 4, 4, 1], 10, [[5, 4], [4, 1]]),
    ([1, 4, 4, 5], 10, [[1, 4], [4, 5]]),
    ([30, 2, 2], 10, [[30], [2, 2]]),
    ([2, 30, 2], 10, [[2], [30], [2]]),
    ([3], 1, [[3]]),
    ([2, 2, 2], 6, [[2, 2, 2]]),
])  # fmt: skip
def test_neighbours_go_together_as_far_as_they_fit(lengths, tokens, parts):
    assert [lengths[part] for part in neighbours(lengths, tokens)] == parts


@pytest.mark.parametrize("arch", ["transformer", "bart_base", "mhe_transformer_wmt_en_de"])
@pytest.mark.parametrize("left", [True, False], ids=["left padded", "right padded"])
def test_output_is_stocks_where_there_are_tokens(arch, left, monkeypatch):
    monkeypatch.setattr(module, "CHUNK_ROWS", 10)
    model = build_model(arch, WORDS, encoder_normalize_before=left)
    net_input = batch(WORDS, LENGTHS)["net_input"]
    if not left:
        for row in net_input["src_tokens"]:
            row.copy_(torch.cat((row[row.ne(WORDS.pad())], row[row.eq(WORDS.pad())])))
    expected, actual = both_ways(model, net_input)
    assert set(actual) == set(expected)
    for name in ("encoder_padding_mask", "src_lengths"):
        assert torch.equal(actual[name][0], expected[name][0]), name
    assert actual["encoder_states"] == expected["encoder_states"] == actual["src_tokens"] == []
    real = net_input["src_tokens"].ne(WORDS.pad())
    for name, rows in (("encoder_out", real.t()), ("encoder_embedding", real)):
        ours, stocks = actual[name][0], expected[name][0]
        assert ours.shape == stocks.shape
        torch.testing.assert_close(ours[rows], stocks[rows], rtol=1e-12, atol=1e-12)


def test_a_part_has_the_width_of_its_longest_sentence(calls):
    model = build_model("transformer", WORDS)
    both_ways(model, batch(WORDS, [12, 6, 5, 3, 2, 2])["net_input"])
    assert calls == [(6, 12), (1, 12), (1, 6), (2, 5), (2, 2)]


def test_a_batch_that_fits_is_encoded_at_once(calls):
    expected, actual = both_ways(build_model("transformer", WORDS), batch(WORDS, [5, 5])["net_input"])
    torch.testing.assert_close(actual["encoder_out"][0], expected["encoder_out"][0], rtol=1e-12, atol=1e-12)
    assert calls == [(2, 5)] * 2


def other(case):
    """A model whose output for a sentence may depend on the others, or is known not to be faster."""
    model = enable_el_attention(build_model("transformer", WORDS, dropout=0.1 if case == "dropout" else 0.0))
    if case == "off":
        disable_el_attention(model)
    if case == "dropout":
        for module_ in model.modules():
            if isinstance(module_, FairseqDropout):
                module_.apply_during_inference = True
    if case == "embedding":
        model.encoder.__class__ = type("Own", (type(model.encoder),), {"forward_embedding": own_embedding})
    if case == "layer":
        layer = model.encoder.layers[0]
        layer.__class__ = type("Own", (type(layer),), {"forward": lambda self, x, **_: x.roll(1, 0)})
    if case == "object":
        forward = model.encoder.forward
        model.encoder.forward = lambda *args, **kwargs: forward(*args, **kwargs)
    return model


def own_embedding(encoder, tokens, embedding=None):
    x, embedding = TransformerEncoderBase.forward_embedding(encoder, tokens, embedding)
    return x.cumsum(1), embedding


@pytest.mark.parametrize("case", ["off", "dropout", "embedding", "layer", "object"])
def test_what_is_not_known_is_encoded_as_a_whole(case, calls):
    encode(EnsembleModel([other(case)]), batch(WORDS, LENGTHS)["net_input"])
    assert calls == [(7, 12)]


def test_other_inputs_are_encoded_as_a_whole(calls):
    both_ways(build_model("transformer", WORDS), {**batch(WORDS, LENGTHS)["net_input"], "token_embeddings": None})
    assert calls == [(7, 12)] * 2


def test_an_ensemble_with_its_own_way_goes_it():
    class Own(EnsembleModel):
        def forward_encoder(self, net_input):
            return "own"

    assert encode(Own([build_model("transformer", WORDS)]), batch(WORDS, LENGTHS)["net_input"]) == "own"


@pytest.mark.parametrize("lengths", ["missing", None])
def test_lengths_may_be_missing(lengths, calls):
    net_input = batch(WORDS, LENGTHS)["net_input"]
    given = net_input.pop("src_lengths")
    if lengths is None:
        net_input["src_lengths"] = None
    _, actual = both_ways(build_model("transformer", WORDS), net_input)
    assert len(calls) > 2 and actual["src_lengths"][0].squeeze(1).tolist() == given.tolist()


def test_a_sentence_may_be_nothing_but_padding(calls):
    net_input = batch(WORDS, LENGTHS)["net_input"]
    net_input["src_tokens"][0] = WORDS.pad()
    expected, actual = both_ways(build_model("transformer", WORDS), net_input)
    assert (1, 12) in calls[1:]
    assert torch.equal(actual["encoder_padding_mask"][0], expected["encoder_padding_mask"][0])
    torch.testing.assert_close(actual["encoder_out"][0][-2:, 1], expected["encoder_out"][0][-2:, 1])


def test_a_language_model_has_nothing_to_encode():
    assert encode(EnsembleModel([build_lm(WORDS)]), {}) is None


def test_the_generator_encodes_in_parts(calls):
    generator = ELSequenceGenerator([enable_el_attention(build_model("transformer", WORDS))], WORDS, beam_size=2)
    generator.generate(None, batch(WORDS, LENGTHS))
    assert len(calls) > 1
