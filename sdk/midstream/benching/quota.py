"""A share of one core for a process, by the kernel's CPU controller: cgroups of version 2, else of version 1.

The kernel grants a process its share in each period anew, and stops it for the rest of the period.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# The shortest quota that the kernel takes, and the longest period.
_LEAST_US, _LONGEST_US = 1_000, 1_000_000
_NAME = "midstream-bench-"
_ROOT = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")


class Quota:
    """A group of processes that together have a share of one core."""

    def __init__(self, folder: Path, version: int) -> None:
        self.folder = folder
        self.version = version

    def take(self, pid: int) -> None:
        """A process, with its threads, is in the group from now on. Raises OSError."""
        (self.folder / "cgroup.procs").write_text(str(pid))

    def set(self, share: float) -> None:
        """The share of one core. Raises OSError."""
        quota_us, period_us = times_us(share)
        if self.version == 2:
            (self.folder / "cpu.max").write_text(f"{quota_us} {period_us}")
            return
        # The old quota may not fit the new period.
        (self.folder / "cpu.cfs_quota_us").write_text("-1")
        (self.folder / "cpu.cfs_period_us").write_text(str(period_us))
        (self.folder / "cpu.cfs_quota_us").write_text(str(quota_us))


def times_us(share: float) -> tuple[int, int]:
    """Quota and period, as short as the kernel takes them: the shorter, the more evenly a process is slowed."""
    quota_us = _LEAST_US if share < 1.0 else round(_LEAST_US * share)
    return quota_us, min(_LONGEST_US, max(_LEAST_US, round(quota_us / share)))


@contextmanager
def cpu_quota(root: Path = _ROOT, own: Path = _OWN) -> Iterator[Quota | None]:
    """A group of one's own, which is gone after the block; None where this system lets nobody make one.

    Whoever was put into it must have ended by then.
    """
    found = None
    for parent, version in _places(root, own):
        _remove_left(parent)
        folder = parent / f"{_NAME}{os.getpid()}"
        try:
            folder.mkdir()
        except OSError:
            continue
        if (folder / ("cpu.max" if version == 2 else "cpu.cfs_quota_us")).exists():
            found = Quota(folder, version)
            break
        with suppress(OSError):
            folder.rmdir()
    try:
        yield found
    finally:
        if found is not None:
            with suppress(OSError):
                found.folder.rmdir()


def _remove_left(parent: Path) -> None:
    """Remove the groups of those who were killed before they could."""
    for left in parent.glob(f"{_NAME}*"):
        if not Path("/proc", left.name.removeprefix(_NAME)).exists():
            with suppress(OSError):
                left.rmdir()


def _places(root: Path, own: Path) -> list[tuple[Path, int]]:
    """Where a group of one's own could be made: within this process's own group, by version."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return []
    found: list[tuple[Path, int]] = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            found.insert(0, (root / path.lstrip("/"), 2))
        elif "cpu" in controllers.split(","):
            found.append((root / "cpu" / path.lstrip("/"), 1))
    return found
