from __future__ import annotations

import random
from dataclasses import replace
from statistics import fmean

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from midstream.errors import PlanError
from midstream.partitioning import (
    Candidate,
    Inputs,
    Leg,
    LinkState,
    Objective,
    Power,
    SystemState,
    Table,
    Tier,
    predict,
)
from midstream.partitioning.bandit import Bandit
from midstream.partitioning.table import refusal

POWER = Power(idle_w=2.0, busy_w=6.0, radio_uj_per_byte=0.5)
FAST, SLOW = LinkState(20_000, 20_000, 5), LinkState(300, 300, 50)
LAYERS = 100


def options(seed: int, arms: int = 20) -> list[Candidate]:
    """The device alone, and cuts with payloads that have nothing to do with their depth."""
    rng = random.Random(seed)
    found = [Candidate(None, tuple(range(LAYERS)), (), 80.0)]
    for place in range(arms):
        share, depth = (place + 1) / (arms + 1), 1 + place * LAYERS // arms
        head, tail = tuple(range(depth)), tuple(range(depth, LAYERS))
        size = int(rng.lognormvariate(10.5, 1))
        found.append(Candidate(f"c{place}", head, tail, 80 * share, 10 * (1 - share), size, 2000, 1.0, 0.5, "raw"))
    return found


class World:
    """A link and a gateway that take what the cost model says, up to some noise; the bandit knows neither."""

    def __init__(self, seed: int) -> None:
        self.candidates = options(seed)
        self.table = Table(self.candidates, POWER)
        self.bandit = Bandit()
        self._rng = random.Random(seed)
        self.forced: list[bool] = []

    def run(self, link: LinkState, inputs: int) -> list[float]:
        """What each input took, as a multiple of what the best candidate takes."""
        state = SystemState(link)
        costs = [predict(each, state, POWER).latency_ms for each in self.candidates]
        taken = []
        for _ in range(inputs):
            pull = self.bandit.choose(self.table, state, Objective())
            self.bandit.learn(pull, costs[pull.row] * self._rng.uniform(0.98, 1.02))
            self.forced.append(pull.forced)
            taken.append(costs[pull.row] / min(costs))
        return taken


@pytest.mark.parametrize("seed", range(8))
def test_it_finds_the_best_arm_and_another_one_after_a_change(seed: int) -> None:
    world = World(seed)
    assert fmean(world.run(FAST, 300)[-100:]) < 1.2
    slow = world.run(SLOW, 400)
    assert fmean(slow[:25]) > 2
    # Of those that it is not forced to, nearly all go to the device, which is best then.
    assert fmean(taken == 1 for taken, forced in zip(slow[-100:], world.forced[-100:], strict=True) if not forced) > 0.7
    assert fmean(world.run(FAST, 500)[-100:]) < 1.2


def test_what_is_forced_is_never_the_device_alone_and_comes_at_a_rate_that_falls() -> None:
    bandit, table, state = Bandit(), Table(options(1), POWER), SystemState(SLOW)
    pulls = []
    for _ in range(1000):
        pull = bandit.choose(table, state, Objective())
        bandit.learn(pull, 1000.0 if pull.work is not None else 80.0)
        pulls.append(pull)
    assert all(pull.work is not None for pull in pulls if pull.forced)
    assert sum(pull.work is None for pull in pulls if not pull.forced) > 700
    # ⌈200^¼⌉ = 4, ⌈400^¼⌉ = 5, ⌈800^¼⌉ = 6.
    assert [sum(pull.forced for pull in part) for part in (pulls[:200], pulls[200:600], pulls[600:])] == [50, 80, 66]


def test_what_matters_more_is_explored_less() -> None:
    table = Table(options(2), POWER)
    plain = Bandit().choose(table, SystemState(FAST, complexity=0.0), Objective())
    matters = Bandit().choose(table, SystemState(FAST, complexity=100.0), Objective())
    assert matters.latency_ms - matters.least_ms < plain.latency_ms - plain.least_ms


def test_it_learns_what_the_device_does_not_do_itself() -> None:
    bandit, (local, cut) = Bandit(), options(3, arms=1)
    table = Table([local, replace(cut, device_ms=20.0, encode_ms=2.0)], POWER)
    for _ in range(50):
        pull = bandit.choose(table, SystemState(FAST, device_load=0.5), Objective())
        assert pull.known_ms == pytest.approx(160.0 if pull.work is None else 42.0)
        bandit.learn(pull, 62.0)
    assert pull.latency_ms == pytest.approx(62.0, abs=0.5)
    # The link is down: then the device alone is all there is, forced or not.
    assert {bandit.choose(table, SystemState(None), Objective()).row for _ in range(20)} == {0}


def test_what_further_machines_do_counts_as_work() -> None:
    far = Leg("far", "c1", (2,), 4.0, 1.0, 2000, 100)
    local, near = Candidate(None, (0, 1, 2), (), 100.0), Candidate("c0", (0,), (1, 2), 10.0, 9.0, 4000, 100)
    on = replace(near, tail=(1,), gateway_ms=5.0, reply_bytes=0, legs=(far,))
    table, bandit = Table([local, near, on], POWER), Bandit()
    state = SystemState(FAST, further={"far": Tier(FAST)})
    taken = {0: 100.0, 1: 60.0, 2: 30.0}
    for _ in range(40):
        pull = bandit.choose(table, state, Objective())
        bandit.learn(pull, taken[pull.row])
    assert bandit.choose(table, state, Objective()).row == 2
    assert bandit.choose(table, SystemState(FAST), Objective()).row == 1


