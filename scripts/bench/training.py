"""A training step of the attention variants by the number of heads: time, and what the backward pass keeps.

Usage: python -m scripts.bench.training [--variant mha,mhe-mul,...] [--arch mhe_transformer] [--heads 4]
                                        [--width 128 | --head-width 32] [--layers 3] [--sentences 128] [--length 30]
                                        [--attention-dropout 0] [--vocabulary 4000] [--rounds 10]
                                        [--json FILE | --profile]

A step is forward, label-smoothed cross-entropy of all positions and backward over random sentences, without the
optimizer. The variants take turns; times are medians. --width is D for every number of heads n; --head-width is d, and
D = n · d. Kept: the bytes of all tensors that autograd saves, parameters aside. --profile says instead which operators
take the time of a step, by PyTorch's profiler, which costs some itself.
"""

import argparse
import statistics
from collections import Counter
from pathlib import Path
from random import Random

import torch
from fairseq.criterions.label_smoothed_cross_entropy import label_smoothed_nll_loss
from fairseq.models import ARCH_CONFIG_REGISTRY, FairseqEncoderModel, build_model
from fairseq.tasks.translation import TranslationConfig, TranslationTask

from el_fairseq.convert.attention_variant import MHA, VARIANTS

from .dictionary import dictionary
from .models import batches, random_lengths, random_sources
from .rows import append_row, integers, machine, names, seconds

MIB = 2**20
WARM_UP = 2  # rounds
OPERATORS = 12  # lines of a profile


