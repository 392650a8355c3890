"""One measurement of this machine, with short budgets: what comes out, not how fast the machine is."""

from __future__ import annotations

import math

import pytest

from midstream import engines
from midstream.errors import MissingExtraError
from midstream.measuring import Measured, Settings, measure_machine
from midstream.measuring.profiling import installed_engines
from midstream.profiles import FamilyRates, profile_from_toml, profile_to_toml


@pytest.fixture(scope="module")
def measured() -> Measured:
    said: list[str] = []
    done = measure_machine(None, Settings("A machine", programs_s=1.0, power_s=0.3), "mine", said.append)
    assert said
    return done


def test_the_profile_is_complete_and_survives_writing(measured: Measured) -> None:
    profile = measured.profile
    assert (profile.name, profile.title, profile.engines) == ("mine", "A machine", ("litert", "onnx"))
    assert profile_from_toml(profile_to_toml(profile), "mine", "mine.toml") == profile
    assert profile.cores >= 1
    assert profile.memory_mb > 100
    assert 0 < profile.power.idle_w <= profile.power.busy_w


def test_rates_are_of_a_machine_that_exists(measured: Measured) -> None:
    for known in measured.profile.families.values():
        for families in (known.one_thread, known.all_cores):
            assert families.layer_overhead_us < 1000
            assert families.run_overhead_us < 10_000
            for rates in (families.float32, families.int8):
                values = [getattr(rates, name) for name in FamilyRates.__slots__]
                assert all(math.isfinite(value) and 0.001 < value <= 100_000 for value in values)
            # No processor of today does more than some 10¹² of them a second.
            assert families.float32.conv_gmacs < 20_000


def test_measured_figures_say_with_what(measured: Measured) -> None:
    profile = measured.profile
    assert "onnxruntime" in profile.families["onnx"].one_thread.origin.text
    assert not any(name.startswith(("speed", "families")) for name in profile.estimated)
    assert "power.radio_uj_per_byte" in profile.estimated


def test_an_engine_that_is_missing_is_left_out_and_none_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    present = {"onnxruntime"}
    monkeypatch.setattr(engines, "find_spec", lambda name: name in present or None)
    assert installed_engines() == ("onnx",)
    with pytest.raises(MissingExtraError, match=r"midstream\[tflite\]"):
        installed_engines("litert")
    present.clear()
    with pytest.raises(MissingExtraError, match=r"measuring a machine.*\[onnx\].*pip install"):
        installed_engines()
