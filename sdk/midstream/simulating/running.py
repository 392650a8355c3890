"""A scenario under each of the policies, with the same inputs, links and chances."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from midstream.errors import InputError, PlanError, printable
from midstream.partitioning import Candidate
from midstream.simulating.draws import Draws
from midstream.simulating.fixed import in_words, named, ranked
from midstream.simulating.foresight import Foresight, choices
from midstream.simulating.policies import POLICIES, Always, Engine, Foreseen, Partitioner, PolicyName
from midstream.simulating.results import Outcome, Summary
from midstream.simulating.scenario import Scenario
from midstream.simulating.world import PolicyOf, World

# Of static choices so many, the best by the search's own sums, are simulated, and local: the sums know of no giving up.
_MOST_STATIC = 3
# So many ways are followed.
_WIDTH = 16
# With more devices than this, the search keeps only the best way so far.
_MOST_SEARCHED = 8


@dataclass(frozen=True)
class Simulation:
    """Each policy's outcome; ``notes`` has a line on those that were left out, and on what best_static was."""

    scenario: Scenario
    outcomes: Mapping[str, Outcome]
    notes: Mapping[str, str] = field(default_factory=dict)

    @property
    def summaries(self) -> dict[str, Summary]:
        """What each policy came to."""
        return {name: outcome.summary() for name, outcome in self.outcomes.items()}

    def to_json(self) -> dict[str, Any]:
        """By the contract: a policy's figures by its name; what was left out or chosen under "notes"."""
        policies = {name: summary.to_json() for name, summary in self.summaries.items()}
        return {"policies": policies, "notes": dict(self.notes)}


class _ImpossibleError(Exception):
    """This policy can do nothing here, for this reason."""


def simulate(
    scenario: Scenario, policies: Sequence[str] = POLICIES, told: Callable[[str], None] = lambda _: None
) -> Simulation:
    """Run a scenario under each policy; ``told`` is called with the name of each before it is.

    Raises InputError on an unknown policy.
    """
    names = [_known(name) for name in dict.fromkeys(policies)]
    draws = [Draws(scenario, number) for number in range(scenario.devices)]
    if not any(map(len, draws)):
        raise InputError(
            f"no input comes in {scenario.seconds:g} s at {scenario.rate_hz:g} a second; simulate for longer"
        )
    outcomes: dict[str, Outcome] = {}
    notes: dict[str, str] = {}
    for name in names:
        told(name)
        try:
            outcomes[name] = _outcome(scenario, draws, name, notes)
        except _ImpossibleError as reason:
            notes[name] = f"left out: {reason}"
    return Simulation(scenario, outcomes, notes)


def _known(wanted: str) -> PolicyName:
    for name in POLICIES:
        if name == wanted:
            return name
    raise InputError(f"no policy is called {printable(wanted, 40)!r}; known are {', '.join(POLICIES)}")


def _outcome(scenario: Scenario, draws: Sequence[Draws], name: PolicyName, notes: dict[str, str]) -> Outcome:
    objective = scenario.objective
    if name == "bandit" and objective.kind != "latency":
        raise _ImpossibleError(f"it learns latencies, and cannot minimise {objective.kind}")
    if name in ("adaptive", "bandit", "best_static", "clairvoyant"):
        _check_allowed(scenario)
    if name == "best_static":
        return _best_static(scenario, draws, notes)
    if name == "clairvoyant":
        return _foreseen(scenario, draws)
    if name == "adaptive" or name == "bandit":
        return _run(scenario, draws, lambda _, kind, world: Engine(kind, objective, name, world))
    if name == "neurosurgeon" or name == "mincut_ewma":
        averaged = name == "mincut_ewma"
        try:
            return _run(scenario, draws, lambda _, kind, world: Partitioner(kind, objective, averaged=averaged))
        except PlanError as error:
            raise _ImpossibleError(str(error)) from None
    try:
        always = [named(kind, objective, name) for kind in scenario.kinds]
    except PlanError as error:
        raise _ImpossibleError(str(error)) from None
    return _run(scenario, draws, lambda device, kind, world: Always(always[device % len(always)]))


def _check_allowed(scenario: Scenario) -> None:
    """Raise where nothing is allowed of some bundle, even with a link that is up."""
    try:
        for kind in scenario.kinds:
            choices(kind, scenario.objective)
    except PlanError as error:
        raise _ImpossibleError(str(error)) from None


def _run(scenario: Scenario, draws: Sequence[Draws], policy_of: PolicyOf) -> Outcome:
    return World(scenario, draws, policy_of).run()


def _foreseen(scenario: Scenario, draws: Sequence[Draws]) -> Outcome:
    best = Foresight(scenario, draws, _WIDTH if scenario.devices <= _MOST_SEARCHED else 1).best()
    return _run(scenario, draws, lambda device, kind, world: Foreseen(kind, best[device]))


def _best_static(scenario: Scenario, draws: Sequence[Draws], notes: dict[str, str]) -> Outcome:
    """The static choice that turned out best, the same for all devices of the first kind."""
    if len(scenario.kinds) > 1:
        raise _ImpossibleError("one choice cannot be the same for several bundles")
    objective, allowed = scenario.objective, ranked(scenario, draws)
    tried = allowed[:_MOST_STATIC] + [each for each in allowed[_MOST_STATIC:] if not each.offloads]
    best: tuple[float, float] | None = None
    found: tuple[Candidate, Outcome] | None = None
    for candidate in tried:
        outcome = _run(scenario, draws, _always(candidate))
        summary = outcome.summary()
        value = summary.missed_share, summary.energy_mj if objective.kind == "energy" else summary.mean_ms
        if best is None or value < best:
            best, found = value, (candidate, outcome)
    assert found is not None
    candidate, outcome = found
    notes["best_static"] = in_words(candidate)
    return outcome


def _always(candidate: Candidate) -> PolicyOf:
    return lambda device, kind, world: Always(candidate)
