"""Pure tensor functions. Axis symbols: B sentences, M beams, H heads, D model width, d = D / H, S source length,
T target length, R query rows that share one set of keys."""

from el_fairseq.ops.el import el_output, el_query
from el_fairseq.ops.ngram import block_repeated_ngrams_
from el_fairseq.ops.shared_kv import shared_kv_attention

__all__ = ["block_repeated_ngrams_", "el_output", "el_query", "shared_kv_attention"]
