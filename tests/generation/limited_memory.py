"""A process of its own that translates with too little memory; prints its best hypotheses, and logs.

Arguments: sentences in the batch, and how many MiB more than before it may have (-1: any number).
"""

import logging
import resource
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from fairseq.dataclass.configs import GenerationConfig  # noqa: E402
from fairseq.tasks import TASK_DATACLASS_REGISTRY, TASK_REGISTRY  # noqa: E402
from helpers import batch, build_model, dictionary  # noqa: E402

import el_fairseq  # noqa: E402, F401

logging.basicConfig(level=logging.INFO)
torch.set_num_threads(1)
sentences, mib = map(int, sys.argv[1:])
words = dictionary(20000)
task = TASK_REGISTRY["el_translation"](TASK_DATACLASS_REGISTRY["el_translation"](el_attention="on"), words, words)
model = build_model("transformer", words, torch.float32, gain=3.0)
generator = task.build_generator([model], GenerationConfig(beam=4, max_len_b=6))
task.inference_step(generator, [model], batch(words, [9, 8]))
if mib >= 0:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + mib * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for seed in range(2):
    for best, *_ in task.inference_step(generator, [model], batch(words, [9 - i % 5 for i in range(sentences)], seed)):
        print(best["tokens"].tolist(), round(float(best["score"]), 3))
