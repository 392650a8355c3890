"""Made workloads: the same for the same seed, and each kind as its page says."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from midstream.errors import InputError
from midstream.workload_making import KINDS, MIXED, Workload, make_workloads

# Of 120 s with seed 7: as they were made first, on whatever machine this runs.
FIRST_BYTES = {
    "steady": "c1820d72232d57c2",
    "diurnal": "26278b29d2abebc6",
    "bursty": "b2d9e7812523d6ba",
    "camera-motion": "1a874ea6d355ea22",
    "recurring": "6ace77b81d6be660",
    "regime": "e768b67a3bb121a0",
    "mixed": "1ecf5fdd5820c15a",
}


def digest(workloads: tuple[Workload, ...]) -> str:
    found = hashlib.sha256()
    for each in workloads:
        for values in (each.arrivals_s, each.service_ms, each.scores, *each.features.values()):
            found.update(values.tobytes())
        found.update(repr((each.partition, each.kind, each.slack_s, each.slice_bytes)).encode())
    return found.hexdigest()[:16]


def counts(workload: Workload, seconds: int) -> np.ndarray:
    return np.bincount(workload.arrivals_s.astype(int), minlength=seconds)


def correlation(values: np.ndarray, lag: int) -> float:
    apart = values - values.mean()
    return float((apart[lag:] * apart[:-lag]).mean() / apart.var())


@pytest.mark.parametrize("kind", [*KINDS, MIXED])
def test_a_kind_and_a_seed_give_the_same_workload_everywhere(kind: str) -> None:
    assert digest(make_workloads(kind, 120, 7)) == FIRST_BYTES[kind]


@pytest.mark.parametrize("kind", [*KINDS, MIXED])
def test_another_seed_gives_another_workload(kind: str) -> None:
    assert digest(make_workloads(kind, 60, 1)) != digest(make_workloads(kind, 60, 2))


@pytest.mark.parametrize("kind", [*KINDS, MIXED])
def test_all_arrays_are_of_one_length_and_in_order(kind: str) -> None:
    for each in make_workloads(kind, 90.5, 3):
        assert (np.diff(each.arrivals_s) >= 0).all()
        assert each.arrivals_s[0] >= 0
        assert each.arrivals_s[-1] < 90.5
        for values in (each.service_ms, each.scores, *each.features.values()):
            assert values.shape == each.arrivals_s.shape
        assert (each.service_ms > 0).all()
        assert ((each.scores >= 0) & (each.scores <= 100)).all()
        assert each.expected.shape == (91,)
        assert each.slack_s > each.service_ms.mean() / 1e3


@pytest.mark.parametrize("kind", [*KINDS, MIXED])
def test_the_load_is_as_asked(kind: str) -> None:
    made = make_workloads(kind, 1200, 5, workers=3, load=0.6, partitions=4)
    busy_s = sum(each.service_ms.sum() for each in made) / 1e3
    # Rates are as asked in the mean; service times depend on the scores, a little.
    assert busy_s / (3 * 1200) == pytest.approx(0.6, rel=0.1)


@pytest.mark.parametrize("kind", ["steady", "diurnal", "bursty", "recurring", "regime"])
def test_counts_vary_about_what_is_expected_as_poissons_do(kind: str) -> None:
    for each in make_workloads(kind, 1200, 5):
        off = (counts(each, 1200) - each.expected) / np.sqrt(each.expected)
        assert abs(off.mean()) < 0.15
        assert off.var() == pytest.approx(1.0, abs=0.15)


def test_steady_is_steady() -> None:
    (made,) = make_workloads("steady", 600, 5, partitions=1)
    assert np.ptp(made.expected) < 1e-9


def test_a_day_passes_in_ten_minutes() -> None:
    (made,) = make_workloads("diurnal", 1800, 5, partitions=1)
    assert correlation(made.expected, 600) > 0.5
    assert correlation(made.expected, 300) < 0
    (slower,) = make_workloads("diurnal", 1800, 5, partitions=1, pace=2.0)
    assert correlation(slower.expected, 300) > correlation(made.expected, 300)


def test_bursts_are_worse_than_chance() -> None:
    for each in make_workloads("bursty", 1200, 5):
        came = counts(each, 1200)
        assert came.var() / came.mean() > 2


def test_bursts_recur() -> None:
    for each in make_workloads("recurring", 1800, 5):
        came = np.log1p(counts(each, 1800).astype(float))
        assert max(correlation(came, lag) for lag in range(15, 100)) > 0.35


def test_regimes_change_for_all_at_once_and_last() -> None:
    first, second = make_workloads("regime", 1800, 5, partitions=2)

    def changes(workload: Workload) -> set[int]:
        step = np.abs(np.diff(workload.expected)) / workload.expected.mean()
        return set(np.flatnonzero(step > 0.02).tolist())

    assert 5 <= len(changes(first)) <= 60
    common = changes(first) & changes(second)
    assert len(common) > len(changes(first)) / 2


def test_motion_is_seen_before_all_frames_come() -> None:
    ahead, behind = [], []
    for each in make_workloads("camera-motion", 1200, 5):
        seconds = each.arrivals_s.astype(int)
        came = counts(each, 1200).astype(float)
        motion = np.bincount(seconds, each.features["motion"], 1200) / np.maximum(came, 1)
        known = came[:-1] > 0
        low = came[:-1] < np.median(came) + 1
        rises = np.diff(came)
        ahead.append(np.corrcoef(motion[:-1][known & low], rises[known & low])[0, 1])
        behind.append(np.corrcoef(each.features["edge_density"], each.features["motion"])[0, 1])
    # Among the seconds with few frames, those that show motion come before those with many.
    assert np.mean(ahead) > 0.3
    assert min(behind) > 0.5


def test_mixed_has_several_kinds() -> None:
    assert len({each.kind for each in make_workloads(MIXED, 30, 5, partitions=12)}) >= 3


@pytest.mark.parametrize(
    ("kind", "seconds", "options", "said"),
    [
        ("stedy", 60, {}, "nearest is steady"),
        ("steady", 0, {}, "seconds"),
        ("steady", 60, {"partitions": 0}, "partitions"),
        ("steady", 60, {"load": 0}, "load"),
        ("steady", 60, {"pace": -1}, "pace"),
        ("steady", 60, {"seed": -1}, "seed"),
    ],
)
def test_what_cannot_be_made_is_named(kind: str, seconds: float, options: dict, said: str) -> None:
    with pytest.raises(InputError, match=said):
        make_workloads(kind, seconds, **options)
