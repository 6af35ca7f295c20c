"""Decoder state of the public checkpoints in checkpoints.yaml, stock against EL-attention: the table of checkpoints.md.

Usage: python -m scripts.bench.checkpoints --json FILE [NAME ...]    measure these, or all that the file lacks
       python -m scripts.bench.checkpoints --json FILE --print       print the table again

A model of the checkpoint's shape with random weights decodes one source of 1,024 positions (of a language model: one
prompt of 1,024 tokens) with beam 5 for 16 steps in float32 on the CPU: as stock, with --el-attention auto, and with on.
The state is the tensors that are there after a decoder step, at its largest. Needs 8 GB of memory.
"""

import argparse
import json
import logging
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

import torch
import yaml
from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_REGISTRY
from fairseq.models.speech_to_text.s2t_transformer import S2TTransformerModel
from fairseq.sequence_generator import SequenceGenerator

from el_fairseq import enable_el_attention
from el_fairseq.generation import ELSequenceGenerator

from .dictionary import dictionary
from .memory import MeasuredEnsemble
from .models import is_language_model
from .rows import machine

CHECKPOINTS = Path(__file__).with_name("checkpoints.yaml")
SOURCE, BEAM, STEPS = 1024, 5, 16
FEATURES, FRAMES = 80, 4  # of a frame of speech; frames a position of the encoder output
NARROW = {"encoder_layers": 1, "encoder_ffn_embed_dim": 64, "decoder_ffn_embed_dim": 64}
FEW_TYPES = 1000


def load_checkpoints():
    return yaml.safe_load(CHECKPOINTS.read_text())


def configuration(options):
    """All options of a model. ``options``: ``arch`` and what differs from its defaults."""
    args = Namespace(task="translation", criterion=None, fp16=False, tpu=False, add_bos_token=False, **options)
    args.tokens_per_sample = 2 * SOURCE
    args.input_feat_per_channel, args.input_channels = FEATURES, 1
    ARCH_CONFIG_REGISTRY[args.arch](args)
    args.max_source_positions = SOURCE * (FRAMES if is_speech(args.arch) else 1)
    args.max_target_positions = SOURCE * (2 if is_language_model(args.arch) else 1)
    return args


def build(options, words):
    """A model with random weights, in evaluation mode."""
    torch.manual_seed(1)
    task = SimpleNamespace(source_dictionary=words, target_dictionary=words)
    return ARCH_MODEL_REGISTRY[options["arch"]].build_model(configuration(options), task).eval()


def is_speech(arch):
    return issubclass(ARCH_MODEL_REGISTRY[arch], S2TTransformerModel)


def parameters(model, checkpoint):
    """How many ``model`` has; without its embedding where the size of the dictionary is not known."""
    embedding = 0 if "types" in checkpoint else model.decoder.embed_tokens.weight.numel()
    return sum(parameter.numel() for parameter in model.parameters()) - embedding


def sample_for(arch, words, source):
    """One random source with ``source`` positions in the encoder, or prompt; and what every hypothesis begins with."""
    torch.manual_seed(2)
    tokens = torch.randint(words.nspecial, len(words), (1, source))
    inputs, prefix = tokens, tokens if is_language_model(arch) else None
    if prefix is None:
        tokens[0, -1] = words.eos()
    if is_speech(arch):
        inputs = torch.randn(1, FRAMES * source, FEATURES)
    net_input = {"src_tokens": inputs, "src_lengths": torch.tensor([inputs.size(1)]), "prev_output_tokens": None}
    return {"id": torch.arange(1), "net_input": net_input}, prefix


def decode(model, words, sample, prefix, mode):
    """Bytes of state at their peak, and the hypotheses. ``mode``: of ``--el-attention``, or ``"stock"``."""
    enable_el_attention(model, "off" if mode == "stock" else mode)
    last = STEPS - 1 + (0 if prefix is None else prefix.size(1))  # a prompt is part of the hypothesis
    options = {"beam_size": BEAM, "max_len_a": 0, "max_len_b": last, "min_len": last}
    if mode == "stock":
        generator = SequenceGenerator(MeasuredEnsemble([model]), words, **options)
    else:
        generator = ELSequenceGenerator([model], words, **options)
    hypotheses = generator.generate([model], sample, prefix_tokens=prefix, bos_token=words.eos())
    peak = generator.model.peak if mode == "stock" else generator.meter.peak[0]
    return peak, [hypothesis["tokens"].tolist() for hypothesis in hypotheses[0]]


def measure(checkpoint, source=SOURCE):
    """One row of the results."""
    options, narrow = checkpoint["model"], checkpoint.get("narrow", False)
    words = dictionary(checkpoint.get("types", FEW_TYPES))
    with torch.device("meta" if narrow else "cpu"):
        model = build(options, words)
    row = {"parameters": parameters(model, checkpoint)}
    if narrow:
        words = dictionary(FEW_TYPES)
        model = build({**options, **NARROW}, words)
    args = configuration(options)
    layers = [*([] if is_language_model(args.arch) else [args.encoder_layers]), args.decoder_layers]
    row.update(layers=layers, width=args.decoder_embed_dim, narrow=narrow, bytes={})
    found = {}
    sample, prefix = sample_for(options["arch"], words, source)
    for mode in ("stock", "auto", "on"):
        with torch.no_grad():
            row["bytes"][mode], found[mode] = decode(model, words, sample, prefix, mode)
    row["same_hypotheses"] = found["stock"] == found["auto"] == found["on"]
    return row


def table(checkpoints, rows):
    """The rows as Markdown, in the order of ``checkpoints.yaml``."""
    head = ["checkpoint", "architecture", "layers, width", "parameters", "stock", "`auto` on a CPU", "`on`", "run here"]
    lines = [head, ["---"] * len(head)]
    for name, checkpoint in checkpoints.items():
        if name in rows:
            lines.append(cells(name, checkpoint, rows[name]))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cells(name, checkpoint, row):
    layers = "+".join(map(str, row["layers"]))
    count = f"{row['parameters']:,}" + ("" if "types" in checkpoint else " + embedding")
    stock = row["bytes"]["stock"]
    sizes = [f"{row['bytes'][mode] / 2**20:.1f} MiB" for mode in ("stock", "auto", "on")]
    return [
        f"[{name}]({checkpoint['url']})",
        f"`{checkpoint['model']['arch']}`",
        f"{layers}, {row['width']}",
        count,
        *sizes[:2],
        f"{sizes[2]}, {stock / row['bytes']['on']:.1f}x less",
        "shape, narrowed" if row["narrow"] else "shape",
    ]


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="checkpoints to measure (again)")
    parser.add_argument("--json", type=Path, required=True, help="the file with the results, which is added to")
    parser.add_argument("--print", action="store_true", help="measure nothing, print the table")
    args = parser.parse_args(argv)
    logging.disable(logging.INFO)
    checkpoints = load_checkpoints()
    unknown = set(args.names) - set(checkpoints)
    if unknown:
        parser.error(f"{', '.join(sorted(unknown))}: not in {CHECKPOINTS.name}, which has {', '.join(checkpoints)}")
    rows = json.loads(args.json.read_text()) if args.json.exists() else {}
    todo = args.names or [name for name in checkpoints if name not in rows]
    for name in [] if args.print else todo:
        rows[name] = {**measure(checkpoints[name]), **machine(torch.device("cpu"))}
        print(cells(name, checkpoints[name], rows[name]), flush=True)
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(rows, indent=1) + "\n")
    print(table(checkpoints, rows))


if __name__ == "__main__":
    main()
