#!/usr/bin/env python3
"""Average the parameters of checkpoints: fairseq's scripts/average_checkpoints.py, for torch >= 2.6 and for any file.

Usage: average_checkpoints.py --inputs CHECKPOINT... --output FILE
       average_checkpoints.py --inputs FOLDER --num-epoch-checkpoints N --output FILE

Checkpoints are read one at a time, and only data in them, as by the plugin. Sums are in float64; float16 and bfloat16
become float32. Everything else (settings, integer buffers, the optimizer's state) is that of the first checkpoint; of a
folder that is the newest. Parameters that are one tensor in all checkpoints, as tied embeddings, stay one.
"""

import argparse
import os
import pickle
import re
import sys
from pathlib import Path

import checkout
import torch

import el_fairseq
from el_fairseq.compat import load_checkpoint

EPOCHS, UPDATES = r"checkpoint(\d+)\.pt", r"checkpoint_\d+_(\d+)\.pt"  # as fairseq-train names them


def parse_args(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--inputs", required=True, nargs="+", type=Path, help="checkpoints, or the folder that has them")
    add("--output", required=True, type=Path, metavar="FILE", help="where the average is written")
    number = parser.add_mutually_exclusive_group()
    number.add_argument("--num-epoch-checkpoints", type=int, metavar="N", help="the folder's last N checkpointXX.pt")
    number.add_argument("--num-update-checkpoints", type=int, metavar="N", help="its last N checkpoint_EE_XX.pt")
    add("--checkpoint-upper-bound", type=int, metavar="XX", help="none after this epoch or update")
    args = parser.parse_args(argv)
    args.pattern = UPDATES if args.num_epoch_checkpoints is None else EPOCHS
    args.number = args.num_update_checkpoints if args.num_epoch_checkpoints is None else args.num_epoch_checkpoints
    if error := _what_is_wrong(args):
        parser.error(error)
    return args


def _what_is_wrong(args):
    if args.number is not None and args.number < 1:
        return f"{args.number} checkpoints: the number has to be 1 or more"
    if args.checkpoint_upper_bound is not None and args.number is None:
        return "--checkpoint-upper-bound needs --num-epoch-checkpoints or --num-update-checkpoints"
    if args.number is not None and not (len(args.inputs) == 1 and args.inputs[0].is_dir()):
        return "--num-epoch-checkpoints and --num-update-checkpoints need --inputs FOLDER, one that is there"
    missing = [str(path) for path in args.inputs if not path.is_file()]
    if args.number is None and missing:
        return f"--inputs: no such file: {', '.join(missing)} (for a folder give --num-epoch-checkpoints too)"
    if args.output.is_dir() or not args.output.absolute().parent.is_dir():
        return f"--output {args.output}: has to be a file in a folder that is there"
    return None


def last_checkpoints(folder, pattern, number, upper_bound=None):
    """The ``number`` checkpoints of ``folder`` with the highest epoch or update up to ``upper_bound``, newest first."""
    matches = [re.fullmatch(pattern, path.name) for path in folder.iterdir()]
    numbered = sorted(((int(match[1]), folder / match[0]) for match in matches if match), reverse=True)
    found = [path for at, path in numbered if upper_bound is None or at <= upper_bound]
    if len(found) < number:
        bound = "" if upper_bound is None else f" up to {upper_bound}"
        raise ValueError(f"{folder}: {number} checkpoints asked for, {len(found)} there{bound} ({pattern})")
    return found[:number]


class Mean:
    """The mean of state dicts, of which one at a time is in memory."""

    def __init__(self):
        self.count, self.first, self.sums, self.ties = 0, {}, {}, {}

    def add(self, model):
        """Add a state dict. Raises a ``ValueError`` if its names or shapes are not those of the first one."""
        ties = _ties(model)
        if self.count == 0:
            self.first, self.ties = model, ties
            self.sums = {name: value.to(_wide(value), copy=True) for name, value in model.items() if _has_mean(value)}
        else:
            self._check(model)
            self.ties = {name: first for name, first in self.ties.items() if ties.get(name) == first}
            for name, total in self.sums.items():
                total += model[name]
        self.count += 1

    def _check(self, model):
        for which, names in (("lacks", self.first.keys() - model), ("also has", model.keys() - self.first)):
            if names:
                raise ValueError(f"not the model of the first checkpoint: it {which} {', '.join(sorted(names)[:5])}")
        for name, value in self.first.items():
            shape, first = (list(getattr(each, "shape", [])) for each in (model[name], value))
            if shape != first:
                raise ValueError(f"{name} is {shape}, in the first checkpoint {first}")

    def result(self):
        """The mean, a state dict with the first one's order."""
        mean = {}
        for name, value in self.first.items():
            if self.ties.get(name, name) != name:
                mean[name] = mean[self.ties[name]]
            elif name in self.sums:
                mean[name] = (self.sums[name] / self.count).to(torch.promote_types(value.dtype, torch.float32))
            else:
                mean[name] = value
        return type(self.first)(mean)


def _has_mean(value):
    return isinstance(value, torch.Tensor) and (value.is_floating_point() or value.is_complex())


def _wide(value):
    return torch.complex128 if value.is_complex() else torch.float64


def _ties(model):
    """For the name of each tensor the first one with the same memory: itself, if it is not tied."""
    firsts, ties = {}, {}
    for name, value in model.items():
        if isinstance(value, torch.Tensor) and value.numel():
            place = (value.data_ptr(), value.dtype, value.shape, value.stride())
            ties[name] = firsts.setdefault(place, name)
    return ties


def average(paths):
    """The first checkpoint of ``paths``, with the mean of all as its model."""
    mean, averaged = Mean(), None
    for number, path in enumerate(paths, start=1):
        print(f"{number}/{len(paths)} {path}", flush=True)
        state = load_checkpoint(path)
        if not isinstance(state, dict) or not isinstance(state.get("model"), dict):
            raise ValueError(f"{path}: no checkpoint of fairseq (it has no 'model')")
        try:
            mean.add(state["model"])
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        averaged = averaged or state
        del state  # before the next one is read
    return {**averaged, "model": mean.result()}


def save(state, path):
    """Write a checkpoint; what was there before stays until the new one is whole."""
    part = path.with_name(path.name + ".part")
    try:
        torch.save(state, part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def main(argv=None):
    args = parse_args(argv)
    try:
        paths = args.inputs
        if args.number is not None:
            paths = last_checkpoints(paths[0], args.pattern, args.number, args.checkpoint_upper_bound)
        state = average(paths)
    except (ValueError, pickle.UnpicklingError) as error:
        sys.exit(str(error))
    save(state, args.output)
    numbers = sum(state["model"][name].numel() for name in set(_ties(state["model"]).values()))
    print(f"{args.output}: the mean of {len(paths)} checkpoints, {numbers:,} numbers")


if __name__ == "__main__":
    main()
