"""Beam search, and every other search of fairseq, over decoder state that is shared by the beams."""

import logging
import math
import weakref
from contextlib import nullcontext
from functools import partial

import torch
from fairseq.search import BeamSearch
from fairseq.sequence_generator import SequenceGenerator, SequenceGeneratorWithAlignment

from el_fairseq.generation.encode import encode
from el_fairseq.generation.forked import before_decoding
from el_fairseq.generation.hypotheses import FinishedHypotheses
from el_fairseq.generation.live_beams import Candidates, LiveBeams
from el_fairseq.generation.memory import StateMeter
from el_fairseq.generation.next_token import NextToken
from el_fairseq.generation.ngram_block import let_ngrams_block
from el_fairseq.generation.out_of_memory import BatchSplitter
from el_fairseq.generation.plan import plan_batch
from el_fairseq.generation.prefill import prefix_lengths
from el_fairseq.generation.prefix_session import PrefixSession, StaticPrefixSession
from el_fairseq.generation.pruning import Pruning
from el_fairseq.generation.session import StepSession
from el_fairseq.generation.source import source_and_lengths
from el_fairseq.generation.statistics import GenerationStatistics
from el_fairseq.internals import own_registries
from el_fairseq.ops import best_of_rows, grouped_topk

logger = logging.getLogger(__name__)
OBSERVED_STEPS = 4  # one in so many steps is metered, and all in which something ends: caches grow in larger blocks


