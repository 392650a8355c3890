"""What the forecaster is shown: finite and bounded whatever comes, and what it says it is."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from midstream.allocation.features import BASES, COLUMNS, FEATURES, TARGETS, Steps, amounts, numbers_of
from midstream.allocation.intervals import Interval

ANY = st.floats(allow_nan=True, allow_infinity=True, width=64)
INTERVALS = st.builds(
    Interval,
    start_s=ANY,
    length_s=ANY,
    arrivals=st.integers(-(1 << 70), 1 << 70),
    served=st.integers(0, 1 << 70),
    refused=st.integers(0, 1 << 70),
    cpu_ms=ANY,
    memory_bytes=ANY,
    wait_ms=ANY,
    service_ms=ANY,
    service_cv2=ANY,
    queue_ms=ANY,
    busy=ANY,
    score=ANY,
    features=st.dictionaries(st.sampled_from(("motion", "entropy", "other")), ANY),
)


def of(values: np.ndarray, name: str) -> list[float]:
    return values[:, FEATURES.index(name)].tolist()


def shown(*intervals: Interval) -> np.ndarray:
    """Of one partition, interval by interval."""
    steps = Steps(1)
    return np.concatenate([steps.step(numbers_of([each])) for each in intervals])


@settings(max_examples=60, deadline=None)
@given(st.lists(INTERVALS, min_size=1, max_size=40))
def test_whatever_comes_is_shown_finite_and_bounded(intervals: list[Interval]) -> None:
    found = shown(*intervals)
    assert found.shape == (len(intervals), len(FEATURES))
    assert np.isfinite(found).all()
    assert np.abs(found).max() < 64


def test_bases_are_forecasts_on_the_scale_of_their_target() -> None:
    interval = Interval(0.0, 1.0, 7, 7, 0, 35.0, float(3 << 20), 12.0, 5.0, 0.1, 20.0, 0.4)
    found = shown(interval)
    for target, name in (
        ("arrivals", "arrivals_last"),
        ("cpu_ms", "cpu_last"),
        ("memory_bytes", "memory_last"),
        ("wait_ms", "wait_last"),
    ):
        said = amounts(found[:, FEATURES.index(name)], target).item()
        assert said == pytest.approx(getattr(interval, target), rel=1e-5)
    assert amounts(found[:, FEATURES.index("queue_report")], "wait_ms").item() == pytest.approx(20.0, rel=1e-5)


def test_every_base_is_among_the_features_side_by_side() -> None:
    assert len(set(FEATURES)) == len(FEATURES)
    for target in TARGETS:
        first = FEATURES.index(BASES[target][0])
        assert FEATURES[first : first + len(BASES[target])] == BASES[target]


def test_means_follow_at_their_pace_and_begin_at_the_first_value() -> None:
    found = shown(*(Interval(float(t), 1.0, count) for t, count in enumerate((10, 10, 20))))
    assert amounts(np.array(of(found, "arrivals_fast")), "arrivals") == pytest.approx([10, 10, 15], rel=1e-5)
    assert amounts(np.array(of(found, "arrivals_even")), "arrivals") == pytest.approx([10, 10, 12], rel=1e-5)


def test_a_wait_that_nobody_had_is_not_taken_for_none() -> None:
    waited = Interval(0.0, 1.0, 4, wait_ms=50.0)
    found = shown(waited, Interval(1.0, 1.0, 0), Interval(2.0, 1.0, 3, refused=3))
    assert amounts(np.array(of(found, "wait_last")), "wait_ms") == pytest.approx([50.0] * 3, rel=1e-5)


def test_what_recurs_is_shown_before_it_comes_for_the_third_time() -> None:
    counts = [40 if t % 60 in (20, 21) else 2 for t in range(140)]
    found = shown(*(Interval(float(t), 1.0, count) for t, count in enumerate(counts)))
    # After second 139 the burst at 140 is next; it has been at 20 and 80.
    assert amounts(found[-1:, FEATURES.index("arrivals_period")], "arrivals").item() == pytest.approx(40, rel=1e-3)
    assert amounts(found[-1:, FEATURES.index("arrivals_even")], "arrivals").item() == pytest.approx(2, rel=1e-3)
    assert found[-2, FEATURES.index("period_+2")] == pytest.approx(math.log1p(40), rel=1e-3)


def test_utilisation_is_of_the_workers_that_were_seen_to_work() -> None:
    # Ten requests of 50 ms keep a half of one worker busy, when busy says so; twenty will keep all of it.
    calm = Interval(0.0, 1.0, 10, 10, service_ms=50.0, busy=0.5)
    found = shown(*[calm] * 20, *[Interval(0.0, 1.0, 20, 20, service_ms=50.0, busy=1.0)] * 20)
    said = of(found, "utilisation")
    assert said[19] == pytest.approx(0.5, rel=0.01)
    assert said[-1] == pytest.approx(1.0, rel=0.02)
    assert of(found, "capacity")[-1] == pytest.approx(math.log1p(1.0), rel=0.01)


def test_rows_of_other_gateways_count_for_themselves() -> None:
    both = numbers_of([Interval(0.0, 1.0, 5), Interval(0.0, 1.0, 3)])
    together = Steps(2).step(both)
    apart = Steps(2).step(both, np.array([0, 1]))
    assert of(together, "total_arrivals") == pytest.approx([math.log1p(8)] * 2)
    assert of(apart, "total_arrivals") == pytest.approx([math.log1p(5), math.log1p(3)])


def test_a_row_that_is_reset_has_seen_nothing_and_others_go_on() -> None:
    steps = Steps(1)
    steps.grow(2)
    for _ in range(30):
        steps.step(numbers_of([Interval(0.0, 1.0, 9)] * 2))
    steps.reset(0)
    found = steps.step(numbers_of([Interval(0.0, 1.0, 1)] * 2))
    assert amounts(np.array(of(found, "arrivals_slow")), "arrivals") == pytest.approx([1.0, 9 - 0.03 * 8], rel=1e-5)


def test_numbers_keep_their_columns() -> None:
    (row,) = numbers_of([Interval(5.0, 1.0, 2, score=40.0, features={"entropy": 6.0})])
    assert dict(zip(COLUMNS, row.tolist(), strict=True))["entropy"] == 6.0
    assert row[COLUMNS.index("time_s")] == 5.0
    assert row[COLUMNS.index("score")] == 40.0
