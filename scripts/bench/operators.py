"""How many operators of PyTorch a decoder step is: a number without noise, which stands for the time of small models.

Usage: python -m scripts.bench.operators [--modes stock,auto,on] [--search beam,greedy] [--types 9000]
                                         [--variant mhe-mul] [--trace]

One sentence, beam 5, a Transformer of width 512 with random weights; a layer is the difference of models with one and
with three, and all the rest of a step, output layer and search, stands beside it. Steps in which nothing ends are
counted. ``--trace`` lists the operators of such a step, layer and all, in their order.
"""

import argparse

import torch
from fairseq.sequence_generator import SequenceGenerator
from torch.utils._python_dispatch import TorchDispatchMode

from el_fairseq import enable_el_attention
from el_fairseq.convert.attention_variant import VARIANTS
from el_fairseq.generation import ELSequenceGenerator
from el_fairseq.ops.tuner import TUNER

from .models import Shape, build_model, build_task
from .rows import machine, names

SHORT, LONG = 6, 14  # tokens of a hypothesis: neither has room in a cache to make
WIDTH = 512
BEAMS = {"beam": 5, "greedy": 1}


class Operators(TorchDispatchMode):
    """Names of them, in their order."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        with self:  # what consists of others is counted as these, in inference mode as in any other
            result = func.decompose(*args, **(kwargs or {}))
        if result is NotImplemented:
            self.names.append(str(func))
            result = func(*args, **(kwargs or {}))
        return result


def parse_args(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--modes", type=names, default=["stock", "auto", "on"])
    parser.add_argument("--search", type=names, default=["beam", "greedy"])
    parser.add_argument("--types", type=int, default=9000, help="of the vocabulary")
    parser.add_argument("--variant", choices=VARIANTS, help="of attention (default: stock's own architecture)")
    parser.add_argument("--trace", action="store_true")
    return parser.parse_args(argv)


def operators_of(layers, mode, types, beams, length, variant=None):
    """The names of all operators of one batch whose hypotheses have ``length`` tokens."""
    options = {"decoder_layers": layers, "encoder_layers": 1}
    for part in ("encoder", "decoder"):
        options |= {f"{part}_embed_dim": WIDTH, f"{part}_ffn_embed_dim": WIDTH, f"{part}_attention_heads": 4}
    if variant is not None:
        options["attention_variant"] = variant
    shape = Shape("transformer" if variant is None else "mhe_transformer", options, types)
    task = build_task(shape)
    model, words = build_model(shape, task), task.target_dictionary
    source = torch.tensor([[10, 11, 12, 13, 14, words.eos()]])
    net_input = {"src_tokens": source, "src_lengths": torch.tensor([6]), "prev_output_tokens": source}
    search = {"beam_size": beams, "max_len_b": length, "min_len": length}
    if mode == "stock":
        model.make_generation_fast_()
        generator = SequenceGenerator([model], words, **search)
    else:
        generator = ELSequenceGenerator([enable_el_attention(model, mode)], words, **search)
    sample = {"id": torch.arange(1), "net_input": net_input}
    generator.generate([model], sample)  # packs the weights
    with Operators() as seen:
        generator.generate([model], sample)
    return seen.names


def operators_a_step(layers, mode, types=9000, beams=5, variant=None):
    """How many there are in each step after the first ones of a batch."""
    counts = [len(operators_of(layers, mode, types, beams, length, variant)) for length in (SHORT, LONG)]
    return (counts[1] - counts[0]) / (LONG - SHORT)


def a_layer_and_the_rest(mode, types=9000, beams=5, variant=None):
    """``(operators a layer, operators besides)`` of a step."""
    one, three = (operators_a_step(layers, mode, types, beams, variant) for layers in (1, 3))
    return (three - one) / 2, one - (three - one) / 2


def a_step_in_order(mode, types, beams, variant=None):
    """The names of a step's operators, of a model with one layer: from one look into the target's embeddings, which is
    a step's first, to the next."""
    found = operators_of(1, mode, types, beams, LONG, variant)
    first = [i for i, name in enumerate(found) if name.startswith("aten.embedding.")]
    return found[first[-4] : first[-3]]


def main(argv=None):
    args = parse_args(argv)
    TUNER.fixed = True  # the operators of the default products
    about = machine(torch.device("cpu"))
    print(f"torch {about['torch']}, fairseq {about['fairseq']}, commit {about['commit']}, {args.types:,} types")
    print("| search | mode | a layer | besides |\n|---|---|---|---|")
    for search in args.search:
        for mode in args.modes:
            layer, rest = a_layer_and_the_rest(mode, args.types, BEAMS[search], args.variant)
            print(f"| {search} | {mode} | {layer:g} | {rest:g} |", flush=True)
            if args.trace:
                print("\n".join(a_step_in_order(mode, args.types, BEAMS[search], args.variant)))


if __name__ == "__main__":
    main()
