"""What the machine draws, from its own sensor, and the nearest shipped board's figures where it has none."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial

from midstream.measuring.power_sensors import PowerSensor
from midstream.measuring.rates import rounded
from midstream.measuring.timing import Run
from midstream.profiles import Origin, Power, Profile


def idle_watts(sensor: PowerSensor, seconds: float) -> float | None:
    """Mean watts while this process does nothing."""
    return sensor.mean_watts(partial(time.sleep, seconds))


def busy_watts(sensor: PowerSensor, run: Run, seconds: float) -> float | None:
    """Mean watts while this runs again and again."""

    def keep_busy() -> None:
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            run()

    return sensor.mean_watts(keep_busy)


def copied(nearest: Profile, why: str) -> Power:
    """The nearest board's figures, as an estimate."""
    return replace(nearest.power, origin=Origin(f"copied from {nearest.name}: {why}", estimate=True))


def measured(sensor: PowerSensor, idle_w: float, busy_w: float, nearest: Profile, source: str) -> Power:
    """Power of a machine whose sensor gave these watts; what it cannot see is the nearest board's, and an estimate.

    A sensor that does not see the whole board tells by how much its draw rises, on top of an estimated one.
    """
    rise_w = max(0.0, busy_w - idle_w)
    guessed = {"radio_uj_per_byte": f"copied from {nearest.name}: what a link draws was not measured"}
    if not sensor.whole_board:
        idle_w = nearest.power.idle_w
        guessed["idle_w"] = f"copied from {nearest.name}: the sensor does not see the whole machine"
        guessed["busy_w"] = f"{rise_w:.2f} W more than idle were measured, on top of an estimate"
    radio = nearest.power.radio_uj_per_byte
    return Power(rounded(idle_w), rounded(idle_w + rise_w), radio, Origin(source, estimates=guessed))
