"""What the search talks to: the decoding of one batch, step by step."""

from typing import Any, Protocol

import torch

from el_fairseq.cache import CACHES
from el_fairseq.generation.newest_tokens import NewestTokens

StepResult = tuple[torch.Tensor, torch.Tensor | None]


class Session(Protocol):
    """Decoding of one batch. A session begins with all that was prefilled."""

    encoder_outs: list[dict] | None  # one a model
    states: list[dict[str, Any]]  # incremental states, one a model

    def step(self, step: int, tokens: NewestTokens) -> StepResult:
        """Log-probabilities ``[b·M, V]`` of what follows the ``step + 1`` tokens of each row, which hold until the next
        step, and the last token's attention to the source, ``[b·M, S]``, or None."""

    def reorder(self, order: torch.Tensor, pruned: bool) -> None:
        """Follow the beams: row ``i`` continues row ``order[i]``; ``pruned``: sentences have left, too."""


class StepSession:
    """All tokens go through decoder steps.

    Args:
        ensemble: fairseq's ``EnsembleModel``.
        encoder_outs: one a model, made for M beams.
        next_token: a ``NextToken``.
        plan: the ``BatchPlan``.
    """

    def __init__(self, ensemble, encoder_outs, next_token, plan):
        self.ensemble, self.encoder_outs, self.next_token = ensemble, encoder_outs, next_token
        self.states = [{} if group is None else {CACHES: group} for group in plan.caches]
        self.static_rows = plan.static_rows

    def step(self, step, tokens):
        return self.next_token(tokens, self.encoder_outs, self.states)

    def reorder(self, order, pruned):
        if self.static_rows is not None:
            order, pruned = self.static_rows.follow(order, pruned)
        for model, state in zip(self.ensemble.models, self.states):
            if all(hasattr(cache, "moves_with_beams") for cache in state.values()):  # no walk through the modules
                for cache in state.values():
                    if pruned or cache.moves_with_beams:
                        cache.reorder(order)
            elif self.ensemble.has_incremental_states():
                model.decoder.reorder_incremental_state_scripting(state, order)
                if CACHES in state:  # known to no module
                    state[CACHES].reorder(order)
        if pruned:
            self.encoder_outs = self.ensemble.reorder_encoder_out(self.encoder_outs, order)
