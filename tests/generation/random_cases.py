"""Random models of awkward shapes with random batches and search options."""

import random
from dataclasses import dataclass

from fairseq import search
from fairseq.sequence_generator import SequenceGenerator
from helpers import batch, build_model, dictionary
from torch import nn

from el_fairseq.ops import naive


class LoopNGramBlock(nn.Module):
    """What fairseq's CUDA extension does, token by token: stock's own fallback blocks nothing."""

    def __init__(self, size):
        super().__init__()
        self.no_repeat_ngram_size = size

    def forward(self, tokens, lprobs, bsz, beam_size, step):
        for row, held in zip(lprobs, tokens[:, : step + 1].tolist()):
            for token in naive.repeated_ngram_continuations(held, self.no_repeat_ngram_size):
                row[token] = float("-inf")
        return lprobs


@dataclass
class Case:
    """A model's options, a batch, and how to search."""

    seed: int
    arch: str
    model: dict
    words: object
    sample: dict
    generator: dict
    search: str
    prefix_size: int

    def build_model(self, arch=None, **kwargs):
        return build_model(arch or self.arch, self.words, seed=self.seed, **{**self.model, **kwargs})

    def search_strategy(self):
        beams = self.generator["beam_size"]
        return {
            "beam": lambda: search.BeamSearch(self.words),
            "diverse groups": lambda: search.DiverseBeamSearch(self.words, beams, 0.5),
            "diverse siblings": lambda: search.DiverseSiblingsSearch(self.words, 0.3),
        }[self.search]()

    def build_generator(self, cls, models):
        return cls(models, self.words, search_strategy=self.search_strategy(), **self.generator)

    def stock_generator(self, models):
        """Stock's, with n-gram blocking that works."""
        generator = self.build_generator(SequenceGenerator, models)
        size = self.generator["no_repeat_ngram_size"]
        if size > 0:
            generator.repeat_ngram_blocker = LoopNGramBlock(size)
        return generator

    def prefix(self):
        return self.sample["net_input"]["src_tokens"][:, -self.prefix_size - 1 : -1] if self.prefix_size else None

    def generate(self, generator):
        return generator.generate(None, self.sample, prefix_tokens=self.prefix())


def random_case(seed, device="cpu"):
    """The case number ``seed``; any number is one."""
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
    beam = rng.choice([1, 2, 3, 4, 5])
    kind = rng.choice(["beam", "beam", "beam", "diverse groups", "diverse siblings"])
    if kind == "diverse siblings" and len(words) <= 2 * beam:
        kind = "beam"  # stock's diverse siblings take the best 2·M of V tokens, and stop if there are fewer
    min_len = rng.choice([1, 1, 3])
    generator = {
        "beam_size": beam,
        "max_len_a": rng.choice([0, 1.2]),
        "max_len_b": rng.choice([4, 10, 25]),
        "min_len": min_len,
        "normalize_scores": rng.random() < 0.8,
        "len_penalty": rng.choice([1.0, 0.6, 2.0, 0.0]),
        "unk_penalty": rng.choice([0.0, 1.5, -1.5]),
        "temperature": rng.choice([1.0, 0.7, 1.3]),
        "no_repeat_ngram_size": rng.choice([0, 0, 0, 2, 3]),
    }
    prefix_size = rng.choice([0, 0, 0, 1, 2]) if min(lengths) > 2 else 0
    sample = batch(words, lengths, seed=seed, left_pad=rng.random() < 0.7, device=device)
    return Case(seed, arch, model, words, sample, generator, kind, prefix_size)
