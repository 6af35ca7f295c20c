"""One encoder output a sentence, however many beams decode from it."""

import types

import torch

from el_fairseq.modules.state import sentences_of_rows

BEAMS = "el_beams"  # key in the encoder output: how many decoder rows share one sentence
UNREAD = ("encoder_embedding", "encoder_states", "fc_results")  # returned by encoders, read by no Transformer decoder


def reorder_encoder_out(encoder, encoder_out, new_order):
    """In place of the encoder's ``reorder_encoder_out``: expand nothing, and re-index only when a sentence leaves.

    A generator's first call repeats each sentence M times: that is noted instead of done. Later calls speak of rows
    (``new_order [B'·M]``); the sentences behind them are kept. Any other first order is carried out as it is.
    """
    stock = type(encoder).reorder_encoder_out
    if BEAMS not in encoder_out:
        sentences = encoder_out["encoder_out"][0].size(1)
        beams, rest = divmod(new_order.numel(), sentences)
        repeated = torch.arange(sentences, device=new_order.device).repeat_interleave(beams)
        if rest or not torch.equal(repeated, new_order):
            return stock(encoder, encoder_out, new_order)
        return {**encoder_out, **{key: [] for key in UNREAD if key in encoder_out}, BEAMS: [beams]}
    (beams,) = encoder_out[BEAMS]
    sentences = sentences_of_rows(new_order, beams, encoder_out["encoder_out"][0].size(1))
    if sentences is None:
        return encoder_out
    return {**stock(encoder, encoder_out, sentences), BEAMS: [beams]}


def share_beams(encoder):
    """Let all beams of a sentence share this encoder's output.

    The instance's method is replaced the way ``BARTModel.set_beam_size`` does it in fairseq; both names, so that
    BART's own later assignment of one to the other changes nothing.
    """
    method = types.MethodType(reorder_encoder_out, encoder)
    encoder.reorder_encoder_out = encoder._reorder_encoder_out = method


def unshare_beams(encoder):
    """Undo ``share_beams``."""
    for name in ("reorder_encoder_out", "_reorder_encoder_out"):
        encoder.__dict__.pop(name, None)
