"""A served model: calls of varying lengths, each with a generator of its own, in a process that prints its memory."""

import random
import sys
from pathlib import Path

import torch
from fairseq.sequence_generator import SequenceGenerator

from el_fairseq import enable_el_attention
from el_fairseq.generation import ELSequenceGenerator

from .models import batch, build_model, dictionary

WORDS = dictionary(300)
SIZE = {
    **{f"{part}_embed_dim": 128 for part in ("encoder", "decoder")},
    **{f"{part}_ffn_embed_dim": 512 for part in ("encoder", "decoder")},
    **{f"{part}_layers": 1 for part in ("encoder", "decoder")},
}


def resident():
    """MiB of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


def main(mode, calls):
    """Print the memory after a quarter of the calls, and after all."""
    torch.set_num_threads(1)
    model = enable_el_attention(build_model("transformer", WORDS, torch.float32, **SIZE), mode)
    rng = random.Random(0)
    for call in range(calls):
        lengths = [rng.randint(2, 90) for _ in range(rng.randint(1, 10))]
        stock = SequenceGenerator([model], WORDS, beam_size=rng.choice((1, 4, 5)), max_len_a=0, max_len_b=3)
        with torch.no_grad():
            ELSequenceGenerator.adopt(stock).generate([model], batch(WORDS, lengths, seed=call))
        if call in (calls // 4, calls - 1):
            print(resident(), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
