"""What is tried though something else is predicted better: when, and at what price."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from midstream.partitioning import Candidate, LinkState, Objective, Plan, Power, SystemState, Table, decide_from
from midstream.partitioning.exploration import EXPLORATION_SHARE, Exploration, place_of

POWER = Power(2.0, 6.0, 0.5)
STATE = SystemState(LinkState(8000.0, 8000.0, 0.0))
LOCAL = Candidate(None, (0, 1), (), 100.0)


def split(cut: str, latency_ms: float, **changes: object) -> Candidate:
    return replace(Candidate(cut, (0,), (1,), latency_ms - 10.0, 10.0, codec="raw"), **changes)  # type: ignore[arg-type]


def decisions(
    options: tuple[Candidate, ...], number: int, objective: Objective, state: SystemState = STATE
) -> list[Plan]:
    """One after the other, all of them measured as they are run."""
    table, exploration = Table(options, POWER), Exploration()
    made = []
    for _ in range(number):
        plan = decide_from(table, state, objective, exploration=exploration)
        exploration.measured((plan.cut, plan.offloads))
        made.append(plan)
    return made


def test_what_was_not_measured_for_long_is_tried_the_longest_first() -> None:
    made = decisions((LOCAL, split("a", 50.0), split("b", 51.0), split("c", 55.0)), 500, Objective())
    tried = [(place, plan.cut) for place, plan in enumerate(made, 1) if plan.cut != "a"]
    assert tried == [(200, "b"), (210, "c"), (400, "b"), (410, "c")]
    assert made[199].why == (
        "cut b as raw (51.0 ms) is tried, as it was not measured lately and cut a as raw (50.0 ms) is hardly better"
    )
    assert made[199].explain()[0].cut == "b"


@pytest.mark.parametrize(
    ("other", "objective"),
    [
        (split("b", 61.0), Objective()),
        (split("b", 52.0), Objective(deadline_ms=51.0)),
        (split("b", 51.0, reveals_input=True), Objective(keep_input_local=True)),
        (split("b", 51.0, lossless=False, agreement=0.9), Objective(min_agreement=0.95)),
        (split("a", 51.0, codec="lossless"), Objective()),
    ],
)
def test_what_is_far_worse_late_forbidden_or_measured_anyway_is_not_tried(
    other: Candidate, objective: Objective
) -> None:
    made = decisions((LOCAL, split("a", 50.0), other), 1000, objective)
    assert {(plan.cut, plan.codec) for plan in made} == {("a", "raw")}


def test_without_a_link_nothing_is_tried() -> None:
    made = decisions((LOCAL, split("a", 50.0)), 500, Objective(), SystemState(None))
    assert not any(plan.offloads for plan in made)


def test_what_does_not_answer_is_not_tried_again_at_once() -> None:
    table, exploration = Table((LOCAL, split("a", 50.0), split("b", 51.0)), POWER), Exploration()
    tried = []
    for place in range(1, 601):
        plan = decide_from(table, STATE, Objective(), exploration=exploration)
        if plan.cut == "b":
            tried.append(place)
        else:
            exploration.measured(("a", True))
    assert tried == [200, 400, 600]


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.floats(20.0, 200.0), min_size=1, max_size=20),
    st.sampled_from(["latency", "energy", "throughput"]),
    st.none() | st.floats(30.0, 150.0),
    st.lists(st.floats(0.0, 50.0), min_size=1, max_size=5),
)
def test_explorations_stay_within_their_budget_and_the_deadline(
    latencies: list[float], kind: str, deadline_ms: float | None, waits: list[float]
) -> None:
    options = (LOCAL, *(split(f"c{place}", ms) for place, ms in enumerate(latencies)))
    objective = Objective(kind, deadline_ms)  # type: ignore[arg-type]
    table, exploration = Table(options, POWER), Exploration()
    spent = total = 0.0
    for place in range(700):
        state = replace(STATE, gateway_wait_ms=waits[place % len(waits)])
        best = table.choose(state, objective)
        plan = decide_from(table, state, objective, exploration=exploration)
        row = next(row for row, each in enumerate(options) if place_of(each) == (plan.cut, plan.offloads))
        prices = table.alone(row).prices(state, objective, inputs=plan.reasons.inputs)  # type: ignore[attr-defined]
        if row != best.row:
            assert deadline_ms is None or prices.latest_ms[0] <= deadline_ms
            spent += max(0.0, float(prices.of(kind)[0]) - best.value)
        total += best.value
        assert spent <= EXPLORATION_SHARE * total + 1e-6
        exploration.measured((plan.cut, plan.offloads))


def test_where_there_is_much_to_try_the_budget_binds() -> None:
    made = decisions((LOCAL, split("a", 50.0), *(split(f"c{place}", 59.0) for place in range(60))), 2000, Objective())
    excess = sum(plan.predicted_ms - 50.0 for plan in made)
    assert 0.009 * 2000 * 50.0 < excess <= EXPLORATION_SHARE * 2000 * 50.0
