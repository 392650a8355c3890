from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from midstream.bundle import Bundle
from midstream.manifest import Cut
from midstream.measuring.bundles import measure_bundle, sample_inputs, spread_out
from midstream_converters.convert import convert
from midstream_converters.opening import Options

MODELS = Path(__file__).resolve().parent.parent / "models"


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    target = tmp_path_factory.mktemp("bundles") / "digits"
    convert(MODELS / "digits_float32.onnx", target, Options(max_cuts=3))
    return Bundle.open(target)


def test_the_whole_model_and_every_cut(digits: Bundle) -> None:
    times, notes = measure_bundle(digits, cores=2, budget_s=1.0)
    assert notes == []
    assert times.digest == digits.digest.hex()
    assert list(times.cuts_ms) == [cut.id for cut in digits.cuts]
    figures = [times.one_thread_ms, times.all_cores_ms, *(ms for pair in times.cuts_ms.values() for ms in pair)]
    assert all(math.isfinite(ms) and 0 < ms < 1000 for ms in figures)
    assert not times.origin.estimate


def test_cuts_without_time_are_left_out_and_told(digits: Bundle) -> None:
    times, notes = measure_bundle(digits, cores=1, budget_s=0.0)
    assert times.cuts_ms == {}
    assert times.one_thread_ms > 0
    assert notes == ["3 of 3 cuts were left out: there was no time; they are predicted"]


def test_inputs_have_the_shapes_the_bundle_was_verified_with(digits: Bundle) -> None:
    inputs = sample_inputs(digits)
    assert {name: value.shape for name, value in inputs.items()} == digits.manifest.sample_shapes
    assert all(0 <= np.min(value) < np.max(value) <= 1 for value in inputs.values())
    assert digits.check_inputs(inputs)


def test_the_first_cuts_are_far_from_each_other() -> None:
    cuts = [Cut(str(index), (), 0, ()) for index in range(7)]
    assert [cut.id for cut in spread_out(cuts)] == ["3", "1", "5", "0", "2", "4", "6"]
    assert spread_out([]) == []
