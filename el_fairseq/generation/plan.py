"""Which lossless layout an attention decodes in, and whether the beams of a sentence share one cache.

EL-attention always keeps the least. Whether it is also the fastest is a matter of arithmetic against memory traffic.
For each element of the hidden states ``[S, D]`` of a sentence, a step of M beams with H heads of w-byte numbers takes

    hidden      reads 2w bytes, 4·M·H operations; cross-attention also 4·M·D/S to expand queries and outputs
    projected   reads 2w bytes, 4·M operations;   cross-attention also 4·D a sentence, for the source's projections

Operations count by how many the device does while it reads a byte. Self-attention has no more than that: it expands or
projects as much in either layout, and M beams read one past, or each its own (M = 1). That is what is reckoned for a
GPU. On a CPU products of a few rows are far from its full speed, and keys and values were faster in all that was
measured but self-attention of small models (``docs/performance.md``).
"""

import functools
import logging
import os

import torch
from fairseq.search import BeamSearch

from el_fairseq.cache.ancestors import Lineage
from el_fairseq.cache.layout import HIDDEN, PROJECTED, hidden_everywhere
from el_fairseq.cache.static import FixedLineage
from el_fairseq.convert.el_attention import draws_dropout, layers_of, why_foreign
from el_fairseq.generation.free_memory import free_memory
from el_fairseq.modules.el_attention import ELMultiheadAttention
from el_fairseq.modules.shared_kv_attention import SharedKVAttention
from el_fairseq.stock import is_plain_dropout

logger = logging.getLogger(__name__)
if logger.level == logging.NOTSET:
    # For details alone. The level is that of fairseq's commands: modules of fairseq set the root's to DEBUG.
    logger.setLevel(os.environ.get("LOGLEVEL", "INFO").upper())
TENSOR_CORES = (7, 0)  # from this compute capability
OPERATIONS_A_BYTE = {True: 140, False: 15}  # of GPUs, with and without tensor cores, by their data sheets
STEPS = 64  # over which the projections of a source are reckoned to pay: how many follow is not known in advance
SHARE = 1 / 32  # of the free memory is what keys and values of one cross-attention may take


def costs(attended, rate):
    """Time of a step for each layout, in bytes that could be read meanwhile, for one element of the hidden states.

    Args: attended: an ``Attended``. rate: operations that the device does while it reads a byte.
    """
    source, _, dim = attended.hidden.shape
    read = 2 * attended.hidden.element_size()
    hidden = max(read, 4 * attended.beams * attended.heads / rate)
    projected = max(read, 4 * attended.beams / rate)
    if attended.kind == "cross":
        hidden += 4 * attended.beams * dim / source / rate
        projected += 4 * dim / STEPS / rate
    return {HIDDEN: hidden, PROJECTED: projected}


def cheapest(attended):
    """``--el-attention auto``: the fastest layout that fits, and of equals the one that keeps least."""
    device = attended.hidden.device
    if device.type == "cpu":
        layout, reason = PROJECTED, "faster on a CPU"
    else:
        cost = costs(attended, OPERATIONS_A_BYTE[_has_tensor_cores(attended.hidden)])
        layout = min(cost, key=cost.get)  # of equals, hidden states
        reason = ", ".join(f"{name} costs {bytes_:.1f}" for name, bytes_ in cost.items())
    if layout == PROJECTED and not _fits(attended):
        layout, reason = HIDDEN, "free memory is short"
    where = f"{attended.kind}-attention of {attended.heads} heads, {attended.beams} beams, {attended.hidden.dtype}"
    _explain(f"{where} on {device.type}: {layout}, {reason}")
    return layout


def _has_tensor_cores(hidden):
    half = hidden.dtype in (torch.float16, torch.bfloat16)
    return half and hidden.is_cuda and torch.cuda.get_device_capability(hidden.device) >= TENSOR_CORES


def _fits(attended):
    if attended.kind != "cross":
        return True  # twice as much as hidden states, and it grows: fewer sentences a batch is what helps
    free = free_memory(attended.hidden.device)
    return free is None or 2 * attended.hidden.nbytes <= SHARE * free


def shared_past(model, search, sentences, beams, records):
    """What the self-attentions of ``model`` keep for a batch together, all beams of a sentence in one cache: a
    ``Lineage``, or a ``FixedLineage`` where decoder steps are recorded (``records``); None where each row has its own.

    In beam search they have most of their past in common, and sharing it is faster and smaller. Those of sampling and
    of diverse search have next to nothing in common: each would have to read the tokens of all.
    """
    device = next(model.parameters(), torch.empty(0)).device
    reason = _why_apart(model, search, beams, device, records)
    past = "share their past" if reason is None else f"keep their past apart: {reason}"
    _explain(f"beams of {type(search).__name__} {past}")
    if reason is not None:
        return None
    return (FixedLineage if records else Lineage)(sentences, beams, device)


def _why_apart(model, search, beams, device, records):
    if beams == 1 and not records:
        return "there is one"
    if type(search) is not BeamSearch:
        return "they have little in common"
    decoder = getattr(model, "decoder", None)
    foreign = why_foreign(decoder)
    if foreign is not None:
        return foreign
    attentions = [a for layer in layers_of(decoder) for a in (layer.self_attn, layer.encoder_attn) if a is not None]
    if not all(isinstance(attention, (ELMultiheadAttention, SharedKVAttention)) for attention in attentions):
        return "stock attention decodes"
    if not all(is_plain_dropout(attention.dropout_module) for attention in attentions):
        return "something is hooked or put onto the dropout of attention weights"
    if draws_dropout(model):
        return "dropout (--retain-dropout) draws for each token"
    return None if device.type == "cpu" or records else "steps are not recorded, and nothing was measured"


@functools.cache
def _explain(decision):
    """Log each decision once."""
    logger.debug("%s", decision)


PLANS = {"auto": cheapest, "on": hidden_everywhere}
MODES = ("auto", "on", "off")
