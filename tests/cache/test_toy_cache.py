"""A cache of one's own: a file like this one, and a line in the plan."""

import pytest
import torch
from fairseq.sequence_generator import SequenceGenerator
from helpers.models import assert_same_hypotheses, batch, build_model, dictionary

from el_fairseq import enable_el_attention
from el_fairseq.cache import Cache
from el_fairseq.cache.layout import keys_and_values
from el_fairseq.generation import ELSequenceGenerator, plan
from el_fairseq.ops import grouped_attention


class ListCaches:
    """Each self-attention keeps a list of single tokens, and copies all of them whenever beams move."""

    beams, moves_with_beams = 1, False

    def new_cache(self, layout):
        return ListCache(layout)

    def reorder(self, order):
        pass

    def tensors(self):
        return []


class ListCache(Cache):
    moves_with_beams = True

    def __init__(self, layout):
        self.layout, self.kept = layout, []

    def append(self, new, padding):
        self.kept.append(new)

    def attend(self, query, attn_mask, **softmax):
        return grouped_attention(query, *keys_and_values(torch.cat(self.kept, dim=3)), **softmax)

    def reorder(self, order):
        self.kept = [entries[:, order] for entries in self.kept]

    def tensors(self):
        return self.kept


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("mode", ["on", "auto"])
@pytest.mark.parametrize("arch", ["transformer", "mhe_transformer_wmt_en_de"])
def test_it_decodes_what_stock_decodes(arch, mode, monkeypatch):
    words = dictionary(30)
    options = {"attention_variant": "mha"} if arch.startswith("mhe") else {}
    model, search = build_model(arch, words, gain=2.0, **options), {"beam_size": 3, "max_len_b": 12}
    sample, groups = batch(words, [9, 4, 7]), []
    expected = SequenceGenerator([model], words, **search).generate([model], sample)
    monkeypatch.setattr(plan, "shared_caches", lambda *args: groups.append(ListCaches()) or groups[-1])
    ours = ELSequenceGenerator([enable_el_attention(model, mode)], words, **search)
    assert_same_hypotheses(ours.generate([model], sample), expected)
    assert len(groups) == 1
