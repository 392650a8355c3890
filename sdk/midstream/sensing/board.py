"""A board's own sensors: temperature, clock, throttling, GPU. What a board does not tell is None."""

from __future__ import annotations

import re
from pathlib import Path

from midstream.sensing.reading import ROOT, number_in, text_in, vcgencmd

# Thermal zones without a sensor: 100 °C on a Jetson Nano, always.
_NO_SENSORS = ("PMIC-Die",)
_HOTTEST_MILLI_C = 200_000
_WHOLE_GPU = 1000.0

# https://www.raspberrypi.com/documentation/computers/os.html#get_throttled
_THROTTLED = {
    0: "under-voltage",
    1: "clock capped",
    2: "throttled",
    3: "soft temperature limit",
    16: "under-voltage since it was started",
    17: "clock was capped since it was started",
    18: "throttled since it was started",
    19: "soft temperature limit since it was started",
}
# Those with which the firmware holds the clock down, whatever the kernel asks for.
_SLOWING = frozenset(_THROTTLED[bit] for bit in (1, 2, 3))


class Board:
    """Finds the sensors' files once; each method then reads only those. ``root`` is the file system's, or a test's."""

    def __init__(self, root: Path = ROOT) -> None:
        cpu, devices = root / "sys/devices/system/cpu", root / "sys/devices"
        zones = sorted(root.glob("sys/class/thermal/thermal_zone*"))
        self._temperatures = [zone / "temp" for zone in zones if text_in(zone / "type") not in _NO_SENSORS]
        self._clock = cpu / "cpu0/cpufreq"
        self._policies = sorted(cpu.glob("cpufreq/policy*"))
        loads = [devices / "gpu.0/load", devices / "platform/gpu.0/load"]
        loads += sorted(root.glob("sys/class/devfreq/*/device/load"))
        self._gpu = next((path for path in loads if number_in(path) is not None), None)

    def temperature_c(self) -> float | None:
        """The hottest thermal zone, degrees Celsius."""
        found = map(number_in, self._temperatures)
        # Zones that are switched off say 0, or far below any room.
        return max((value / 1e3 for value in found if value is not None and 0 < value < _HOTTEST_MILLI_C), default=None)

    def clock_share(self) -> float | None:
        """The first processor's clock, as a share of the highest it can have; an idle one's is low."""
        return _ratio(number_in(self._clock / "scaling_cur_freq"), number_in(self._clock / "cpuinfo_max_freq"))

    def clock_limit_share(self) -> float | None:
        """The clock that the kernel allows now, as a share of the highest, of the processors that it limits most.

        Thermal drivers lower it, so do power modes; it does not depend on how busy a processor is.
        """
        limits = (
            _ratio(number_in(policy / "scaling_max_freq"), number_in(policy / "cpuinfo_max_freq"))
            for policy in self._policies
        )
        return min((min(1.0, limit) for limit in limits if limit is not None), default=None)

    def firmware_clock_share(self) -> float | None:
        """The clock that a Raspberry Pi's firmware measures, as a share of the highest. Starts a process."""
        most_khz = number_in(self._clock / "cpuinfo_max_freq")
        now_hz = clock_from_text(vcgencmd("measure_clock", "arm"))
        share = _ratio(now_hz, None if most_khz is None else most_khz * 1e3)
        return None if share is None else min(1.0, share)

    def gpu_share(self) -> float | None:
        """How much of a Jetson's GPU is busy; its driver counts in thousandths."""
        value = None if self._gpu is None else number_in(self._gpu)
        return value / _WHOLE_GPU if value is not None and 0 <= value <= _WHOLE_GPU else None


def throttled() -> tuple[str, ...] | None:
    """What a Raspberry Pi's firmware says of its supply and temperature; None elsewhere. Starts a process."""
    return throttled_from_text(vcgencmd("get_throttled"))


def throttled_from_text(text: str) -> tuple[str, ...] | None:
    """The meaning of the bits in what ``vcgencmd get_throttled`` prints, such as ``throttled=0x50005``."""
    match = re.search(r"throttled=0x([0-9a-fA-F]{1,8})\b", text)
    if match is None:
        return None
    bits = int(match[1], 16)
    return tuple(meaning for bit, meaning in _THROTTLED.items() if bits >> bit & 1)


def slows(states: tuple[str, ...] | None) -> bool:
    """Whether the firmware holds the clock down now."""
    return states is not None and not _SLOWING.isdisjoint(states)


def clock_from_text(text: str) -> float | None:
    """Hertz in what ``vcgencmd measure_clock arm`` prints, such as ``frequency(48)=1500345728``."""
    match = re.search(r"frequency\(\d+\)=(\d{1,15})\b", text)
    return float(match[1]) if match else None


def _ratio(now: float | None, most: float | None) -> float | None:
    return now / most if now is not None and most is not None and now > 0 and most > 0 else None
