#!/usr/bin/env python3
"""Parameters of an architecture under each attention variant: of each attention, beside the formula, and of the model.

Q, K and V are the projections without biases and, for MHE, the head embeddings; the formulas are those of the paper
(arXiv 2310.07911), with n heads of width d, for sources as wide as the model. Options of the model are given as for
fairseq-train, for example --encoder-embed-dim 128.
"""

import argparse
import logging
import sys
from types import SimpleNamespace

import checkout
import torch
from bench.dictionary import dictionary
from bench.parameters import FORMULAS
from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_REGISTRY, build_model
from fairseq.models.roberta import RobertaModel

import el_fairseq
from el_fairseq.convert.attention_variant import VARIANTS
from el_fairseq.convert.attentions import attentions_of

PLACES = {"encoder": "encoder self", "decoder": "decoder self", "cross": "cross"}


def parse(argv):
    """The arguments; which options a model has depends on ``--arch``, so that is read first."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for each in (parser, first):
        each.add_argument("--arch", help="an mhe_ architecture, or the stock one whose twin it is", default=None)
    parser.add_argument("--vocabulary", type=int, default=32768, help="types in the dictionary (default: 32768)")
    arch = first.parse_known_args(argv)[0].arch
    if arch is not None:
        arch = arch if arch.startswith("mhe_") else f"mhe_{arch}"
        if arch not in ARCH_MODEL_REGISTRY:
            known = ", ".join(sorted(name for name in ARCH_MODEL_REGISTRY if name.startswith("mhe_")))
            parser.error(f"--arch {arch}: not one of {known}")
        group = parser.add_argument_group(f"options of {arch}", argument_default=argparse.SUPPRESS)
        ARCH_MODEL_REGISTRY[arch].add_args(group)
    args = parser.parse_args(argv)
    if arch is None:
        parser.error("--arch is required")
    args.arch = arch
    return args


def build(args, variant):
    """The model with ``variant`` everywhere (or where ``--attention-variant-where`` says)."""
    words = dictionary(args.vocabulary)
    task = SimpleNamespace(source_dictionary=words, target_dictionary=words, max_positions=lambda: 512)
    of_the_task = {"tokens_per_sample": 512, "max_target_positions": 512, "add_bos_token": False, "tpu": False}
    options = argparse.Namespace(**{**of_the_task, **vars(args), "attention_variant": variant})
    ARCH_CONFIG_REGISTRY[args.arch](options)
    # init_bert_params copies weights, which meta tensors do not have
    device = "cpu" if issubclass(ARCH_MODEL_REGISTRY[args.arch], RobertaModel) else "meta"
    with torch.device(device):
        return build_model(options, task)


def qkv_parameters(attention):
    """Parameters of the Q, K and V projections, without biases, and of the head embeddings."""
    return sum(
        parameter.numel()
        for name, parameter in attention.named_parameters()
        if not name.startswith("out_proj") and not name.endswith("bias")
    )


def rows(model):
    """A row for each kind of attention: name, how many, Q/K/V parameters of one, the formula's, all of one."""
    kinds = {}
    for attention in attentions_of(model.modules()):
        kinds.setdefault(attention.place, []).append(attention.module)
    for place, attentions in kinds.items():
        one = attentions[0]
        text, formula = FORMULAS[getattr(one, "variant", "mha")]
        yield (
            PLACES[place],
            len(attentions),
            qkv_parameters(one),
            f"{text} = {formula(one.num_heads, one.head_dim):,}",
            sum(parameter.numel() for parameter in one.parameters()),
        )


def main():
    logging.disable(logging.INFO)
    args = parse(sys.argv[1:])
    header = [
        "variant",
        "attention",
        "number",
        "Q, K, V of one",
        "formula",
        "with output and biases",
        "all attentions",
        "model",
    ]
    print("| " + " | ".join(header) + " |\n|" + "---|" * len(header))
    whole = {}
    for variant in ("mha", *(v for v in VARIANTS if v != "mha")):
        model = build(args, variant)
        whole[variant] = total = sum(parameter.numel() for parameter in model.parameters())
        kinds = list(rows(model))
        attention = sum(number * all_of_one for _, number, _, _, all_of_one in kinds)
        for i, (name, number, qkv, formula, all_of_one) in enumerate(kinds):
            ends = [f"{attention:,}", f"{total:,} ({100 * total / whole['mha']:.1f} %)"] if i == 0 else ["", ""]
            cells = [variant if i == 0 else "", name, str(number), f"{qkv:,}", formula, f"{all_of_one:,}", *ends]
            print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
