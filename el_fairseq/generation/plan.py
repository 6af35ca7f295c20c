"""How a batch is decoded: which lossless layout an attention keeps, what beams share, by which path steps go.

**Layout.** EL-attention always keeps the least. Whether it is also the fastest is a matter of arithmetic against
memory traffic. For each element of the hidden states ``[S, D]`` of a sentence, a step of M beams with H heads of w-byte
numbers takes

    hidden      reads 2w bytes, 4·M·H operations; cross-attention also 4·M·D/S to expand queries and outputs
    projected   reads 2w bytes, 4·M operations;   cross-attention also 4·D a sentence, for the source's projections

Operations count by how many the device does while it reads a byte. Self-attention has no more than that: it expands or
projects as much in either layout, and M beams read one past, or each its own (M = 1). That is the rule for a GPU. On a
CPU products of a few rows are far from its full speed, and keys and values were faster in all that was measured but
self-attention of small models (``docs/benchmarks.md``). Each attention asks when a batch begins (``CacheRequest``).

**All the rest** is in one ``BatchPlan`` a batch. What was decided, and why, is logged at debug level, each decision
once (``LOGLEVEL=DEBUG``, as of fairseq's commands).
"""

import functools
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from fairseq.models.fairseq_decoder import FairseqDecoder
from fairseq.models.fairseq_model import BaseFairseqModel
from fairseq.models.transformer import TransformerDecoderBase, TransformerModelBase
from fairseq.search import BeamSearch
from fairseq.sequence_generator import EnsembleModel
from torch import nn

from el_fairseq.cache import BeamCaches, CacheGroup, CacheRequest, Layout, StaticBeamCaches, hidden_everywhere
from el_fairseq.convert.attentions import attentions_of, layers_of
from el_fairseq.convert.el_attention import draws_dropout, is_converted, unwrapped, why_foreign
from el_fairseq.details import details_logger
from el_fairseq.generation.cuda_graph import Capture, capturer
from el_fairseq.generation.decoder_step import POSITIONS, change_in_decoder, why_no_fast_step
from el_fairseq.generation.free_memory import free_memory
from el_fairseq.generation.prefill import why_no_prefill
from el_fairseq.generation.static_rows import StaticRows
from el_fairseq.modules.el_attention import ELMultiheadAttention
from el_fairseq.modules.shared_kv_attention import SharedKVAttention
from el_fairseq.ops import has_groups
from el_fairseq.stock import has_stock_method, is_plain_dropout, is_plain_linear, log_once

logger = details_logger(__name__)
TENSOR_CORES = (7, 0)  # from this compute capability
OPERATIONS_PER_BYTE = {True: 140, False: 15}  # of GPUs, with and without tensor cores, by their data sheets
EXPECTED_STEPS = 64  # over which the projections of a source should pay: how many follow is not known in advance
ALWAYS_FITS = 2**18  # bytes of hidden states: less than what it takes to look for free memory
MEMORY_SHARE = 1 / 32  # of the free memory is what keys and values of one cross-attention may take


class BatchPlan(NamedTuple):
    """How one batch is decoded; made once, by ``plan_batch``."""

    one_product: bool  # each model's log-probabilities are the log-softmax of one product, and go to one buffer
    fast_step: bool  # decoder steps on the fast path
    caches: list[CacheGroup | None]  # of each model's self-attentions; None: each row has entries of its own
    capture: Capture | None  # steps are replayed as CUDA graphs that this captures
    prefill: bool  # prefixes are read in one pass
    prune_late: bool  # sentences that have ended leave by halves
    static_rows: StaticRows | None  # of captured steps, where the search prunes sentences at once
    by_groups: bool  # the search looks at the best of each group of log-probabilities, and decides without waiting
    whole_rows: bool  # all tokens and scores of each beam are kept in order, instead of back-pointers alone


