"""What is said of weights that are not finite, and of which models nothing is."""

import math

import pytest
import torch
from fairseq.dataclass.configs import GenerationConfig
from fairseq.tasks import TASK_DATACLASS_REGISTRY, TASK_REGISTRY
from helpers.models import batch, build_model, dictionary

WORDS = dictionary(30)


def translate(model, words=WORDS, **options):
    task = TASK_REGISTRY["el_translation"](TASK_DATACLASS_REGISTRY["el_translation"](el_attention="on"), words, words)
    generator = task.build_generator([model], GenerationConfig(beam=2, max_len_b=5, **options))
    return task.inference_step(generator, [model], batch(words, [5, 3]))


def quantised(model):
    return torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear})


@pytest.mark.parametrize("number", ["nan", "inf"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_refused_in_python_too(number, dtype):
    model = build_model("transformer", WORDS, dtype)
    with torch.no_grad():
        model.decoder.layers[1].fc2.bias.fill_(float(number))
    with pytest.raises(ValueError, match=r"weights are NaN or infinite: decoder\.layers\.1\.fc2\.bias \(16 of 16"):
        translate(model)


def test_finite_weights_whose_sum_is_not_are_nothing_to_speak_of():
    """60,000 is nearly the largest number of float16; no hypothesis can end, which alone is no fault of weights."""
    model = build_model("transformer", WORDS, torch.float16)
    with torch.no_grad():
        model.encoder.embed_tokens.weight[-2:] = 60000
        model.decoder.embed_tokens.weight[:] = float("nan")
    with pytest.raises(ValueError, match=r"infinite: decoder\.embed_tokens\.weight \(480 of 480\)") as error:
        translate(model)
    assert "encoder.embed_tokens" not in str(error.value)


def test_int8_layers_generate():
    model = build_model("transformer", WORDS, torch.float32)
    model.decoder = quantised(model.decoder)
    assert [len(hypotheses) for hypotheses in translate(model)] == [2, 2]


def test_sentences_that_cannot_end_stay_empty_where_all_is_finite():
    """Four words, two special ones among them, and each only once: no hypothesis reaches the least length."""
    words = dictionary(6)
    model = build_model("transformer", words, torch.float32)
    (best, *_), _ = translate(model, words=words, no_repeat_ngram_size=1, min_len=5)
    assert best["score"] == -math.inf and best["tokens"].tolist() == [words.eos()]
