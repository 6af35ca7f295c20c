"""What decoding keeps. Every cache is behind one contract (``contract.py``); one file a cache.

| file | whose entries | while |
|---|---|---|
| ``rows.py`` | each beam its own, which move with it | other searches on a CPU; stock's own generator |
| ``beams.py`` | all beams of a sentence together, a table of ancestors | beam search on a CPU |
| ``static.py`` | the same, in tensors that stay, after a prefix or none | steps by CUDA graphs |
| ``prefix.py`` | a prefix once a sentence, what follows it by row | language models, after a prefill, on a CPU |
| ``source.py`` | the source once a sentence | cross-attention |
"""

from el_fairseq.cache.beams import BeamCaches
from el_fairseq.cache.contract import CACHES, Cache, CacheGroup
from el_fairseq.cache.layout import CacheRequest, Layout, LayoutPlan, hidden_everywhere
from el_fairseq.cache.prefix import PrefixCaches
from el_fairseq.cache.rows import RowCaches, group_in
from el_fairseq.cache.source import SourceCache
from el_fairseq.cache.static import StaticBeamCaches

__all__ = [
    "CACHES",
    "BeamCaches",
    "Cache",
    "CacheGroup",
    "CacheRequest",
    "Layout",
    "LayoutPlan",
    "PrefixCaches",
    "RowCaches",
    "SourceCache",
    "StaticBeamCaches",
    "group_in",
    "hidden_everywhere",
]
