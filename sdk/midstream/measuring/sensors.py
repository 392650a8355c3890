"""What a board's own sensors tell: temperature, throttling, clock, and power where it is measured.

Nothing here raises: what cannot be read is not there. ``root`` is the root of the file system, another one in tests.
"""

from __future__ import annotations

import math
import re
import shutil
import subprocess
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from time import perf_counter

ROOT = Path("/")
_INTERVAL_S = 0.2
_TIMEOUT_S = 2.0
_MAX_TEXT = 1 << 16
_LEAST_W, _MOST_W = 1e-3, 1e4

# The rails that feed the whole module; other channels of the chip are parts of these.
_JETSON_INPUTS = ("VDD_IN", "POM_5V_IN", "VDD_5V_IN", "5V_IN")

# Rails that the PMIC measures are not all: one board against a USB power meter (github.com/jfikar/RPi5-power).
_PMIC_FACTOR, _PMIC_REST_W = 1.1327, 0.6444

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


@dataclass(frozen=True, slots=True)
class SampledSensor:
    """A sensor that says how much is drawn now; it is asked five times a second.

    ``whole_board``: it sees all that the board draws, not the processor's package alone.
    """

    name: str
    read: Callable[[], float | None]
    whole_board: bool = True

    def mean_watts(self, during: Callable[[], object]) -> float | None:
        """Mean of the samples while this runs; None where there was none that a board can draw."""
        done = threading.Event()
        samples: list[float] = []

        def sample() -> None:
            while not done.wait(_INTERVAL_S):
                watts = _possible(self.read())
                if watts is not None:
                    samples.append(watts)

        asking = threading.Thread(target=sample, name="power sensor", daemon=True)
        asking.start()
        try:
            during()
        finally:
            done.set()
            asking.join()
        return fmean(samples) if samples else None


@dataclass(frozen=True, slots=True)
class CountingSensor:
    """A counter of microjoules that starts again at ``wraps_uj``."""

    name: str
    read_uj: Callable[[], float | None]
    wraps_uj: float
    whole_board: bool = False

    def mean_watts(self, during: Callable[[], object]) -> float | None:
        """What was counted while this runs, by the time it took."""
        first, start = self.read_uj(), perf_counter()
        during()
        last, seconds = self.read_uj(), perf_counter() - start
        if first is None or last is None or seconds <= 0:
            return None
        return _possible(((last - first) % self.wraps_uj) / 1e6 / seconds)


PowerSensor = SampledSensor | CountingSensor


def power_sensor(root: Path = ROOT) -> PowerSensor | None:
    """The best power sensor there is: Jetson's INA3221, the Raspberry Pi 5's PMIC, an x86 processor's RAPL."""
    return _ina3221(root) or _pmic() or _rapl(root)


def temperature_c(root: Path = ROOT) -> float | None:
    """The hottest thermal zone, degrees Celsius."""
    found = [_number(zone / "temp") for zone in sorted(root.glob("sys/class/thermal/thermal_zone*"))]
    # Zones without a sensor behind them say 0, or far below any room.
    warm = [value / 1e3 for value in found if value is not None and 0 < value < 200_000]
    return max(warm, default=None)


def clock_share(root: Path = ROOT) -> float | None:
    """The first processor's clock, as a share of the highest it can have."""
    folder = root / "sys/devices/system/cpu/cpu0/cpufreq"
    now, most = _number(folder / "scaling_cur_freq"), _number(folder / "cpuinfo_max_freq")
    return now / most if now is not None and most is not None and now > 0 and most > 0 else None


def throttled() -> tuple[str, ...]:
    """What a Raspberry Pi's firmware says of its supply and temperature."""
    return throttled_from_text(_vcgencmd("get_throttled"))


def throttled_from_text(text: str) -> tuple[str, ...]:
    """The meaning of the bits in what ``vcgencmd get_throttled`` prints, such as ``throttled=0x50005``."""
    match = re.search(r"throttled=0x([0-9a-fA-F]{1,8})\b", text)
    bits = int(match[1], 16) if match else 0
    return tuple(meaning for bit, meaning in _THROTTLED.items() if bits >> bit & 1)


