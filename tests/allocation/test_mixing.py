"""The mix and the choice: near the best of what is mixed, better where errors differ, and bounded whatever comes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from midstream.allocation.ensemble import ensemble
from midstream.allocation.intervals import Forecast, Interval, Quantiles
from midstream.allocation.mixing import STACKED, TARGETS, WEIGHTED, Chooser
from midstream.allocation.usage import Partition

TAIL, OTHER = Partition("a" * 64, "c1"), Partition("b" * 64, "")


class Says:
    """Forecasts what it is told to, in order, for whatever is observed."""

    def __init__(self, name: str, amounts: Sequence[float]) -> None:
        self.name = name
        self._amounts = iter(amounts)
        self._forecast: dict[Partition, Forecast] = {}

    def observe(self, intervals: Mapping[Partition, Interval]) -> None:
        amount = next(self._amounts)
        said = Quantiles(amount, amount, amount)
        self._forecast = {each: Forecast(said, said, said, said) for each in intervals}

    def forecast(self) -> Mapping[Partition, Forecast]:
        return self._forecast


def interval(amount: float) -> Interval:
    return Interval(0.0, 1.0, round(amount), round(amount), cpu_ms=amount, memory_bytes=amount, wait_ms=amount)


def errors(chooser: Chooser, came: Sequence[float], first: int) -> dict[str, float]:
    """Mean absolute errors of the demand's forecasts from then on, by name; "chosen" is what allocates."""
    off: dict[str, list[float]] = {}
    for at, amount in enumerate(came):
        if at >= first:
            said = {**chooser.middles()[TAIL]["arrivals"], "chosen": chooser.forecast()[TAIL].arrivals.middle}
            for name, middle in said.items():
                off.setdefault(name, []).append(abs(middle - round(amount)))
        chooser.observe({TAIL: interval(amount)})
    return {name: float(np.mean(values)) for name, values in off.items()}


def shifted(came: np.ndarray, off: np.ndarray) -> list[float]:
    """What a predictor says: after each observation, the next amount but for this error."""
    return [*np.maximum(came[1:] + off[1:], 0.0).tolist(), 0.0]


@pytest.mark.parametrize("seed", range(5))
def test_it_is_hardly_worse_than_the_best(seed: int) -> None:
    stream = np.random.default_rng(seed)
    came = stream.poisson(50, 800).astype(float)
    sizes = stream.uniform(2, 40, 6)
    chooser = Chooser([Says(f"{size:.0f}", shifted(came, size * stream.standard_normal(800))) for size in sizes])
    found = errors(chooser, came, 100)
    best = min(error for name, error in found.items() if name not in (WEIGHTED, STACKED, "chosen"))
    assert found["chosen"] <= 1.03 * best


def test_errors_that_differ_cancel_in_the_mix() -> None:
    stream = np.random.default_rng(1)
    came = stream.poisson(200, 1000).astype(float)
    predictors = [Says(f"{number}", shifted(came, 20 * stream.standard_normal(1000))) for number in range(6)]
    found = errors(Chooser(predictors), came, 200)
    assert found["chosen"] < 0.7 * min(found[f"{number}"] for number in range(6))


def test_who_is_always_off_by_a_share_is_corrected() -> None:
    stream = np.random.default_rng(2)
    came = 100 + 60 * np.sin(np.arange(800) / 9) + stream.uniform(-2, 2, 800)
    chooser = Chooser([Says("half", [*(0.5 * came[1:]).tolist(), 0.0]), Says("flat", [100.0] * 800)])
    found = errors(chooser, came, 300)
    assert found["chosen"] < 0.6 * min(found["half"], found["flat"])


def test_another_one_takes_over_when_the_best_fails() -> None:
    stream = np.random.default_rng(3)
    came = stream.poisson(100, 1200).astype(float)
    noise = stream.standard_normal(1200)
    late = np.arange(1200) >= 600
    chooser = Chooser([
        Says("early", shifted(came, np.where(late, 60.0, 2.0) * noise)),
        Says("late", shifted(came, np.where(late, 2.0, 60.0) * noise)),
    ])  # fmt: skip
    found = errors(chooser, came, 900)
    assert found["chosen"] < 4
    assert chooser.choices()[TAIL]["arrivals"].name != "early"


