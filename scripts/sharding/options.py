"""The command line: options of our own, and all of fairseq-generate's."""

import argparse
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

MOST_UNITS = 500  # the merge opens all their files
NAMES = ("partition", "account", "qos")
NUMBERS = {"time": 1, "gpus_per_task": 0, "cpus_per_task": 1, "mem_gb": 1}  # with the least
SET_BY_US = ("--shard-id", "--distributed-")


class WrongOption(Exception):
    """To be told the user, without a traceback."""


@dataclass(frozen=True)
class Settings:
    """``arguments``: fairseq's, as given; the rest is how they are worked off."""

    arguments: list
    results: Path
    workers: int
    units: int
    max_requeues: int
    executor: str
    slurm: dict
    gpus: list


def own_parser():
    parser = argparse.ArgumentParser("generate_sharded.sh", allow_abbrev=False, add_help=False)
    parser.add_argument("--num-shards")
    parser.add_argument("--results-path")
    parser.add_argument("--units", default="256")
    parser.add_argument("--max-requeues", default="3")
    parser.add_argument("--executor", choices=("local", "slurm", "submitit"), default="local")
    for name in (*NAMES, *NUMBERS):
        parser.add_argument(_option(name))
    return parser


def read_own(arguments):
    """``arguments`` of the whole command as Settings.

    Raises:
        WrongOption: naming option, value and cure.
    """
    own, rest = own_parser().parse_known_args(arguments)
    for argument in rest:
        if argument.startswith(SET_BY_US):
            raise WrongOption(f"{argument.split('=')[0]} is set by this script for each process; say --num-shards N")
        if argument == "--quiet":
            raise WrongOption("--quiet leaves nothing to merge")
    if not own.results_path:
        raise WrongOption("--results-path DIR is required (--help tells more)")
    slurm = _slurm_options(own)
    gpus = [] if "--cpu" in rest or own.executor != "local" else find_gpus()
    units = _number("--units", own.units)
    if units > MOST_UNITS:
        raise WrongOption(f"--units {units}: at most {MOST_UNITS}, whose files the merge opens at once")
    return Settings(
        arguments=rest,
        results=Path(own.results_path),
        workers=_number_of_workers(own, gpus),
        units=units,
        max_requeues=_number("--max-requeues", own.max_requeues, least=0),
        executor=own.executor,
        slurm=slurm,
        gpus=gpus,
    )


def _slurm_options(own):
    given = {name: value for name in (*NAMES, *NUMBERS) if (value := getattr(own, name)) is not None}
    if given and own.executor != "slurm":
        raise WrongOption(f"{_option(next(iter(given)))} is for --executor slurm")
    for name in given.keys() & set(NAMES):
        if not re.fullmatch(r"[\w.,@+-]+", given[name]):  # it becomes a line of the batch script
            raise WrongOption(f"{_option(name)} {given[name]!r}: not the name of one")
    for name in given.keys() & NUMBERS.keys():
        given[name] = _number(_option(name), given[name], least=NUMBERS[name])
    return given


def find_gpus():
    """Their names, as CUDA_VISIBLE_DEVICES has them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name and not name.startswith("-")]
    if shutil.which("nvidia-smi") is None:
        return []
    query = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    return subprocess.run(query, capture_output=True, text=True).stdout.split()


def read_fairseq(arguments):
    """fairseq-generate's options as a namespace. Ends the process, with fairseq's message, where they are wrong.

    Products on a CPU are not tuned: what a unit prints must not depend on which worker generates it.
    """
    from fairseq import options

    parser = options.get_generation_parser()
    parser.add_argument("--arch", "-a", default="wav2vec2")  # as fairseq-generate does
    args = options.parse_args_and_arch(parser, ["--required-batch-size-multiple", "1", *arguments])
    if hasattr(args, "el_products"):
        args.el_products = "fixed"
    return args


def check_fairseq(args):
    """Raises WrongOption for what would only fail in every worker."""
    if "/" in args.gen_subset:
        raise WrongOption(f"--gen-subset {args.gen_subset}: results would not be below --results-path")
    if not args.path:
        raise WrongOption("--path MODEL.pt is required (--help tells more)")
    for part in args.path.split(":") if args.checkpoint_shard_count == 1 and not args.checkpoint_suffix else ():
        if not Path(part).is_file():
            raise WrongOption(f"--path {part}: no such file")


def threads_for(workers):
    """CPU threads of each, so that together they take the cores."""
    return int(os.environ.get("OMP_NUM_THREADS") or max(1, len(os.sched_getaffinity(0)) // workers))


def _number_of_workers(own, gpus) -> Optional[int]:
    if own.num_shards is not None:
        return _number("--num-shards", own.num_shards)
    if own.executor != "local":
        raise WrongOption(f"--executor {own.executor} needs --num-shards N, the number of workers")
    if not gpus:
        raise WrongOption("no GPU found: say with --num-shards N how many processes to run on the CPU")
    return len(gpus)


def _option(name):
    return f"--{name.replace('_', '-')}"


def _number(option, value, least=1):
    if not value.isdecimal() or int(value) < least:
        what = "a positive number" if least else "a number"
        raise WrongOption(f"{option} {value}: not {what}")
    return int(value)


def complain(message):
    """On standard error, under the name that was called."""
    print(f"generate_sharded.sh: {message}", file=sys.stderr)
