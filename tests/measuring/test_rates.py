from __future__ import annotations

import pytest

from midstream.measuring.rates import family_rates, overheads_us, rounded, two_rates
from midstream.partitioning.families import Work
from midstream.profiles import FamilyRates

WORKS = {
    "conv-deep": Work(conv_macs=30_000_000, conv_bytes=600_000, layers=9),
    "conv-wide": Work(conv_macs=14_000_000, conv_bytes=3_000_000, layers=6),
    "depthwise": Work(depthwise_macs=8_000_000, layers=4),
    "dense": Work(dense_macs=1_000_000, layers=4),
    "elementwise": Work(other_bytes=4_000_000, layers=9),
    "small": Work(other_bytes=2000, layers=32),
    "single": Work(other_bytes=64, layers=1),
}


def test_times_made_with_rates_give_them_back() -> None:
    rates = FamilyRates(conv_gmacs=10, conv_gbytes=1, depthwise_gmacs=2, dense_gmacs=0.5, other_gbytes=4)
    times = {name: does.ms(rates, 3.0, 40.0) for name, does in WORKS.items()}
    layer_us, run_us = overheads_us(times, WORKS)
    assert (layer_us, run_us) == pytest.approx((3.0, 40.0), rel=0.01)
    found = family_rates(times, WORKS, layer_us, run_us)
    for name in ("conv_gmacs", "conv_gbytes", "depthwise_gmacs", "dense_gmacs", "other_gbytes"):
        assert getattr(found, name) == pytest.approx(getattr(rates, name), rel=0.01)


def test_noise_never_gives_a_rate_below_zero_or_without_end() -> None:
    # The wide program, with its many bytes, was quicker than its macs alone allow.
    times = {"conv-deep": 3.0, "conv-wide": 0.1, "depthwise": 1e-6, "dense": 0.001, "elementwise": 0.002}
    times |= {"small": 0.001, "single": 0.002}
    layer_us, run_us = overheads_us(times, WORKS)
    found = family_rates(times, WORKS, layer_us, run_us)
    for value in (layer_us, run_us, *(getattr(found, name) for name in FamilyRates.__slots__)):
        assert 0 < value <= 100_000


def test_two_rates_by_hand() -> None:
    # 2 ms per 10⁶ macs and 3 ms per 10⁶ bytes.
    parts = [(1_000_000, 0, 2.0), (0, 1_000_000, 3.0), (1_000_000, 1_000_000, 5.0)]
    assert two_rates(parts) == pytest.approx((0.5, 1 / 3), rel=0.001)
    # Of macs and bytes in one proportion nothing tells which of them took the time.
    assert two_rates([(1_000_000, 1_000_000, 4.0), (2_000_000, 2_000_000, 8.0)]) == (0.25, 100_000.0)


def test_four_digits() -> None:
    assert [rounded(value) for value in (0.123456, 12345.6, 1e-9)] == [0.1235, 12350.0, 1e-9]