def parse_args(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", type=names, default=[MHA, *(name for name in VARIANTS if name != MHA)])
    parser.add_argument("--arch", default="mhe_transformer", help="mhe_transformer, mhe_roberta, or one that they name")
    parser.add_argument("--heads", type=integers, default=[4])
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument("--width", type=int, default=128, help="D, for every number of heads (default: 128)")
    sizes.add_argument("--head-width", type=int, help="d, of one head; D is n times that")
    parser.add_argument("--layers", type=int, default=3, help="of encoder and decoder (default: 3)")
    parser.add_argument("--sentences", type=int, default=128, help="in a batch (default: 128)")
    parser.add_argument("--length", type=int, default=30, help="of the longest sentence (default: 30)")
    parser.add_argument("--attention-dropout", type=float, default=0.0)
    parser.add_argument("--vocabulary", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=10)
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--json", type=Path, help="add the rows to this file, one JSON object a line")
    output.add_argument("--profile", action="store_true", help="the operators of a step, and their time")
    args = parser.parse_args(argv)
    for variant in args.variant:
        if variant not in VARIANTS:
            parser.error(f"--variant {variant}: choose of {', '.join(VARIANTS)}")
    if args.arch not in ARCH_CONFIG_REGISTRY or not args.arch.startswith("mhe_"):
        parser.error(f"--arch {args.arch}: choose an architecture with attention variants, such as mhe_transformer")
    numbers = {name: getattr(args, name) for name in ("layers", "sentences", "length", "vocabulary", "rounds", "width")}
    for name, value in {**numbers, "head-width": args.head_width, "heads": min(args.heads)}.items():
        if value is not None and value < 1:
            parser.error(f"--{name} {value}: it is at least 1")
    for heads in args.heads:
        if args.head_width is None and args.width % heads:
            parser.error(f"--heads {heads} does not divide --width {args.width}")
    return args


def build(args, task, heads, variant):
    """A model of the shape, in training mode; its encoder and decoder are alike."""
    width = heads * args.head_width if args.head_width else args.width
    options = {"attention_variant": variant, "attention_dropout": args.attention_dropout, "dropout": 0.1}
    for part in ("encoder", "decoder"):
        options |= {f"{part}_embed_dim": width, f"{part}_ffn_embed_dim": 4 * width, f"{part}_attention_heads": heads}
        options |= {f"{part}_layers": args.layers, f"{part}_normalize_before": True}
    of_the_task = {"max_positions": 1024, "max_source_positions": 1024, "max_target_positions": 1024}
    config = argparse.Namespace(arch=args.arch, share_all_embeddings=True, **options, **of_the_task)
    ARCH_CONFIG_REGISTRY[args.arch](config)
    torch.manual_seed(1)
    return build_model(config, task).train()


def step(model, sample, pad):
    """Forward, loss, backward; gradients are left in the parameters."""
    model.zero_grad()
    inputs = sample["net_input"]
    if isinstance(model, FairseqEncoderModel):
        inputs = {"src_tokens": inputs["src_tokens"]}
    output = model(**inputs)
    scores = model.get_normalized_probs(output, log_probs=True)
    target = sample["net_input"]["src_tokens"].unsqueeze(-1)
    loss, _ = label_smoothed_nll_loss(scores, target, 0.1, ignore_index=pad)
    loss.backward()


def kept_bytes(model, sample, pad):
    """Bytes of the tensors that autograd saves in a step, each storage once, parameters aside."""
    own, kept = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}, {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        step(model, sample, pad)
    return sum(kept.values())


def models_and_batch(args, task, heads):
    """``({variant: model}, sample)`` for one number of heads."""
    models = {variant: build(args, task, heads, variant) for variant in args.variant}
    rng = Random(1)
    lengths = random_lengths(rng, args.sentences, max(2, args.length // 2), args.length)
    (sample,) = batches(task, random_sources(task, rng, lengths), args.sentences, torch.device("cpu"))
    return models, sample


def profile(args, task, heads):
    """Lines of a table: milliseconds of a step in each operator itself, the longest first, and in all; means."""
    models, sample = models_and_batch(args, task, heads)
    found = {variant: Counter() for variant in models}
    for round_ in range(WARM_UP + args.rounds):
        for variant, model in models.items():
            with torch.profiler.profile() as recorded:
                step(model, sample, task.source_dictionary.pad())
            if round_ >= WARM_UP:
                found[variant].update(
                    {e.key: e.self_cpu_time_total / 1e3 / args.rounds for e in recorded.key_averages()}
                )
    longest = sorted(set().union(*found.values()), key=lambda name: -max(each[name] for each in found.values()))
    yield "| operator | " + " | ".join(f"{variant}, ms" for variant in found) + " |"
    yield "|---|" + "---|" * len(found)
    for name in longest[:OPERATORS]:
        yield f"| {name} | " + " | ".join(f"{each[name]:.1f}" for each in found.values()) + " |"
    yield "| all | " + " | ".join(f"{sum(each.values()):.1f}" for each in found.values()) + " |"


def bench(args, task, heads):
    """``{variant: {"ms", "mib", "parameters"}}`` for one number of heads."""
    models, sample = models_and_batch(args, task, heads)
    pad = task.source_dictionary.pad()
    times = {variant: [] for variant in models}
    for _ in range(WARM_UP + args.rounds):
        for variant, model in models.items():
            times[variant].append(seconds(lambda m=model: step(m, sample, pad), torch.device("cpu")))
    return {
        variant: {
            "ms": 1e3 * statistics.median(times[variant][WARM_UP:]),
            "mib": kept_bytes(model, sample, pad) / MIB,
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
        }
        for variant, model in models.items()
    }


def main(argv=None):
    args = parse_args(argv)
    words = dictionary(args.vocabulary)
    task = TranslationTask(TranslationConfig(), words, words)
    about = machine(torch.device("cpu"))
    if args.profile:
        print(about["command"])
        print(f"{about['device']}, {about['threads']} threads, torch {about['torch']}, commit {about['commit']}")
        for heads in args.heads:
            print("\n".join(profile(args, task, heads)), flush=True)
        return
    print(f"{about['device']}, {about['threads']} threads, torch {about['torch']}, medians of {args.rounds} steps")
    print("| heads n | width D | variant | parameters | step, ms | by the first | kept for backward, MiB |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for heads in args.heads:
        found = bench(args, task, heads)
        first = next(iter(found.values()))["ms"]
        width = heads * args.head_width if args.head_width else args.width
        for variant, row in found.items():
            cells = [heads, width, variant, f"{row['parameters']:,}", f"{row['ms']:.1f}"]
            print(
                "|", " | ".join(map(str, [*cells, f"{first / row['ms']:.2f}x", f"{row['mib']:.1f}"])), "|", flush=True
            )
            if args.json:
                sizes = {"arch": args.arch, "layers": args.layers, "sentences": args.sentences, "length": args.length}
                row |= {"heads": heads, "width": width, "variant": variant, **sizes}
                append_row(args.json, {**row, "attention_dropout": args.attention_dropout, **about})


if __name__ == "__main__":
    main()
