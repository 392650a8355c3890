from __future__ import annotations

import pytest

from midstream.measuring.power import busy_watts, copied, idle_watts, measured
from midstream.measuring.power_sensors import CountingSensor, SampledSensor
from midstream.profiles import load_profile

PI4 = load_profile("pi4")


def sensor(whole_board: bool) -> SampledSensor:
    return SampledSensor("a meter", lambda: 3.0, whole_board)


def test_a_sensor_of_the_whole_board_is_believed() -> None:
    power = measured(sensor(True), 2.51234, 6.5, PI4, "a meter")
    assert (power.idle_w, power.busy_w, power.radio_uj_per_byte) == (2.512, 6.5, PI4.power.radio_uj_per_byte)
    assert list(power.origin.estimates) == ["radio_uj_per_byte"]
    assert not power.origin.estimate


def test_a_sensor_of_the_processor_tells_the_rise_only() -> None:
    power = measured(sensor(False), 1.0, 4.0, PI4, "a counter")
    assert (power.idle_w, power.busy_w) == (2.7, 5.7)
    assert set(power.origin.estimates) == {"idle_w", "busy_w", "radio_uj_per_byte"}
    assert "3.00 W more" in power.origin.estimates["busy_w"]


def test_busy_is_never_below_idle() -> None:
    power = measured(sensor(True), 5.0, 4.0, PI4, "a meter")
    assert (power.idle_w, power.busy_w) == (5.0, 5.0)


def test_without_a_sensor_all_is_an_estimate() -> None:
    power = copied(PI4, "there is no sensor")
    assert (power.idle_w, power.busy_w) == (PI4.power.idle_w, PI4.power.busy_w)
    assert power.origin.estimate
    assert "pi4" in power.origin.text


def test_watts_while_idle_and_while_something_runs() -> None:
    runs = 0

    def run() -> None:
        nonlocal runs
        runs += 1

    counter = CountingSensor("a counter", lambda: float(runs), wraps_uj=1e12)
    # No board draws nothing: such a counter stands still.
    assert idle_watts(counter, 0.01) is None
    assert (busy_watts(counter, run, 0.01) or 0) > 0
    assert runs > 0
    assert busy_watts(sensor(True), run, 0.3) == pytest.approx(3.0)