def test_an_early_exits_answers_count_by_their_share() -> None:
    asked = {"exit": "c0", "exit_share": 0.5, "lossless": False, "agreement": 0.99}
    local, cut = Candidate(None, (0, 1), (), 100.0), Candidate("c0", (0,), (1,), 30.0, 5.0, 1000, 100, 1.0, **asked)
    table, bandit = Table([local, cut], POWER), Bandit()
    objective = Objective(min_agreement=0.9)
    for _ in range(60):
        pull = bandit.choose(table, SystemState(FAST), objective)
        bandit.learn(pull, 51.0)
    assert (pull.row, pull.known_ms) == (1, 31.0)
    assert pull.latency_ms == pytest.approx(30 + 0.5 * 21, abs=0.5)
    sure = bandit.choose(table, SystemState(FAST), objective, Inputs(exit_share=1.0))
    assert sure.latency_ms == 30.0


def test_results_that_can_be_none_teach_nothing() -> None:
    table, taught, untaught = Table(options(4), POWER), Bandit(), Bandit()
    for _ in range(30):
        pull, same = (each.choose(table, SystemState(FAST), Objective()) for each in (taught, untaught))
        assert (pull.row, pull.latency_ms) == (same.row, same.latency_ms)
        for latency_ms in (float("nan"), float("inf"), -1.0):
            taught.learn(pull, latency_ms)


def test_another_objective_is_refused() -> None:
    with pytest.raises(PlanError, match="learns mean latencies, and knows no quantile"):
        Bandit().choose(Table(options(1), POWER), SystemState(FAST), Objective(quantile=0.9))
    with pytest.raises(PlanError, match="learns latencies, and cannot minimise 'energy'; take the objective"):
        Bandit().choose(Table(options(1), POWER), SystemState(FAST), Objective("energy"))


def test_the_plan_says_why() -> None:
    bandit, table, state = Bandit(), Table(options(5), POWER), SystemState(FAST)
    said = set()
    for _ in range(40):
        plan = bandit.decide(table, state, Objective())
        bandit.learn(plan.reasons.pull, 1000.0)  # type: ignore[attr-defined]
        assert plan.why.startswith("µLinUCB: ")
        assert [each.chosen for each in plan.explain()].count(True) == 1
        said.add("forced" if "a forced sample" in plan.why else "local" if "µLinUCB: local" in plan.why else "free")
    assert said == {"forced", "local", "free"}


candidates = st.builds(
    lambda cut, device, gateway, size, reply, rung, lossless, agreement: Candidate(
        f"c{cut}", (0,), (1, 2), device, gateway, size, reply, 1.0, 0.5, f"r{rung}", lossless, agreement, cut == 0
    ),
    st.integers(0, 3),
    st.floats(0, 100),
    st.floats(0, 100),
    st.integers(0, 10**6),
    st.integers(0, 10**4),
    st.integers(0, 3),
    st.booleans(),
    st.none() | st.floats(0.5, 1),
)
objectives = st.builds(
    Objective,
    st.just("latency"),
    st.none() | st.floats(1, 500),
    st.sampled_from([0.0, 0.9, 1.0]),
    st.booleans(),
    energy_budget_mj=st.none() | st.floats(10, 1000),
)
states = st.builds(
    SystemState,
    st.none() | st.just(FAST) | st.just(LinkState(0, 0, 1)),
    device_load=st.floats(0, 2),
    complexity=st.none() | st.floats(0, 100),
)


@given(
    st.lists(candidates, max_size=12),
    st.lists(st.tuples(states, objectives, st.floats(0, 1000)), min_size=1, max_size=40),
    st.booleans(),
)
def test_constraints_hold_whatever_was_learned(
    found: list[Candidate], inputs: list[tuple[SystemState, Objective, float]], sized: bool
) -> None:
    table, bandit = Table([Candidate(None, (0, 1, 2), (), 50.0), *found], POWER), Bandit()
    given_sizes = Inputs(np.arange(len(table.candidates)) * 1000.0, 500.0) if sized else Inputs()
    for state, objective, latency_ms in inputs:
        pull = bandit.choose(table, state, objective, given_sizes)
        chosen = table.candidates[pull.row]
        assert refusal(chosen, state, objective) is None
        assert (pull.work is not None) == chosen.offloads
        assert np.isfinite([pull.latency_ms, pull.least_ms, pull.known_ms]).all()
        assert pull.least_ms <= pull.latency_ms
        assert pull.latency_ms >= pull.known_ms - 1e-9
        deadline_ms, local_ms = objective.deadline_ms, 50.0 / (1 - min(state.device_load, 0.99))
        in_time = deadline_ms is None or local_ms <= deadline_ms
        if in_time and not pull.forced:
            assert deadline_ms is None or pull.latency_ms <= deadline_ms
            # The device alone draws 50 ms · 6 W.
            budget_mj = objective.energy_budget_mj
            if budget_mj is not None and budget_mj >= 300.0:
                assert table.alone(pull.row).energy_mj(state, given_sizes)[0] <= budget_mj + 1e-6
        bandit.learn(pull, latency_ms)


@given(st.integers(0, 5), st.lists(st.floats(0, 500), min_size=20, max_size=60))
def test_the_same_calls_give_the_same_choices(seed: int, latencies: list[float]) -> None:
    pair, table = (Bandit(), Bandit()), Table(options(seed), POWER)
    for latency_ms in latencies:
        first, second = (bandit.choose(table, SystemState(FAST), Objective()) for bandit in pair)
        assert (first.row, first.latency_ms, first.least_ms) == (second.row, second.latency_ms, second.least_ms)
        for bandit, pull in zip(pair, (first, second), strict=True):
            bandit.learn(pull, latency_ms)
