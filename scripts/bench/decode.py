"""End-to-end decoding, stock against el_: encoder, search and finalisation, in turn in one process, medians.

Usage: bench_decode.py [--arch base] [--batch 64] [--source 25] [--tokens 25] [--beam 4] [--modes auto,on] [--json FILE]
       bench_decode.py --arch bart_base --batch 1,8,32 --source 800 --tokens 30 --search greedy,beam,diverse
       bench_decode.py --arch gpt2_small --batch 8 --source 256 --shortest 256 --tokens 32 --peer ctranslate2
       bench_decode.py --path model.pt --data DATA-BIN --sentences 128 --batch 32 --tokens 140 --min-tokens 55

Weights are random, sentences have lengths between --shortest and --source, and every hypothesis runs to --tokens, where
options say nothing else. For a language model the source is the prompt. Options with several values, comma-separated,
make a table of all combinations. --arch takes any stock architecture of transformer, bart or transformer_lm, and small
(the shape of examples/translation), base, big, big_270m, gpt2_small, gpt2_medium and gpt2_large, these three with the
shapes of OpenAI's models (fairseq's names are one size off: its transformer_lm_gpt has the shape of GPT-2 small, its
transformer_lm_gpt2_small of GPT-2 medium). base/mhe-mul is base with that attention variant, and so on.

Modes: values of --el-attention; "shared", keys and values once a sentence on any device; "mixed", that for
cross-attention, and hidden states for self-attention; "eager", auto without CUDA graphs. A speed is printed only
when the output is lossless: every difference of a hypothesis has to be a tie that float64 resolves alike (see
check_lossless.py). Rounds alternate between the modes, so that a noisy machine hits all of them. Where memory runs out
the row says OOM; the hypotheses to compare with then come from smaller batches, outside any --memory-budget.
"Peak" is by how much memory rises in one round above what was there before, the weights: on a GPU what PyTorch
allocates (and so nothing of CTranslate2's), on Linux's CPU resident memory of the process.

A peer's speed is printed when its best hypothesis is among stock's for at least half of the sentences; engines break
ties and sum rounding errors in other ways, and rank hypotheses without the end that stock makes them take. Peers come
after the rounds of the modes, because while CTranslate2's threads are there PyTorch is up to three times slower: give
one shape a command.
"""

import argparse
import itertools
import statistics
from pathlib import Path

import torch
from fairseq.dataclass.configs import GenerationConfig

from el_fairseq.generation.out_of_memory import is_out_of_memory

from .contest import Contest
from .memory import MIB, Budget, peak_of, release
from .models import Subject
from .peers import PEERS, PeerContest
from .rows import append_row, integers, known_row, machine, names, read_rows

SEARCHES = ("greedy", "beam", "diverse")


