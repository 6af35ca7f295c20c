"""Other engines with the same weights and the same batches, and whether their hypotheses are the same.

Each is fed a fairseq model that is in memory. What they cannot compute is refused by a ValueError that says why.
"""

from ..rows import seconds
from .ctranslate2 import CTranslate2
from .transformers import Transformers

PEERS = {"ctranslate2": CTranslate2, "transformers": Transformers}


class PeerContest:
    """One peer over the batches of a benchmark."""

    def __init__(self, engine, generation, samples, cell):
        """ValueError where the peer would do other work: ``cell`` describes the benchmark."""
        if cell["search"] == "diverse":
            raise ValueError("--peer: neither CTranslate2 nor transformers has fairseq's --search diverse")
        lengths = {length for sample in samples for length in sample["net_input"]["src_lengths"].tolist()}
        if cell["memory_budget_gib"] is not None and not engine.in_torch:
            raise ValueError("--peer ctranslate2: --memory-budget does not reach it")
        if engine.prompts and lengths != {cell["source"]}:
            raise ValueError("--peer: give --shortest as --source, for prompts of other lengths fairseq generates more")
        self.engine, self.generation, self.tokens = engine, generation, cell["tokens"]
        self.prompt = cell["source"] if engine.prompts else 0
        self.device = samples[0]["net_input"]["src_tokens"].device
        self.inputs = [engine.inputs(sample) for sample in samples]

    def decode(self):
        """``(hypotheses, seconds)``: the tokens of each sentence's best one, without its end."""
        hypotheses, took, outputs = [], 0.0, []
        for inputs in self.inputs:
            took += seconds(
                lambda i=inputs: outputs.append(self.engine.generate(i, self.generation, self.tokens)), self.device
            )
            hypotheses += self.engine.hypotheses(inputs, outputs.pop())
        return hypotheses, took

    def agreement(self, stock, actual):
        """In how many sentences the peer's best hypothesis is one of stock's; ends the benchmark where few agree."""
        end = -1  # stock's hypotheses end with end-of-sentence
        found = sum(
            tokens in [hypothesis["tokens"].tolist()[self.prompt : end] for hypothesis in hypotheses]
            for hypotheses, tokens in zip(stock, actual)
        )
        if 2 * found < len(stock):
            raise SystemExit(
                f"no speed to report: of {len(stock)} hypotheses of {type(self.engine).__name__} {found} agree"
            )
        return found
