"""Where the time of decoding goes, operator by operator: PyTorch's profile of one batch, beside its time without it.

Usage: python -m scripts.bench.profile [--mode auto] [--rows 15] [--out FILE] [options of bench_decode.py]

The mode is one of bench_decode.py's, or stock. Times are those spent in an operator itself, on a CPU without Python's
between them: what is missing from the whole is Python's, and what the profiler itself costs comes on top.
"""

import argparse
import statistics
from pathlib import Path

import torch
from torch.autograd import DeviceType

from .contest import Contest
from .decode import cells, generation_of
from .decode import parse_args as parse_shape
from .models import Subject
from .rows import machine


def parse_args(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mode", default="auto")
    parser.add_argument("--rows", type=int, default=15, help="of the table")
    parser.add_argument("--out", type=Path, help="write the table to this file, too")
    args, shape = parser.parse_known_args(argv)
    return args, parse_shape(shape)


def profile(contest, mode, rounds):
    """``(seconds without the profiler, its averages by operator)`` of one run in ``mode``."""
    contest.decode(mode)  # libraries set up more in the first round
    took = statistics.median(contest.decode(mode)[1] for _ in range(rounds))
    with torch.profiler.profile() as recorded:
        contest.decode_again(mode)
    averages = recorded.key_averages()
    if contest.device.type == "cuda":  # kernels alone: the operators that start them have their time, too
        averages = [e for e in averages if e.device_type == DeviceType.CUDA and not e.is_user_annotation]
    return took, averages


def self_time(event, device):
    """Seconds in the operator itself."""
    return (event.self_device_time_total if device.type == "cuda" else event.self_cpu_time_total) / 1e6


def table(averages, rows, device):
    """Lines: the operators that took longest, and the rest."""
    found = sorted(averages, key=lambda event: -self_time(event, device))
    yield "| operator | calls | seconds |"
    yield "|---|---|---|"
    for event in found[:rows]:
        yield f"| {event.key} | {event.count:,} | {self_time(event, device):.3f} |"
    rest = found[rows:]
    yield f"| the other {len(rest)} | {sum(e.count for e in rest):,} | {sum(self_time(e, device) for e in rest):.3f} |"
    yield f"| all | {sum(e.count for e in found):,} | {sum(self_time(e, device) for e in found):.3f} |"


def main(argv=None):
    args, shape = parse_args(argv)
    device = torch.device("cuda" if torch.cuda.is_available() and not shape.cpu else "cpu")
    cell, *more = cells(shape)
    if more:
        raise SystemExit("scripts.bench.profile: several values for --batch and the like; one shape a profile")
    about = machine(device)
    subject = Subject(cell["arch"], shape, device)
    contest = Contest(subject.task, subject.model, generation_of(cell, subject), subject.samples(cell), device)
    took, averages = profile(contest, args.mode, shape.rounds)
    lines = [
        about["command"],
        f"{about['device']}, {about['threads']} threads, torch {about['torch']}, commit {about['commit']}",
        f"{took:.3f} s without the profiler",
        *table(averages, args.rows, device),
    ]
    print("\n".join(lines))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