def parse_args(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", type=names, default=["transformer"], help="shapes with random weights")
    parser.add_argument("--path", type=Path, help="a checkpoint instead, with --data")
    parser.add_argument("--data", type=Path, help="its binarised data, of which sentences are drawn")
    parser.add_argument("--gen-subset", default="test", help="which part of --data")
    parser.add_argument("--batch", type=integers, default=[64], help="sentences in a batch")
    parser.add_argument("--sentences", type=int, help="how many are decoded, in batches (default: one batch)")
    parser.add_argument("--source", type=integers, help="tokens of the longest source (default: 25; with --path 1024)")
    parser.add_argument("--shortest", type=int, help="length of the shortest source (default: half of --source)")
    parser.add_argument("--lengths-of", type=Path, metavar="TEXT", help="lengths of this text's lines instead, cut")
    parser.add_argument("--tokens-per-word", type=float, default=1.0, help="what a word of that text is taken for")
    parser.add_argument("--tokens", type=int, default=25, help="tokens generated for each hypothesis, at most")
    parser.add_argument("--min-tokens", type=int, help="at least (default: --tokens; with --path 1)")
    parser.add_argument("--beam", type=integers, default=[4])
    parser.add_argument("--search", type=names, default=["beam"], help="greedy, beam, diverse (a group for each beam)")
    parser.add_argument("--lenpen", type=float, default=1.0)
    parser.add_argument("--no-repeat-ngram-size", type=int, default=0)
    parser.add_argument("--modes", type=names, default=["auto", "on"], help="what to compare with stock")
    parser.add_argument("--peer", type=names, default=[], help=f"other engines, same weights: {', '.join(PEERS)}")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds; one more warms up")
    half = parser.add_mutually_exclusive_group()
    half.add_argument("--fp16", dest="dtype", action="store_const", const="float16", default="float32")
    half.add_argument("--bf16", dest="dtype", action="store_const", const="bfloat16")
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--memory-budget", type=float, metavar="GIB", help="fail where a card of this size would")
    parser.add_argument("--label", default="", help="goes into the rows, to tell tables apart")
    parser.add_argument("--json", type=Path, help="add the rows to this file, one JSON object a line")
    parser.add_argument("--resume", action="store_true", help="leave out what --json has already")
    parser.add_argument("--plot", type=Path, help="draw sentences per second to this PNG (needs matplotlib)")
    args = parser.parse_args(argv)
    if (args.path is None) != (args.data is None):
        parser.error("--path and --data go together: a checkpoint needs its dictionaries and sentences")
    for option, given, known in (("--search", args.search, SEARCHES), ("--peer", args.peer, PEERS)):
        for name in given:
            if name not in known:
                parser.error(f"{option} {name}: choose of {', '.join(known)}")
    if args.resume and args.json is None:
        parser.error("--resume needs --json, the file to go on with")
    args.source = args.source or [25 if args.path is None else 1024]
    return args


def cells(args):
    """What tells one row from another, for each row of the table."""
    shapes = args.arch if args.path is None else [args.path.name]
    for arch, search, beam, batch, source in itertools.product(shapes, args.search, args.beam, args.batch, args.source):
        if search == "greedy" and beam != args.beam[0]:
            continue
        yield {
            "label": args.label,
            "arch": arch,
            "weights": "random" if args.path is None else str(args.path),
            "batch": batch,
            "sentences": args.sentences or batch,
            "source": source,
            "shortest": (source + 1) // 2 if args.shortest is None else args.shortest,
            "lengths_of": args.lengths_of.name if args.lengths_of else None,
            "tokens": args.tokens,
            "min_tokens": args.min_tokens or (args.tokens if args.path is None else 1),
            "search": search,
            "beam": 1 if search == "greedy" else beam,
            "lenpen": args.lenpen,
            "no_repeat_ngram_size": args.no_repeat_ngram_size,
            "dtype": args.dtype,
            "memory_budget_gib": args.memory_budget,
        }


def generation_of(cell, subject):
    prompt = cell["source"] * subject.language_model  # a prompt is part of the hypothesis
    return GenerationConfig(
        beam=cell["beam"],
        max_len_a=0,
        max_len_b=cell["tokens"] + prompt,
        min_len=cell["min_tokens"] + prompt,
        lenpen=cell["lenpen"],
        no_repeat_ngram_size=cell["no_repeat_ngram_size"],
        diverse_beam_groups=cell["beam"] if cell["search"] == "diverse" else -1,
    )


def measure(contestants, rounds, device):
    """Seconds of each round, first hypotheses and peak memory by name; those that ran out of memory have no seconds."""
    times, hypotheses, peaks = {name: [] for name in contestants}, {}, {}
    # On a CPU libraries set up more in the first round; on a GPU what is released before has to be asked for again.
    observed = 0 if device.type == "cuda" else rounds
    for round_ in range(rounds + 1):
        for name, decode in contestants.items():
            if name not in times:
                continue
            try:
                run, peak = peak_of(decode, device) if round_ == observed else (decode(), None)
                if round_ == 0:
                    hypotheses[name] = run[0]
                else:
                    times[name].append(run[1])
                if round_ == observed:
                    peaks[name] = peak
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                del times[name]
            if name not in times:
                release(device)
    return times, hypotheses, peaks


def bench(cell, subject, args, budget):
    """One row: medians and ratios by mode, memory, and whether the outputs agree."""
    samples, generation = subject.samples(cell), generation_of(cell, subject)
    contest = Contest(subject.task, subject.model, generation, samples, subject.device)
    contestants = {mode: lambda mode=mode: contest.decode(mode) for mode in ["stock", *args.modes]}
    times, outputs, peaks = measure(contestants, args.rounds, subject.device)
    peers = {}
    for name in args.peer:  # after all others, whose threads they would disturb
        peers[name] = PeerContest(subject.peer(name), generation, samples, cell)
        contestants[name] = peers[name].decode
        for all_of, of_peer in zip(
            (times, outputs, peaks), measure({name: peers[name].decode}, args.rounds, subject.device)
        ):
            all_of.update(of_peer)

    with budget.lifted():
        stock = outputs["stock"] if "stock" in outputs else contest.decode_in_parts("stock")
        lossless = {mode: check(contest, mode, stock, outputs[mode]) for mode in args.modes if mode in times}
        agree = {name: peers[name].agreement(stock, outputs[name]) for name in peers if name in times}
    tokens = {name: count_tokens(outputs[name], subject, samples if name not in peers else None) for name in times}
    unseen = [name for name in peers if subject.device.type == "cuda" and not peers[name].engine.in_torch]
    medians = {name: statistics.median(took) for name, took in times.items()}
    ratios = {name: [a / b for a, b in zip(times.get("stock", []), took)] for name, took in times.items()}
    states = {mode: state[0] for mode, state in contest.states.items() if mode in times and mode != "stock"}
    if states and "stock" in times:
        states = {"stock": contest.states[next(iter(states))][1], **states}
    return {
        **cell,
        "lossless": lossless,
        "peers": {name: {"version": peers[name].engine.version, "agree": agree[name]} for name in agree},
        "out_of_memory": [name for name in contestants if name not in times],
        "seconds": medians,
        "sentences_per_second": {name: cell["sentences"] / took for name, took in medians.items()},
        "tokens_per_second": {name: tokens[name] / took for name, took in medians.items()},
        "speedup": {name: statistics.median(r) for name, r in ratios.items() if r and name != "stock"},
        "state_mib": {mode: size / MIB for mode, size in states.items()},
        "peak_mib": {name: peak / MIB for name, peak in peaks.items() if peak is not None and name not in unseen},
        "weights_mib": sum(p.nbytes for p in subject.model.parameters()) / MIB,
    }


def count_tokens(outputs, subject, samples):
    """Generated tokens of the best hypotheses: a peer's (``samples`` is None), or fairseq's, with end and prompt."""
    if samples is None:
        return sum(map(len, outputs))
    prompts = sum(int(s["net_input"]["src_lengths"].sum()) for s in samples) if subject.language_model else 0
    return sum(len(hypotheses[0]["tokens"]) - 1 for hypotheses in outputs) - prompts


def check(contest, mode, expected, actual):
    """What was found, in words; ends the benchmark where the outputs differ."""
    found = contest.compare(mode, expected, actual)
    if found.differences:
        raise SystemExit(f"no speed to report: --el-attention {mode} differs for sentences {found.differences}")
    return f"{found.identical} of {found.sentences} identical, {len(found.ties)} ties"


def lines(row):
    """The table's lines for one row of the results."""
    shape = f"| {row['arch']} | {row['search']} {row['beam']} | {row['batch']} x {row['source']} |"
    for name in [*row["seconds"], *row["out_of_memory"]]:
        if name in row["out_of_memory"]:
            yield f"{shape} {name} | OOM | | | | | | |"
            continue
        found = row["lossless"].get(name, "")
        if name in row["peers"]:
            found = f"{row['peers'][name]['agree']} of {row['sentences']} agree, {row['peers'][name]['version']}"
        ratio = f"{row['speedup'][name]:.2f}x" if name in row["speedup"] else ""
        mib = [f"{row[kind][name]:,.1f}" if name in row[kind] else "" for kind in ("peak_mib", "state_mib")]
        speeds = f"{row['sentences_per_second'][name]:.2f} | {row['tokens_per_second'][name]:.1f}"
        yield f"{shape} {name} | {row['seconds'][name]:.3f} | {speeds} | {mib[0]} | {mib[1]} | {ratio} | {found} |"


def main(argv=None):
    args = parse_args(argv)
    device = torch.device("cuda" if torch.cuda.is_available() and not args.cpu else "cpu")
    about = machine(device)
    budget = Budget(args.memory_budget, device)
    print(f"{about['device']}, {about['threads']} threads, torch {about['torch']}, medians of {args.rounds} rounds")
    print("| shape | search | batch x source | mode | s | sent./s | tokens/s | peak MiB | state MiB | stock | output |")
    print("|---|---|---|---|---|---|---|---|---|---|---|", flush=True)
    known, rows, subject = read_rows(args.json) if args.resume else [], [], None
    for cell in cells(args):
        where = {key: about[key] for key in ("device", "capability", "threads")}
        row = known_row(known, {**cell, **where}, [*args.modes, *args.peer])
        if row is None:
            if subject is None or subject.name != cell["arch"]:
                subject = Subject(cell["arch"], args, device)
            row = {**bench(cell, subject, args, budget), **about}
            if args.json:
                append_row(args.json, row)
        rows.append(row)
        print("\n".join(lines(row)), flush=True)
    if args.plot:
        from .plot import throughput

        throughput(rows, args.plot)


def run():
    """``main`` as a command: what a user can mend is said in a line."""
    try:
        main()
    except (ValueError, OSError) as error:
        raise SystemExit(f"bench_decode.py: {error}") from error
