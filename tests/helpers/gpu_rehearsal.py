"""Every search on a GPU that is not there (``fake_gpu``): kernels that a step starts, and where it and a batch wait.

A replayed graph counts as one. What a search asks of values that are made up is only what it asks at least.
"""

import logging
import warnings
from collections import Counter
from dataclasses import dataclass, field

import torch
from fairseq import search
from fairseq.token_generation_constraints import pack_constraints

from el_fairseq import enable_el_attention
from el_fairseq.generation import ELSequenceGenerator

from .fake_gpu import fake_gpu, on_gpu
from .models import batch, build_model, dictionary
from .random_lms import build_lm, prompt_batch

WORDS = dictionary(30)
SENTENCES, BEAMS = 3, 4
SHORT, LONG = 4, 6  # steps
LEARNED = {"encoder_learned_pos": True, "decoder_learned_pos": True}  # fairseq's sinusoidal ones read shapes as values


@dataclass
class Rehearsal:
    """One search: what decodes, and how."""

    models: tuple = ("transformer",)
    strategy: type = None  # of fairseq.search; None: beam search
    strategy_options: dict = field(default_factory=dict)
    beams: int = BEAMS
    prefix: bool = False
    prompts: bool = False
    options: dict = field(default_factory=dict)  # of the generator
    captures: bool = True  # whether graphs are captured where the plan allows it

    def run(self, steps, answers=None):
        """Decode ``steps`` steps; returns the ``Watch``."""
        models = [self._model(arch, seed) for seed, arch in enumerate(self.models)]
        sample = prompt_batch(WORDS, [4] * SENTENCES) if self.prompts else batch(WORDS, [9, 4, 7])
        given = {}
        if self.prompts:
            given["prefix_tokens"] = sample["net_input"]["src_tokens"]
        if self.prefix:
            given["prefix_tokens"] = torch.full((SENTENCES, 1), 5)
        length = steps + 4 * self.prompts
        strategy = self._strategy()
        answers = {"prefill.py: prefix_lengths": 4, **(answers or {})}
        with fake_gpu(answers, self.captures) as watch:
            models = [enable_el_attention(on_gpu(model)) for model in models]
            sample, given = on_gpu(sample), on_gpu(given)
            generator = ELSequenceGenerator(
                models,
                WORDS,
                beam_size=self.beams,
                max_len_a=0,
                max_len_b=length,
                min_len=length,
                search_strategy=strategy,
                **self.options,
            )
            watch.waits.clear()
            watch.launches = 0
            generator.generate(models, sample, **given)
        return watch

    def _model(self, arch, seed):
        if arch == "lm":
            return build_lm(WORDS, seed=seed, decoder_learned_pos=True).half()
        return build_model(arch, WORDS, torch.float16, seed=seed, **LEARNED)

    def _strategy(self):
        if self.strategy is None:
            return None
        strategy = self.strategy(WORDS, **self.strategy_options)
        if strategy.supports_constraints:  # which it reads from tensors of the CPU
            strategy.init_constraints(pack_constraints([[torch.tensor([6, 7])]] * SENTENCES), self.beams)
            strategy.init_constraints = lambda constraints, beams: None
        return strategy

    def of_a_step(self):
        """``(launches, {(what, place): waits})`` of one step more."""
        short, long = self.run(SHORT), self.run(LONG)
        waits = {key: (count - short.waits[key]) / (LONG - SHORT) for key, count in long.waits.items()}
        return (long.launches - short.launches) / (LONG - SHORT), {key: n for key, n in waits.items() if n}


SEARCHES = {
    "beam search": Rehearsal(),
    "beam search, not captured": Rehearsal(captures=False),
    "greedy": Rehearsal(beams=1),
    "a language first": Rehearsal(prefix=True),
    "BART": Rehearsal(models=("bart_base",)),
    "MHE attention": Rehearsal(models=("mhe_transformer_wmt_en_de",)),
    "blocked n-grams": Rehearsal(options={"no_repeat_ngram_size": 3}),
    "language model": Rehearsal(models=("lm",)),
    "language model after prompts": Rehearsal(models=("lm",), prompts=True),
    "language model after prompts, not captured": Rehearsal(models=("lm",), prompts=True, captures=False),
    "language model after prompts, sampling": Rehearsal(
        models=("lm",), prompts=True, strategy=search.Sampling, strategy_options={"sampling_topk": 5}
    ),
    "sampling": Rehearsal(strategy=search.Sampling, strategy_options={"sampling_topk": 5}),
    "sampling, not captured": Rehearsal(
        strategy=search.Sampling, strategy_options={"sampling_topk": 5}, captures=False
    ),
    "sampling, one beam": Rehearsal(strategy=search.Sampling, strategy_options={"sampling_topk": 5}, beams=1),
    "diverse": Rehearsal(
        strategy=search.DiverseBeamSearch, strategy_options={"num_groups": 2, "diversity_strength": 0.5}
    ),
    "diverse, not captured": Rehearsal(
        strategy=search.DiverseBeamSearch, strategy_options={"num_groups": 2, "diversity_strength": 0.5}, captures=False
    ),
    "constrained": Rehearsal(
        strategy=search.LexicallyConstrainedBeamSearch, strategy_options={"representation": "ordered"}
    ),
    "constrained, not captured": Rehearsal(
        strategy=search.LexicallyConstrainedBeamSearch, strategy_options={"representation": "ordered"}, captures=False
    ),
    "ensemble": Rehearsal(models=("transformer", "transformer")),
    "ensemble, not captured": Rehearsal(models=("transformer", "transformer"), captures=False),
    "ensemble of language models after prompts": Rehearsal(models=("lm", "lm"), prompts=True),
}


def cells_of(name):
    """The row of the table: search, kernels started and waits of a step, other waits of a batch, where a step waits."""
    kernels, waits = SEARCHES[name].of_a_step()
    once = sum(count for key, count in SEARCHES[name].run(SHORT).waits.items() if key not in waits)
    where = Counter()
    for (what, place), count in waits.items():
        where[f"{what} in {place}"] += count
    places = ", ".join(f"{count:g} {place}" for place, count in sorted(where.items())) or "-"
    return [name, f"{kernels:.0f}", f"{sum(waits.values()):.0f}", f"{once:.0f}", places]


def once_a_batch():
    """``{(what, place): {search: times}}``: the waits of a batch outside of its steps."""
    places = {}
    for name, rehearsal in SEARCHES.items():
        each_step = rehearsal.of_a_step()[1]
        for key, count in rehearsal.run(SHORT).waits.items():
            if key not in each_step:
                places.setdefault(key, {})[name] = count
    return places


def main():
    logging.disable(logging.INFO)
    warnings.simplefilter("ignore")
    shape = f"{SENTENCES} sentences, {BEAMS} beams, decoders of 2 layers (language models: 1), float16"
    print(f"torch {torch.__version__}, {shape}")
    print("| search | kernels started a step | waits a step | waits besides, a batch | where a step waits |")
    print("|---|---|---|---|---|")
    for name in SEARCHES:
        print("| " + " | ".join(cells_of(name)) + " |", flush=True)
    print()
    print("| where a batch waits outside of its steps | for | times, in how many of these searches |")
    print("|---|---|---|")
    for (what, place), times in sorted(once_a_batch().items(), key=lambda item: item[0][::-1]):
        counts = Counter(times.values())
        found = ", ".join(f"{count} in {searches}" for count, searches in sorted(counts.items()))
        print(f"| {place} | {what} | {found} |")
