"""A process of its own that decodes with two threads, forks, and decodes in the child; prints whether both agree."""

import os
import signal
import sys

import torch

from el_fairseq import enable_el_attention
from el_fairseq.generation import ELSequenceGenerator

from .models import batch, build_model, dictionary

torch.set_num_threads(int(sys.argv[1]))
words = dictionary(2000)
model = enable_el_attention(build_model("transformer", words, torch.float32, seed=1, gain=2.0))


def decode():
    generator = ELSequenceGenerator([model], words, beam_size=4, max_len_b=14)
    return [hypotheses[0]["tokens"].tolist() for hypotheses in generator.generate([model], batch(words, [9, 5, 7] * 4))]


before = decode()
child = os.fork()
if child == 0:
    signal.alarm(50)  # one that waits for ever is not left behind
    print("the same" if decode() == before else "others", flush=True)
    os._exit(0)
os.waitpid(child, 0)
