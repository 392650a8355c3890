"""What measured times correct, which of them count, and how soon."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from midstream.partitioning.correction import (
    MAX_GATEWAYS,
    MAX_WAIT_BIAS_MS,
    TOLERANCE,
    WHOLE,
    Correction,
    Corrections,
    Track,
    WaitBias,
)

RATIOS = st.floats(1e-3, 1e3)


def scattered(samples: int, by: float, around: float = 1.0, seed: int = 0) -> list[float]:
    rng = random.Random(seed)
    return [around * math.exp(rng.gauss(0.0, by)) for _ in range(samples)]


def learned(cut: str | None, ratios: list[float]) -> Correction:
    found = Correction()
    for ratio in ratios:
        found.observe(cut, ratio)
    return found


@given(st.floats(0.3, 3.0), st.sampled_from(["c1", WHOLE, None]), st.integers(0, 50), st.integers(0, 9))
def test_a_lasting_change_is_followed_within_five_samples(step: float, cut: str | None, before: int, seed: int) -> None:
    found = learned(cut, scattered(before, 0.04, seed=seed) + scattered(5, 0.04, step, seed + 1))
    assert found.factor(cut) == pytest.approx(step, rel=0.15)


@given(st.integers(0, 50), RATIOS, st.integers(0, 20), st.integers(0, 9))
def test_one_outlier_moves_nothing(before: int, outlier: float, after: int, seed: int) -> None:
    usual = scattered(before + after, 0.04, seed=seed)
    calm = learned("c1", usual)
    shaken = learned("c1", [*usual[:before], outlier, *usual[before:]])
    assert shaken.factor("c1") == pytest.approx(calm.factor("c1"), rel=0.15)
    assert shaken.spread <= calm.spread + 0.1


@given(st.lists(RATIOS, max_size=30), RATIOS)
def test_a_sample_moves_a_factor_by_a_bounded_jump(ratios: list[float], last: float) -> None:
    found = learned("c1", ratios)
    before = found.factor()
    found.observe("c1", last)
    assert 0.4 < found.factor() / before < 2.5


@given(st.lists(st.tuples(st.sampled_from(["c1", "c2", WHOLE, None]), RATIOS), max_size=60))
def test_a_table_is_made_again_only_where_something_has_moved(samples: list[tuple[str | None, float]]) -> None:
    found = Correction()
    for cut, ratio in samples:
        before = found.factors
        found.observe(cut, ratio)
        moved = math.log1p(TOLERANCE) < abs(math.log(found.factor(cut) / before.of(cut))) or math.log1p(
            TOLERANCE
        ) < abs(math.log(found.factor() / before.of(None)))
        if found.factors is not before:
            assert moved
            assert found.factors.of(cut) == pytest.approx(found.factor(cut))
        near = max(TOLERANCE, math.expm1(found.spread)) + 1e-9
        assert found.factors.of(cut) == pytest.approx(found.factor(cut), rel=near)


def test_a_cut_has_a_factor_of_its_own_beside_the_machines() -> None:
    ratios = zip(scattered(100, 0.04, 1.5), scattered(100, 0.04, 1 / 1.5, 1), strict=True)
    found = Correction()
    for slow, quick in ratios:
        found.observe("slow", slow)
        found.observe("quick", quick)
    assert found.factor("slow") == pytest.approx(1.5, rel=0.1)
    assert found.factor("quick") == pytest.approx(1 / 1.5, rel=0.1)
    assert found.factor("never measured") == found.factor() == pytest.approx(1.0, rel=0.1)


def test_few_samples_of_a_cut_are_believed_little() -> None:
    found = learned(None, [1.0] * 20)
    for _ in range(2):
        found.observe("c1", 1.4)
    assert found.factor("c1") / found.factor() < 1.1


def test_the_spread_is_the_mean_share_by_which_times_differ() -> None:
    # The mean absolute deviation of a normal distribution is 0.8 of its standard deviation.
    assert learned("c1", scattered(300, 0.2)).spread == pytest.approx(0.16, rel=0.25)


def test_what_was_learned_holds_where_a_measurement_agrees() -> None:
    agreeing = learned("c1", [2.0] * 30)
    agreeing.check(1.9)
    assert agreeing.factor("c1") == pytest.approx(2.0, rel=0.01)
    agreeing.check(1.0)
    assert agreeing.factor() == agreeing.factors.of(None) == pytest.approx(1.0)
    new = Correction()
    new.check(1.1)
    assert new.factor() == new.factors.of("c1") == pytest.approx(1.1)


def test_tracks_carry_what_was_learned() -> None:
    found = learned("c1", scattered(30, 0.1, 2.0))
    machine, cuts = found.tracks
    again = Correction(
        Track.at(machine.level, machine.spread, machine.samples),
        {cut: Track.at(track.level, track.spread, track.samples) for cut, track in cuts.items()},
    )
    assert (again.factor("c1"), again.factor(), again.spread) == (found.factor("c1"), found.factor(), found.spread)
    assert again.factors.of("c1") == pytest.approx(found.factor("c1"))


def test_gateways_are_bounded_and_the_last_measured_are_kept() -> None:
    found = Corrections()
    names = [f"gw{place}" for place in range(MAX_GATEWAYS + 1)]
    for name in names[:-1]:
        found.observe(name, "c1", 2.0)
    found.observe(names[0], "c1", 2.0)
    found.observe(names[-1], "c1", 2.0)
    for name in names:
        found.waited(name, 100.0, 0.0, now_s=1.0)
    assert list(found.gateways) == [*names[2:-1], names[0], names[-1]]
    assert found.gateway(names[1]) is None
    assert [found.wait_bias_ms(name, 1.0) > 0 for name in names] == [False] + [True] * MAX_GATEWAYS


def test_a_wait_beyond_the_report_is_counted_for_a_while() -> None:
    bias = WaitBias()
    for _ in range(20):
        bias = bias.after(30.0, bias.at(10.0), 10.0)
    assert bias.at(10.0) == pytest.approx(30.0, rel=0.05)
    assert bias.at(12.0) == pytest.approx(15.0, rel=0.05)
    assert bias.at(60.0) == 0.0


@given(st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 1e6), st.floats(0, 100)), max_size=30))
def test_the_bias_of_waits_is_bounded(waits: list[tuple[float, float, float]]) -> None:
    found = Corrections()
    for waited_ms, planned_ms, now_s in waits:
        before = found.wait_bias_ms("gw", now_s)
        found.waited("gw", waited_ms, planned_ms, now_s)
        assert abs(found.wait_bias_ms("gw", now_s)) <= MAX_WAIT_BIAS_MS
        assert abs(found.wait_bias_ms("gw", now_s) - before) <= 0.3 * MAX_WAIT_BIAS_MS + 1.0


def test_a_copy_is_of_its_own() -> None:
    found = Corrections(learned("c1", [2.0] * 9))
    found.observe("gw", "c1", 2.0)
    copy = found.copy()
    assert (copy.device.tracks, copy.gateways["gw"].tracks) == (found.device.tracks, found.gateways["gw"].tracks)
    before = copy.device.factor("c1")
    for _ in range(5):
        found.device.observe("c1", 9.0)
    assert copy.device.factor("c1") == before != found.device.factor("c1")
