"""The sensors of power that some boards have.

Nothing here raises: what cannot be read is not there. ``root`` is the root of the file system, another one in tests.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from time import perf_counter

from midstream.sensing.reading import ROOT, number_in, text_in, vcgencmd

_INTERVAL_S = 0.2
_LEAST_W, _MOST_W = 1e-3, 1e4

# The rails that feed the whole module; other channels of the chip are parts of these.
_JETSON_INPUTS = ("VDD_IN", "POM_5V_IN", "VDD_5V_IN", "5V_IN")

# Rails that the PMIC measures are not all: one board against a USB power meter (github.com/jfikar/RPi5-power).
_PMIC_FACTOR, _PMIC_REST_W = 1.1327, 0.6444


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
        watts = pmic_watts(vcgencmd("pmic_read_adc"))
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
        if text_in(label) in _JETSON_INPUTS:
            channel = label.name[2]
            volts, amps = label.with_name(f"in{channel}_input"), label.with_name(f"curr{channel}_input")
            return _readable(f"INA3221, rail {text_in(label)}", partial(_product, volts, amps))
    for label in sorted(root.glob(f"{drivers}/iio*device*/rail_name_[012]")):
        if text_in(label) in _JETSON_INPUTS:
            power = label.with_name(f"in_power{label.name[-1]}_input")
            return _readable(f"INA3221, rail {text_in(label)}", partial(_scaled, power))
    return None


def _rapl(root: Path) -> PowerSensor | None:
    folder = root / "sys/class/powercap/intel-rapl:0"
    wraps = number_in(folder / "max_energy_range_uj")
    if number_in(folder / "energy_uj") is None or wraps is None or wraps <= 0:
        return None
    return CountingSensor("RAPL, the processor's package", partial(number_in, folder / "energy_uj"), wraps)


def _readable(name: str, read: Callable[[], float | None]) -> PowerSensor | None:
    return None if read() is None else SampledSensor(name, read)


def _product(millivolts: Path, milliamperes: Path) -> float | None:
    first, second = number_in(millivolts), number_in(milliamperes)
    return None if first is None or second is None else first * second / 1e6


def _scaled(milliwatts: Path) -> float | None:
    value = number_in(milliwatts)
    return None if value is None else value / 1e3
