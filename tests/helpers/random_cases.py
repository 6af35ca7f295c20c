"""Random models of awkward shapes with random batches and searches."""

import math
import random
from dataclasses import dataclass

import torch

from el_fairseq.generation import ELSequenceGenerator

from .models import assert_same_hypotheses, batch, build_model, dictionary
from .random_lms import build_lm, random_prompts
from .random_searches import FORBID_ENDS, Search, random_search

CASES = 200  # of each fuzz in tests/generation


@dataclass
class Case:
    """A model's options, a batch, and how to search."""

    seed: int
    arch: str
    model: dict
    words: object
    sample: dict
    search: Search

    def build_model(self, arch=None, **kwargs):
        return build_model(arch or self.arch, self.words, seed=self.seed, **{**self.model, **kwargs})

    def stock(self, models):
        """What stock generates; None where it stops because a sentence has no hypothesis that can end."""
        try:
            return self.search.generate(self.search.stock_generator(models), self.sample)
        except AssertionError:
            return None

    def ours(self, models):
        return self.search.generate(self.search.build_generator(ELSequenceGenerator, models), self.sample)

    def assert_same(self, actual, expected, tolerance=None):
        """As ``assert_same_hypotheses``; where stock stopped, every sentence has what could end, or an empty one. That
        is also what a sentence has here for which stock goes on without any."""
        if expected is None:
            beams = self.search.options["beam_size"]
            assert all(actual)
            assert any(len(hypos) < beams or hypos[0]["score"] == -math.inf for hypos in actual)
            return
        assert len(actual) == len(expected)
        for hypos in (ours for ours, stocks in zip(actual, expected) if not stocks):
            assert [(hypo["tokens"].tolist(), hypo["score"]) for hypo in hypos] == [([self.words.eos()], -math.inf)]
        some = [ours for ours, stocks in zip(actual, expected) if stocks]
        tolerance = self.search.tolerance if tolerance is None else tolerance
        assert_same_hypotheses(some, [stocks for stocks in expected if stocks], tolerance)


class LMCase(Case):
    """The same for a language model, whose batch is its prompts."""

    def build_model(self, arch=None):
        return build_lm(self.words, arch or self.arch, seed=self.seed, **self.model)


def random_case(seed, device="cpu"):
    """The case number ``seed`` of an encoder and a decoder; any number is one."""
    rng = random.Random(seed)
    words = dictionary(rng.choice([8, 12, 30, 61]))
    arch = rng.choice(["transformer", "transformer", "bart_base"])
    same_width = rng.random() < 0.5
    widths = [rng.choice([8, 16, 24]) for _ in range(2)]
    model = {
        "encoder_embed_dim": widths[0],
        "decoder_embed_dim": widths[0] if same_width or arch != "transformer" else widths[1],
        "encoder_ffn_embed_dim": rng.choice([8, 20]),
        "decoder_ffn_embed_dim": rng.choice([8, 20]),
        "encoder_layers": rng.choice([1, 2]),
        "decoder_layers": rng.choice([1, 2, 3]),
        "encoder_attention_heads": rng.choice([1, 2, 4]),
        "decoder_attention_heads": rng.choice([1, 2, 4, 8]),
        "encoder_normalize_before": rng.random() < 0.5,
        "decoder_normalize_before": rng.random() < 0.5,
        "encoder_learned_pos": rng.random() < 0.5,
        "decoder_learned_pos": rng.random() < 0.5,
        "layernorm_embedding": rng.random() < 0.3,
        "share_decoder_input_output_embed": rng.random() < 0.5,
        # Without positions the order of tokens can leave a score as it is: exact ties, that any rounding decides.
        "no_token_positional_embeddings": False,
        "decoder_layerdrop": rng.choice([0, 0, 0, 0.3]),
        "gain": rng.choice([1.0, 2.0, 3.0]),
    }
    lengths = [rng.choice([1, 2, 3, 5, 9, 17]) for _ in range(rng.choice([1, 2, 3, 7]))]
    limits = {"max_len_a": rng.choice([0, 1.2]), "max_len_b": rng.choice([4, 10, 25])}
    sample = batch(words, lengths, seed=seed, left_pad=rng.random() < 0.7, device=device)
    prefix = None
    if rng.random() < 0.35:
        prefix = random_prompts(rng, words, [rng.choice([0, 1, 2, 2]) for _ in lengths[1:]] + [2]).to(device)
    search = random_search(rng, seed, words, sample, limits, prefix, bos=rng.choice([None, None, words.bos()]))
    return Case(seed, arch, model, words, sample, search)


def random_lm_case(seed, device="cpu"):
    """The case number ``seed`` of a language model that continues prompts of the same or of different lengths."""
    rng = random.Random(seed)
    words = dictionary(rng.choice([12, 30, 61]))
    arch = rng.choice(["transformer_lm", "transformer_lm", "mhe_transformer_lm"])
    model = {
        "decoder_embed_dim": rng.choice([8, 16]),
        "decoder_ffn_embed_dim": rng.choice([8, 20]),
        "decoder_layers": rng.choice([1, 1, 2]),
        "decoder_attention_heads": rng.choice([1, 2, 4]),
        "decoder_normalize_before": rng.random() < 0.5,
        "decoder_learned_pos": rng.random() < 0.5,
        "share_decoder_input_output_embed": rng.random() < 0.5,
        "gain": rng.choice([1.0, 2.0, 3.0]),
    }
    if arch.startswith("mhe"):
        model["attention_variant"] = rng.choice(["mhe-mul", "mhe-add", "mqa", "sha"])
    longest = rng.choice([1, 4, 9, 18])
    lengths = [longest] * rng.choice([1, 2, 3, 6])
    if rng.random() < 0.6:
        lengths[1:] = [rng.randint(0, longest) for _ in lengths[1:]]
        rng.shuffle(lengths)
    prompts = random_prompts(rng, words, lengths)
    prompts = prompts.to(device)
    ids, lengths = torch.arange(len(prompts), device=device), torch.tensor(lengths, device=device)
    sample = {"id": ids, "net_input": {"src_tokens": prompts, "src_lengths": lengths}}
    limits = {"max_len_a": 0, "max_len_b": max(1, longest + rng.choice([-2, 1, 6, 6, 20]))}
    prefix = prompts if rng.random() < 0.8 else None
    search = random_search(rng, seed, words, sample, limits, prefix, bos=words.eos())
    if search.kind not in FORBID_ENDS and rng.random() < 0.15:
        prompts[int(lengths.argmax()), rng.randrange(longest)] = words.eos()
    return LMCase(seed, arch, model, words, sample, search)


def on_cpu(hypotheses):
    """Stock's hypotheses, or None where it stopped."""
    move = dict.fromkeys(("tokens", "score", "attention", "alignment", "positional_scores"))
    return hypotheses and [[{key: hypo[key].cpu() for key in move} for hypo in sentence] for sentence in hypotheses]
