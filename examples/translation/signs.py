#!/usr/bin/env python3
"""Let the heads of an mhe-mul checkpoint differ by signs: set each number of a head embedding to 0 or -2, by chance.

Usage: python -m examples.translation.signs CHECKPOINT OUT

Then ``1 + e`` is 1 or -1. OUT is for --restore-file, to start a training from.
"""

import sys

import torch

from el_fairseq.compat import load_checkpoint


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    if len(argv) != 2:
        raise SystemExit(__doc__)
    checkpoint, generator = load_checkpoint(argv[0]), torch.Generator().manual_seed(1)
    variant = checkpoint["cfg"]["model"].get("attention_variant")
    if variant != "mhe-mul":
        raise SystemExit(f"{argv[0]}: --attention-variant is {variant}, not mhe-mul, whose heads have factors")
    embeddings = [value for name, value in checkpoint["model"].items() if name.endswith("_head_embed")]
    for embedding in embeddings:
        embedding.copy_(-2.0 * torch.randint(2, embedding.shape, generator=generator))
    torch.save(checkpoint, argv[1])
    print(f"{argv[1]}: {len(embeddings)} embeddings of heads are signs")


if __name__ == "__main__":
    main()
