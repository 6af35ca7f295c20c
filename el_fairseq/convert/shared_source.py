"""One encoder output a sentence, however many beams decode from it."""

from functools import partial
from typing import Any

import torch
from torch import nn

from el_fairseq.cache.buffer import sentences_of_rows
from el_fairseq.convert.attentions import layers_of
from el_fairseq.stock import is_plain_dropout, is_plain_linear, is_unhooked, log_once

EncoderOut = dict[str, list]

BEAMS = "el_beams"  # key in the encoder output: how many decoder rows share one sentence
UNREAD = ("encoder_embedding", "encoder_states", "fc_results")  # returned by encoders, read by no Transformer decoder
METHODS = ("reorder_encoder_out", "_reorder_encoder_out")


def reorder_encoder_out(encoder: Any, model: nn.Module, encoder_out: EncoderOut, new_order: torch.Tensor) -> EncoderOut:
    """In place of the encoder's ``reorder_encoder_out``: expand nothing, and re-index only when a sentence leaves.

    A generator's first call repeats each sentence M times: that is noted instead of done. Later calls speak of rows
    (``new_order [B'·M]``); the sentences after them stay. Any other first order is carried out as it is; so is the
    first one where something was hooked or put onto what reads the source, and sees it once a beam in stock.

    Args:
        encoder: of ``model``.
        model: whose decoder reads the output.
        encoder_out: of B sentences.
        new_order: ``[B·M]`` numbers of sentences in the first call, ``[B'·M]`` of rows later, in int64.

    Returns:
        The encoder output of the sentences that are left.
    """
    stock = type(encoder).reorder_encoder_out
    if BEAMS not in encoder_out:
        sentences = encoder_out["encoder_out"][0].size(1)
        beams, rest = divmod(new_order.numel(), sentences)
        repeated = torch.arange(sentences, device=new_order.device).repeat_interleave(beams)
        if rest or not torch.equal(repeated, new_order) or _sees_each_beam(model):
            return stock(encoder, encoder_out, new_order)
        return {**encoder_out, **{key: [] for key in UNREAD if key in encoder_out}, BEAMS: [beams]}
    (beams,) = encoder_out[BEAMS]
    sentences = sentences_of_rows(new_order, beams, encoder_out["encoder_out"][0].size(1))
    if sentences is None:
        return encoder_out
    return {**stock(encoder, encoder_out, sentences), BEAMS: [beams]}


def share_beams(model: Any) -> None:
    """Let all beams of a sentence share the output of this model's encoder.

    The instance's method is replaced the way ``BARTModel.set_beam_size`` does it in fairseq; both names, so that
    BART's own later assignment of one to the other changes nothing. A ``partial`` is copied and pickled with the model,
    a bound method is not.
    """
    for name in METHODS:
        vars(model.encoder)[name] = partial(reorder_encoder_out, model.encoder, model)


def unshare_beams(encoder: nn.Module) -> None:
    """Undo ``share_beams``."""
    for name in METHODS:
        vars(encoder).pop(name, None)


def _sees_each_beam(model: Any) -> bool:
    """Whether something that stock calls once a beam is not as stock, or this package, built it."""
    shares = hasattr(model, "set_beam_size")  # BART's beams share the source in stock, too, but not their weights
    for number, layer in enumerate(layers_of(model.decoder)):
        attention = layer.encoder_attn
        if attention is None:
            continue
        readers = is_unhooked(layer) and is_unhooked(attention)
        readers = readers and all(is_plain_linear(getattr(attention, name, None)) for name in ("k_proj", "v_proj"))
        if not (readers or shares) or not is_plain_dropout(getattr(attention, "dropout_module", None)):
            log_once(f"each beam has a source of its own: decoder.layers.{number}.encoder_attn was changed")
            return True
    return False
