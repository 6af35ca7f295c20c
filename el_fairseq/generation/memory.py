"""What the decoder keeps while it generates, measured from the tensors, beside what stock would keep."""

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from el_fairseq.convert.attentions import layers_of
from el_fairseq.convert.el_attention import why_foreign

logger = logging.getLogger(__name__)
MIB = 2**20


def state_bytes(*holders: Any) -> int:
    """Bytes of all tensors in ``holders`` (nested dicts, lists, objects with ``tensors()``), each storage once."""
    storages: dict[int, int] = {}
    for tensor in _tensors(holders):
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def _tensors(holder: Any) -> Iterator[torch.Tensor]:
    if torch.is_tensor(holder):
        yield holder
    elif hasattr(holder, "tensors"):
        yield from _tensors(holder.tensors())
    elif isinstance(holder, (dict, list, tuple)):
        for item in holder.values() if isinstance(holder, dict) else holder:
            yield from _tensors(item)


class StateMeter:
    """Follows the decoder state of an ensemble, batch by batch, and remembers the batch that needed the most.

    ``peak`` is ``(measured, stock)`` in bytes for that batch, each at its own largest: measured from the tensors that
    are there after a decoder step, stock's from ``StockDecoder``. ``recent`` is the same since it was last set to zero.

    Args:
        models: the ensemble.
        beams: M.
    """

    def __init__(self, models: list[Any], beams: int):
        self.models, self.beams = models, beams
        self.peak: tuple[int, int] = (0, 0)
        self.recent: tuple[int, int] = (0, 0)

    def start_batch(self, encoder_outs: Sequence[dict | None] | None) -> "_Batch":
        """Begin a batch with ``encoder_outs``, one a model, not yet expanded; None or empty without encoders."""
        outs = encoder_outs or len(self.models) * [None]  # a language model has no encoder
        return _Batch(self, [StockDecoder.of(model, out, self.beams) for model, out in zip(self.models, outs)])

    def report(self) -> None:
        """Log the one line that says what was saved; nothing if nothing was generated."""
        measured, stock = self.peak
        if measured > 0:
            logger.info(
                "decoder state: peak %.2f MiB; stock would keep %.2f MiB for the same batch, %.1fx",
                measured / MIB,
                stock / MIB,
                stock / measured,
            )


class _Batch:
    """One batch of one call: several threads may share a generator, and so its meter.

    Two that raise the peak at the same moment may lose one of both; nothing but the report depends on it.
    """

    def __init__(self, meter: StateMeter, stock: list["StockDecoder | None"]):
        self.meter, self.stock = meter, stock
        self.peak: tuple[int, int] = (0, 0)

    def observe(self, encoder_outs: Sequence[dict | None] | None, states: list[dict], rows: int, steps: int) -> None:
        """After a decoder step that had ``rows`` rows, each now ``steps`` tokens long."""
        measured = state_bytes(encoder_outs, states)
        outs = encoder_outs or len(self.stock) * [None]
        stock = sum(
            decoder.bytes(rows, steps) if decoder else state_bytes(out, state)
            for decoder, out, state in zip(self.stock, outs, states)
        )
        self.peak = (max(self.peak[0], measured), max(self.peak[1], stock))
        self.meter.peak = max(self.meter.peak, self.peak)
        self.meter.recent = max(self.meter.recent, self.peak)


class StockDecoder:
    """How much a stock Transformer decoder keeps for a batch, from shapes alone.

    Args:
        model: of the ``transformer`` family.
        encoder_out: the encoder's output for ``[B, S]`` before anything was expanded, or None for a language model.
        beams: M.
    """

    def __init__(self, model: Any, encoder_out: dict | None, beams: int):
        self.beams = beams
        self.shares_beams = hasattr(model, "set_beam_size") and beams > 1  # BART since fairseq 0.12
        layers = layers_of(model.decoder)
        self.item = next(model.decoder.parameters()).element_size()
        self.self_width = sum(layer.self_attn.embed_dim for layer in layers)
        cross = [layer.encoder_attn for layer in layers if layer.encoder_attn is not None]
        cross_width, cross_layers = sum(attention.embed_dim for attention in cross), len(cross)
        self.src_len = self.sentences = self.encoder_row = masks = 0
        if encoder_out is not None:
            self.src_len, self.sentences, width = encoder_out["encoder_out"][0].shape
            # encoder_out and encoder_embedding [S, ., D], padding mask [., S] (bool), source length (int32)
            self.encoder_row = self.src_len * width * self.item * (1 + len(encoder_out["encoder_embedding"]))
            masks = len(encoder_out["encoder_padding_mask"])  # 0 for speech without padding
            self.encoder_row += self.src_len * masks + 4 * len(encoder_out["src_lengths"])
        # a layer: key and value [., H, S, d], padding mask [., S] (float32)
        self.cross_row = self.src_len * (2 * cross_width * self.item + 4 * cross_layers * masks)

    @classmethod
    def of(cls, model: Any, encoder_out: dict | None, beams: int) -> "StockDecoder | None":
        """For a model whose decoder is stock's own, else None: what others keep is only known by measuring."""
        known = why_foreign(getattr(model, "decoder", None)) is None
        known = known and (encoder_out is None or "encoder_embedding" in encoder_out)
        return cls(model, encoder_out, beams) if known else None

    def bytes(self, rows: int, steps: int) -> int:
        """Bytes with ``rows = b·M`` rows alive, each ``steps`` tokens long."""
        holders = self.sentences if self.shares_beams else rows  # BART keeps the output of sentences that have left
        projected = rows // self.beams if self.shares_beams else rows
        return holders * self.encoder_row + projected * self.cross_row + 2 * rows * steps * self.self_width * self.item
