"""Which lossless layout an attention decodes in.

EL-attention always keeps the least. It is also the fastest where arithmetic is cheap beside memory traffic, as on a
GPU; on a CPU its H times more multiply-adds cost more than it saves unless little is generated (``README.md``,
"Limits"), so there projected keys and values are kept, those of the source once a sentence for all beams.
"""

from el_fairseq.modules.el_attention import HIDDEN, PROJECTED, hidden_everywhere


def cheapest(kind, device):
    """``--el-attention auto``: the faster layout on this kind of device."""
    return PROJECTED if device.type == "cpu" else HIDDEN


PLANS = {"auto": cheapest, "on": hidden_everywhere}
MODES = ("auto", "on", "off")
