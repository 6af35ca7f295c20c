"""What the beams have chosen, as back-pointers: which row each row continues, with which token, at which score.

Nothing is copied while beams change places. At the end the hypotheses are followed back, all at once, one step at a
time.
"""

import torch


class History:
    """One batch. Rows are numbered anew at each step, ``n`` of them; there are fewer when sentences are pruned."""

    def __init__(self):
        self.parents: list[torch.Tensor] = []  # of the rows after each step: [n], rows before it
        self.attended: list[torch.Tensor] = []  # the same, but for rows that were replaced: as ``attention`` goes
        self.tokens: list[torch.Tensor] = []  # [n]
        self.scores: list[torch.Tensor] = []  # [n], cumulative
        self.attention: list[torch.Tensor] = []  # of each step: [n, S], or nothing if the model returns none

    def append(self, parents: torch.Tensor, tokens: torch.Tensor, scores: torch.Tensor) -> None:
        """The rows after one more step."""
        self.parents.append(parents)
        self.attended.append(parents)
        self.tokens.append(tokens)
        self.scores.append(scores)

    def add_attention(self, attention: torch.Tensor | None) -> None:
        """To the source, of one more step."""
        if attention is not None:
            self.attention.append(attention)

    def replace_rows(self, rows: torch.Tensor) -> None:
        """Row ``i`` has now the tokens and scores that row ``rows[i]`` had; attention of its own, as in fairseq."""
        for column in (self.parents, self.tokens, self.scores):
            if column:
                column[-1] = column[-1].index_select(0, rows)

    def start_after(self, tokens: torch.Tensor, scores: torch.Tensor) -> None:
        """Begin with ``tokens [n, c]``, and their cumulative ``scores [n, c]``."""
        rows = torch.arange(tokens.size(0), device=tokens.device)
        for column, cumulative in zip(tokens.unbind(1), scores.unbind(1)):
            self.append(rows, column, cumulative)

    def follow(self, steps, rows, tokens, scores):
        """The paths of hypotheses that end with ``tokens [h]``, at steps ``steps [h]``, a list, in ``rows [h]``.

        Args:
            steps: when each ends, not in order.
            rows: the row that each continues, in the numbering of its step.
            tokens: the last of each.
            scores: cumulative, of the last.

        Returns:
            ``(tokens, scores, attention)``: for each hypothesis those of its steps, the first first, all hypotheses
            one after the other: ``[total]``, ``[total]``, ``[total, S]`` in float32 or None.
        """
        lengths = torch.tensor(steps) + 1
        order = lengths.argsort(descending=True, stable=True)
        ends = lengths[order].tolist()
        on_device = order.to(rows.device)
        rows, tokens, scores = rows[on_device], tokens[on_device], scores[on_device]
        del self.attention[ends[0] :]  # of steps after all of them
        columns: tuple[list, list, list] = ([], [], [])
        counts, alive, current = [], 0, rows[:0]
        attending = current
        replaced = any(own is not parent for own, parent in zip(self.attended, self.parents))
        for step in reversed(range(ends[0])):
            known = alive
            while alive < len(ends) and ends[alive] > step:
                alive += 1
            chosen, cumulative = tokens[known:alive], scores[known:alive]
            if known:
                chosen = torch.cat((self.tokens[step].index_select(0, current), chosen))
                cumulative = torch.cat((self.scores[step].index_select(0, current), cumulative))
                attending = self.attended[step].index_select(0, attending) if replaced else None
                current = self.parents[step].index_select(0, current)
            if alive > known:
                attending = torch.cat((attending, rows[known:alive])) if replaced else None
                current = torch.cat((current, rows[known:alive]))
            columns[0].append(chosen)
            columns[1].append(cumulative)
            if self.attention:  # of a step it is given up as soon as it is followed, so that it is not kept twice
                read = attending if replaced else current
                columns[2].append(self.attention.pop().index_select(0, read).float())
            counts.append(alive)
        return tuple(self._by_hypothesis(column, counts, lengths, order) for column in columns)

    @staticmethod
    def _by_hypothesis(column, counts, lengths, order):
        """Of a list of steps, the last first, each with its hypotheses in ``order``: see ``follow``."""
        if not column:
            return None
        first = torch.tensor([0, *counts]).cumsum(0)[:-1].flip(0)  # where each step begins
        rank = torch.empty_like(order).index_copy_(0, order, torch.arange(order.numel()))
        inside = torch.arange(first.numel()) < lengths.unsqueeze(1)  # [h, T]
        joined = torch.cat(column)
        column.clear()
        return joined.cpu()[(first + rank.unsqueeze(1))[inside]]
