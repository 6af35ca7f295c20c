"""Pure tensor functions. Axis symbols, here and everywhere in the package:

    B  sentences                      D  width of the model           S  keys: source length, or tokens in a cache
    M  beams, rows of a sentence      d  width of a head, D / H       T  queries of a row; 1 while decoding
    N  rows, B·M                      C  width of a key or a value    R  query rows that share one set of keys
    H  heads                          V  vocabulary                   P  tensors of an entry: 2 (keys, values), or 1
    K  key heads: H, or 1 for all

A prime (B', S') is another number of the same. Prefixes have p tokens.
"""

from el_fairseq.ops.el import el_output, el_query
from el_fairseq.ops.grouped import grouped_attention
from el_fairseq.ops.kernels import hidden_attention
from el_fairseq.ops.masks import additive, merge_masks
from el_fairseq.ops.mhe import mhe_output, mhe_query
from el_fairseq.ops.ngram import block_repeated_ngrams_
from el_fairseq.ops.prefix import prefix_attention
from el_fairseq.ops.sdpa import grouped_sdpa
from el_fairseq.ops.shared_kv import shared_kv_attention
from el_fairseq.ops.topk import best_of_rows, grouped_topk, has_groups, row_width

__all__ = [
    "additive",
    "block_repeated_ngrams_",
    "el_output",
    "el_query",
    "grouped_attention",
    "grouped_sdpa",
    "best_of_rows",
    "grouped_topk",
    "has_groups",
    "hidden_attention",
    "merge_masks",
    "mhe_output",
    "mhe_query",
    "prefix_attention",
    "shared_kv_attention",
]
