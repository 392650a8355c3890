"""Made links: the same for the same seed, and each kind as its page says."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import numpy as np
import pytest

from midstream.errors import InputError
from midstream.trace_making import KINDS, make_trace
from midstream.trace_summary import Spread, TraceSummary
from midstream.traces import Trace

# Of the files of 300 s with seed 7: as they were made first, on whatever machine this runs.
FIRST_BYTES = {
    "steady": "73cc336e71277c21",
    "wifi": "23193a9dbaa41abc",
    "wifi-edge": "55336cb4b5804c32",
    "lte": "670d9bfaef7cc9cd",
    "lte-driving": "a542ddc6261776ec",
    "umts": "42555834d367a104",
    "5g": "69ce83251f7e34fc",
    "satellite": "212856076ec64b28",
}


def correlation(values: np.ndarray, lag: int) -> float:
    apart = values - values.mean()
    return float((apart[lag:] * apart[:-lag]).mean() / apart.var())


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_and_a_seed_give_the_same_file_everywhere(kind: str) -> None:
    made = make_trace(kind, 300, 7).to_csv()
    assert hashlib.sha256(made).hexdigest()[:16] == FIRST_BYTES[kind]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "steady"])
def test_another_seed_gives_another_link(kind: str) -> None:
    assert make_trace(kind, 60, 1).to_csv() != make_trace(kind, 60, 2).to_csv()


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_is_read_again(kind: str, tmp_path: Path) -> None:
    made = make_trace(kind, 120, 3)
    (tmp_path / "made.csv").write_bytes(made.to_csv())
    read = Trace.open(tmp_path / "made.csv")
    for column in ("starts_s", "uplink_kbps", "downlink_kbps", "rtt_ms"):
        assert getattr(read, column).tolist() == getattr(made, column).tolist()
    assert read.period_s == made.period_s == 120


# Coefficient of variation, correlation with the next second and with that after 30 s, share of the time down.
ORDERS = {
    "wifi": ((0.2, 0.5), (0.6, 0.9), (-0.1, 0.4), (0, 0)),
    "wifi-edge": ((0.6, 1.1), (0.85, 0.99), (0.0, 0.6), (0.02, 0.2)),
    "lte": ((0.35, 0.7), (0.75, 0.95), (0.0, 0.5), (0, 0)),
    "lte-driving": ((0.6, 1.0), (0.65, 0.92), (-0.15, 0.25), (0.01, 0.07)),
    "umts": ((0.4, 0.7), (0.7, 0.92), (-0.15, 0.25), (0.01, 0.07)),
    "5g": ((0.6, 1.0), (0.7, 0.93), (-0.15, 0.3), (0.01, 0.08)),
    "satellite": ((0.35, 0.65), (0.75, 0.95), (-0.15, 0.2), (0.001, 0.03)),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ORDERS)
def test_each_kind_varies_as_it_should(kind: str, seed: int) -> None:
    made = make_trace(kind, 3600, seed)
    told = TraceSummary.of(made)
    known = KINDS[kind]
    variation, next_second, later, down = ORDERS[kind]
    for rates, spread in ((made.uplink_kbps, told.uplink_kbps), (made.downlink_kbps, told.downlink_kbps)):
        assert variation[0] <= spread.variation <= variation[1]
        assert next_second[0] <= correlation(rates, 1) <= next_second[1]
        assert later[0] <= correlation(rates, 30) <= later[1]
    assert down[0] <= told.down_share <= down[1]
    assert told.uplink_kbps.mean == pytest.approx(known.mean_kbps, rel=0.002)
    assert told.downlink_kbps.mean == pytest.approx(known.mean_kbps * known.downlink_ratio, rel=0.002)
    assert known.rtt_ms <= told.rtt_ms.median <= 1.4 * known.rtt_ms
    assert told.rtt_ms.variation > 0.1
    # Whole kbit/s, tenths of a millisecond; both directions are down at once.
    assert made.uplink_kbps.tolist() == np.round(made.uplink_kbps).tolist()
    assert made.rtt_ms.tolist() == np.round(made.rtt_ms, 1).tolist()
    assert ((made.uplink_kbps == 0) == (made.downlink_kbps == 0)).all()


def test_round_trips_are_longer_where_the_rate_is_low() -> None:
    made = make_trace("lte-driving", 3600, 1)
    slow = made.uplink_kbps < np.quantile(made.uplink_kbps, 0.1)
    assert np.median(made.rtt_ms[slow]) > 1.5 * np.median(made.rtt_ms[~slow])


def test_a_satellite_changes_every_15_seconds() -> None:
    log_rate = np.log(np.maximum(make_trace("satellite", 3600, 1).uplink_kbps, 1))
    steps = np.abs(np.diff(log_rate))
    at_changes = np.zeros(3599, bool)
    at_changes[14::15] = True
    assert np.median(steps[at_changes]) > 2 * np.median(steps[~at_changes])


def test_who_walks_away_is_out_of_reach_halfway_and_comes_back() -> None:
    rates = make_trace("wifi-edge", 3600, 1).uplink_kbps.reshape(-1, 180)
    near, far = rates[:, np.r_[:20, 160:180]], rates[:, 80:100]
    assert near.min() > far.mean()
    assert (far == 0).mean() > 0.3


def test_a_steady_link_is_steady() -> None:
    made = make_trace("steady", 10)
    assert made.uplink_kbps.tolist() == [20_000] * 10
    assert made.rtt_ms.tolist() == [20] * 10


def test_mean_and_round_trip_are_as_asked() -> None:
    made, asked = make_trace("lte", 600, 5), make_trace("lte", 600, 5, mean_kbps=600, rtt_ms=30)
    assert asked.uplink_kbps.mean() == pytest.approx(600, abs=0.5)
    assert asked.uplink_kbps == pytest.approx(made.uplink_kbps / 10, abs=0.6)
    assert asked.rtt_ms == pytest.approx(made.rtt_ms / 2, abs=0.11)


def test_the_shortest_links_have_some_rate() -> None:
    assert all(make_trace(kind, 1, seed).uplink_kbps[0] > 0 for kind in KINDS for seed in range(50))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("lte_driving",), "there is no kind of link 'lte_driving'; the nearest is lte-driving, all are steady, wifi,"),
        (("lte", 0), "seconds is 0; it takes 1 to 1000000"),
        (("lte", 1_000_001), "seconds is 1000001"),
        (("lte", 5, -1), "seed is -1"),
        (("lte", 5, 2**32), "seed is 4294967296"),
        (("lte", 5, 1, math.nan), "mean_kbps is nan; it takes 10 to 10000000"),
        (("lte", 5, 1, 0), "mean_kbps is 0"),
        (("lte", 5, 1, 100, 0.5), "rtt_ms is 0.5; it takes 1 to 5000"),
    ],
)
def test_what_cannot_be_made_is_refused(arguments: tuple[str, ...], told: str) -> None:
    with pytest.raises(InputError, match=told):
        make_trace(*arguments)  # type: ignore[arg-type]


def test_the_widest_figures_make_a_trace() -> None:
    for kind in KINDS:
        made = make_trace(kind, 3600, 1, mean_kbps=1e7, rtt_ms=5000)
        assert made.uplink_kbps.mean() == pytest.approx(1e7, rel=1e-6)
        make_trace(kind, 3600, 1, mean_kbps=10, rtt_ms=1)


def test_a_summary_counts_rows_for_as_long_as_they_last() -> None:
    rates = np.array([0.0, 100, 1000])
    told = TraceSummary.of(Trace("t", np.array([0.0, 1, 4]), rates, rates * 2, np.array([9.0, 5, 7]), 10))
    assert (told.name, told.rows, told.seconds, told.down_share) == ("t", 3, 10, 0.1)
    assert told.uplink_kbps == Spread(630, 0, 1000, 1000, pytest.approx(math.sqrt(603_000 - 630**2) / 630))
    assert told.downlink_kbps.mean == 1260
    assert (told.rtt_ms.p5, told.rtt_ms.median, told.rtt_ms.p95) == (5, 7, 9)
    assert TraceSummary.of(Trace.steady(0, 5)).uplink_kbps == Spread(0, 0, 0, 0, 0)
