"""What payloads will take, before they are encoded."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from midstream.ladder import Ladder, MeasuredRung, Place, ReplySize, SizeModel
from midstream.partitioning import SizeEstimates, size_features

FEATURES = {"entropy": 2.0, "edges": 0.5}
FITTED = SizeModel(3.0, {"entropy": 1.0}, 50.0, 400.0, 0.1)
C1_STEP, INPUT_RAW = ("c1", "step1"), (None, "raw")


def rung(codec: str, payload: float, spread: float, size: SizeModel | None = None) -> MeasuredRung:
    return MeasuredRung(codec, False, "none", 1.0, payload, spread, 0.1, 0.1, size=size)


def ladder(*places: Place) -> Ladder:
    return Ladder("ab", "here", 1.0, "auto", 9, True, 0.9, places)


CALIBRATED = ladder(
    Place(None, 1000.0, (rung("raw", 1000.0, 0.0),)),
    Place("c1", 800.0, (rung("step1", 120.0, 0.3, FITTED), rung("step2", 60.0, 0.2))),
)


def predicted(estimates: SizeEstimates, key: tuple[str | None, str], features: Mapping[str, float] | None) -> float:
    return estimates.predict(features)[key][0]


def test_what_was_calibrated_is_known_before_anything_was_sent() -> None:
    found = SizeEstimates(CALIBRATED).predict(FEATURES)
    assert found[INPUT_RAW] == (1000.0, 0.0)
    assert found["c1", "step2"] == (60.0, 0.2)
    assert found[C1_STEP] == pytest.approx((math.exp(5.0), 0.1))


@pytest.mark.parametrize("features", [None, {}, {"edges": 1.0}, {"entropy": math.nan}])
def test_without_the_features_the_mean_is_taken(features: Mapping[str, float] | None) -> None:
    assert SizeEstimates(CALIBRATED).predict(features)[C1_STEP] == (120.0, 0.3)


@pytest.mark.parametrize(("entropy", "size"), [(-1e9, 12.5), (1e9, 1600.0), (math.inf, 1600.0)])
def test_a_prediction_stays_within_four_times_what_was_seen(entropy: float, size: float) -> None:
    assert predicted(SizeEstimates(CALIBRATED), C1_STEP, {"entropy": entropy}) == pytest.approx(size)


def test_a_stream_is_predicted_by_the_payload_before() -> None:
    estimates = SizeEstimates(CALIBRATED)
    for size in (300, 301, 302, 303, 304):
        estimates.observe(C1_STEP, FEATURES, size)
    assert estimates.predict(FEATURES)[C1_STEP] == pytest.approx((304, 0.0033), rel=0.1)
    # The others have not been sent.
    assert predicted(estimates, ("c1", "step2"), FEATURES) == 60.0


def test_payloads_that_jump_leave_the_features_in_charge() -> None:
    estimates = SizeEstimates(CALIBRATED)
    for entropy in (2.0, 1.2, 2.6, 1.0, 2.4):
        estimates.observe(C1_STEP, {"entropy": entropy}, round(math.exp(3 + entropy)))
    assert predicted(estimates, C1_STEP, FEATURES) == pytest.approx(math.exp(5.0))


def test_one_payload_tells_little_of_what_was_calibrated() -> None:
    estimates = SizeEstimates(CALIBRATED)
    estimates.observe(("c1", "step2"), None, 66)
    assert predicted(estimates, ("c1", "step2"), None) == 60.0


def test_what_was_never_calibrated_is_known_once_it_was_sent() -> None:
    estimates = SizeEstimates(None)
    assert estimates.predict(FEATURES) == {}
    estimates.observe(("c7", "int8"), FEATURES, 90)
    assert estimates.predict(None) == {("c7", "int8"): (90.0, 1.0)}
    estimates.observe(("c7", "int8"), FEATURES, 100)
    assert estimates.predict(FEATURES) == {("c7", "int8"): (100.0, pytest.approx(0.82))}


def test_payloads_of_what_has_no_model_do_not_make_up_one() -> None:
    estimates = SizeEstimates(CALIBRATED)
    for size in (6, 600, 6, 600):
        estimates.observe(("c1", "step2"), FEATURES, size)
    assert predicted(estimates, ("c1", "step2"), FEATURES) in (60.0, 600.0)


def test_what_is_added_leaves_what_was_calibrated_as_it_was() -> None:
    estimates = SizeEstimates(CALIBRATED)
    before = estimates.predict(FEATURES)
    estimates.observe(("c7", "int8"), FEATURES, 90)
    after = estimates.predict(FEATURES)
    assert after.pop(("c7", "int8")) == (90.0, 1.0)
    assert after == before


def test_an_empty_payload_tells_nothing() -> None:
    estimates = SizeEstimates(CALIBRATED)
    before = estimates.predict(FEATURES)
    estimates.observe(C1_STEP, FEATURES, 0)
    assert estimates.predict(FEATURES) == before


@given(
    st.floats(allow_nan=False, allow_infinity=False),
    st.dictionaries(st.sampled_from(["a", "b"]), st.floats(allow_nan=False, allow_infinity=False)),
    st.lists(st.tuples(st.floats(), st.floats(), st.integers(0, 1 << 40)), max_size=5),
)
def test_whatever_a_ladder_and_an_input_say_sizes_stay_finite(
    intercept: float, weights: dict[str, float], seen: list[tuple[float, float, int]]
) -> None:
    estimates = SizeEstimates(
        ladder(Place("c", 1.0, (rung("raw", 0.0, 1e308, SizeModel(intercept, weights, 1.0, 2.0**40, 0.0)),)))
    )
    for a, b, size in seen:
        (found,) = estimates.predict({"a": a, "b": b}).values()
        assert math.isfinite(found[0])
        assert 0 <= found[0] <= 2.0**42 * 1.01
        estimates.observe(("c", "raw"), {"a": a, "b": b}, size)


def test_how_long_an_input_is_is_a_feature_too() -> None:
    inputs = {"x": np.zeros((1, 3, 8), np.float32), "y": np.zeros(8, np.float32)}
    assert size_features({"entropy": 2.0}, inputs) == {"entropy": 2.0, "input_octaves": 5.0}
    assert size_features({}, {"x": np.zeros((0, 4))}) == {"input_octaves": 0.0}


def test_what_comes_back_follows_from_the_features_where_that_was_learned() -> None:
    assert SizeEstimates(None).reply_bytes(FEATURES) is None
    assert SizeEstimates(CALIBRATED).reply_bytes(FEATURES) is None
    known = SizeEstimates(replace(CALIBRATED, reply=ReplySize(90.0, 0.4)))
    assert known.reply_bytes(FEATURES) == known.reply_bytes(None) == 90.0
    learned = SizeEstimates(replace(CALIBRATED, reply=ReplySize(90.0, 0.4, FITTED)))
    assert learned.reply_bytes(FEATURES) == pytest.approx(math.exp(5.0))
    assert learned.reply_bytes({"entropy": 1e9}) == pytest.approx(1600.0)
    assert learned.reply_bytes({"entropy": math.nan}) == learned.reply_bytes({}) == learned.reply_bytes(None) == 90.0


def test_what_was_seen_can_be_gone_on_from() -> None:
    before = SizeEstimates(CALIBRATED)
    for size in (300, 301, 302, 303, 304):
        before.observe(C1_STEP, FEATURES, size)
    before.observe(("c9", "raw"), None, 77)
    again = SizeEstimates(CALIBRATED)
    again.restore(before.learned())
    assert again.learned() == before.learned()
    assert again.predict(FEATURES) == before.predict(FEATURES)
    # A codec that is not calibrated any more is known by its last payload alone, and the other way round.
    without = SizeEstimates(None)
    without.restore(before.learned())
    assert predicted(without, C1_STEP, None) == 304
    calibrated = SizeEstimates(CALIBRATED)
    calibrated.restore(without.learned())
    assert predicted(calibrated, C1_STEP, FEATURES) == 304
    assert calibrated.predict(FEATURES)["c1", "step2"] == (60.0, 0.2)


def test_devices_of_a_kind_share_what_is_calibrated_and_nothing_that_they_see() -> None:
    kind = SizeEstimates(CALIBRATED)
    one, other = kind.fresh(), kind.fresh()
    one.observe(C1_STEP, FEATURES, 333)
    one.observe(("c9", "raw"), FEATURES, 50)
    untouched = SizeEstimates(CALIBRATED).predict(FEATURES)
    assert other.predict(FEATURES) == kind.predict(FEATURES) == untouched
    assert one.predict(FEATURES) != untouched
    assert ("c9", "raw") not in other.predict(FEATURES)
