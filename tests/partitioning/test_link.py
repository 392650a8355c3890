from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from midstream.partitioning import LinkEstimate, LinkState


def test_the_first_sample_replaces_the_assumption() -> None:
    # 100 kB in 80 ms are 10 Mbit/s.
    estimate = LinkEstimate(uplink_kbps=50_000).after_transfer(100_000, 80.0).after_echo(7.0)
    assert estimate.state() == LinkState(10_000, 5000, 7.0)


def test_samples_are_averaged_then_smoothed() -> None:
    estimate = LinkEstimate()
    for ms in (80.0, 40.0):
        estimate = estimate.after_transfer(100_000, ms)
    assert estimate.uplink_kbps == pytest.approx(15_000)
    for _ in range(2):
        estimate = estimate.after_transfer(100_000, 800 / 15)
    assert estimate.after_transfer(100_000, 32.0).uplink_kbps == pytest.approx(15_000 + 0.3 * 10_000)


def test_a_reply_tells_of_the_downlink_only() -> None:
    estimate = LinkEstimate(uplink_kbps=1000).after_transfer(100_000, 80.0, down=True)
    assert estimate.state() == LinkState(1000, 10_000, 20.0)


@pytest.mark.parametrize(
    ("payload_bytes", "ms"),
    [
        (34, 0.01),
        (8191, 20.0),
        (0, 5.0),
        (-1, 5.0),
        (100_000, 0.0),
        (100_000, -3.0),
        (100_000, math.nan),
        (100_000, 5e-324),
        (100_000, 1e300),
    ],
)
def test_what_says_nothing_changes_nothing(payload_bytes: int, ms: float) -> None:
    estimate = LinkEstimate()
    assert estimate.after_transfer(payload_bytes, ms) == estimate


@pytest.mark.parametrize("rtt_ms", [0.0, -1.0, 5e-324, math.nan, math.inf])
def test_absurd_echoes_change_nothing(rtt_ms: float) -> None:
    estimate = LinkEstimate()
    assert estimate.after_echo(rtt_ms) == estimate


def test_one_stalled_transfer_does_not_ruin_the_estimate() -> None:
    estimate = LinkEstimate()
    for _ in range(10):
        estimate = estimate.after_transfer(100_000, 80.0)
    assert 7000 < estimate.after_transfer(100_000, 60_000.0).uplink_kbps < 10_000
    assert 10_000 < estimate.after_transfer(100_000, 0.001).uplink_kbps < 32_000


@given(st.lists(st.tuples(st.integers(0, 10**8), st.floats(allow_nan=True, allow_infinity=True))))
def test_whatever_is_measured_the_state_stays_usable(samples: list[tuple[int, float]]) -> None:
    estimate = LinkEstimate()
    for payload_bytes, ms in samples:
        estimate = estimate.after_transfer(payload_bytes, ms).after_echo(ms)
    assert 0 < estimate.uplink_kbps < math.inf
    assert 0 < estimate.rtt_ms < math.inf


def test_a_fallen_or_recovered_link_is_known_within_two_samples() -> None:
    estimate = LinkEstimate()
    for _ in range(10):
        estimate = estimate.after_transfer(100_000, 16.0)
    once = estimate.after_transfer(100_000, 1600.0)
    assert once.doubtful
    assert once.uplink_kbps > 30_000
    fallen = once.after_transfer(100_000, 1600.0)
    assert fallen.uplink_kbps == pytest.approx(500)
    assert not fallen.doubtful
    recovered = fallen.after_transfer(100_000, 16.0).after_transfer(100_000, 16.0)
    assert recovered.uplink_kbps == pytest.approx(50_000)


def test_a_small_payload_tells_where_it_takes_longer_than_the_round_trip() -> None:
    estimate = LinkEstimate().after_transfer(100_000, 16.0).after_echo(10.0)
    assert estimate.after_transfer(2000, 9.0) == estimate
    slow = estimate.after_transfer(2000, 32.0).after_transfer(2000, 32.0)
    assert slow.uplink_kbps == pytest.approx(500)


def test_small_payloads_that_were_quick_make_a_slow_one_an_exception() -> None:
    estimate = LinkEstimate()
    for _ in range(3):
        estimate = estimate.after_transfer(100_000, 16.0).after_echo(10.0)
    stalled = estimate.after_transfer(2000, 200.0)
    assert stalled.doubtful
    quick = stalled.after_transfer(2000, 1.0)
    assert not quick.doubtful
    assert quick.after_transfer(2000, 200.0).uplink_kbps > 10_000
    assert stalled.after_transfer(2000, 200.0).uplink_kbps == pytest.approx(80)
