"""Random cases in which much occurs together: ensembles of unlike models, long prefixes, fusion, awkward widths.

What is left out, because stock itself stops or gives another output than it documents, is said where it is drawn: in
``random_searches`` (``AS_MANY_AS_BEAMS``, ``FORBID_ENDS``, ``NEED_TYPES``) and here.
"""

import random
from dataclasses import dataclass, replace

from .models import write_out
from .random_cases import random_case, random_lm_case
from .random_lms import build_lm, random_prompts
from .random_searches import AS_MANY_AS_BEAMS, FORBID_ENDS, random_search

KINDS = ["transformer", "bart", "mhe", "ensemble", "language model", "ensemble of language models"]
ARCHITECTURES = {"transformer": "transformer", "bart": "bart_base", "mhe": "mhe_transformer_wmt_en_de"}
LM_ARCHITECTURES = ["transformer_lm", "mhe_transformer_lm"]
VARIANTS = ["mhe-mul", "mhe-add", "mqa", "sha"]
PLACES = ["encoder,decoder,cross", "encoder,decoder,cross", "decoder", "cross", "encoder,cross"]
WIDTHS = [4, 6, 9, 10, 15, 16, 21, 24, 40]


@dataclass
class MixedCase:
    """What the members of an ensemble (mostly of one) are, and how they search the same batch."""

    kind: str
    members: list  # of ``Case``, which differ in the model alone

    @property
    def search(self):
        return self.members[0].search

    @property
    def sample(self):
        return self.members[0].sample

    def build_models(self):
        """The models, and those that stock's generator takes for the same."""
        models = [member.build_model() for member in self.members]
        return models, [write_out(model) for model in models]

    def occurring(self):
        """Names of what not every case has."""
        search, options = self.search, self.search.options
        prefix, lengths = search.prefix, self.sample["net_input"]["src_lengths"]
        occurs = {
            "prefixes": prefix is not None,
            "prefixes of different lengths": prefix is not None and bool(prefix.eq(search.words.pad()).any()),
            "n-gram blocking": options["no_repeat_ngram_size"] > 0,
            "constraints": search.constraints is not None,
            "fusion with a language model": "lm_model" in options,
            "the length of the source": options["match_source_len"],
            "a penalty for unknown tokens": options["unk_penalty"] != 0,
            "suppressed tokens": bool(options["tokens_to_suppress"]),
            "a temperature": options["temperature"] != 1,
            "sources of different lengths": len(set(lengths.tolist())) > 1,
        }
        return [name for name, does in occurs.items() if does]

    def __str__(self):
        search, sources = self.search, self.sample["net_input"]["src_tokens"]
        options = {name: value for name, value in search.options.items() if name != "lm_model"}
        lines = [f"{self.kind}: {', '.join(member.arch for member in self.members)}"]
        lines += [f"  model {member.seed}: {member.arch} {member.model}" for member in self.members]
        lines += [f"  search: {search.kind} {search.strategy.options} {options}"]
        lines += [f"  {'with' if 'lm_model' in search.options else 'without'} a language model beside it"]
        lines += [f"  sources: {sources.tolist()}"]
        lines += [f"  prefix: {search.prefix.tolist()}"] if search.prefix is not None else []
        lines += [f"  constraints: {search.constraints.tolist()}"] if search.constraints is not None else []
        return "\n".join(lines)


def mixed_case(seed, number):
    """The case ``number`` of ``seed``; any two numbers are one."""
    rng = random.Random(f"{seed} {number}")
    kind = rng.choice(KINDS)
    if "language" in kind:
        base = random_lm_case(rng.randrange(2**31))
        archs = LM_ARCHITECTURES if "ensemble" in kind else [rng.choice(LM_ARCHITECTURES)]
        members = [_language_model(rng, base, arch) for arch in archs]
    else:
        base = random_case(rng.randrange(2**31))
        base = replace(base, search=_redraw(rng, base))
        kinds = rng.sample(list(ARCHITECTURES), 2) if kind == "ensemble" else [kind]
        members = [_encoder_decoder(rng, base, ARCHITECTURES[each]) for each in kinds]
    search = _widen(rng, base)
    return MixedCase(kind, [replace(member, search=search) for member in members])


