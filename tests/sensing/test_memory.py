"""Free memory, from the files of both kinds of control groups."""

from __future__ import annotations

from pathlib import Path

import pytest
from boards import files

from midstream.sensing import memory
from midstream.sensing.memory import free_memory_bytes, limit_leaves_bytes

MIB = 1 << 20


def v2(root: Path, group: str, limit: str, used: int, inactive: int = 0) -> None:
    stat = f"anon 1\nactive_file 7\ninactive_file {inactive}\nslab 3"
    files(root, f"sys/fs/cgroup{group}", **{"memory.max": limit, "memory.current": str(used), "memory.stat": stat})


def test_a_service_with_a_limit_on_the_slice_around_it(tmp_path: Path) -> None:
    files(tmp_path, "proc/self", cgroup="0::/system.slice/midstream.service")
    v2(tmp_path, "/system.slice/midstream.service", "max", 100 * MIB)
    v2(tmp_path, "/system.slice", "max", 400 * MIB)
    assert limit_leaves_bytes(tmp_path) is None
    v2(tmp_path, "/system.slice", str(512 * MIB), 400 * MIB, 50 * MIB)
    assert limit_leaves_bytes(tmp_path) == 162 * MIB
    v2(tmp_path, "/system.slice/midstream.service", str(128 * MIB), 100 * MIB)
    assert limit_leaves_bytes(tmp_path) == 28 * MIB


def test_a_container_that_sees_its_own_group_as_the_outermost(tmp_path: Path) -> None:
    files(tmp_path, "proc/self", cgroup="0::/")
    v2(tmp_path, "", str(256 * MIB), 300 * MIB)
    assert limit_leaves_bytes(tmp_path) == 0


def test_a_group_outside_of_what_is_mounted(tmp_path: Path) -> None:
    files(tmp_path, "proc/self", cgroup="0::/../../elsewhere")
    v2(tmp_path, "", str(256 * MIB), 56 * MIB)
    v2(tmp_path, "/elsewhere", str(MIB), 0)
    assert limit_leaves_bytes(tmp_path) == 200 * MIB


def test_the_older_groups(tmp_path: Path) -> None:
    files(tmp_path, "proc/self", cgroup="9:name=systemd:/\n4:cpu,memory:/docker/0123\n0::/")
    # Not mounted at its own path: a container whose group is the outermost.
    content = {"memory.limit_in_bytes": str(64 * MIB), "memory.usage_in_bytes": str(60 * MIB)}
    content["memory.stat"] = f"inactive_file 5\ntotal_inactive_file {16 * MIB}"
    files(tmp_path, "sys/fs/cgroup/memory", **content)
    assert limit_leaves_bytes(tmp_path) == 20 * MIB
    files(tmp_path, "sys/fs/cgroup/memory", **{"memory.limit_in_bytes": "9223372036854771712"})
    assert limit_leaves_bytes(tmp_path) is None


@pytest.mark.parametrize("text", ["", "rubbish", "1:memory", "0::", "5:cpu:/"])
def test_files_that_say_nothing(tmp_path: Path, text: str) -> None:
    files(tmp_path, "proc/self", cgroup=text)
    v2(tmp_path, "", "text", 0)
    assert limit_leaves_bytes(tmp_path) is None


def test_the_less_of_system_and_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files(tmp_path, "proc/self", cgroup="0::/")
    v2(tmp_path, "", str(256 * MIB), 56 * MIB)
    for available, free in ((100 * MIB, 100 * MIB), (300 * MIB, 200 * MIB), (None, 200 * MIB)):
        monkeypatch.setattr(memory, "available_bytes", lambda available=available: available)
        assert free_memory_bytes(tmp_path) == free
    assert free_memory_bytes(tmp_path / "nothing") is None


def test_this_machine_has_some() -> None:
    assert 0 < (free_memory_bytes() or 0) < 1 << 50
