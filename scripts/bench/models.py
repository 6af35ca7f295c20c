"""What the benchmarks decode: models of named shapes with random weights, or a checkpoint; and batches for them."""

from argparse import Namespace
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random

import torch
from fairseq import checkpoint_utils
from fairseq.data import data_utils
from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_REGISTRY, FairseqLanguageModel
from fairseq.models import build_model as build_model_of_config
from fairseq.tasks.language_modeling import LanguageModelingConfig, LanguageModelingTask
from fairseq.tasks.translation import TranslationConfig, TranslationTask

from el_fairseq.convert.attention_variant import VARIANTS
from el_fairseq.generation.out_of_memory import is_out_of_memory

from .dictionary import dictionary
from .peers import PEERS

VOCABULARY = {"transformer": 32768, "bart": 50264, "lm": 50257}  # types: a WMT joint BPE, BART's and GPT-2's BPE


@dataclass
class Shape:
    """An architecture of fairseq, what differs from its defaults, and how many types its vocabulary has."""

    arch: str
    options: dict = field(default_factory=dict)
    types: int = None


SMALL = {
    f"{part}_{name}": size for part in ("encoder", "decoder") for name, size in (("layers", 3), ("embed_dim", 128))
}
SMALL |= {"encoder_ffn_embed_dim": 512, "encoder_attention_heads": 4, "decoder_attention_heads": 4}

# fairseq names its GPT-2 shapes one size too small: its transformer_lm_gpt2_small has the shape of GPT-2 medium.
SHAPES = {
    "base": Shape("transformer"),
    "small": Shape("transformer", SMALL, types=4000),  # that of examples/translation
    "big": Shape("transformer_wmt_en_de_big"),
    # 270M parameters as the EL paper's question generation has, whose shape is not published: BERT's vocabulary
    "big_270m": Shape("transformer_wmt_en_de_big", {"share_all_embeddings": False}, types=30522),
    "gpt2_small": Shape("transformer_lm_gpt"),
    "gpt2_medium": Shape("transformer_lm_gpt2_small"),
    "gpt2_large": Shape("transformer_lm_gpt2_medium"),
}


def shape_of(name):
    """The shape of a short name, or an architecture with its own defaults; ``NAME/VARIANT``: its ``mhe_`` twin.

    Raises ValueError for any other name.
    """
    plain, _, variant = name.partition("/")
    if plain not in SHAPES and plain not in ARCH_MODEL_REGISTRY:
        raise ValueError(f"--arch {plain}: no architecture of fairseq, and none of {', '.join(SHAPES)}")
    shape = SHAPES.get(plain, Shape(plain))
    if not variant:
        return shape
    if variant not in VARIANTS or f"mhe_{shape.arch}" not in ARCH_MODEL_REGISTRY:
        raise ValueError(f"--arch {name}: an architecture with an mhe_ twin, and after / one of {', '.join(VARIANTS)}")
    return replace(shape, arch=f"mhe_{shape.arch}", options={**shape.options, "attention_variant": variant})


def is_language_model(arch):
    return issubclass(ARCH_MODEL_REGISTRY[arch], FairseqLanguageModel)


def build_task(shape):
    language_model = is_language_model(shape.arch)
    kind = "lm" if language_model else "bart" if "bart" in shape.arch else "transformer"
    words = dictionary(shape.types or VOCABULARY[kind])
    if language_model:
        return LanguageModelingTask(LanguageModelingConfig(), words)
    return TranslationTask(TranslationConfig(), words, words)


def build_model(shape, task):
    """A model of random weights, the same in each run."""
    shared = "share_decoder_input_output_embed" if is_language_model(shape.arch) else "share_all_embeddings"
    options = {"max_target_positions": 1024, "tokens_per_sample": 1024, shared: True, **shape.options}
    args = Namespace(arch=shape.arch, **options)
    ARCH_CONFIG_REGISTRY[shape.arch](args)
    torch.manual_seed(1)
    build = (
        build_model_of_config if "attention_variant" in shape.options else ARCH_MODEL_REGISTRY[shape.arch].build_model
    )
    return build(args, task).eval()


def load(path, data):
    """``(task, model)`` of a checkpoint, with the dictionaries of the folder ``data``."""
    models, _, task = checkpoint_utils.load_model_ensemble_and_task([str(path)], arg_overrides={"data": str(data)})
    return task, models[0].eval()