def test_who_chooses_and_errors_can_be_read() -> None:
    came = np.random.default_rng(4).poisson(50, 300).astype(float)
    chooser = Chooser([Says("knows", shifted(came, np.zeros(300))), Says("flat", [500.0] * 300)])
    errors(chooser, came, 299)
    choices = chooser.choices()[TAIL]
    assert choices.keys() == set(TARGETS)
    choice = choices["arrivals"]
    assert choice.errors.keys() == {"knows", "flat", WEIGHTED, STACKED}
    assert choice.error == choice.errors[choice.name] <= 1.02 * min(choice.errors.values())
    assert choice.errors["flat"] == pytest.approx(450, rel=0.05)


def test_errors_of_bytes_are_in_bytes() -> None:
    chooser = Chooser([Says("flat", [3e6] * 100), Says("zero", [0.0] * 100)])
    for _ in range(100):
        chooser.observe({TAIL: interval(4e6)})
    assert chooser.choices()[TAIL]["memory_bytes"].errors["flat"] == pytest.approx(1e6, rel=1e-6)


def test_low_and_high_hold_eight_in_ten() -> None:
    stream = np.random.default_rng(5)
    came = stream.poisson(40, 1500)
    chooser = Chooser([Says("mean", [40.0] * 1500), Says("high", [60.0] * 1500)])
    inside = []
    for at, amount in enumerate(came.tolist()):
        if at > 200:
            said = chooser.forecast()[TAIL].arrivals
            inside.append(said.low <= amount <= said.high)
        chooser.observe({TAIL: interval(amount)})
    assert np.mean(inside) == pytest.approx(0.8, abs=0.06)


def test_those_that_follow_are_told_the_demand() -> None:
    told: list[dict[Partition, float]] = []

    class Follows(Says):
        def observe(self, intervals: Mapping[Partition, Interval]) -> None:
            super().observe(intervals)
            told.append(dict(demand()))

    demand: Callable[[], Mapping[Partition, float]] = dict

    def following(given: Callable[[], Mapping[Partition, float]]) -> list[Follows]:
        nonlocal demand
        demand = given
        return [Follows("follows", [0.0] * 50)]

    chooser = Chooser([Says("flat", [7.0] * 50)], following)
    for _ in range(50):
        chooser.observe({TAIL: interval(7)})
        assert told[-1][TAIL] == chooser.forecast()[TAIL].arrivals.middle == pytest.approx(7.0)
    assert "follows" not in chooser.choices()[TAIL]["arrivals"].errors
    assert "follows" in chooser.choices()[TAIL]["wait_ms"].errors


@given(st.lists(st.tuples(st.floats(0, 1e12), st.floats(allow_nan=True, allow_infinity=True)), min_size=1, max_size=80))
@settings(max_examples=50, deadline=None)
def test_whatever_a_predictor_says_the_forecast_is_a_number(steps: list[tuple[float, float]]) -> None:
    chooser = Chooser([Says("any", [said for _, said in steps]), Says("flat", [5.0] * len(steps))])
    for came, _ in steps:
        chooser.observe({TAIL: interval(came)})
        forecast = chooser.forecast()[TAIL]
        for target in TARGETS:
            quantiles = getattr(forecast, target)
            assert 0 <= quantiles.low <= quantiles.middle <= quantiles.high < math.inf


def test_one_that_says_nothing_of_a_partition_does_no_harm() -> None:
    class Silent(Says):
        def forecast(self) -> Mapping[Partition, Forecast]:
            return {}

    chooser = Chooser([Silent("silent", [0.0] * 60), Says("flat", [50.0] * 60)])
    for _ in range(60):
        chooser.observe({TAIL: interval(50)})
    assert chooser.forecast()[TAIL].arrivals.middle == pytest.approx(50, rel=1e-3)


def test_who_is_not_there_is_forgotten() -> None:
    chooser = ensemble(2)
    chooser.observe({TAIL: interval(5), OTHER: interval(5)})
    chooser.observe({OTHER: interval(5)})
    assert chooser.forecast().keys() == chooser.choices().keys() == {OTHER}


def test_further_predictors_join_the_ensemble() -> None:
    chooser = ensemble(2, [Says("network", [3.0] * 5)])
    for _ in range(5):
        chooser.observe({TAIL: interval(3)})
    assert {"network", "last_value", "steady_state"} <= chooser.choices()[TAIL]["arrivals"].errors.keys()
    assert {"network", "transient", "queue_report"} <= chooser.choices()[TAIL]["wait_ms"].errors.keys()
