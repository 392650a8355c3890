"""A share of a core by cgroups: what is written, and that the kernel does it where it lets us."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from midstream.benching.quota import Quota, cpu_quota, times_us


@pytest.mark.parametrize(
    ("share", "times"),
    [(0.5, (1000, 2000)), (0.01, (1000, 100_000)), (1e-5, (1000, 1_000_000)), (2.0, (2000, 1000))],
)
def test_the_quota_is_the_shortest_there_is(share: float, times: tuple[int, int]) -> None:
    assert times_us(share) == times


def test_what_is_written_for_each_version(tmp_path: Path) -> None:
    for version in (1, 2):
        folder = tmp_path / str(version)
        folder.mkdir()
        quota = Quota(folder, version)
        quota.set(0.25)
        quota.take(17)
        assert (folder / "cgroup.procs").read_text() == "17"
    assert (tmp_path / "2" / "cpu.max").read_text() == "1000 4000"
    assert (tmp_path / "1" / "cpu.cfs_quota_us").read_text() == "1000"
    assert (tmp_path / "1" / "cpu.cfs_period_us").read_text() == "4000"


@pytest.mark.parametrize("line", ["0::/own", "4:cpu,cpuacct:/own", "5:memory:/own"])
def test_where_no_group_can_be_made_nothing_is_left(tmp_path: Path, line: str) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "cpu" / "own").mkdir(parents=True)
    cgroups = tmp_path / "cgroup"
    cgroups.write_text(f"{line}\n")
    with cpu_quota(tmp_path, cgroups) as quota:
        assert quota is None
    assert not list((tmp_path / "own").iterdir()) + list((tmp_path / "cpu" / "own").iterdir())
    with cpu_quota(tmp_path, tmp_path / "missing") as quota:
        assert quota is None


def test_the_kernel_stops_a_busy_process() -> None:
    with cpu_quota() as quota:
        if quota is None:
            pytest.skip("this system lets nobody set a CPU quota here")
        with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
            try:
                quota.set(0.1)
                quota.take(busy.pid)
                # The test's own time limit ends it where that never comes.
                while "nr_throttled 0\n" in (quota.folder / "cpu.stat").read_text():
                    pass
            finally:
                busy.kill()
        folder = quota.folder
    assert not folder.exists()
