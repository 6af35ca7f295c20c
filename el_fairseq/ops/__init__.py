"""Pure tensor functions. Axis symbols: B sentences, M beams, H heads, D model width, d = D / H, S source length,
T target length, R query rows that share one set of keys."""

from el_fairseq.ops.el import el_output, el_query
from el_fairseq.ops.grouped import grouped_attention
from el_fairseq.ops.kernels import hidden_attention
from el_fairseq.ops.masks import additive, merge_masks
from el_fairseq.ops.mhe import mhe_output, mhe_query
from el_fairseq.ops.ngram import block_repeated_ngrams_
from el_fairseq.ops.prefix import prefix_attention
from el_fairseq.ops.sdpa import grouped_sdpa
from el_fairseq.ops.shared_kv import shared_kv_attention
from el_fairseq.ops.topk import grouped_topk

__all__ = [
    "additive",
    "block_repeated_ngrams_",
    "el_output",
    "el_query",
    "grouped_attention",
    "grouped_sdpa",
    "grouped_topk",
    "hidden_attention",
    "merge_masks",
    "mhe_output",
    "mhe_query",
    "prefix_attention",
    "shared_kv_attention",
]
