"""Sensors from what they print: texts recorded on boards, and files as their drivers make them."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest
from boards import files, vcgencmd

from midstream.measuring.power_sensors import (
    CountingSensor,
    SampledSensor,
    pmic_watts,
    power_sensor,
)

# A Raspberry Pi 5 with all cores busy: README of github.com/jfikar/RPi5-power.
PMIC = """\
 3V7_WL_SW_A current(0)=0.00000000A
   3V3_SYS_A current(1)=0.06245952A
   1V8_SYS_A current(2)=0.16102850A
  DDR_VDD2_A current(3)=0.00780744A
  DDR_VDDQ_A current(4)=0.00000000A
   1V1_SYS_A current(5)=0.17566740A
    0V8_SW_A current(6)=0.32791250A
  VDD_CORE_A current(7)=10.87674000A
   3V3_DAC_A current(17)=0.00036630A
   3V3_ADC_A current(18)=0.00042735A
   0V8_AON_A current(16)=0.00579975A
      HDMI_A current(22)=0.01367520A
 3V7_WL_SW_V volt(8)=3.79999600V
   3V3_SYS_V volt(9)=3.30632200V
   1V8_SYS_V volt(10)=1.79828900V
  DDR_VDD2_V volt(11)=1.10292900V
  DDR_VDDQ_V volt(12)=0.60476130V
   1V1_SYS_V volt(13)=1.10439400V
    0V8_SW_V volt(14)=0.80256330V
  VDD_CORE_V volt(15)=0.89745940V
   3V3_DAC_V volt(20)=3.30494200V
   3V3_ADC_V volt(21)=3.30219400V
   0V8_AON_V volt(19)=0.79736190V
      HDMI_V volt(23)=5.07056000V
     EXT5V_V volt(24)=5.06788000V
      BATT_V volt(25)=3.01110800V
"""


def test_watts_of_the_pmics_rails() -> None:
    # VDD_CORE alone is 10.877 A · 0.897 V; rails without a current (EXT5V, BATT) are left out.
    assert pmic_watts(PMIC) == pytest.approx(10.7999, abs=1e-4)
    assert pmic_watts(PMIC.replace("VDD_CORE_V", "OTHER_V")) == pytest.approx(10.7999 - 10.87674 * 0.8974594, abs=1e-4)


@pytest.mark.parametrize("text", ["", "Command not registered", "A_A current(0)=1.0A", "A_A current(0)=1..0A A_V volt"])
def test_no_rails_no_watts(text: str) -> None:
    assert pmic_watts(text) is None


def test_a_raspberry_pi_5(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pmic.txt").write_text(PMIC)
    vcgencmd(tmp_path / "bin", monkeypatch, f'[ "$1" = pmic_read_adc ] && cat "{tmp_path / "pmic.txt"}"')
    sensor = power_sensor(tmp_path)
    assert isinstance(sensor, SampledSensor)
    assert sensor.whole_board
    assert "PMIC" in sensor.name
    assert sensor.read() == pytest.approx(10.7999 * 1.1327 + 0.6444, abs=1e-3)


def test_a_raspberry_pi_4_has_no_pmic_to_ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vcgencmd(tmp_path / "bin", monkeypatch, "echo 'error=1 error_msg=\"Command not registered\"'", "exit 255")
    assert power_sensor(tmp_path) is None


@pytest.mark.usefixtures("no_program")
def test_a_jetson_with_the_kernels_driver(tmp_path: Path) -> None:
    folder = "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3"
    files(tmp_path, folder, in1_label="VDD_IN", in1_input="5064", curr1_input="872")
    files(tmp_path, folder, in2_label="VDD_CPU_GPU_CV", in2_input="5064", curr2_input="112")
    sensor = power_sensor(tmp_path)
    assert isinstance(sensor, SampledSensor)
    assert (sensor.name, sensor.whole_board) == ("INA3221, rail VDD_IN", True)
    assert sensor.read() == pytest.approx(5.064 * 0.872)


@pytest.mark.usefixtures("no_program")
def test_a_jetson_nano_with_nvidias_driver(tmp_path: Path) -> None:
    folder = "sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0"
    files(tmp_path, folder, rail_name_0="POM_5V_IN", in_power0_input="2141")
    files(tmp_path, folder, rail_name_1="POM_5V_GPU", in_power1_input="80")
    sensor = power_sensor(tmp_path)
    assert isinstance(sensor, SampledSensor)
    assert sensor.read() == pytest.approx(2.141)


@pytest.mark.usefixtures("no_program")
def test_parts_of_a_board_are_not_the_board(tmp_path: Path) -> None:
    folder = "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3"
    files(tmp_path, folder, in1_label="VDD_GPU_SOC", in1_input="19000", curr1_input="100")
    assert power_sensor(tmp_path) is None


@pytest.mark.usefixtures("no_program")
def test_an_x86_processor_and_its_counter(tmp_path: Path) -> None:
    folder = "sys/class/powercap/intel-rapl:0"
    files(tmp_path, folder, energy_uj="1000", max_energy_range_uj="262143328850")
    sensor = power_sensor(tmp_path)
    assert isinstance(sensor, CountingSensor)
    assert not sensor.whole_board

    def work() -> None:
        start = time.perf_counter()
        while time.perf_counter() - start < 0.05:
            pass
        files(tmp_path, folder, energy_uj="501000")

    # Half a joule in at least 0.05 s.
    assert 0 < (sensor.mean_watts(work) or 0) <= 10.0
    (tmp_path / folder / "energy_uj").unlink()
    assert power_sensor(tmp_path) is None


def test_a_counter_that_starts_again() -> None:
    counts = iter([900.0, 100.0])
    sensor = CountingSensor("a counter", lambda: next(counts), wraps_uj=1000.0)
    assert (sensor.mean_watts(lambda: None) or 0) > 0
    silent = CountingSensor("none", lambda: None, wraps_uj=1000.0)
    assert silent.mean_watts(lambda: None) is None


def test_samples_are_averaged_and_a_silent_sensor_says_nothing() -> None:
    readings = iter([3.0, 5.0, None, *[None] * 100])
    asked: list[float | None] = []

    def read() -> float | None:
        asked.append(next(readings))
        return asked[-1]

    def until_asked() -> None:
        while len(asked) < 3:
            pass

    assert SampledSensor("a meter", read).mean_watts(until_asked) == 4.0
    assert SampledSensor("silent", read).mean_watts(lambda: None) is None


@pytest.mark.parametrize("rubbish", ["nan", "inf", "-inf", "-19000", "0", "1e300"])
@pytest.mark.usefixtures("no_program")
def test_what_no_board_draws_is_no_reading(tmp_path: Path, rubbish: str) -> None:
    folder = "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3"
    files(tmp_path, folder, in1_label="VDD_IN", in1_input=rubbish, curr1_input="100")
    sensor = power_sensor(tmp_path)
    if sensor is None:
        return
    assert isinstance(sensor, SampledSensor)
    asked: list[float | None] = []

    def read() -> float | None:
        asked.append(sensor.read())
        return asked[-1]

    def until_asked() -> None:
        while not asked:
            pass

    assert replace(sensor, read=read).mean_watts(until_asked) is None


@pytest.mark.parametrize("rubbish", ["nan", "inf", "0", "-5"])
@pytest.mark.usefixtures("no_program")
def test_a_counter_without_a_range_counts_nothing(tmp_path: Path, rubbish: str) -> None:
    files(tmp_path, "sys/class/powercap/intel-rapl:0", energy_uj="1000", max_energy_range_uj=rubbish)
    assert power_sensor(tmp_path) is None
