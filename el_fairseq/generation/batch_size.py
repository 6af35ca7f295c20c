"""How large batches may be: what a sentence needs at most, from shapes alone (``--el-max-tokens auto``).

A sentence of S source tokens, with M beams and up to T tokens to generate, needs while its source is read

    encoder    S · item · (3 D + max(2 F, 4 D))     a layer's input, residual and output, and the widest in between

and while it is decoded, beside one such layer for its M rows,

    state      by layout: hidden states, keys and values, or what stock keeps (``StockDecoder``)
    moved      the self-attention of one layer once more, while beams change places or it grows
    attention  M · H · (S + M · T) · (item + 8)      scores, where beams share their past
               2 · M · H · D · item                  queries and context in EL-attention
    trace      M · S · T · 8                         attention weights of all steps, for alignments
    search     M · V · (item + 12), for random draws 28 more, and M · T · 64 for its tables

and once, on a CPU, the weights of all linear layers again (``ops.products``). D is the width, F that of the
feed-forward layers, H the heads, V the vocabulary, item the bytes of a number. Each term is an upper bound: all
hypotheses run to their maximal length. Prefixes of language models are read like a source (but with stock attention one
token a step), with the hidden states of all layers and a mask ``[H, S, S]`` in memory. An ensemble needs all its caches
at once.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from fairseq.models import FairseqLanguageModel
from fairseq.models.transformer import TransformerEncoderBase

from el_fairseq.cache import CacheRequest, Layout
from el_fairseq.cache.buffer import BLOCK
from el_fairseq.cache.static import ROOM
from el_fairseq.convert.attentions import layers_of
from el_fairseq.convert.el_attention import why_foreign
from el_fairseq.generation.enable import models_of
from el_fairseq.generation.free_memory import free_memory
from el_fairseq.generation.memory import MIB, StockDecoder
from el_fairseq.generation.plan import PLANS
from el_fairseq.generation.prefill import CHUNK_TOKENS
from el_fairseq.ops.products import packed_bytes

logger = logging.getLogger(__name__)
USED_SHARE = 0.8  # of the free memory: allocators round and fragment
ROUNDED = 1.125  # rows of products are rounded up by so much at most where there are many
STOCK = "stock"  # the layout of --el-attention off


@dataclass
class Search:
    """What the need depends on beside the models: fairseq's options of generation of the same names."""

    beam: int
    max_len_a: float
    max_len_b: int
    match_source_len: bool = False
    sampling: bool = False
    prefix_size: int = 0
    lm_path: str | None = None

    @classmethod
    def of(cls, generation: Any) -> "Search":
        """From fairseq's generation options."""
        return cls(**{name: getattr(generation, name) for name in cls.__dataclass_fields__})


class Need:
    """Bytes that ``models`` need: ``fixed``, and ``sentence(S)`` for each sentence with a source of S tokens.

    Args:
        models: an ensemble, where it will generate.
        layout: how its attentions keep their state, or ``STOCK``.
        search: the options of generation.
        item: bytes of a number; None: those of the parameters.

    Raises:
        ValueError: what a model needs is not known.
    """

    def __init__(self, models: list[Any], layout: Layout | str, search: Search, item: int | None = None):
        for model in models:
            reason = why_foreign(getattr(model, "decoder", None))
            if reason is not None:
                raise ValueError(reason)
            if not isinstance(model, FairseqLanguageModel) and not isinstance(model.encoder, TransformerEncoderBase):
                raise ValueError(f"{type(model.encoder).__name__} is not a Transformer encoder of text")
        self.models, self.layout, self.search = models, layout, search
        self.item = item or next(models[0].parameters()).element_size()
        self.vocabulary = models[0].decoder.output_projection.out_features
        self.prompted = isinstance(models[0], FairseqLanguageModel)
        self.reads_prompts = self.prompted and layout != STOCK
        self.fixed: float = CHUNK_TOKENS * self.vocabulary * (self.item + 8) if self.reads_prompts else 0
        if layout != STOCK:
            self.fixed += sum(packed_bytes(model) for model in models)

    def sentence(self, length: int) -> float:
        """Bytes that one sentence needs at most.

        Args:
            length: of its source, in tokens; where a language model goes on, of the text that the prompt is part of.
        """
        steps = self._steps(length)
        if self.prompted and self.search.prefix_size > 0:
            length = min(length, self.search.prefix_size)
        state_of_source = sum(self._state_of_source(model, length) for model in self.models)
        state = state_of_source + sum(self._state_of_target(model, steps) for model in self.models)
        step = max(self._step(model, length, steps) for model in self.models) + self._search(steps)
        trace = 0 if self.prompted else self.search.beam * length * steps * 8
        if self.prompted and not self.reads_prompts:
            return state + step
        read = max(self._read(model, length) for model in self.models)
        return max(state_of_source + read, state + step + trace)

    def _steps(self, length: int) -> int:
        if self.search.match_source_len:
            return length + 1  # with end-of-sentence
        limit = min(model.max_decoder_positions() for model in self.models) - 1
        return min(int(self.search.max_len_a * length + self.search.max_len_b), limit) + 1

    def _layer(self, part: Any) -> float:
        layer = layers_of(part)[0]
        width, inner = layer.fc1.in_features, layer.fc1.out_features
        return ROUNDED * self.item * (3 * width + max(2 * inner, 4 * width))

    def _read(self, model: Any, length: int) -> float:
        if not self.prompted:
            return length * self._layer(model.encoder)
        layers = layers_of(model.decoder)
        heads, width = layers[0].self_attn.num_heads, layers[0].self_attn.embed_dim
        states = length * (len(layers) + 2) * width * self.item
        return states + length * self._layer(model.decoder) + 2 * heads * length**2 * self.item

    def _state_of_source(self, model: Any, length: int) -> int:
        layers = layers_of(model.decoder)
        vectors = 1 if self.layout == Layout.HIDDEN else 2
        if self.prompted:
            own = sum(layer.self_attn.embed_dim for layer in layers)
            return vectors * length * own * self.item if self.reads_prompts else 0
        cross = [layer.encoder_attn for layer in layers]
        if self.layout == STOCK:
            hidden = torch.empty(length, 1, cross[0].kdim, device="meta")
            names = ("encoder_out", "encoder_embedding", "encoder_padding_mask", "src_lengths")
            stock = StockDecoder(model, dict.fromkeys(names, [hidden]), self.search.beam)
            return stock.bytes(self.search.beam, steps=0)
        projected = 2 * sum(attention.embed_dim for attention in cross) if self.layout == Layout.PROJECTED else 0
        return length * ((cross[0].kdim + projected) * self.item + 1)

    def _state_of_target(self, model: Any, steps: int) -> int:
        widths = [layer.self_attn.embed_dim for layer in layers_of(model.decoder)]
        vectors = 1 if self.layout == Layout.HIDDEN else 2
        capacity = steps + (BLOCK if next(model.parameters()).device.type == "cpu" else ROOM)
        return vectors * self.search.beam * capacity * (sum(widths) + widths[0]) * self.item  # one layer is moved

    def _step(self, model: Any, length: int, steps: int) -> float:
        beams, attention = self.search.beam, layers_of(model.decoder)[0].self_attn
        heads = attention.num_heads
        scores = beams * heads * (length + beams * steps) * (self.item + 8)
        expanded = 2 * beams * heads * attention.embed_dim * self.item if self.layout == Layout.HIDDEN else 0
        return beams * self._layer(model.decoder) + scores + expanded

    def _search(self, steps: int) -> int:
        entry = self.item + 12 + 28 * self.search.sampling
        if len(self.models) > 1:
            entry += 12 * len(self.models)  # the distributions of all, stacked and summed up
        if self.search.lm_path is not None:
            entry += steps * (self.item + 4)  # --lm-path scores the whole prefix at each step
        return self.search.beam * (self.vocabulary * entry + steps * 64)


