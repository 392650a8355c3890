from __future__ import annotations

import re
from pathlib import Path

import pytest

from midstream.measuring.machine import file_name, nearest_board, this_machine
from midstream.profiles import profile_names


@pytest.mark.parametrize(
    ("model", "nearest"),
    [
        ("Raspberry Pi 4 Model B Rev 1.5", "pi4"),
        ("Raspberry Pi 400 Rev 1.0", "pi4"),
        ("Raspberry Pi 5 Model B Rev 1.0", "pi5"),
        ("Raspberry Pi 3 Model B Plus Rev 1.3", "pi3"),
        ("Raspberry Pi Zero 2 W Rev 1.0", "pi-zero-2w"),
        ("NVIDIA Jetson Orin Nano Developer Kit", "jetson-orin-nano"),
        ("NVIDIA Jetson Nano Developer Kit", "jetson-nano"),
        ("Freescale i.MX8MQ Phanbell", "coral-dev"),
        ("A board of tomorrow", "pi4"),
    ],
)
def test_boards_by_their_device_tree(model: str, nearest: str) -> None:
    assert nearest_board(model, "aarch64", 4) == nearest
    assert nearest in profile_names()


def test_x86_by_its_cores() -> None:
    assert nearest_board("", "x86_64", 4) == "x86-mini"
    assert nearest_board("", "AMD64", 16) == "x86-laptop"


def test_a_board_from_its_files(tmp_path: Path) -> None:
    (tmp_path / "proc" / "device-tree").mkdir(parents=True)
    (tmp_path / "proc" / "device-tree" / "model").write_bytes(b"Raspberry Pi 4 Model B Rev 1.5\0")
    (tmp_path / "proc" / "meminfo").write_text("MemTotal:        3884360 kB\nMemFree:  12 kB\n")
    machine = this_machine(tmp_path)
    assert (machine.title, machine.memory_mb, machine.nearest) == ("Raspberry Pi 4 Model B Rev 1.5", 3793, "pi4")
    assert machine.cores >= 1


def test_a_processor_where_there_is_no_device_tree(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "cpuinfo").write_text("processor\t: 0\nmodel name\t: Intel(R) \x1b[31mCeleron(R) N5105\n")
    machine = this_machine(tmp_path)
    assert machine.title == "Intel(R) ?[31mCeleron(R) N5105"
    assert machine.memory_mb is None


def test_this_machine_has_a_name() -> None:
    assert this_machine().title


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("Raspberry Pi 4 Model B Rev 1.5", "raspberry-pi-4-model-b-rev-1-5"),
        ("../../etc/passwd", "etc-passwd"),
        ("Größe", "gr-e"),
        ("…", "this-machine"),
        ("", "this-machine"),
        ("x" * 500, "x" * 60),
    ],
)
def test_names_of_files(title: str, name: str) -> None:
    assert file_name(title) == name
    assert re.fullmatch("[a-z0-9-]+", file_name(title))
