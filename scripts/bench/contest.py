"""Stock and the plugin's modes over one model and the same batches: decode, and account for every difference."""

from contextlib import contextmanager, nullcontext

from fairseq import utils
from fairseq.sequence_generator import SequenceGenerator

from el_fairseq import disable_el_attention, enable_el_attention
from el_fairseq.cache import Layout
from el_fairseq.convert.el_attention import use_el_attention
from el_fairseq.generation import ELSequenceGenerator
from el_fairseq.generation.cuda_graph import device_and_dtype, verified
from el_fairseq.generation.lossless import Comparison, in_float64
from el_fairseq.generation.ngram_block import let_ngrams_block
from el_fairseq.generation.out_of_memory import is_out_of_memory
from el_fairseq.generation.plan import cheapest

from .memory import release
from .rows import seconds


def projected_everywhere(request):
    """The plan of ``shared``: keys and values, those of a source once for all its beams."""
    return Layout.PROJECTED


def hidden_past(request):
    """The plan of ``mixed``: hidden states of what a row has written, keys and values of what rows share."""
    return Layout.HIDDEN if request.kind == "self" else Layout.PROJECTED


PLANS = {"shared": projected_everywhere, "mixed": hidden_past, "eager": cheapest}


def turn(model, mode):
    """Let ``model`` decode in this mode, in place, as if it had just been built."""
    for layer in model.decoder.layers:
        if hasattr(layer.encoder_attn, "beam_size"):
            layer.encoder_attn.beam_size = 1  # BART's, which a generator for one beam leaves as the last one set it
    if mode == "stock":
        disable_el_attention(model)
    elif mode in PLANS:
        use_el_attention(model, PLANS[mode])
    else:
        enable_el_attention(model, mode)


@contextmanager
def eager(decoder):
    """Every step of ``decoder`` kernel by kernel, as where a capture has failed."""
    before = verified.get(decoder)
    verified[decoder] = device_and_dtype(decoder), False
    try:
        yield
    finally:
        if before is None:
            del verified[decoder]
        else:
            verified[decoder] = before


def part_of(sample, sentences):
    """The slice ``sentences`` of a batch."""
    return utils.apply_to_sample(lambda x: x[sentences], sample)


class Contest:
    """Decodes the batches ``samples`` with ``model`` in one mode or another.

    Modes: ``stock``; a value of ``--el-attention``; those of ``PLANS``, on any device, of which ``eager`` is
    ``auto`` without CUDA graphs.
    Where n-grams are blocked, stock blocks by the plugin's code: its own blocks nothing without its CUDA extension.
    """

    def __init__(self, task, model, generation, samples, device):
        self.task, self.model, self.generation, self.samples, self.device = task, model, generation, samples, device
        self.states = {}  # mode: (its decoder state, stock's), bytes at their peaks

    def decode(self, mode):
        """``(hypotheses, seconds)``: those of each sentence as fairseq returns them; encoder, search, finalisation."""
        turn(self.model, mode)
        with self._around(mode):
            # One sentence first: what is made of the weights belongs to loading a model.
            self._step(self._generator(mode), part_of(self.samples[0], slice(1)))
            hypotheses, took, state = [], 0.0, (0, 0)
            for sample in self.samples:
                generator = self._generator(mode)
                took += seconds(lambda g=generator, s=sample: hypotheses.extend(self._step(g, s)), self.device)
                if mode != "stock":
                    state = max(state, generator.meter.peak)
        self.states[mode] = state
        return hypotheses, took

    def decode_again(self, mode):
        """The hypotheses of ``decode``, which was the last call and for this mode, with nothing around them."""
        with self._around(mode):
            return [hypotheses for sample in self.samples for hypotheses in self._step(self._generator(mode), sample)]

    def decode_in_parts(self, mode):
        """``decode`` without its time; a batch that does not fit into memory is halved until it does."""
        turn(self.model, mode)
        return [hypotheses for sample in self.samples for hypotheses in self._halving(mode, sample)]

    def compare(self, mode, expected, actual):
        """A ``Comparison`` of two outputs of ``decode``: ties are where float64 makes both modes agree."""
        found = Comparison()
        differing = {i for i in range(len(expected)) if not found.add(expected[i], actual[i])}
        double = None
        for sample in self.samples:
            ids = [i for i in sample["id"].tolist() if i in differing]
            if not ids:
                continue
            # The whole batch again: an error that needs its company would not show in a sentence alone.
            double = double or in_float64(self.model)
            exact = Contest(self.task, double, self.generation, [sample], self.device)
            pairs = dict(zip(sample["id"].tolist(), zip(exact.decode_in_parts("stock"), exact.decode_in_parts(mode))))
            for i in ids:
                found.resolve(i, *pairs[i])
        return found

    def _around(self, mode):
        return eager(self.model.decoder) if mode == "eager" else nullcontext()

    def _generator(self, mode):
        stock = self.task.build_generator([self.model], self.generation, seq_gen_cls=SequenceGenerator)
        let_ngrams_block(stock)
        return stock if mode == "stock" else ELSequenceGenerator.adopt(stock)

    def _step(self, generator, sample):
        return self.task.inference_step(generator, [self.model], sample)

    def _halving(self, mode, sample):
        try:
            return self._step(self._generator(mode), sample)
        except RuntimeError as error:
            if not is_out_of_memory(error) or len(sample["id"]) == 1:
                raise
        release(self.device)
        half = len(sample["id"]) // 2
        parts = [part_of(sample, sentences) for sentences in (slice(half), slice(half, None))]
        return [hypotheses for part in parts for hypotheses in self._halving(mode, part)]