def batch_limits(need: Need, lengths: Sequence[int], free: float) -> tuple[int, int]:
    """Limit batches so that each fits into memory.

    Sentences are limited to what fits at the mean length, which holds for shorter ones; tokens to what fits at any
    length above. A sentence for which there is no room at all is left alone in its batch.

    Args:
        need: of one sentence.
        lengths: of all sources, in tokens.
        free: bytes that a batch may take.

    Returns:
        The most tokens and the most sentences of a batch, as fairseq's ``--max-tokens`` and ``--batch-size``.
    """
    free = USED_SHARE * free - need.fixed
    mean = math.ceil(sum(lengths) / len(lengths))
    sentences = int(free / need.sentence(mean))
    tokens = min(int(free * n / need.sentence(n)) for n in {*lengths, mean} if n >= mean)
    return max(tokens, *lengths, 1), max(sentences, 1)


def _layout(model: Any, mode: str, search: Search, lengths: Sequence[int]) -> Layout | str:
    """The layout that keeps most of those that the plan of ``mode`` chooses for a source of the mean length."""
    if mode == "off" or why_foreign(getattr(model, "decoder", None)) is not None:
        return STOCK
    layer = layers_of(model.decoder)[0]
    crosses = layer.encoder_attn is not None
    attention = layer.encoder_attn if crosses else layer.self_attn
    mean = math.ceil(sum(lengths) / max(1, len(lengths)))
    hidden = next(model.parameters()).new_empty(1).expand(mean, 1, attention.kdim)
    heads = attention.num_heads
    asked = [
        CacheRequest("self", hidden, 1, heads),
        CacheRequest("cross" if crosses else "prefix", hidden, search.beam, heads),
    ]
    return Layout.PROJECTED if Layout.PROJECTED in map(PLANS[mode], asked) else Layout.HIDDEN


def automatic_limits(models: list[Any], mode: str, command: Any, dataset: Any) -> tuple[int, int] | None:
    """Limit the batches of a data set by the memory that is free now.

    Args:
        models: an ensemble, where it will generate.
        mode: of ``--el-attention``.
        command: configuration with the parts ``generation``, ``common`` and ``distributed_training``; processes on one
            CPU share its memory.
        dataset: fairseq's, of the sources.

    Returns:
        As ``batch_limits``; None, with a log line, if the limits are not known.
    """
    models = models_of(models)
    if not models:
        return None  # loaded by another task
    device = next(models[0].parameters()).device
    free = free_memory(device)
    lengths = [int(dataset.num_tokens(i)) for i in dataset.ordered_indices()]
    search, item = Search.of(command.generation), 2 if command.common.bf16 else None
    try:
        need = Need(models, _layout(models[0], mode, search, lengths), search, item)
    except ValueError as error:
        need, reason = None, str(error)
    else:
        reason = "free memory is not known on this system"
    if need is None or free is None:
        logger.warning("--el-max-tokens auto: %s; --max-tokens and --batch-size limit batches", reason)
        return None
    if not lengths:
        return None
    if device.type == "cpu":
        free //= command.distributed_training.distributed_world_size
    tokens, sentences = batch_limits(need, lengths, free)
    logger.info(
        "--el-max-tokens auto: at most %d tokens and %d sentences a batch; %.0f MiB are free, the longest sentence "
        "needs up to %.2f MiB",
        tokens,
        sentences,
        free / MIB,
        need.sentence(max(lengths)) / MIB,
    )
    return tokens, sentences
