"""The one sentence that says whether it pays, losses included."""

from __future__ import annotations

from typing import Any

import pytest

from midstream.partitioning import Objective
from midstream.simulating import Outcome, Simulation
from midstream.simulating.verdict import verdict
from midstream.traces import Trace

from .conftest import RealKind, scenario_of


def outcome(latency_ms: float, way: Any = "local", missed: int = 0, energy_mj: float = 1.0) -> Outcome:
    made = Outcome()
    for number in range(100):
        made.add(latency_ms, energy_mj, 0.0, way, missed=number < missed)
    return made


def said(real: RealKind, objective: Objective | None = None, **outcomes: Outcome) -> str:
    scenario = scenario_of(real(), Trace.steady(1e3, 5), objective=objective or Objective())
    return verdict(Simulation(scenario, outcomes))


def test_a_gain_is_told_against_the_better_one(real: RealKind) -> None:
    told = said(
        real, local=outcome(80), raw=outcome(60, "input"), adaptive=outcome(45, "input"), clairvoyant=outcome(40)
    )
    assert told == (
        "Deciding for each input pays here: adaptive takes 45.0 ms an input, 25.0% less than raw, 60.0 ms, the best of "
        "the simple ways (local 80.0); it splits 0% of the inputs, sends 100% whole, answers 0% on the "
        "device, and comes to 1.12 × what foresight would reach."
    )


def test_a_loss_is_told_as_one(real: RealKind) -> None:
    told = said(real, local=outcome(80), adaptive=outcome(90))
    assert told.startswith(
        "Deciding for each input does not pay here: adaptive takes 90.0 ms an input, 12.5% more than local, 80.0 ms; "
    )
    assert said(real, local=outcome(80), adaptive=outcome(80.4)).startswith(
        "Deciding for each input makes no difference here: adaptive takes 80.4 ms an input, within 1% of local"
    )


def test_a_codec_that_is_not_allowed_is_no_rival(real: RealKind) -> None:
    told = said(real, local=outcome(80), jpeg75=outcome(20, "input"), adaptive=outcome(60))
    assert "25.0% less than local" in told
    assert "jpeg75" not in told


def test_deadlines_count_before_latencies(real: RealKind) -> None:
    objective = Objective(deadline_ms=100.0)
    told = said(real, objective, local=outcome(80, missed=10), adaptive=outcome(90, missed=1))
    assert "pays here: adaptive misses 1.0% of the deadlines at 90.0 ms, where 10.0% are missed by local" in told
    told = said(real, objective, local=outcome(80), raw=outcome(20, missed=30), adaptive=outcome(60, missed=5))
    assert "does not pay here: adaptive misses 5.0% of the deadlines at 60.0 ms, where 0.0% are missed by local" in told


def test_energy_is_compared_where_it_is_minimised(real: RealKind) -> None:
    told = said(real, Objective("energy"), local=outcome(80, energy_mj=10), adaptive=outcome(90, energy_mj=8))
    assert "adaptive takes 8.0 mJ an input, 20.0% less than local, 10.0 mJ" in told


def test_a_better_fixed_choice_is_told(real: RealKind) -> None:
    told = said(real, local=outcome(80), best_static=outcome(50), adaptive=outcome(60))
    assert "25.0% less than local" in told
    assert told.endswith("; best_static, one choice for all inputs in hindsight, takes 50.0 ms.")
    assert "best_static" not in said(real, local=outcome(80), best_static=outcome(80), adaptive=outcome(60))
    objective = Objective(deadline_ms=100.0)
    told = said(real, objective, local=outcome(80, missed=9), best_static=outcome(90, missed=2), adaptive=outcome(60))
    assert told.endswith("takes 90.0 ms and misses 2.0%.")


def test_a_search_that_is_no_bound_is_not_called_foresight(real: RealKind) -> None:
    told = said(real, local=outcome(80), adaptive=outcome(40), clairvoyant=outcome(60))
    assert "does better than what the search of clairvoyant has found" in told
    assert "foresight" not in told


@pytest.mark.parametrize("names", [{"local"}, {"adaptive"}, {"adaptive", "jpeg75"}])
def test_without_both_sides_there_is_none(real: RealKind, names: set[str]) -> None:
    assert said(real, **dict.fromkeys(names, outcome(1.0))).startswith("No verdict: ")
