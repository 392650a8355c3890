"""Predictors: each on a series of which it is known what should come next."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from midstream.allocation.formulas import mean_wait_s, mmk_wait_s
from midstream.allocation.intervals import Forecast, Interval
from midstream.allocation.patterns import Analogue, ChangePoint, Recurring
from midstream.allocation.predictors import (
    Calibrated,
    Ewma,
    Holt,
    LastValue,
    QueueReport,
    Rule,
    SteadyState,
    Transient,
    amounts_of,
)
from midstream.allocation.usage import Partition

TAIL, OTHER = Partition("a" * 64, "c1"), Partition("b" * 64, "")
RULES: dict[str, Callable[[], Rule]] = {
    "last value": LastValue,
    "ewma": Ewma,
    "holt": Holt,
    "queue report": QueueReport,
    "steady state": lambda: SteadyState(2),
    "transient": lambda: Transient(2, lambda: {TAIL: 10.0}),
    "change point": ChangePoint,
    "recurring": Recurring,
    "analogue": Analogue,
}


def interval(arrivals: int, wait_ms: float = 0.0, **values: float) -> Interval:
    known: dict = {"served": arrivals, "cpu_ms": 10.0 * arrivals, "memory_bytes": 5e6, "service_ms": 10.0, **values}
    return Interval(0.0, 1.0, arrivals, wait_ms=wait_ms, **known)


def after(rule: Rule, counts: Iterable[int]) -> float:
    """What is forecast to arrive after these."""
    made = {}
    for count in counts:
        made = rule.next({TAIL: interval(count)})
    return made[TAIL].arrivals


@pytest.mark.parametrize("new", RULES.values(), ids=RULES)
def test_a_constant_goes_on(new: Callable[[], Rule]) -> None:
    assert after(new(), [10] * 100) == pytest.approx(10, rel=0.05)


@pytest.mark.parametrize("new", RULES.values(), ids=RULES)
@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10), st.floats(0, 1e7)), min_size=1, max_size=60))
@settings(max_examples=15, deadline=None)
def test_all_is_finite_and_never_negative(new: Callable[[], Rule], steps: list[tuple[int, int, float]]) -> None:
    known = Calibrated(new())
    for arrivals, refused, wait_ms in steps:
        known.observe({TAIL: interval(arrivals, wait_ms, refused=min(refused, arrivals), queue_ms=wait_ms)})
        forecast = known.forecast()[TAIL]
        for target in Forecast.__dataclass_fields__:
            quantiles = getattr(forecast, target)
            assert 0 <= quantiles.low <= quantiles.middle * (1 + 1e-9) + 1e-9
            assert quantiles.middle <= quantiles.high * (1 + 1e-9) + 1e-9
            assert math.isfinite(quantiles.high)


@pytest.mark.parametrize("new", RULES.values(), ids=RULES)
def test_who_is_not_there_is_forgotten(new: Callable[[], Rule]) -> None:
    known = Calibrated(new())
    known.observe({TAIL: interval(10), OTHER: interval(20)})
    assert known.forecast().keys() == {TAIL, OTHER}
    known.observe({OTHER: interval(20)})
    assert known.forecast().keys() == {OTHER}


def test_the_last_value_is_the_last() -> None:
    assert after(LastValue(), [3, 9, 4]) == 4


def test_waits_are_those_of_the_last_who_waited() -> None:
    rule = LastValue()
    rule.next({TAIL: interval(5, 30.0)})
    assert rule.next({TAIL: interval(0)})[TAIL].wait_ms == 30.0
    assert rule.next({TAIL: interval(2, 0.0, refused=2)})[TAIL].wait_ms == 30.0
    assert rule.next({TAIL: interval(2, 8.0)})[TAIL].wait_ms == 8.0


def test_ewma_weighs_the_past_less_and_less() -> None:
    assert after(Ewma(0.5), [8, 0, 4]) == pytest.approx(4.0)


def test_holt_follows_a_trend() -> None:
    rising = range(10, 100)
    assert after(Holt(), rising) > after(Ewma(0.4), rising) + 0.5
    assert after(Holt(0.4, 0.2, 1.0), rising) == pytest.approx(100, abs=0.5)


def test_the_queue_report_is_the_wait() -> None:
    assert QueueReport().next({TAIL: interval(5, 30.0, queue_ms=80.0)})[TAIL].wait_ms == 80.0


def test_the_steady_state_knows_all_partitions() -> None:
    rule = SteadyState(1)
    made = {}
    for _ in range(200):
        made = rule.next({TAIL: interval(30), OTHER: interval(30, service_ms=20.0)})
    wait_ms = 1e3 * mmk_wait_s(1, 60, 0.015)
    assert made[TAIL].wait_ms == made[OTHER].wait_ms == pytest.approx(wait_ms)
    assert made[TAIL].cpu_ms == pytest.approx(300.0)


def test_the_steady_state_ends_before_full_load() -> None:
    rule = SteadyState(1)
    for _ in range(200):
        made = rule.next({TAIL: interval(500)})
    assert made[TAIL].wait_ms == pytest.approx(1e3 * mmk_wait_s(1, 98, 0.01))


def test_the_transient_starts_from_the_queue_and_the_demand() -> None:
    demand = {TAIL: 150.0}
    rule = Transient(1, lambda: demand)
    made = rule.next({TAIL: interval(10, queue_ms=2000.0)})
    assert made[TAIL].wait_ms == pytest.approx(2250.0, rel=0.01)
    assert made[TAIL].arrivals == 150.0
    demand[TAIL] = 50.0
    made = rule.next({TAIL: interval(10, queue_ms=0.0, service_cv2=0.1)})
    assert made[TAIL].wait_ms == pytest.approx(1e3 * mean_wait_s(0.0, 1.0, 1, 50.0, 0.01, 0.1))


def test_different_service_times_are_variation() -> None:
    same = Transient(1, lambda: {TAIL: 20.0, OTHER: 20.0})
    alike = same.next({TAIL: interval(20), OTHER: interval(20)})
    differ = Transient(1, lambda: {TAIL: 20.0, OTHER: 20.0}).next(
        {TAIL: interval(20, service_ms=1.0), OTHER: interval(20, service_ms=19.0)}
    )
    assert (differ[TAIL].wait_ms or 0) > 1.5 * (alike[TAIL].wait_ms or 0)


def test_a_changed_rate_is_known_in_a_few_intervals() -> None:
    stream = np.random.default_rng(1)
    before, since = stream.poisson(10, 300), stream.poisson(40, 4)
    assert after(ChangePoint(), [*before, *since]) == pytest.approx(40, rel=0.2)
    assert after(Ewma(0.1), [*before, *since]) < 25


def test_a_lasting_rate_is_known_better_than_by_an_ewma() -> None:
    stream = np.random.default_rng(2)
    rule, mean = ChangePoint(), Ewma(0.1)
    off, off_mean = [], []
    for count in stream.poisson(20, 600).tolist():
        off.append(abs(rule.next({TAIL: interval(count)})[TAIL].arrivals - 20))
        off_mean.append(abs(mean.next({TAIL: interval(count)})[TAIL].arrivals - 20))
    assert np.mean(off[100:]) < 0.8 * np.mean(off_mean[100:])


def bursts(period: int, count: int) -> list[int]:
    """Three intervals of 40 among ones of 5."""
    return [40 if at % period < 3 else 5 for at in range(count)]


@pytest.mark.parametrize("new", [Recurring, Analogue])
@pytest.mark.parametrize("period", [20, 37])
def test_a_burst_that_recurs_is_foreseen(new: Callable[[], Rule], period: int) -> None:
    rule, series = new(), bursts(period, 12 * period)
    forecasts = [rule.next({TAIL: interval(count)})[TAIL].arrivals for count in series]
    for at in range(9 * period, 12 * period - 1):
        assert forecasts[at] == pytest.approx(series[at + 1], rel=0.35)


def test_what_recurs_clearly_is_told_from_the_second_time_on() -> None:
    rule = Recurring()
    told = []
    for count in [40 if at % 30 < 5 else 0 for at in range(15, 165)]:
        rule.next({TAIL: interval(count)})
        told.append(rule.returning().get(TAIL))
    # The bursts begin 15, 45, 75 and 105 intervals after the first one here; who looks has seen as many.
    assert told[14] is None
    assert told[44] is None
    for place in (73, 74, 103, 104):
        # One interval ahead, and two.
        amounts = told[place]
        assert amounts is not None
        assert amounts.arrivals == pytest.approx(40, rel=0.35)
    assert told[90] is not None
    assert told[90].arrivals < 1


def test_noise_recurs_not_clearly() -> None:
    rule, stream = Recurring(), np.random.default_rng(5)
    for count in stream.poisson(6.0, 800).tolist():
        rule.next({TAIL: interval(count)})
        assert not rule.returning()


def test_motion_foretells_what_comes() -> None:
    stream = np.random.default_rng(3)
    rule, quiet, moving = Analogue(), [], []
    due = 0
    for _ in range(1500):
        if due == 0 and stream.random() < 0.05:
            due = 6
        # Two intervals of motion, then four with many requests.
        arrivals, motion = (40 if 0 < due <= 4 else 4), (20.0 if due else 1.0)
        made = rule.next({TAIL: interval(arrivals, features={"motion": motion})})  # type: ignore[arg-type]
        if due == 5:
            moving.append(made[TAIL].arrivals)
        elif due == 0:
            quiet.append(made[TAIL].arrivals)
        due = max(0, due - 1)
    assert np.mean(moving[10:]) > 25
    assert np.mean(quiet[100:]) < 8


def test_memory_is_bounded() -> None:
    rule = Analogue()
    for count in range(2000):
        rule.next({TAIL: interval(count % 7)})
    (state,) = rule._states._states.values()
    assert state.counts.size == 2 * state.REMEMBERED
    assert state.end <= 2 * state.REMEMBERED
    runs = ChangePoint()
    for count in range(200):
        runs.next({TAIL: interval(count % 7)})
    (found,) = runs._states._states.values()
    assert found.probability.size <= 33


def test_the_spread_is_what_it_was_off_by() -> None:
    stream = np.random.default_rng(4)
    known, inside = Calibrated(Ewma(0.1)), []
    for at, count in enumerate(stream.poisson(20, 1500).tolist()):
        if at > 200:
            quantiles = known.forecast()[TAIL].arrivals
            inside.append(quantiles.low <= count <= quantiles.high)
        known.observe({TAIL: interval(count)})
    assert np.mean(inside) == pytest.approx(0.8, abs=0.06)


def test_there_is_no_wait_where_nobody_was_let_in() -> None:
    assert amounts_of(interval(2, 5.0)).wait_ms == 5.0
    assert amounts_of(interval(2, 5.0, refused=2)).wait_ms is None
    assert amounts_of(interval(0)).wait_ms is None
