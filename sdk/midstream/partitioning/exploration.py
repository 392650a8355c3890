"""Trying, now and then, what was not measured for long and is predicted nearly as good as the best.

Without clock and chance: the same decisions and measurements give the same explorations.
"""

from __future__ import annotations

import numpy as np

from midstream.partitioning.columns import Inputs
from midstream.partitioning.costs import Candidate
from midstream.partitioning.state import Objective, SystemState
from midstream.partitioning.table import Chosen, Table

EXPLORATION_SHARE = 0.01
"""All explorations together are predicted to cost at most this share more than the decisions would without them."""

# How much worse than what was chosen a single one may be predicted.
_NEARLY = 0.2
# What was measured within so many decisions is known.
_KNOWN_FOR = 200
# At most one decision in so many looks for something to try.
_EVERY = 10

Place = tuple[str | None, bool]
"""What is measured as one: a cut (None: the whole model), and whether a gateway runs what follows it."""


def place_of(candidate: Candidate) -> Place:
    """What running a candidate measures."""
    return candidate.cut, candidate.offloads


class Exploration:
    """What was decided and measured with one gateway, and what was spent on trying others. Not thread-safe."""

    def __init__(self) -> None:
        self._decisions = 0
        self._looked = 0
        self._total = 0.0
        self._excess = 0.0
        self._measured: dict[Place, int] = {}

    def measured(self, place: Place) -> None:
        """This was measured, by whatever plan."""
        self._measured[place] = self._decisions

    def instead(
        self, chosen: Chosen, table: Table, state: SystemState, objective: Objective, inputs: Inputs
    ) -> Chosen | None:
        """What to try in place of a decision, of which this also takes note; None: nothing.

        It breaks no constraint, meets the deadline and the budget, is behind the same early exit, and is predicted to
        be worse by no more than a fifth, and by what is left of `EXPLORATION_SHARE` of the values of all decisions. Of
        several, the one that was measured longest ago, then the cheapest.
        """
        self._decisions += 1
        self._total += chosen.value
        if self._decisions - self._looked < _EVERY or self._decisions < _KNOWN_FOR:
            return None
        self._looked = self._decisions
        columns, _ = table.allowed(state, objective)
        value, _, latency, latest, _ = table.valued(columns, state, objective, inputs)
        left = EXPLORATION_SHARE * self._total - self._excess
        near = value <= chosen.value + min(left, _NEARLY * chosen.value)
        if objective.deadline_ms is not None:
            near &= table.timely(columns, latest, state, objective)
        if objective.energy_budget_mj is not None:
            near &= columns.energy_mj(state, inputs) <= objective.energy_budget_mj
        now = table.candidates[chosen.row]
        found: list[tuple[int, float, int]] = []
        for at in np.flatnonzero(near):
            candidate = table.candidates[columns.rows[at]]
            last = self._measured.get(place_of(candidate), 0)
            other = candidate.exit == now.exit and place_of(candidate) != place_of(now)
            if other and self._decisions - last >= _KNOWN_FOR:
                found.append((last, float(value[at]), int(at)))
        if not found:
            return None
        _, price, place = min(found)
        row = int(columns.rows[place])
        # Tried counts as measured, or what never answers would be tried again and again.
        self.measured(place_of(table.candidates[row]))
        self._excess += max(0.0, price - chosen.value)
        return Chosen(row, float(latency[place]), price, "explores", chosen.row)
