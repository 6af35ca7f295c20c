#!/usr/bin/env python3
"""Show that EL-attention changes nothing, on anyone's checkpoint and data.

Usage: check_lossless.py DATA --path MODEL.pt [any option of fairseq-generate] [--el-attention on] [--limit N]

Each batch is decoded by stock fairseq and with EL-attention, by the same weights. Where any hypothesis differs, the
batch is decoded again in float64 by both: if they agree there, hypotheses were so close that rounding chose between
them (a tie); if not, it is a real difference. Exit status 0 if there is none and no score drifts by more than
--max-drift, 1 otherwise, 2 for a wrong command line, 3 if nothing differs, but stock itself failed on some sentences
(it stops with an assertion where no hypothesis can end within --max-len-a/b).
"""

import argparse
import ast
import itertools
import logging
import sys

import checkout
import numpy as np
import torch
from fairseq import checkpoint_utils, options, tasks, utils
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.logging import progress_bar

import el_fairseq
from el_fairseq.generation.lossless import LosslessCheck

logger = logging.getLogger("check_lossless")
DRIFT = {torch.float32: 1e-3, torch.float16: 1e-1, torch.bfloat16: 5e-1}


def parse_args(argv):
    own = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    own.add_argument("--el-attention", choices=["on", "auto"], default="on", help="default: on")
    own.add_argument("--limit", type=int, metavar="N", help="stop after N sentences; short ones come first")
    own.add_argument("--max-drift", type=float, metavar="X", help="largest score difference (default: 1e-3 in float32)")
    mine, rest = own.parse_known_args(argv)
    args = options.parse_args_and_arch(options.get_generation_parser(), rest)
    args.task = args.task.removeprefix("el_")
    if args.path is None:
        own.error("--path MODEL.pt is required")
    if args.sampling or args.score_reference:
        own.error("--sampling and --score-reference have nothing to compare: use beam search")
    return mine, convert_namespace_to_omegaconf(args)


def dtype_of(cfg):
    """What ``--fp16`` or ``--bf16`` ask for."""
    return torch.float16 if cfg.common.fp16 else torch.bfloat16 if cfg.common.bf16 else torch.float32


def load(cfg):
    """The task, its models ready for inference, and the batches of the generation subset."""
    task = tasks.setup_task(cfg.task)
    overrides = ast.literal_eval(cfg.common_eval.model_overrides)
    paths = utils.split_paths(cfg.common_eval.path)
    models, saved = checkpoint_utils.load_model_ensemble(paths, arg_overrides=overrides, task=task)
    task.load_dataset(cfg.dataset.gen_subset, task_cfg=saved.task)
    cuda = torch.cuda.is_available() and not cfg.common.cpu
    for model in models:
        model.to(dtype_of(cfg))
        if cuda:
            model.cuda()
        model.prepare_for_inference_(cfg)
    if cfg.dataset.max_tokens is None and cfg.dataset.batch_size is None:
        cfg.dataset.max_tokens = 12000
    batches = task.get_batch_iterator(
        dataset=task.dataset(cfg.dataset.gen_subset),
        max_tokens=cfg.dataset.max_tokens,
        max_sentences=cfg.dataset.batch_size,
        max_positions=utils.resolve_max_positions(task.max_positions(), *[m.max_positions() for m in models]),
        ignore_invalid_inputs=cfg.dataset.skip_invalid_size_inputs_valid_test,
        seed=cfg.common.seed,
    ).next_epoch_itr(shuffle=False)
    return task, models, batches, cuda


def compare(cfg, mode, limit):
    """Run the check over the subset, with progress; returns the comparison."""
    task, models, batches, cuda = load(cfg)
    check = LosslessCheck(task, models, cfg.generation, mode)
    interval = max(1, len(batches) // 20)
    progress = progress_bar.progress_bar(batches, log_format="simple", log_interval=interval, prefix="comparing")
    for sample in progress:
        if not sample:
            continue
        sample = utils.move_to_cuda(sample) if cuda else sample
        prefix = sample["target"][:, : cfg.generation.prefix_size] if cfg.generation.prefix_size > 0 else None
        check.add(sample, prefix_tokens=prefix)
        progress.log({"sentences": check.result.sentences, "identical": check.result.identical})
        if limit is not None and check.result.sentences >= limit:
            break
    return check.result


def report(result, mode, dtype, max_drift):
    """Print what was found; returns the exit status."""
    drift = max(result.score_drift, result.positional_drift)
    print(f"stock compared with        --el-attention {mode}")
    print(f"sentences                  {result.sentences}")
    print(f"identical best hypotheses  {result.identical}")
    print(f"identical hypotheses       {result.identical_hypotheses} of {result.hypotheses}")
    print(f"largest score drift        {result.score_drift:.2e} a sentence, {result.positional_drift:.2e} a token")
    found = [("ties", result.ties), ("real differences", result.differences)]
    for name, ids in found + ([("stock failed, ours not", result.failed)] if result.failed else []):
        listed = "" if not ids else ": sentence " + ", ".join(map(str, itertools.islice(ids, 20)))
        print(f"{name:<26} {len(ids)}{listed}")
    failures = []
    if result.sentences == 0 and not result.failed:
        failures.append("nothing was compared")
    if result.differences:
        failures.append(f"{len(result.differences)} sentences really differ")
    if drift > max_drift:
        failures.append(f"a score drifts by {drift:.2e}, more than --max-drift {max_drift:g}")
    if failures:
        print(f"NOT lossless in {dtype}: {'; '.join(failures)}")
        return 1
    if result.failed:
        print(f"lossless in {dtype}, as far as stock goes: it fails on {len(result.failed)} sentences by itself")
        return 3
    print(f"lossless in {dtype}")
    return 0


def main(argv=None):
    # force: some modules of fairseq configure logging when they are imported
    style = {"format": "%(asctime)s | %(message)s", "datefmt": "%H:%M:%S"}
    logging.basicConfig(**style, level=logging.INFO, stream=sys.stderr, force=True)
    logging.getLogger("el_fairseq").setLevel(logging.WARNING)
    mine, cfg = parse_args(argv)
    np.random.seed(cfg.common.seed)
    utils.set_torch_seed(cfg.common.seed)
    dtype = dtype_of(cfg)
    result = compare(cfg, mine.el_attention, mine.limit)
    return report(
        result, mine.el_attention, str(dtype).split(".")[1], DRIFT[dtype] if mine.max_drift is None else mine.max_drift
    )


if __name__ == "__main__":
    sys.exit(main())