def plan_batch(generator: Any, sentences: int, prefix_tokens: torch.Tensor | None) -> BatchPlan:
    """Decide how a batch is decoded.

    Args:
        generator: an ``ELSequenceGenerator``.
        sentences: B.
        prefix_tokens: ``[B, p]`` in int64, after which it goes on, or None.
    """
    ensemble, search, beams = generator.model, generator.search, generator.beam_size
    no_prefill = "no prefixes" if prefix_tokens is None else why_no_prefill(generator)
    no_one_product = why_no_one_product(ensemble)
    no_fast_step = no_one_product or _first_reason(why_no_fast_step(unwrapped(m).decoder) for m in ensemble.models)
    if no_prefill is not None and prefix_tokens is not None and not ensemble.has_encoder():
        log_once(f"prompts are read token by token, without a prefill: {no_prefill}")
    whole_rows = why_whole_rows(generator, no_fast_step, no_prefill, prefix_tokens)
    no_groups = whole_rows or why_no_groups([unwrapped(m).decoder for m in ensemble.models], beams)
    device = next(ensemble.single_model.parameters(), torch.empty(0)).device
    no_graphs = no_fast_step or why_no_graphs(ensemble, search, beams, device)
    capture = None if no_graphs else capturer(device)
    caches: list[CacheGroup | None] = [None] * ensemble.models_size
    if no_prefill is not None or capture is not None:  # or else rows have caches of their own after the prefixes
        caches = [shared_caches(model, search, sentences, beams, capture is not None) for model in ensemble.models]
    for what, reason in (
        ("prefixes in one pass", no_prefill),
        ("log-probabilities in one buffer", no_one_product),
        ("steps on the fast path", no_fast_step),
        ("steps as CUDA graphs", no_graphs),
        ("back-pointers alone", whole_rows),
        ("candidates by groups", no_groups),
    ):
        explain(what if reason is None else f"not {what}: {reason}")
    if no_fast_step is not None:
        for model in ensemble.models:
            _log_what_was_changed(unwrapped(model))
    # Stock refuses a sentence that goes on after an end of sentence in its prefix.
    ends = prefix_tokens is not None and bool(prefix_tokens.eq(generator.eos).any())
    prune_late = capture is not None and type(search) is BeamSearch and not ends
    static_rows = None
    if capture is not None and not prune_late:
        static_rows = StaticRows(sentences * beams, beams, device)
    return BatchPlan(
        one_product=no_one_product is None,
        fast_step=no_fast_step is None,
        caches=caches,
        capture=capture,
        prefill=no_prefill is None,
        prune_late=prune_late,
        static_rows=static_rows,
        by_groups=no_groups is None and not prune_late,
        whole_rows=whole_rows is not None,
    )


def costs(request: CacheRequest, rate: float) -> dict[Layout, float]:
    """Time of a step for each layout, in bytes that could be read meanwhile, for one element of the hidden states.

    Args:
        request: what an attention begins to attend to.
        rate: operations that the device does while it reads a byte.
    """
    length, _, dim = request.hidden.shape
    read = 2 * request.hidden.element_size()
    absorbed = max(read, 4 * request.beams * request.heads / rate)
    projected = max(read, 4 * request.beams / rate)
    if request.kind == "cross":
        absorbed += 4 * request.beams * dim / length / rate
        projected += 4 * dim / EXPECTED_STEPS / rate
    return {Layout.HIDDEN: absorbed, Layout.PROJECTED: projected}


def cheapest(request: CacheRequest) -> Layout:
    """The plan of ``--el-attention auto``: the fastest layout that fits, and of equals the one that keeps least."""
    device = request.hidden.device
    if device.type == "cpu":
        layout, reason = Layout.PROJECTED, "faster on a CPU"
    else:
        cost = costs(request, OPERATIONS_PER_BYTE[_has_tensor_cores(request.hidden)])
        layout = min(cost, key=cost.__getitem__)  # of equals, hidden states
        reason = ", ".join(f"{name.value} costs {bytes_:.1f}" for name, bytes_ in cost.items())
    if layout == Layout.PROJECTED and not _fits(request):
        layout, reason = Layout.HIDDEN, "free memory is short"
    where = f"{request.kind}-attention of {request.heads} heads, {request.beams} beams, {request.hidden.dtype}"
    explain(f"{where} on {device.type}: {layout.value}, {reason}")
    return layout