def random_lengths(rng, sentences, shortest, longest):
    """Longest first, as fairseq-generate sorts them; one of them is ``longest``."""
    lengths = sorted((rng.randint(shortest, longest) for _ in range(sentences)), reverse=True)
    lengths[0] = longest
    return lengths


def lengths_of(text, sentences, tokens_per_word, longest):
    """Lengths of ``sentences`` lines of a text file, evenly drawn by length and longest first; what is longer is cut.

    Without a tokenizer a length is the number of words times ``tokens_per_word``, with the end of the sentence.
    """
    words = sorted((len(line.split()) for line in Path(text).read_text(encoding="utf-8").splitlines()), reverse=True)
    drawn = [words[i * len(words) // sentences] for i in range(sentences)]
    return [min(longest, round(count * tokens_per_word) + 1) for count in drawn]


def random_sources(task, rng, lengths):
    """Random tokens, ending with end-of-sentence unless they are prompts."""
    words, prompts = task.source_dictionary, isinstance(task, LanguageModelingTask)
    last = [] if prompts else [words.eos()]
    return [torch.tensor([rng.randrange(4, len(words)) for _ in range(n - len(last))] + last) for n in lengths]


def read_sources(task, subset, sentences, longest):
    """``sentences`` sources of a binarised subset, evenly drawn by length, longest first, cut at ``longest``."""
    task.load_dataset(subset)
    dataset = task.dataset(subset)
    if len(dataset) < sentences:
        raise ValueError(f"--batch, --sentences: {subset} has only {len(dataset)} sentences")
    order = sorted(range(len(dataset)), key=lambda i: -dataset.num_tokens(i))
    sources = [dataset[order[i * len(order) // sentences]]["source"] for i in range(sentences)]
    if isinstance(task, LanguageModelingTask):
        return [source[:longest] for source in sources]
    return [source if len(source) <= longest else torch.cat((source[: longest - 1], source[-1:])) for source in sources]


def batches(task, sources, size, device):
    """Batches of ``size`` neighbours, as fairseq's samples; prompts are padded on the right, sources on the left."""
    words, prompts = task.source_dictionary, isinstance(task, LanguageModelingTask)
    samples = []
    for start in range(0, len(sources), size):
        rows = sources[start : start + size]
        tokens = data_utils.collate_tokens(rows, words.pad(), words.eos(), left_pad=not prompts).to(device)
        lengths = torch.tensor([len(row) for row in rows], device=device)
        net_input = {"src_tokens": tokens, "src_lengths": lengths, "prev_output_tokens": tokens}
        samples.append({"id": torch.arange(start, start + len(rows)), "net_input": net_input, "target": None})
    return samples


class Subject:
    """What a benchmark decodes: a task and its model, on the device, and batches; ``args`` are bench_decode.py's."""

    def __init__(self, name, args, device):
        self.name, self.args, self.device = name, args, device
        try:
            if args.path is None:
                shape = shape_of(name)
                self.task = build_task(shape)
                self.model = build_model(shape, self.task)
            else:
                self.task, self.model = load(args.path, args.data)
            self.model.to(device, getattr(torch, args.dtype))
        except (RuntimeError, MemoryError) as error:
            if is_out_of_memory(error):
                raise ValueError(f"--memory-budget {args.memory_budget}: the weights of {name} need more") from error
            raise
        self.model.make_generation_fast_(need_attn=False)
        self.language_model = isinstance(self.model, FairseqLanguageModel)
        self.peers = {}

    def samples(self, cell):
        """The batches of one row of a benchmark's table, the same in each run."""
        args, rng = self.args, Random(1)
        count = args.sentences or cell["batch"]
        if args.path is not None:
            sources = read_sources(self.task, args.gen_subset, count, cell["source"])
        else:
            if args.lengths_of is not None:
                of_text = (args.lengths_of, count, args.tokens_per_word, cell["source"])
                lengths = lengths_of(*of_text)
            else:
                lengths = random_lengths(rng, count, cell["shortest"], cell["source"])
            sources = random_sources(self.task, rng, lengths)
        return batches(self.task, sources, cell["batch"], self.device)

    def peer(self, name):
        """An engine of ``bench.peers`` with the same weights, converted once."""
        if name not in self.peers:
            self.peers[name] = PEERS[name](self.task, self.model, self.device)
        return self.peers[name]