def _heads(rng, width):
    return rng.choice([heads for heads in range(1, 9) if width % heads == 0])


def _variant(rng, places):
    variant = {"attention_variant": rng.choice(VARIANTS)}
    return {**variant, "attention_variant_where": rng.choice(PLACES)} if places else variant


def _encoder_decoder(rng, base, arch):
    """A model of ``arch`` for the batch of ``base``."""
    seed = rng.randrange(2**31)
    encoder, decoder = rng.choice(WIDTHS), rng.choice(WIDTHS)
    shared = rng.choice(["all", "decoder", "none"])
    if arch == "bart_base" or shared == "all" or rng.random() < 0.5:
        decoder = encoder
    model = {
        **random_case(seed).model,
        "encoder_embed_dim": encoder,
        "decoder_embed_dim": decoder,
        "encoder_attention_heads": _heads(rng, encoder),
        "decoder_attention_heads": _heads(rng, decoder),
        "share_all_embeddings": shared == "all",
        "share_decoder_input_output_embed": shared != "none",
        "decoder_output_dim": rng.choice([decoder, 7, 12]) if shared == "none" else decoder,
        "no_decoder_final_norm": rng.random() < 0.2,
        "no_scale_embedding": rng.random() < 0.3,
        "activation_fn": rng.choice(["relu", "gelu"]),
    }
    if arch.startswith("mhe"):
        model.update(_variant(rng, places=True))
    return replace(base, seed=seed, arch=arch, model=model)


def _language_model(rng, base, arch):
    """A language model of ``arch`` for the prompts of ``base``."""
    seed, width = rng.randrange(2**31), rng.choice(WIDTHS)
    model = random_lm_case(seed).model
    model.update(decoder_embed_dim=width, decoder_attention_heads=_heads(rng, width))
    model.pop("attention_variant", None)
    if arch.startswith("mhe"):
        model.update(_variant(rng, places=False))
    return replace(base, seed=seed, arch=arch, model=model)


def _redraw(rng, base):
    """A search for the batch of ``base``, behind longer prefixes of different lengths or none."""
    sentences, words = len(base.sample["id"]), base.words
    limits = {name: base.search.options[name] for name in ("max_len_a", "max_len_b")}
    prefix = None
    if rng.random() < 0.5:
        lengths = [rng.choice([0, 1, 2, 4, 7]) for _ in range(sentences)]
        lengths[rng.randrange(sentences)] = rng.choice([1, 2, 5, 7])
        prefix = random_prompts(rng, words, lengths)
    search = random_search(rng, base.seed, words, base.sample, limits, prefix, base.search.bos)
    if search.prefix is not None and search.kind not in FORBID_ENDS and rng.random() < 0.2:
        # Within its tokens: stock stops at an end of sentence behind the padding of a prefix.
        longest = max(range(sentences), key=lengths.__getitem__)
        prefix[longest, rng.randrange(lengths[longest])] = words.eos()
    return search


def _widen(rng, base):
    """The search of ``base`` with what is rare in it, more often."""
    search, options = base.search, dict(base.search.options)
    if "lm_model" not in options and rng.random() < 0.2:
        width = rng.choice(WIDTHS)
        sizes = {"decoder_embed_dim": width, "decoder_attention_heads": _heads(rng, width)}
        options.update(lm_model=build_lm(base.words, seed=base.seed, **sizes), lm_weight=rng.choice([0.1, 0.5, 2.0]))
    # Searches that forbid ends would find none within the length of the source: stock stops then.
    if search.kind not in FORBID_ENDS and rng.random() < 0.15:
        options.update(match_source_len=True, min_len=1)
    if search.kind not in AS_MANY_AS_BEAMS and rng.random() < 0.3:
        # Where hypotheses begin with end-of-sentence, blocking what occurred leaves stock no end at all.
        begins_with_end = search.bos in (None, base.words.eos())
        options.update(no_repeat_ngram_size=rng.randint(2 if begins_with_end else 1, 4))
    return replace(search, options=options)
