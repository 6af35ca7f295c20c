#!/usr/bin/env python3
"""End-to-end decoding, stock against el_: encoder, search and finalisation, in turn in one process, medians.

Usage: bench_decode.py --arch transformer --batch 64 --source 25 --tokens 25 [--beam 4] [--modes auto,on] [--json FILE]
       bench_decode.py --arch transformer_lm_gpt --batch 8 --source 256 --shortest 256 --tokens 32

Weights are random, sentences have lengths between --shortest and --source, and every hypothesis runs to --tokens. For a
language model the source is the prompt. `transformer_lm_gpt` has the shape of GPT-2 small.
A ratio is printed only when the output is lossless: every difference of a hypothesis has to be a tie that float64
resolves alike (see check_lossless.py). Rounds alternate between the modes, so that a noisy machine hits all of them.
"""

import argparse
import json
import random
import statistics
import sys
from argparse import Namespace
from pathlib import Path

import torch
from fairseq.data import Dictionary, data_utils
from fairseq.dataclass.configs import GenerationConfig
from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_REGISTRY, FairseqLanguageModel
from fairseq.sequence_generator import SequenceGenerator
from fairseq.tasks.language_modeling import LanguageModelingConfig, LanguageModelingTask
from fairseq.tasks.translation import TranslationConfig, TranslationTask

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parent)]

from benchmarking import machine, seconds  # noqa: E402

from el_fairseq import disable_el_attention, enable_el_attention  # noqa: E402
from el_fairseq.generation import ELSequenceGenerator  # noqa: E402
from el_fairseq.generation.lossless import LosslessCheck  # noqa: E402

VOCABULARY = {"transformer": 32768, "bart": 50264, "lm": 50257}  # types: a WMT joint BPE, BART's and GPT-2's BPE


def parse_args(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--arch", default="transformer", help="a stock architecture of transformer, bart or transformer_lm"
    )
    parser.add_argument("--batch", type=int, default=64, help="sentences in the batch")
    parser.add_argument("--source", type=int, default=25, help="length of the longest source, in tokens")
    parser.add_argument("--shortest", type=int, help="length of the shortest source (default: half of --source)")
    parser.add_argument("--tokens", type=int, default=25, help="tokens generated for each hypothesis")
    parser.add_argument("--beam", type=int, default=4)
    parser.add_argument("--modes", default="auto,on", help="values of --el-attention to compare with stock")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds; one more warms up")
    parser.add_argument("--fp16", action="store_true")
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--json", type=Path, help="add the result to this file, one JSON object a line")
    return parser.parse_args(argv)


def is_language_model(arch):
    return issubclass(ARCH_MODEL_REGISTRY[arch], FairseqLanguageModel)


def build_task(arch):
    language_model = is_language_model(arch)
    words = Dictionary()
    for i in range(VOCABULARY["lm" if language_model else "bart" if "bart" in arch else "transformer"] - len(words)):
        words.add_symbol(str(i))
    if language_model:
        return LanguageModelingTask(LanguageModelingConfig(), words)
    return TranslationTask(TranslationConfig(), words, words)


def build_model(arch, task):
    shared = "share_decoder_input_output_embed" if is_language_model(arch) else "share_all_embeddings"
    args = Namespace(arch=arch, max_target_positions=1024, tokens_per_sample=1024, **{shared: True})
    ARCH_CONFIG_REGISTRY[arch](args)
    torch.manual_seed(1)
    return ARCH_MODEL_REGISTRY[arch].build_model(args, task).eval()


def build_batch(task, sentences, source, shortest):
    rng = random.Random(1)
    words = task.source_dictionary
    lengths = sorted((rng.randint(shortest, source) for _ in range(sentences)), reverse=True)
    lengths[0] = source
    prompts = isinstance(task, LanguageModelingTask)
    last = [] if prompts else [words.eos()]
    rows = [torch.tensor([rng.randrange(4, len(words)) for _ in range(n - len(last))] + last) for n in lengths]
    tokens = data_utils.collate_tokens(rows, words.pad(), words.eos(), left_pad=not prompts)
    net_input = {"src_tokens": tokens, "src_lengths": torch.tensor(lengths), "prev_output_tokens": tokens}
    return {"id": torch.arange(sentences), "net_input": net_input, "target": None}


def bench(args, device):
    """One row: medians and ratios by mode, decoder state, and whether the outputs agree."""
    task = build_task(args.arch)
    model = build_model(args.arch, task).to(device)
    if args.fp16:
        model.half()
    model.make_generation_fast_(need_attn=False)
    shortest = (args.source + 1) // 2 if args.shortest is None else args.shortest
    sample = build_batch(task, args.batch, args.source, shortest)
    sample["net_input"] = {key: value.to(device) for key, value in sample["net_input"].items()}
    length = args.tokens + args.source * is_language_model(args.arch)  # a prompt is part of the hypothesis
    generation = GenerationConfig(beam=args.beam, max_len_a=0, max_len_b=length, min_len=length)
    modes = args.modes.split(",")

    def run(mode):
        stock = mode == "stock"
        (disable_el_attention(model) if stock else enable_el_attention(model, mode))
        generator = task.build_generator([model], generation, seq_gen_cls=SequenceGenerator if stock else None)
        generator = generator if stock else ELSequenceGenerator.adopt(generator)
        took = seconds(lambda: task.inference_step(generator, [model], sample), device)
        return took, None if stock else generator.meter.peak

    times, peaks = {mode: [] for mode in ["stock", *modes]}, {}
    for round_ in range(args.rounds + 1):
        for mode in times:
            took, peaks[mode] = run(mode)
            if round_ > 0:
                times[mode].append(took)
    row = {
        "arch": args.arch,
        "batch": args.batch,
        "source": args.source,
        "shortest": shortest,
        "tokens": args.tokens,
        "beam": args.beam,
        "dtype": "float16" if args.fp16 else "float32",
        "lossless": {},
        "seconds": {mode: statistics.median(values) for mode, values in times.items()},
        "speedup": {},
        "state_mib": {"stock": peaks[modes[0]][1] / 2**20, **{mode: peaks[mode][0] / 2**20 for mode in modes}},
    }
    for mode in modes:
        check = LosslessCheck(task, [model], generation, mode)
        check.add(sample)
        found = check.result
        row["lossless"][mode] = f"{found.identical} of {found.sentences} identical, {len(found.ties)} ties"
        if found.differences:
            raise SystemExit(f"no speed to report: --el-attention {mode} differs for sentences {found.differences}")
        ratios = [stock / ours for stock, ours in zip(times["stock"], times[mode])]
        row["speedup"][mode] = statistics.median(ratios)
    return row


def main(argv=None):
    args = parse_args(argv)
    device = torch.device("cuda" if torch.cuda.is_available() and not args.cpu else "cpu")
    row = {**bench(args, device), **machine(device)}
    shape = f"{row['arch']}, batch {row['batch']}, source {row['source']}, {row['tokens']} tokens, beam {row['beam']}"
    print(f"{shape}, {row['dtype']} on {row['device']}, {row['threads']} threads, medians of {args.rounds} rounds")
    for mode, took in row["seconds"].items():
        speed = args.batch / took
        versus = "" if mode == "stock" else f"  {row['speedup'][mode]:.2f}x stock  {row['lossless'][mode]}"
        print(f"  {mode:<6} {took:7.3f} s  {speed:7.2f} sentences/s  state {row['state_mib'][mode]:8.1f} MiB{versus}")
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        with args.json.open("a") as file:
            file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