class ELSequenceGenerator(SequenceGenerator):
    """``SequenceGenerator`` whose loop copies nothing that need not be copied; options and results are stock's.

    The encoder output is ordered anew only when a sentence leaves the batch, hypotheses are assembled once a batch, on
    the CPU, and ``no_repeat_ngram_size`` blocks with or without fairseq's CUDA extension. Models decode as they are:
    ``enable_el_attention`` decides how. ``self.meter`` knows the peak of the decoder state, ``self.statistics``
    the speed and the peak of all memory; both are logged at the end.
    """

    def __init__(self, models, tgt_dict, **kwargs):
        super().__init__(models, tgt_dict, **kwargs)
        self._equip()

    @classmethod
    def adopt(cls, generator):
        """The twin of a stock generator: the same models, search and options."""
        twin = cls.__new__(cls)
        # what is replaced in its registries leaves the stock generator as it is
        twin.__dict__.update(vars(generator), **own_registries(vars(generator)))
        twin._equip()
        return twin

    def _equip(self):
        let_ngrams_block(self)
        self.meter = StateMeter(self.model.models, self.beam_size)
        self.splitter = BatchSplitter()
        self.statistics = GenerationStatistics(self.meter)
        weakref.finalize(self, self.statistics.report)  # when the generator goes, or else when Python exits

    def generate(self, models, sample, **kwargs):
        """As stock; a batch for which memory does not suffice is split (``out_of_memory.py``)."""
        return self._split_if_needed(partial(super().generate, models), sample, kwargs)

    def _split_if_needed(self, generate, sample, given):
        before_decoding()
        batch = self.statistics.start(sample)
        return batch.finish(self.splitter.generate(generate, self, sample, given))

    def _generate(self, sample, prefix_tokens=None, constraints=None, bos_token=None, max_len=None):
        """Generate for one batch; arguments and result as ``SequenceGenerator.generate``, with tensors on the CPU.

        max_len: how many tokens may be generated, where the rules are those of a larger batch; by default as stock.
        """
        source, src_lengths = source_and_lengths(sample["net_input"], self.eos, self.pad)
        bsz, src_len = source.shape[:2]
        max_len = self.max_len_for(src_len, src_lengths) if max_len is None else max_len
        if constraints is not None and not self.search.supports_constraints:
            raise ValueError(f"--constraints: {type(self.search).__name__} does not support them")
        self.search.init_constraints(constraints, self.beam_size)

        encoder_outs = encode(self.model, sample["net_input"])
        meter = self.meter.start_batch(encoder_outs)
        plan = plan_batch(self, bsz, prefix_tokens)
        rows = torch.arange(bsz, device=source.device).repeat_interleave(self.beam_size)
        live = LiveBeams(self, sample, rows, max_len, bos_token, prefix_tokens, src_lengths, plan)
        session = self._start_session(plan, live, self.model.reorder_encoder_out(encoder_outs, rows), max_len)
        del encoder_outs
        finished = FinishedHypotheses(bsz, self.beam_size, self.eos, source.device, not plan.prune_late)
        # What modules may keep, beyond this batch, must not be made in inference mode: the fast path's keep nothing.
        with torch.inference_mode() if plan.fast_step and not plan.whole_rows else nullcontext():
            dtype = self._decode(plan, session, live, finished, max_len, meter)
        without = finished.without_any()
        if without > 0:
            message = "no hypothesis could end within --max-len-a/b (%d tokens) for %d of %d sentences: theirs is empty"
            logger.warning(message, max_len, without, bsz)
        return finished.to_lists(live.history, dtype)

    def _decode(self, plan, session, live, finished, max_len, meter):
        """Fill ``finished``. Returns the dtype of scores."""
        pruning, moves = Pruning(plan.prune_late), self.beam_size > 1 or plan.capture is not None
        for step in range(live.length, max_len + 1):  # one more for end-of-sentence
            lprobs, attention = session.step(step, live.newest(step))
            live.history.add_attention(attention)
            lprobs = self._constrain(step, max_len, lprobs, live)
            candidates = self._search(step, max_len, lprobs, live)
            if not candidates.none_ends or step % OBSERVED_STEPS == 0:
                going_on = lprobs.size(0) - pruning.known * self.beam_size
                meter.observe(session.encoder_outs, session.states, rows=going_on, steps=step + 1)
            if candidates.none_ends:
                order = live.go_on(step, candidates)
                if moves:
                    session.reorder(order, False)
                continue
            ended = self._finish(step, candidates, live, finished)
            all_ended, prune = (False, False) if ended is None else pruning.due(ended)
            if step == max_len or all_ended:
                break
            order = live.advance(step, candidates, ended if prune else None)
            if prune or moves:
                session.reorder(order, prune)
        return lprobs.dtype

    def _start_session(self, plan, live, encoder_outs, max_len):
        """What decodes this batch. Where prefixes are prefilled, beam search goes on after what all of them have in
        common in length. Other searches go through those steps too, without the models: they may draw random numbers
        or keep books."""
        next_token = NextToken(self.model, self.temperature, plan)
        if not plan.prefill:
            return StepSession(self.model, encoder_outs, next_token, plan)
        lengths = prefix_lengths(live.prefix_tokens, self.pad, self.eos, limit=max_len)
        given = live.prefix_tokens[:, : max(lengths)]
        tokens = torch.cat((live.last[:: self.beam_size].unsqueeze(1), given), dim=1)
        if plan.capture is None:
            session = PrefixSession(next_token, tokens, lengths, self.beam_size)
        else:
            session = StaticPrefixSession(next_token, tokens, lengths, self.beam_size, plan, self.pad)
        if type(self.search) is BeamSearch and self.repeat_ngram_blocker is None:
            common = given[:, : min(lengths)]
            scores = session.prefixes.scores[:, : min(lengths)] - self.unk_penalty * common.eq(self.unk)
            live.start_after(common, scores.nan_to_num_(nan=-math.inf, neginf=-math.inf))
        return session

    def max_len_for(self, src_len, src_lengths):
        """How many tokens, without end-of-sentence, are generated at most for a batch; ``src_lengths [B]``."""
        if self.match_source_len:
            max_len = int(src_lengths.max())
        else:
            max_len = min(int(self.max_len_a * src_len + self.max_len_b), self.max_len - 1)
        if self.min_len > max_len:
            raise ValueError(f"--min-len {self.min_len} is more than the {max_len} tokens that --max-len-a/b allow")
        return max_len

    def _constrain(self, step, max_len, lprobs, live):
        """Log-probabilities ``[rows, V]`` after language-model fusion and all rules on the next token."""
        if live.is_plain(step, max_len):  # what is no number is left to ``_search``
            if self.unk_penalty:
                lprobs.select(1, self.unk).sub_(self.unk_penalty)
            return lprobs.index_fill_(1, live.forbidden(step), -math.inf)
        if self.lm_model is not None:
            lm_out = self.lm_model(live.tokens[:, : step + 1])
            lm_lprobs = self.lm_model.get_normalized_probs(lm_out, log_probs=True, sample=None)
            lprobs += lm_lprobs[:, -1, :] * self.lm_weight
        lprobs.nan_to_num_(nan=-math.inf, posinf=math.inf, neginf=-math.inf)
        lprobs.select(1, self.pad).fill_(-math.inf)
        if self.unk_penalty:
            lprobs.select(1, self.unk).sub_(self.unk_penalty)
        if step >= max_len:
            lprobs[:, : self.eos] = -math.inf
            lprobs[:, self.eos + 1 :] = -math.inf
        live.set_dtype(lprobs.dtype)
        prefix = live.prefix_tokens
        if prefix is not None and step < prefix.size(1) and step < max_len:
            lprobs, live.tokens, live.scores = self._prefix_tokens(
                step, lprobs, live.scores, live.tokens, prefix, self.beam_size
            )
            live.take_first_beams(prefix[:, step] == self.eos)
        else:
            if step < self.min_len:
                lprobs.select(1, self.eos).fill_(-math.inf)
            if self.token_indices_to_suppress is not None:
                lprobs[:, self.token_indices_to_suppress] = -math.inf
        if self.repeat_ngram_blocker is not None and step < max_len:  # at max_len only end-of-sentence is left
            lprobs = self.repeat_ngram_blocker(live.tokens, lprobs, live.bsz, self.beam_size, step)
        return lprobs

    def _search(self, step, max_len, lprobs, live):
        """The search's best ``Candidates``. Uses up ``lprobs``."""
        if live.is_plain(step, max_len):
            found = best_of_rows(lprobs, live.last_scores, 2 * self.beam_size, live.bsz)
            if found is not None:
                first = found[1].numpy()[:, : self.beam_size]
                return Candidates(*found, none_ends=not (live.some_ignored or (first == self.eos).any()))
            lprobs.nan_to_num_(nan=-math.inf, posinf=math.inf, neginf=-math.inf)
        if self.should_set_src_lengths:
            self.search.set_src_lengths(live.src_lengths)
        if type(self.search) is BeamSearch:
            lprobs = lprobs.reshape(live.bsz, -1, self.vocab_size)
            if step == 0:  # all beams are one
                lprobs = lprobs[:, :1].contiguous()
            scores = live.last_scores.view(live.bsz, -1, 1)[:, : lprobs.size(1)]
            scores, tokens, beams = best_continuations(lprobs, scores, 2 * self.beam_size)
        else:
            scores, tokens, beams = self.search.step(
                step,
                lprobs.view(live.bsz, -1, self.vocab_size),
                live.scores.view(live.bsz, self.beam_size, -1)[:, :, :step],
                live.tokens[:, : step + 1],
                live.sample_ids,
            )
        return Candidates(scores, tokens, live.row_of(beams), none_ends=False)

    def _finish(self, step, candidates, live, finished):
        """Store the candidates that end, and return which sentences, ``[b]``, have all their hypotheses; None
        where nothing ends."""
        scores, tokens, rows, _ = candidates
        live.ends = tokens.eq(self.eos) & scores.ne(-math.inf)
        live.ends[:, : self.beam_size] &= ~live.ignored
        ended = live.ends[:, : self.beam_size]  # only a candidate among the first M may end
        top = scores[:, : self.beam_size]
        normalized = top / (step + 1) ** self.len_penalty if self.normalize_scores else top
        if self.match_source_len:
            normalized = normalized.masked_fill((step > live.src_lengths).unsqueeze(1), -math.inf)
        if not finished.add(step, ended, live.ids, rows[:, : self.beam_size], top, normalized):
            return None
        return finished.count[live.ids] == self.beam_size


