"""``--no-repeat-ngram-size`` that blocks."""

from torch import nn

from el_fairseq.ops import block_repeated_ngrams_


class NGramBlock(nn.Module):
    """In place of fairseq's ``NGramRepeatBlock``: the semantics of its CUDA extension, on any device.

    Without that extension stock looks at the end of the padded token buffer instead of the end of the hypothesis, and
    so blocks nothing (fairseq issue 5206).
    """

    def __init__(self, no_repeat_ngram_size):
        super().__init__()
        self.no_repeat_ngram_size = no_repeat_ngram_size

    def forward(self, tokens, lprobs, bsz, beam_size, step):
        """tokens ``[B·M, >step]``, begin-of-sentence first; lprobs ``[B·M, V]``, changed in place and returned."""
        return block_repeated_ngrams_(lprobs, tokens[:, : step + 1], self.no_repeat_ngram_size)


def let_ngrams_block(generator):
    """Let ``--no-repeat-ngram-size`` of a generator, stock's too, block where it is given."""
    if generator.repeat_ngram_blocker is not None:
        generator.repeat_ngram_blocker = NGramBlock(generator.repeat_ngram_blocker.no_repeat_ngram_size)
