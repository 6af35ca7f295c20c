"""Pieces of a decoder step on a CPU, done in several ways that agree: milliseconds, medians of rounds in turn.

Usage: python -m scripts.bench.pieces [--pieces lprobs,ffn,scores,attention,topk,best,qkv,steps] [--rounds 15]
                                      [--json FILE]

lprobs     256 rows of 32,768 types, output layer and log-softmax: at once, and some MiB of logits at a time
ffn        9,600 tokens of width 768, feed-forward layer: at once, and some tokens at a time
scores     4 queries and the keys of a head: Q·Kᵀ and K·Qᵀ
attention  the same with mask, softmax and values; and PyTorch's fused attention
topk       the 8 best continuations of 4 beams: torch's, and by groups
best       the 8 best continuations of 4 beams from their logits: sums of all log-probabilities and scores; sums of the
           best of each group of log-probabilities alone; the same of logits, with one log-sum-exp a row
qkv        projections to query, key and value: three products and one
steps      the first 25 steps of Transformer base's decoder, without output layer and search: through fairseq's modules,
           and as straight-line code
"""

import argparse
import statistics
from pathlib import Path
from random import Random

import torch
import torch.nn.functional as F

from el_fairseq import enable_el_attention
from el_fairseq.cache import CACHES, BeamCaches
from el_fairseq.generation.decoder_step import DecoderStep
from el_fairseq.generation.newest_tokens import NewestTokens
from el_fairseq.ops import best_of_rows, grouped_topk, shared_kv_attention
from el_fairseq.ops.packed import pack, packed_linear

from .models import batches, build_model, build_task, random_sources, shape_of
from .rows import append_row, machine, names, seconds

HEADS = ((192, 800), (512, 25), (512, 100))  # of a batch, and keys of each: BART base, 16 x 800; base, 64 x 25 and past
STEPS = 25
BEAMS, WIDTH, COPIES = 4, 64, 4  # copies of what is read, in turn: a decoder has many layers, and none is in a cache


def lprobs():
    x, packed = torch.randn(256, 512), pack(torch.randn(32768, 512) / 20)
    buffer = torch.empty(256, 32768)

    def by_parts(mib):
        size = mib * 2**20 // (32768 * 4)
        for some, out in zip(x.split(size), buffer.split(size)):
            torch.log_softmax(packed_linear(some, packed), dim=-1, out=out)
        return buffer

    ways = {"at once": lambda: torch.log_softmax(packed_linear(x, packed), dim=-1)}
    return {"256 x 512 x 32768": ways | {f"{mib} MiB": lambda mib=mib: by_parts(mib) for mib in (16, 8, 4, 2)}}


def ffn():
    x, out = torch.randn(9600, 768), torch.empty(9600, 768)
    first, second = pack(torch.randn(3072, 768) / 30), pack(torch.randn(768, 3072) / 60)

    def by_parts(size):
        for some, to in zip(x.split(size), out.split(size)):
            to.copy_(packed_linear(F.gelu(packed_linear(some, first)), second))
        return out

    return {
        "9600 x 768 x 3072": {f"{size} tokens": lambda size=size: by_parts(size) for size in (9600, 2048, 1024, 512)}
    }


def scores():
    return {f"{heads} heads, {keys} keys": ways_to_score(heads, keys) for heads, keys in HEADS}


def ways_to_score(heads, keys):
    query, key = torch.randn(heads, BEAMS, WIDTH), copies(heads, keys, WIDTH)
    left, right = Turns(key), Turns(key)
    return {
        "Q·Kᵀ": lambda: torch.bmm(query, left.next().transpose(1, 2)),
        "K·Qᵀ": lambda: torch.bmm(right.next(), query.transpose(1, 2)).transpose(1, 2),
    }


def attention():
    return {f"{heads} heads, {keys} keys": ways_to_attend(heads, keys) for heads, keys in HEADS}


def ways_to_attend(heads, keys):
    query, both = torch.randn(heads, BEAMS, WIDTH), list(zip(copies(heads, keys, WIDTH), copies(heads, keys, WIDTH)))
    mask = torch.rand(heads, BEAMS, keys) > 0.75
    mask[:, :, 0] = False
    added = torch.zeros(mask.shape).masked_fill_(mask, float("-inf"))
    turns = [Turns(both) for _ in range(3)]

    def left():
        key, value = turns[0].next()
        scores = torch.bmm(query, key.transpose(1, 2)).masked_fill_(mask, float("-inf"))
        return torch.bmm(torch.softmax(scores, dim=-1), value)

    def right():
        return shared_kv_attention(query, *turns[1].next(), mask)[0]

    def fused():
        key, value = turns[2].next()
        rows = (x.unsqueeze(0) for x in (query, key, value))
        return F.scaled_dot_product_attention(*rows, attn_mask=added.unsqueeze(0), scale=1.0).squeeze(0)

    return {"Q·Kᵀ": left, "K·Qᵀ": right, "fused": fused}