def _has_tensor_cores(hidden: torch.Tensor) -> bool:
    half = hidden.dtype in (torch.float16, torch.bfloat16)
    return half and hidden.is_cuda and torch.cuda.get_device_capability(hidden.device) >= TENSOR_CORES


def _fits(request: CacheRequest) -> bool:
    if request.hidden.nbytes < ALWAYS_FITS or request.kind != "cross":
        return True  # twice as much as hidden states, and it grows: fewer sentences a batch is what helps
    free = free_memory(request.hidden.device)
    return free is None or 2 * request.hidden.nbytes <= MEMORY_SHARE * free


def why_no_graphs(ensemble: Any, search: Any, beams: int, device: torch.device) -> str | None:
    """Why steps on the fast path are not captured, or None. They are those of all models of an ensemble, or of none."""
    if capturer(device) is None:
        return f"no CUDA graphs on {device.type}"
    return _first_reason(why_beams_apart(model, search, beams, device, captures=True) for model in ensemble.models)


def shared_caches(model: nn.Module, search: Any, sentences: int, beams: int, captures: bool) -> CacheGroup | None:
    """Make the caches of the self-attentions of a model for a batch where all beams of a sentence share one.

    In beam search beams have most of their ancestors in common, and one cache is faster and smaller. Those of sampling
    and of diverse search have next to none in common: each would have to read the tokens of all. Where steps are
    captured they share one, too, in which no entry has to move: as many entries are read as of caches of their own,
    with M times the products, for which a GPU has time while it reads (by the arithmetic; not measured).

    Args:
        model: fairseq's.
        search: a ``fairseq.search.Search``.
        sentences: B.
        beams: M.
        captures: whether steps are captured as graphs, which needs static caches.

    Returns:
        Their group, or None where each row has entries of its own.
    """
    parameters = getattr(model, "decoder", model).parameters()
    wide = (p for p in parameters if p.is_floating_point() and p.element_size() > 1)
    parameter = next(wide, torch.empty(0, dtype=torch.float32))
    device = parameter.device
    reason = why_beams_apart(model, search, beams, device, captures)
    have = "share one cache" if reason is None else f"keep caches of their own: {reason}"
    explain(f"beams of {type(search).__name__} {have}")
    if reason is not None:
        return None
    return (StaticBeamCaches if captures else BeamCaches)(sentences, beams, device, parameter.dtype)


def why_beams_apart(model: Any, search: Any, beams: int, device: torch.device, captures: bool) -> str | None:
    """Why the beams of a sentence have caches of their own, or None."""
    if beams == 1 and not captures:
        return "there is one"
    if type(search) is not BeamSearch and not captures:
        return "they have little in common"
    decoder = getattr(model, "decoder", None)
    foreign = why_foreign(decoder)
    if foreign is not None:
        return foreign
    attentions = [each.module for each in attentions_of(layers_of(decoder))]
    if not all(isinstance(attention, (ELMultiheadAttention, SharedKVAttention)) for attention in attentions):
        return "stock attention decodes"
    if not all(is_plain_dropout(attention.dropout_module) for attention in attentions):
        return "something is hooked or put onto the dropout of attention weights"
    if draws_dropout(model):
        return "dropout (--retain-dropout) draws for each token"
    return None if device.type == "cpu" or captures else "steps are not captured, and nothing was measured"


def why_no_one_product(ensemble: Any) -> str | None:
    """Why the log-probabilities of an ensemble's models, all converted, may not be the log-softmax of one product each,
    or None."""
    if not has_stock_method(ensemble, "forward_decoder", EnsembleModel):
        return f"{type(ensemble).__name__}.forward_decoder is not stock's"
    if torch.is_grad_enabled():
        return "gradients are wanted"
    if not ensemble.has_incremental_states():
        return "no incremental states"
    models = [unwrapped(model) for model in ensemble.models]
    reason = _first_reason(map(_why_no_one_product_in, models))
    if reason is None and len({model.decoder.output_projection.weight.size(0) for model in models}) > 1:
        return "vocabularies of different sizes"
    return reason


