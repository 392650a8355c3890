"""Doing the same with every input: what the policies of that name do, and which such choice is best in hindsight."""

from __future__ import annotations

from collections.abc import Sequence

from midstream.errors import PlanError
from midstream.partitioning import Candidate, Objective
from midstream.simulating.draws import Draws
from midstream.simulating.foresight import Foresight, choices, cost
from midstream.simulating.policies import SENDING, PolicyName
from midstream.simulating.scenario import Kind, Scenario


def named(kind: Kind, objective: Objective, name: PolicyName) -> Candidate:
    """What ``local`` and those that always send the input do. Raises PlanError where that cannot be done here."""
    if name == "local":
        limit = objective.max_device_memory_bytes
        if limit is not None and kind.options.memory[None] > limit:
            raise PlanError(f"the whole model takes {kind.options.memory[None] / 1e6:.1f} MB on the device")
        return kind.made.table.candidates[0]
    if objective.keep_input_local:
        raise PlanError("the input may not leave the device")
    found = kind.input_in(SENDING[name])
    if found is None:
        raise PlanError(f"the input of bundle {kind.name!r} cannot be sent as {name}")
    return found


def ranked(scenario: Scenario, draws: Sequence[Draws]) -> list[Candidate]:
    """The choices for the first kind, the best first, by the search's own sums for its first device.

    Raises PlanError where none is allowed.
    """
    search = Foresight(scenario, draws, 1)

    def total(candidate: Candidate) -> float:
        return sum(cost(chosen, scenario.objective) for chosen in search.always(candidate))

    return sorted(choices(scenario.kinds[0], scenario.objective), key=total)


def in_words(candidate: Candidate) -> str:
    """For a person."""
    where = f"{candidate.cut or 'the input'} in {candidate.codec}" if candidate.offloads else "local"
    return where if candidate.exit is None else f"early exit {candidate.exit}, else {where}"
