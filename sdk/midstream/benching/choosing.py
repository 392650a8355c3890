"""What each policy of a bench is told to do: forced plans, or who decides; from the scenario as it was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from midstream.partitioning import Candidate
from midstream.simulating.draws import Draws
from midstream.simulating.fixed import named, ranked
from midstream.simulating.foresight import Foresight
from midstream.simulating.policies import Always, PolicyName
from midstream.simulating.results import Outcome
from midstream.simulating.scenario import Scenario
from midstream.simulating.world import World

# So many of the static choices that the simulation finds best are really run.
MOST_STATIC = 2


@dataclass(frozen=True, slots=True)
class Trial:
    """One run of a policy: what the device's process is told, and what is always done, where that is so."""

    policy: dict[str, Any]
    always: Candidate | None = None


def trials(scenario: Scenario, name: PolicyName) -> list[Trial]:
    """The runs of a policy, of which the best counts. Raises PlanError where it can do nothing here."""
    if name in ("adaptive", "bandit"):
        return [Trial({"kind": "planner", "planner": name})]
    if name in ("neurosurgeon", "mincut_ewma"):
        return [Trial({"kind": "partitioner", "averaged": name == "mincut_ewma"})]
    if name == "clairvoyant":
        (best,) = Foresight(scenario, [Draws(scenario, 0)]).best()
        return [Trial({"kind": "plans", "plans": [_plan(chosen.candidate) for chosen in best]})]
    (kind,) = scenario.kinds
    found = best_static(scenario) if name == "best_static" else [named(kind, scenario.objective, name)]
    return [Trial({"kind": "plans", "plans": [_plan(candidate)]}, candidate) for candidate in found]


def best_static(scenario: Scenario) -> list[Candidate]:
    """Those static choices that come out best, by the search's own sums. Raises PlanError where none is allowed."""
    return ranked(scenario, [Draws(scenario, 0)])[:MOST_STATIC]


def simulated(scenario: Scenario, candidate: Candidate) -> Outcome:
    """What the simulation makes of always doing the same."""
    return World(scenario, [Draws(scenario, 0)], lambda device, kind, world: Always(candidate)).run()


def _plan(candidate: Candidate) -> Sequence[str | None] | None:
    return (candidate.cut, candidate.codec) if candidate.offloads else None
