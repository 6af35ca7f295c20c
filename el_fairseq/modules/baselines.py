"""What MHE attention is judged against: between multi-head attention and a single head."""

from el_fairseq.modules.shared_kv_attention import SharedKVAttention


class MultiQueryAttention(SharedKVAttention):
    """A query projection per head, one key and one value for all of them (arXiv 1911.02150)."""

    variant = "mqa"

    @property
    def query_dim(self) -> int:
        return self.embed_dim


class SingleHeadAttention(SharedKVAttention):
    """One head of width ``embed_dim / num_heads``: ``out_proj`` reads that width alone."""

    variant = "sha"

    @property
    def context_dim(self) -> int:
        return self.head_dim