def pmic_watts(text: str) -> float | None:
    """Watts of all rails in what ``vcgencmd pmic_read_adc`` prints; None where there is no rail with both figures.

    Lines are such as ``VDD_CORE_A current(7)=0.75A`` and ``VDD_CORE_V volt(15)=0.89V``.
    """
    found: dict[tuple[str, str], float] = {}
    for name, unit, value in re.findall(r"(\w+)_([AV])\s+(?:current|volt)\(\d+\)=([0-9.]{1,20})[AV]", text):
        with suppress(ValueError):
            found[name, unit] = float(value)
    rails = [amps * found[name, "V"] for (name, unit), amps in found.items() if unit == "A" and (name, "V") in found]
    return sum(rails) if rails else None


def _possible(watts: float | None) -> float | None:
    """Watts that a board or a computer can draw; a sensor without a value gives nothing, 0, or less."""
    return watts if watts is not None and _LEAST_W <= watts <= _MOST_W else None


def _pmic() -> PowerSensor | None:
    def read() -> float | None:
        watts = pmic_watts(_vcgencmd("pmic_read_adc"))
        return None if watts is None else watts * _PMIC_FACTOR + _PMIC_REST_W

    if read() is None:
        return None
    name = (
        "the PMIC's rails (vcgencmd pmic_read_adc), as the whole board's draw by "
        f"{_PMIC_FACTOR:g} · rails + {_PMIC_REST_W:g} W (github.com/jfikar/RPi5-power)"
    )
    return SampledSensor(name, read)


def _ina3221(root: Path) -> PowerSensor | None:
    """The kernel's driver gives millivolts and milliamperes, NVIDIA's older one milliwatts."""
    drivers = "sys/bus/i2c/drivers/ina3221*/*"
    for label in sorted(root.glob(f"{drivers}/hwmon/hwmon*/in[123]_label")):
        if _text(label) in _JETSON_INPUTS:
            channel = label.name[2]
            volts, amps = label.with_name(f"in{channel}_input"), label.with_name(f"curr{channel}_input")
            return _readable(f"INA3221, rail {_text(label)}", partial(_product, volts, amps))
    for label in sorted(root.glob(f"{drivers}/iio*device*/rail_name_[012]")):
        if _text(label) in _JETSON_INPUTS:
            power = label.with_name(f"in_power{label.name[-1]}_input")
            return _readable(f"INA3221, rail {_text(label)}", partial(_scaled, power))
    return None


def _rapl(root: Path) -> PowerSensor | None:
    folder = root / "sys/class/powercap/intel-rapl:0"
    wraps = _number(folder / "max_energy_range_uj")
    if _number(folder / "energy_uj") is None or wraps is None or wraps <= 0:
        return None
    return CountingSensor("RAPL, the processor's package", partial(_number, folder / "energy_uj"), wraps)


def _readable(name: str, read: Callable[[], float | None]) -> PowerSensor | None:
    return None if read() is None else SampledSensor(name, read)


def _product(millivolts: Path, milliamperes: Path) -> float | None:
    first, second = _number(millivolts), _number(milliamperes)
    return None if first is None or second is None else first * second / 1e6


def _scaled(milliwatts: Path) -> float | None:
    value = _number(milliwatts)
    return None if value is None else value / 1e3


def _vcgencmd(argument: str) -> str:
    program = shutil.which("vcgencmd")
    if program is None:
        return ""
    try:
        done = subprocess.run([program, argument], capture_output=True, timeout=_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout[:_MAX_TEXT].decode("utf-8", "replace")


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(256).decode("utf-8", "replace").strip()
    except OSError:
        return ""


def _number(path: Path) -> float | None:
    """A file's one number; what a driver without a value writes, such as ``nan``, is none."""
    try:
        value = float(_text(path))
    except ValueError:
        return None
    return value if math.isfinite(value) else None
