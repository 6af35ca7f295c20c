"""What a decoder keeps of the source, in MiB, by batch size and source length: measured from the tensors.

Usage: python -m scripts.bench.state [--arch bart_large] [--batch 32,64,320] [--source 256,1024] [--beam 4]
                                     [--dtype float16] [--layout per-beam,stock,shared,on] [--memory-budget GIB]
                                     [--json FILE] [--resume] [--plot FILE]

One decoding step is made over an encoder output of random numbers (the encoder itself is left out: its output has the
same size whatever it read), and all tensors are counted that are kept of the source: encoder output, its copies, keys
and values of cross-attention, masks. Layouts: per-beam, keys and values for every beam, as all fairseq models kept them
before 0.12 and all but BART do today; stock, this fairseq's; shared, keys and values once a sentence; on, EL-attention.
"""

import argparse
import itertools
from pathlib import Path

import torch
from fairseq.sequence_generator import EnsembleModel

from el_fairseq.generation.memory import state_bytes
from el_fairseq.generation.out_of_memory import is_out_of_memory

from .contest import turn
from .memory import MIB, Budget, release
from .models import build_model, build_task, is_language_model, shape_of
from .rows import append_row, integers, known_row, machine, names, read_rows

LAYOUTS = ("per-beam", "stock", "shared", "on")


def parse_args(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", type=names, default=["bart_large"], help="shapes with an encoder")
    parser.add_argument("--batch", type=integers, default=[32, 64, 320])
    parser.add_argument("--source", type=integers, default=[256, 1024])
    parser.add_argument("--beam", type=integers, default=[4])
    parser.add_argument("--dtype", default="float16", choices=["float16", "bfloat16", "float32"])
    parser.add_argument("--layout", type=names, default=list(LAYOUTS))
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--memory-budget", type=float, metavar="GIB", help="fail where a card of this size would")
    parser.add_argument("--json", type=Path, help="add the rows to this file, one JSON object a line")
    parser.add_argument("--resume", action="store_true", help="leave out what --json has already")
    parser.add_argument("--plot", type=Path, help="draw memory against source length to this PNG (needs matplotlib)")
    args = parser.parse_args(argv)
    for layout in args.layout:
        if layout not in LAYOUTS:
            parser.error(f"--layout {layout}: choose of {', '.join(LAYOUTS)}")
    if args.resume and args.json is None:
        parser.error("--resume needs --json, the file to go on with")
    return args


@torch.no_grad()
def kept_of_source(model, layout, batch, source, beams):
    """Bytes kept of ``batch`` sources of ``source`` tokens by a decoder that has made one step with ``beams`` beams."""
    turn(model, "stock" if layout == "per-beam" else layout)
    like = next(model.parameters())
    ensemble = EnsembleModel([model])
    if layout != "per-beam":
        ensemble.set_decoder_beam_size(beams)
    width = model.encoder.embed_tokens.embedding_dim
    output = {
        "encoder_out": [like.new_empty(source, batch, width).normal_()],
        "encoder_padding_mask": [torch.zeros(batch, source, dtype=torch.bool, device=like.device)],
        "encoder_embedding": [like.new_empty(batch, source, width).normal_()],
        "encoder_states": [],
        "src_tokens": [],
        "src_lengths": [torch.full((batch, 1), source, dtype=torch.int32, device=like.device)],
    }
    rows = torch.arange(batch, device=like.device).repeat_interleave(beams)
    output = ensemble.reorder_encoder_out([output], rows)
    first = torch.full((batch * beams, 1), 2, device=like.device)
    state = {}
    model.decoder(first, encoder_out=output[0], incremental_state=state)
    own = tuple(layer.self_attn._incremental_state_id for layer in model.decoder.layers)
    return state_bytes(output, {key: kept for key, kept in state.items() if not key.startswith(own)})


def measure(model, cell, layouts, device):
    """MiB by layout, and the layouts for which there was no memory."""
    mib, out_of_memory = {}, []
    for layout in layouts:
        try:
            mib[layout] = kept_of_source(model, layout, cell["batch"], cell["source"], cell["beam"]) / MIB
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            out_of_memory.append(layout)
        release(device)
    return {"state_mib": mib, "out_of_memory": out_of_memory}


def build(name, dtype, device):
    shape = shape_of(name)
    if is_language_model(shape.arch):
        raise SystemExit(f"--arch {name}: a language model keeps nothing of a source")
    model = build_model(shape, build_task(shape)).to(device, getattr(torch, dtype))
    model.make_generation_fast_(need_attn=False)
    return model


def main(argv=None):
    args = parse_args(argv)
    device = torch.device("cuda" if torch.cuda.is_available() and not args.cpu else "cpu")
    about, model = machine(device), None
    Budget(args.memory_budget, device)
    print(f"| shape | batch | source | {' | '.join(f'{layout}, MiB' for layout in args.layout)} |")
    print("|---" * (3 + len(args.layout)) + "|", flush=True)
    known, rows = read_rows(args.json) if args.resume else [], []
    for arch, beam, batch, source in itertools.product(args.arch, args.beam, args.batch, args.source):
        cell = {"arch": arch, "batch": batch, "source": source, "beam": beam, "dtype": args.dtype}
        cell["memory_budget_gib"] = args.memory_budget
        row = known_row(known, {**cell, "device": about["device"]}, args.layout)
        if row is None:
            if model is None or model[0] != arch:
                model = arch, build(arch, args.dtype, device)
            row = {**cell, **measure(model[1], cell, args.layout, device), **about}
            if args.json:
                append_row(args.json, row)
        rows.append(row)
        values = [f"{row['state_mib'][layout]:,.2f}" if layout in row["state_mib"] else "OOM" for layout in args.layout]
        print(f"| {arch} | {batch} | {source} | {' | '.join(values)} |", flush=True)
    if args.plot:
        from .plot import memory

        memory(rows, args.plot)


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        raise SystemExit(f"scripts.bench.state: {error}") from error