def best_continuations(lprobs, scores, count):
    """One step of ``BeamSearch``, without a copy of all log-probabilities: they become the sums.

    Args:
        lprobs: ``[b, M, V]``.
        scores: ``[b, M, 1]``, of the hypotheses so far.
        count: of candidates, at most.
    """
    b, _, vocabulary = lprobs.shape
    if b > 1 and not lprobs.is_contiguous():  # a copy of all of them would be as large as they are
        parts = [best_continuations(*part, count) for part in zip(lprobs.split(1), scores.split(1))]
        return [torch.cat(each) for each in zip(*parts)]
    sums = lprobs.add_(scores).flatten(1)
    best, places = grouped_topk(sums, min(count, sums.size(1) - 1))  # as many as can be without padding
    return best, places % vocabulary, places // vocabulary


class ELSequenceGeneratorWithAlignment(SequenceGeneratorWithAlignment, ELSequenceGenerator):
    """``ELSequenceGenerator`` for ``--print-alignment``."""

    def generate(self, models, sample, **kwargs):
        """As stock; also where it is the alignment for which memory does not suffice, the batch is split."""
        return self._split_if_needed(partial(super().generate, models), sample, kwargs)

    def _prepare_batch_for_alignment(self, sample, hypothesis):
        """As stock; hypotheses lie on the CPU, so what the model aligns goes to its device first."""
        src_tokens, src_lengths, *targets = super()._prepare_batch_for_alignment(sample, hypothesis)
        return (src_tokens, src_lengths, *(target.to(src_tokens.device) for target in targets))


TWINS = {
    SequenceGenerator: ELSequenceGenerator,
    SequenceGeneratorWithAlignment: ELSequenceGeneratorWithAlignment,
}


def twin_of(generator):
    """The EL twin of a stock generator; a generator of another class as it is."""
    twin = TWINS.get(type(generator))
    return generator if twin is None else twin.adopt(generator)
