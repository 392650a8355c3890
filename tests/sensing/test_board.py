"""Sensors from what boards print: texts recorded on them, and files as their drivers make them."""

from __future__ import annotations

from pathlib import Path

import pytest
from boards import files, vcgencmd

from midstream.sensing.board import Board, clock_from_text, slows, throttled, throttled_from_text

CLOCK = "sys/devices/system/cpu/cpu0/cpufreq"
POLICY = "sys/devices/system/cpu/cpufreq/policy"


def zone(root: Path, number: int, kind: str, temp: str) -> None:
    files(root, f"sys/class/thermal/thermal_zone{number}", type=kind, temp=temp)


def test_what_the_firmware_says() -> None:
    assert throttled_from_text("throttled=0x0\n") == ()
    assert throttled_from_text("throttled=0x50005\n") == (
        "under-voltage",
        "throttled",
        "under-voltage since it was started",
        "throttled since it was started",
    )
    assert throttled_from_text("error=1") is None
    assert throttled_from_text("throttled=0x" + "f" * 40) is None


@pytest.mark.parametrize(
    ("text", "held_down"),
    [
        ("throttled=0x0", False),
        # Low volts are a warning; what has been is over.
        ("throttled=0x1", False),
        ("throttled=0xe0000", False),
        ("throttled=0x2", True),
        ("throttled=0x4", True),
        ("throttled=0x8", True),
        ("", False),
    ],
)
def test_whether_the_firmware_holds_the_clock_down(text: str, held_down: bool) -> None:
    assert slows(throttled_from_text(text)) is held_down


@pytest.mark.parametrize(
    ("text", "hertz"),
    [
        # A Raspberry Pi 4 at 1.5 GHz, one at 80.6 °C, and a 5.
        ("frequency(48)=1500345728\n", 1_500_345_728.0),
        ("frequency(48)=1141118000", 1_141_118_000.0),
        ("frequency(0)=2400033792", 2_400_033_792.0),
        ("frequency(48)=" + "9" * 40, None),
        ('error=2 error_msg="Invalid arguments"', None),
    ],
)
def test_a_measured_clock(text: str, hertz: float | None) -> None:
    assert clock_from_text(text) == hertz


def test_a_raspberry_pi_that_is_too_hot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = 'case "$1 $2" in "get_throttled ") echo throttled=0x60002;;' + (
        ' "measure_clock arm") echo "frequency(48)=1141118000";; esac'
    )
    vcgencmd(tmp_path / "bin", monkeypatch, answers)
    files(tmp_path, CLOCK, scaling_cur_freq="1800000", cpuinfo_max_freq="1800000")
    zone(tmp_path, 0, "cpu-thermal", "80600")
    board = Board(tmp_path)
    assert throttled() == ("clock capped", "clock was capped since it was started", "throttled since it was started")
    # The kernel believes that the processor runs as fast as it asked for.
    assert board.clock_share() == 1.0
    assert board.firmware_clock_share() == pytest.approx(1.141118 / 1.8)
    assert board.temperature_c() == 80.6


def test_a_program_that_fails_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vcgencmd(tmp_path / "bin", monkeypatch, "echo 'VCHI initialization failed'", "exit 255")
    files(tmp_path, CLOCK, scaling_cur_freq="1800000", cpuinfo_max_freq="1800000")
    assert throttled() is None
    assert Board(tmp_path).firmware_clock_share() is None


def test_a_jetson_nano_whose_pmic_is_always_at_100_degrees(tmp_path: Path) -> None:
    kinds = ("AO-therm", "CPU-therm", "GPU-therm", "PLL-therm", "PMIC-Die", "thermal-fan-est")
    for number, (kind, temp) in enumerate(zip(kinds, (41500, 34000, 31000, 31500, 100000, 33000), strict=True)):
        zone(tmp_path, number, kind, str(temp))
    files(tmp_path, "sys/devices/gpu.0", load="256")
    board = Board(tmp_path)
    assert board.temperature_c() == 41.5
    assert board.gpu_share() == 0.256


def test_a_jetson_orin_whose_gpu_is_a_devfreq_device(tmp_path: Path) -> None:
    files(tmp_path, "sys/class/devfreq/17000000.ga10b/device", load="0")
    board = Board(tmp_path)
    assert board.gpu_share() == 0.0
    files(tmp_path, "sys/class/devfreq/17000000.ga10b/device", load="1001")
    assert board.gpu_share() is None


def test_a_clock_that_a_thermal_driver_lowers(tmp_path: Path) -> None:
    files(tmp_path, f"{POLICY}0", scaling_max_freq="1800000", cpuinfo_max_freq="1800000")
    files(tmp_path, f"{POLICY}4", scaling_max_freq="1100000", cpuinfo_max_freq="2200000")
    board = Board(tmp_path)
    assert board.clock_limit_share() == 0.5
    files(tmp_path, f"{POLICY}4", scaling_max_freq="2200000", cpuinfo_max_freq="2200000")
    assert board.clock_limit_share() == 1.0


@pytest.mark.parametrize("rubbish", ["nan", "inf", "0", "-900000", "text", ""])
def test_a_clock_that_says_nothing(tmp_path: Path, rubbish: str) -> None:
    files(tmp_path, CLOCK, scaling_cur_freq=rubbish, cpuinfo_max_freq="1800000")
    files(tmp_path, f"{POLICY}0", scaling_max_freq=rubbish, cpuinfo_max_freq="1800000")
    assert Board(tmp_path).clock_share() is None
    assert Board(tmp_path).clock_limit_share() is None


def test_the_hottest_zone_and_the_clock(tmp_path: Path) -> None:
    empty = Board(tmp_path)
    assert (empty.temperature_c(), empty.clock_share(), empty.clock_limit_share(), empty.gpu_share()) == (None,) * 4
    for number, temp in ((0, "48312"), (1, "-256000"), (2, "text"), (10, "51500")):
        zone(tmp_path, number, "cpu-thermal", temp)
    files(tmp_path, CLOCK, scaling_cur_freq="900000", cpuinfo_max_freq="1800000")
    assert Board(tmp_path).temperature_c() == 51.5
    assert Board(tmp_path).clock_share() == 0.5