def topk():
    shapes = {}
    for rows in (64, 1):
        x = torch.randn(rows, BEAMS * 32768)
        ways = {"torch": lambda x=x: x.topk(2 * BEAMS)[1], "by groups": lambda x=x: grouped_topk(x, 2 * BEAMS)[1]}
        shapes[f"{rows} x {BEAMS * 32768}"] = ways
    return shapes


def best():
    return {f"{n} x {BEAMS} x 32768": ways_to_find_the_best(n, BEAMS, 32768) for n in (64, 16, 1)}


def ways_to_find_the_best(sentences, beams, types):
    rows, count = sentences * beams, 2 * beams
    logits, offsets, buffer = torch.randn(rows, types) * 3, -torch.rand(rows) * 9, torch.empty(rows, types)

    def of_all_sums():
        lprobs = torch.log_softmax(logits, dim=-1, out=buffer).nan_to_num_(neginf=-torch.inf)
        return grouped_topk(lprobs.add_(offsets.unsqueeze(1)).view(sentences, -1), count)[0]

    def of_groups():
        return best_of_rows(torch.log_softmax(logits, dim=-1, out=buffer), offsets, count, sentences)[0]

    def of_logits():
        return best_of_rows(logits, offsets - logits.logsumexp(dim=1), count, sentences)[0]

    return {"all sums": of_all_sums, "groups": of_groups, "logits": of_logits}


def qkv():
    shapes = {}
    for rows in (4, 256):
        x, weights = torch.randn(rows, 512), [torch.randn(3 * 512, 512) for _ in range(COPIES)]
        three = Turns([[pack(part) for part in weight.chunk(3)] for weight in weights])
        one = Turns([pack(weight) for weight in weights])
        shapes[f"{rows} x 512"] = {
            "three": lambda x=x, w=three: torch.cat([packed_linear(x, part) for part in w.next()], dim=1),
            "one": lambda x=x, w=one: packed_linear(x, w.next()),
        }
    return shapes


def steps():
    shape = shape_of("base")
    task = build_task(shape)
    model = enable_el_attention(build_model(shape, task))
    model.make_generation_fast_(need_attn=False)
    return {f"{n} x {STEPS}": ways_to_step(task, model, n) for n in (1, 16, 64)}


def ways_to_step(task, model, sentences):
    (sample,) = batches(task, random_sources(task, Random(1), [STEPS] * sentences), sentences, torch.device("cpu"))
    rows = torch.arange(sentences).repeat_interleave(BEAMS)
    source = model.encoder.forward_torchscript(sample["net_input"])
    source, tokens = model.encoder.reorder_encoder_out(source, rows), sample["net_input"]["src_tokens"][rows]

    def state():
        return {CACHES: BeamCaches(sentences, BEAMS, rows.device)}

    def by_modules():
        kept = state()
        for n in range(1, STEPS + 1):
            features, _ = model.decoder(tokens[:, :n], source, kept, features_only=True)
        return features[:, -1]

    def straight():
        step = DecoderStep(model.decoder, state())
        for n in range(1, STEPS + 1):
            features, _ = step(NewestTokens.of(tokens[:, :n]), source)
        return features

    return {"modules": by_modules, "straight": straight}


class Turns:
    """Things one after the other, from the first one again when all have had their turn."""

    def __init__(self, things):
        self.things, self.turn = things, -1

    def next(self):
        self.turn = (self.turn + 1) % len(self.things)
        return self.things[self.turn]


def copies(*shape):
    return [torch.randn(shape) for _ in range(COPIES)]


PIECES = {
    "lprobs": lprobs,
    "ffn": ffn,
    "scores": scores,
    "attention": attention,
    "topk": topk,
    "best": best,
    "qkv": qkv,
    "steps": steps,
}


@torch.no_grad()
def bench(ways, rounds):
    """Milliseconds of each way, in turn; the first results, of the same copies, have to agree."""
    results = [run().clone() for run in ways.values()]
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], rtol=1e-3, atol=1e-3)
    times = {name: [] for name in ways}
    for _ in range(rounds):
        for name, run in ways.items():
            times[name].append(1e3 * seconds(run, torch.device("cpu")))
    return {name: statistics.median(taken) for name, taken in times.items()}


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pieces", type=names, default=list(PIECES))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path, help="add the rows to this file, one JSON object a line")
    args = parser.parse_args(argv)
    unknown = set(args.pieces) - set(PIECES)
    if unknown:
        parser.error(f"--pieces {','.join(sorted(unknown))}: choose of {', '.join(PIECES)}")
    about = machine(torch.device("cpu"))
    print(f"{about['device']}, {about['threads']} threads, torch {about['torch']}, ms, medians of {args.rounds}")
    print("| piece | shape | ms |\n|---|---|---|")
    for piece in args.pieces:
        torch.manual_seed(0)
        for shape, ways in PIECES[piece]().items():
            taken = bench(ways, args.rounds)
            print(f"| {piece} | {shape} | {', '.join(f'{k} {v:.2f}' for k, v in taken.items())} |", flush=True)
            if args.json:
                append_row(args.json, {"piece": piece, "shape": shape, "milliseconds": taken, **about})


if __name__ == "__main__":
    main()
