"""The clairvoyant choice against every other one, really run; and what it foresees against what then happens."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from midstream.errors import PlanError
from midstream.partitioning import Objective
from midstream.simulating import Scenario
from midstream.simulating.draws import Draws
from midstream.simulating.foresight import Foresight, choices, cost
from midstream.simulating.policies import Chosen
from midstream.simulating.results import Outcome
from midstream.traces import Trace

from .conftest import KindOf, by_arrival, candidates_of, draws_of, foreseen, rough_trace, scenario_of


def counted(outcome: Outcome, objective: Objective) -> float:
    """What an outcome counts as, a request."""
    limit_ms = objective.deadline_ms or math.inf
    late = sum(latency_ms > limit_ms for latency_ms in outcome.latency_ms)
    figures = outcome.energy_mj if objective.kind == "energy" else outcome.latency_ms
    return float(np.mean(figures)) + 1e6 * late / len(outcome)


def best_of_all(scenario: Scenario, draws: list[Draws]) -> float:
    """The least of all sequences of choices, each of which is run."""
    candidates = candidates_of(scenario.kinds[0])
    counts = [len(each) for each in draws]
    found = math.inf
    for flat in itertools.product(candidates, repeat=sum(counts)):
        rest = iter(flat)
        chosen = [[Chosen(next(rest), 0, 0.0, 0.0) for _ in range(count)] for count in counts]
        found = min(found, counted(foreseen(scenario, draws, chosen), scenario.objective))
    return found


def clairvoyant(scenario: Scenario, draws: list[Draws]) -> float:
    return counted(foreseen(scenario, draws, Foresight(scenario, draws).best()), scenario.objective)


@pytest.mark.parametrize(("seed", "cores", "rate_hz"), [(0, 1, 18.0), (3, 4, 40.0)])
def test_no_choice_for_eight_requests_is_better(kind_of: KindOf, seed: int, cores: int, rate_hz: float) -> None:
    scenario = scenario_of(kind_of(cores=cores), rough_trace(seed), 8, rate_hz, seed=seed)
    draws = draws_of(scenario)
    assert len(draws[0]) == 8
    assert clairvoyant(scenario, draws) <= best_of_all(scenario, draws) * (1 + 1e-6)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("cores", [1, 4])
@pytest.mark.parametrize(
    "objective", [Objective(), Objective("energy"), Objective(deadline_ms=80.0)], ids=["ms", "mJ", "deadline"]
)
def test_no_choice_for_five_requests_is_better(kind_of: KindOf, seed: int, cores: int, objective: Objective) -> None:
    scenario = scenario_of(
        kind_of(cores=cores), rough_trace(seed), 5, 25.0, seed=seed, objective=objective, overhead_ms=4.0
    )
    draws = draws_of(scenario)
    assert clairvoyant(scenario, draws) <= best_of_all(scenario, draws) * (1 + 1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_no_choice_is_better_at_a_gateway_that_others_keep_busy(kind_of: KindOf, seed: int) -> None:
    scenario = scenario_of(kind_of(), Trace.steady(50_000, 4), 5, 25.0, seed=seed, gateway_load=0.7)
    draws = draws_of(scenario)
    assert clairvoyant(scenario, draws) <= best_of_all(scenario, draws) * (1 + 1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_no_choice_is_better_for_two_devices_that_share_a_worker(kind_of: KindOf, seed: int) -> None:
    scenario = scenario_of(kind_of(), rough_trace(seed), 3, 30.0, seed=seed, devices=2, gateway_load=0.3)
    draws = draws_of(scenario)
    assert clairvoyant(scenario, draws) <= best_of_all(scenario, draws) * (1 + 1e-6)


@pytest.mark.parametrize("rate_hz", [1.0, 30.0])
@pytest.mark.parametrize("cores", [1, 4])
def test_what_is_foreseen_happens(kind_of: KindOf, rate_hz: float, cores: int) -> None:
    for seed in range(10):
        scenario = scenario_of(
            kind_of(cores=cores),
            rough_trace(seed),
            12,
            rate_hz,
            seed=seed,
            overhead_ms=3.0,
            gateway_load=0.4,
            devices=2,
        )
        draws = draws_of(scenario)
        chosen = Foresight(scenario, draws, 4).best()
        outcome = foreseen(scenario, draws, chosen)
        expected = [each.latency_ms for mine in chosen for each in mine]
        assert [ms for device in (0, 1) for ms in outcome.of_device(device)[1]] == pytest.approx(expected, rel=1e-9)
        energy_mj = sum(each.energy_mj for mine in chosen for each in mine)
        assert sum(outcome.energy_mj) == pytest.approx(energy_mj, rel=1e-9)


def test_the_same_choice_for_all_comes_to_what_is_foreseen(kind_of: KindOf) -> None:
    kind = kind_of()
    scenario = scenario_of(kind, Trace.steady(8_000, 10), 12, 25.0)
    draws = draws_of(scenario)
    for candidate in candidates_of(kind):
        chosen = Foresight(scenario, draws, 1).always(candidate)
        assert by_arrival(foreseen(scenario, draws, [chosen])) == pytest.approx([each.latency_ms for each in chosen])


def test_the_search_with_one_way_is_no_better_and_still_a_search(kind_of: KindOf) -> None:
    scenario = scenario_of(kind_of(), rough_trace(5), 40, 25.0)
    draws = draws_of(scenario)
    wide, narrow = (foreseen(scenario, draws, Foresight(scenario, draws, width).best()) for width in (32, 1))
    alone = foreseen(scenario, draws, [Foresight(scenario, draws, 1).always(candidates_of(scenario.kinds[0])[0])])
    assert sum(wide.latency_ms) <= sum(narrow.latency_ms) * (1 + 1e-9)
    assert sum(narrow.latency_ms) < sum(alone.latency_ms)


def test_a_search_over_gateways_uses_all_of_them(kind_of: KindOf) -> None:
    scenario = scenario_of(kind_of(gateways=2), Trace.steady(50_000, 2), 8, 80.0, gateways=2)
    draws = draws_of(scenario)
    best = Foresight(scenario, draws).best()
    assert {each.gateway for each in best[0] if each.candidate.offloads} == {0, 1}


def test_only_choices_that_may_be_the_best_are_tried(kind_of: KindOf) -> None:
    kind = kind_of()
    local, whole, split = candidates_of(kind)
    assert set(choices(kind, Objective())) == {local, whole, split}
    assert set(choices(kind, Objective(max_device_memory_bytes=1))) == {whole}
    with pytest.raises(PlanError, match="relax one of them"):
        choices(kind, Objective(max_device_memory_bytes=1, keep_input_local=True))
    # A worse codec at the same cut; and at another cut, where it could run beside the first.
    worse = replace(split, codec="f16", payload_bytes=6_000)
    other = replace(worse, cut=kind.bundle.cuts[2].id)
    table = replace(kind.made, table=type(kind.made.table)((local, whole, split, worse, other), kind.power))
    assert set(choices(replace(kind, made=table), Objective())) == {local, whole, split, other}


def test_a_missed_deadline_counts_for_more_than_any_latency(kind_of: KindOf) -> None:
    (local, *_) = candidates_of(kind_of())
    objective = Objective(deadline_ms=100.0)
    assert cost(Chosen(local, 0, 100.5, 1.0), objective) > 1e3 * cost(Chosen(local, 0, 100.0, 1.0), objective)