def _first_reason(reasons: Iterable[str | None]) -> str | None:
    return next((reason for reason in reasons if reason is not None), None)


def _why_no_one_product_in(model: Any) -> str | None:
    decoder = getattr(model, "decoder", None)
    foreign = why_foreign(decoder)
    if foreign is not None:
        return foreign
    if not is_converted(model):
        return "the model was not converted"
    if not is_plain_linear(getattr(decoder, "output_projection", None)):
        return "output_projection is not a plain Linear"
    for part, name, *owners in (
        (decoder, "forward", TransformerDecoderBase),
        (decoder, "output_layer", TransformerDecoderBase),
        (decoder, "get_normalized_probs", FairseqDecoder),
        (decoder, "get_normalized_probs_scriptable", FairseqDecoder),
        (model, "get_normalized_probs", BaseFairseqModel, TransformerModelBase),
        (model, "get_normalized_probs_scriptable", BaseFairseqModel),
    ):
        if not has_stock_method(part, name, *owners):
            return f"{type(part).__name__}.{name} is not stock's"
    return None


def why_no_groups(decoders: list[Any], beams: int) -> str | None:
    """Why the search looks at all log-probabilities of M beams, or None."""
    if len(decoders) > 1:
        return f"an ensemble of {len(decoders)}"
    weight = decoders[0].output_projection.weight  # [V, D]
    if weight.device.type != "cpu":
        return f"no measurement on {weight.device.type}"
    if weight.dtype not in (torch.float32, torch.float64):
        return f"equal numbers are frequent in {weight.dtype}"
    return None if has_groups(weight.size(0), beams, 2 * beams) else f"a vocabulary of {weight.size(0)}"


def why_whole_rows(
    generator: Any, no_fast_step: str | None, no_prefill: str | None, prefix_tokens: torch.Tensor | None
) -> str | None:
    """Why more is read of beams than their last tokens and scores, or None.

    Args:
        generator: the ``ELSequenceGenerator``.
        no_fast_step: why steps are not on the fast path, or None.
        no_prefill: why prefixes are read token by token, or None.
        prefix_tokens: ``[B, p]`` in int64, or None.
    """
    if type(generator.search) is not BeamSearch:
        return f"{type(generator.search).__name__} reads all scores"
    if generator.lm_model is not None:
        return "--lm-path: the language model reads all tokens"
    if generator.repeat_ngram_blocker is not None:
        return "--no-repeat-ngram-size reads all tokens"
    if no_fast_step is not None:
        return f"steps are not on the fast path: {no_fast_step}"
    for model in generator.model.models:
        embed_positions = unwrapped(model).decoder.embed_positions
        if embed_positions is not None and type(embed_positions) not in POSITIONS:
            return f"{type(embed_positions).__name__} may read all tokens"
    if prefix_tokens is None:
        return None
    if no_prefill is not None:
        return "prefixes are read token by token"
    ends = prefix_tokens.eq(generator.pad) | prefix_tokens.eq(generator.eos)
    return "prefixes of different lengths" if bool(ends.any()) else None


def _log_what_was_changed(model: Any) -> None:
    """Log why the decoder of a converted model computes by its own modules, if something was put onto one."""
    change = change_in_decoder(model.decoder) if is_converted(model) else None
    if change is not None:
        log_once(f"{type(model.decoder).__name__} decodes by its own modules: {change}")


@functools.lru_cache(maxsize=1000)
def explain(decision: str) -> None:
    """Log a decision at debug level, once."""
    logger.debug("%s", decision)


PLANS = {"auto": cheapest, "on": hidden_everywhere}
MODES = ("auto", "on", "off")
