"""Speech models: features in, long encoder outputs, the encoder's own way of ordering them."""

import pytest
from bench.memory import MeasuredEnsemble
from fairseq.sequence_generator import SequenceGenerator
from helpers.models import assert_same_hypotheses
from helpers.speech import WORDS, build_speech_model, speech_batch

from el_fairseq import enable_el_attention
from el_fairseq.generation import ELSequenceGenerator
from el_fairseq.modules import ELMultiheadAttention


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("mode", ["on", "auto"])
@pytest.mark.parametrize("lengths", [[200, 141, 63, 20], [64, 64]], ids=["padded", "unpadded"])
@pytest.mark.parametrize("arch", ["s2t_transformer", "s2t_conformer"])
def test_speech_to_text_is_stocks_from_less_memory(arch, lengths, mode):
    model, options = build_speech_model(arch), {"beam_size": 4, "max_len_b": 20}
    stock = SequenceGenerator(MeasuredEnsemble([model]), WORDS, **options)
    expected = stock.generate(None, speech_batch(lengths))
    enable_el_attention(model, mode)
    assert sum(isinstance(module, ELMultiheadAttention) for module in model.modules()) == 4
    ours = ELSequenceGenerator([model], WORDS, **options)
    assert_same_hypotheses(ours.generate(None, speech_batch(lengths)), expected)
    measured, stocks = ours.meter.peak
    assert stocks == stock.model.peak and measured < stocks
