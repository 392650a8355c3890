"""By which method a device is slowed down."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from midstream.benching.quota import Quota
from midstream.benching.slowing import Slowing, slow_down, spread_of


class Device:
    """A process whose whole model takes ``alone_ms``, or by a quota ``by_quota_ms``."""

    pid = 4711

    def __init__(self, alone_ms: float, by_quota_ms: float, quota: Quota | None) -> None:
        self.alone_ms, self.by_quota_ms, self.quota = alone_ms, by_quota_ms, quota
        self.slowdown = 1.0

    def ask(self, do: str, rounds: int = 0, slowdown: float = 1.0) -> Any:
        if do == "pace":
            self.slowdown = slowdown
            return None
        assert do == "whole"
        taken = self.quota is not None and (self.quota.folder / "cgroup.procs").exists()
        unlimited = taken and self.quota is not None and "1000000 " in (self.quota.folder / "cpu.max").read_text()
        ms = self.by_quota_ms if taken and not unlimited else self.alone_ms * self.slowdown
        return [[ms, self.alone_ms]] * rounds


def slowed(alone_ms: float, by_quota_ms: float, quota: Quota | None, wish: Slowing = "auto") -> Any:
    device: Any = Device(alone_ms, by_quota_ms, quota)
    return slow_down(device, 100.0, quota, wish)


def test_a_quota_where_it_comes_near_and_pacing_where_it_does_not(tmp_path: Path) -> None:
    found = slowed(20.0, 104.0, Quota(tmp_path, 2))
    assert found.method == "quota"
    assert found.off == pytest.approx(0.04)


def test_a_quota_that_misses_is_given_up_and_told(tmp_path: Path) -> None:
    found = slowed(20.0, 130.0, Quota(tmp_path, 2))
    assert found.method == "pacing"
    assert "+30%" in found.why
    assert found.slowdown == pytest.approx(5.0)
    assert found.off == pytest.approx(0.0)
    assert slowed(20.0, 130.0, Quota(tmp_path, 2), "quota").method == "quota"


@pytest.mark.parametrize(
    ("alone_ms", "wish", "why"),
    [(2.0, "auto", "shorter than"), (20.0, "pacing", "asked for"), (20.0, "auto", "nobody")],
)
def test_why_there_is_no_quota(tmp_path: Path, alone_ms: float, wish: Slowing, why: str) -> None:
    quota = None if why == "nobody" else Quota(tmp_path, 2)
    found = slowed(alone_ms, 100.0, quota, wish)
    assert found.method == "pacing"
    assert why in found.why
    assert not (tmp_path / "cgroup.procs").exists()


def test_a_board_that_is_faster_than_this_machine_is_not_slowed() -> None:
    found = slowed(120.0, 0.0, None)
    assert found.method == "none"
    assert found.off == pytest.approx(0.2)


def test_the_spread_is_the_middle_half_of_the_median() -> None:
    assert spread_of([90.0, 100.0, 110.0]) == pytest.approx(0.2)
