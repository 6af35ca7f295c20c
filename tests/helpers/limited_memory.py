"""A process of its own that translates with too little memory, then with enough, and prints whether both agree."""

import logging
import resource
from pathlib import Path

import torch
from fairseq.dataclass.configs import GenerationConfig
from fairseq.tasks import TASK_DATACLASS_REGISTRY, TASK_REGISTRY

import el_fairseq

from .models import batch, build_model, dictionary

MORE = 90 * 2**20  # bytes that the process may have beside those it has

logging.basicConfig(level=logging.INFO)
torch.set_num_threads(1)
words = dictionary(100000)
task = TASK_REGISTRY["el_translation"](TASK_DATACLASS_REGISTRY["el_translation"](el_attention="on"), words, words)
model = build_model("transformer", words, torch.float32, gain=3.0)
options = GenerationConfig(beam=4, max_len_b=6)


def translate(sample):
    generator = task.build_generator([model], options)
    return [
        [(hypothesis["tokens"].tolist(), round(float(hypothesis["score"]), 3)) for hypothesis in sentence]
        for sentence in task.inference_step(generator, [model], sample)
    ]


translate(batch(words, [9, 8]))
sample = batch(words, [9 - i % 5 for i in range(64)])
_, hard = resource.getrlimit(resource.RLIMIT_AS)
pages = int(Path("/proc/self/statm").read_text().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MORE, hard))
parts = translate(sample)
resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
whole = translate(sample)
print(f"{len(parts)} sentences, {'the same' if parts == whole else 'others'}")
