"""Models that follow a script: what they make of every prefix is known by hand."""

import torch
from fairseq.models import FairseqDecoder, FairseqEncoder, FairseqEncoderDecoderModel, FairseqIncrementalDecoder

from .models import dictionary

WORDS = dictionary(8)
END, A, B, C = WORDS.eos(), *(WORDS.index(f"w{i}") for i in range(3))
ANY = {END: 0.8, A: 0.1, B: 0.06, C: 0.04}  # behind every prefix that a script does not mention
SCRIPT = {  # by the first token of the source, what follows each prefix
    A: {(): {A: 0.9, B: 0.1}, (A,): {B: 0.6, END: 0.4}, (B,): {END: 0.7, A: 0.3}, (A, B): {END: 0.6, A: 0.4}},
    B: {(): {B: 0.7, A: 0.3}, (B,): {END: 0.8, A: 0.2}, (A,): {END: 0.9, B: 0.1}},
}


def sample():
    """Two sentences, one for each part of the script; the second ends first."""
    tokens = torch.tensor([[A, C, END], [B, END, WORDS.pad()]])
    return {"id": torch.tensor([7, 3]), "net_input": {"src_tokens": tokens, "src_lengths": torch.tensor([3, 2])}}


class _Encoder(FairseqEncoder):
    """Its output is none that the generator could know."""

    def forward(self, src_tokens, src_lengths=None, **kwargs):
        return {"scene": src_tokens[:, :1], "anything": "else"}

    def reorder_encoder_out(self, encoder_out, new_order):
        return {**encoder_out, "scene": encoder_out["scene"][new_order]}


class _Reader:
    def read(self, prefixes, encoder_out):
        probabilities = torch.zeros(len(prefixes), 1, len(WORDS), dtype=torch.float64)
        for row, scene, prefix in zip(probabilities, encoder_out["scene"][:, 0].tolist(), prefixes.tolist()):
            for token, probability in self.script.get(scene, {}).get(tuple(prefix[1:]), ANY).items():
                row[0, token] = probability
        return probabilities.log(), None


class _Decoder(_Reader, FairseqDecoder):
    def forward(self, prev_output_tokens, encoder_out=None, **kwargs):
        return self.read(prev_output_tokens, encoder_out)


class _IncrementalDecoder(_Reader, FairseqIncrementalDecoder):
    """Reads the last token alone; its state has to bring the others, in the order of the beams."""

    def forward(self, prev_output_tokens, encoder_out=None, incremental_state=None, **kwargs):
        new = prev_output_tokens[:, -1:]
        past = self.get_incremental_state(incremental_state, "past")
        tokens = new if past is None else torch.cat((past["tokens"], new), dim=1)
        self.set_incremental_state(incremental_state, "past", {"tokens": tokens})
        return self.read(tokens, encoder_out)

    def reorder_incremental_state(self, incremental_state, new_order):
        past = self.get_incremental_state(incremental_state, "past")
        self.set_incremental_state(incremental_state, "past", {"tokens": past["tokens"][new_order]})


def scripted_model(script=SCRIPT, incremental=True):
    """A model of no kind that is known anywhere, which follows ``script``."""
    decoder = (_IncrementalDecoder if incremental else _Decoder)(WORDS)
    decoder.script = script
    return FairseqEncoderDecoderModel(_Encoder(WORDS), decoder)


def probability(source, tokens, script=SCRIPT):
    """Of each token of a hypothesis for the sentence that begins with ``source``."""
    return [script[source].get(tuple(tokens[:i]), ANY).get(token, 0.0) for i, token in enumerate(tokens)]
