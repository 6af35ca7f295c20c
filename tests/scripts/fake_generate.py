#!/usr/bin/env python3
"""Stands for fairseq-generate in the tests of generate_sharded.sh: seven sentences, one a batch, and mishaps.

``$FAKE`` is a folder: each process notes itself in ``started``; ``mishaps`` has lines of ``KIND SHARD``.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

SENTENCES = 7


def note(rank, pid, *more):
    with open(f"{os.environ['FAKE']}/started", "a") as started:
        started.write(" ".join(map(str, (rank, pid, *more))) + "\n")


def main():
    parser = argparse.ArgumentParser()
    for name in ("world-size", "rank"):
        parser.add_argument(f"--distributed-{name}", type=int)
    parser.add_argument("--results-path", type=Path)
    args, _ = parser.parse_known_args()
    rank = args.distributed_rank
    mishaps = Path(os.environ["FAKE"], "mishaps").read_text().splitlines()
    mishap = next((line.split()[0] for line in mishaps if line.endswith(f" {rank}")), None)
    mine = range(SENTENCES)[rank :: args.distributed_world_size] if mishap != "everything" else range(SENTENCES)
    written = mine[1:] if mishap in ("drop", "lose") else mine
    settings = [os.environ.get(name) or "none" for name in ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")]
    note(rank, os.getpid(), *settings, *sys.argv[1:])
    with open(args.results_path / "generate-test.txt", "w", buffering=1) as results:
        for i in written:
            results.write(f"S-{i}\t{i} - x\nH-{i}\t-0.5\ty {i}\nP-{i}\t-0.5\nE-{i}_0\ty\n")
        if mishap == "hang":
            note(rank, subprocess.Popen(["sleep", "100"]).pid)
            time.sleep(100)
        if mishap == "fail":
            time.sleep(1)  # the others have finished by then
            sys.exit("RuntimeError: a mishap")
        print("INFO | NOTE: hypothesis and token scores are output in base 2", file=sys.stderr)
        if not mine:
            sys.exit("ZeroDivisionError: division by zero")
        translated = len(written if mishap == "drop" else mine)
        print(f"INFO | Translated {translated:,} sentences (9 tokens) in 0.1s", file=sys.stderr)
        results.write("Generate test with beam=5: BLEU4 = 1.00\n")


if __name__ == "__main__":
    main()
