"""midstream train-forecast: what it refuses, and, where TensorFlow is, what it learns, writes and leaves alone."""

from __future__ import annotations

import json
import math
import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from midstream.allocation.intervals import Interval
from midstream.allocation.usage import Partition
from midstream.errors import InputError, MissingExtraError, ModelError, VerificationError
from midstream.forecaster import CARD, MODEL_FILES, SHIPPED, Network
from midstream_converters.forecasting import training
from midstream_converters.forecasting.folder import PAGE, check_target, write_model
from midstream_converters.forecasting.sequences import Observed
from midstream_converters.forecasting.training import MIN_INTERVALS, train_forecast

long = pytest.mark.long
needs_tensorflow = pytest.mark.skipif(find_spec("tensorflow") is None, reason="needs TensorFlow")
ONE, OTHER = Partition("aa", "c1"), Partition("bb", "c2")


def waves(seconds: int, seed: int = 0) -> Observed:
    """Two partitions, one of which a third of a minute's wave, the other bursts each 40 s that make everybody wait."""
    rng = np.random.default_rng(seed)
    intervals, waits = [], []
    for at in range(seconds):
        one = int(rng.poisson(8 + 6 * math.sin(2 * math.pi * at / 20)))
        other = int(rng.poisson(25 if at % 40 < 3 else 1))
        wait_ms, busy = 4.0 * other, min(1.0, (one + other) / 40)
        waits.append(wait_ms)
        intervals.append(
            {
                ONE: Interval(float(at), 1.0, one, one, 0, 10.0 * one, 4e6, wait_ms, 10.0, 0.1, wait_ms, busy),
                OTHER: Interval(float(at), 1.0, other, other, 0, 10.0 * other, 4e6, wait_ms, 10.0, 0.1, wait_ms, busy),
            }
        )
    return Observed(intervals, {ONE: np.array(waits), OTHER: np.array(waits)})


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if TensorFlow were: what is refused is refused before it is needed."""
    monkeypatch.setattr(training, "require_tensorflow", lambda: None)


def test_a_short_history_is_refused_whatever_is_installed(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"it spans 900 s .* at least {MIN_INTERVALS} and"):
        train_forecast(waves(900), tmp_path / "model", "h.sqlite")
    silent = {ONE: Interval(0.0, 1.0, 0)}
    with pytest.raises(InputError, match="requests came in 0 of them"):
        train_forecast(Observed([silent] * 4000, {ONE: np.zeros(4000)}), tmp_path / "model", "h.sqlite")
    assert not (tmp_path / "model").exists()


@pytest.mark.usefixtures("installed")
def test_a_folder_to_begin_from_must_have_a_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no forecast model to begin from .*--from"):
        train_forecast(waves(2000), tmp_path / "model", "h.sqlite", tmp_path)


def test_without_tensorflow_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(training, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="convert-keras"):
        train_forecast(waves(2000), tmp_path / "model", "h.sqlite")


def test_only_a_forecast_model_is_written_over(tmp_path: Path) -> None:
    target = tmp_path / "model"
    write_model(target, {CARD: b"{}", PAGE: b"", MODEL_FILES["onnx"]: b"old"})
    write_model(target, {CARD: b"{}", MODEL_FILES["litert"]: b"new"})
    assert sorted(file.name for file in target.iterdir()) == [CARD, MODEL_FILES["litert"]]
    (target / "mine.txt").touch()
    with pytest.raises(ModelError, match=r"mine\.txt"):
        check_target(target)
    assert [file.name for file in tmp_path.iterdir()] == ["model"]


@long
@needs_tensorflow
@pytest.mark.timeout(600)
def test_it_learns_writes_and_trains_on(tmp_path: Path) -> None:
    target = tmp_path / "model"
    card = train_forecast(waves(2400), target, "h.sqlite")
    errors = card.figures.errors
    assert errors["network"]["arrivals"] < 0.8 * errors["EWMA 0.2"]["arrivals"]
    assert errors["network"]["wait_ms"] < 0.8 * errors["EWMA 0.2"]["wait_ms"]
    low, middle, high = card.figures.coverage["arrivals"]
    assert low < middle < high
    assert sorted(file.name for file in target.iterdir()) == sorted((*MODEL_FILES.values(), CARD, PAGE))
    written = json.loads((target / CARD).read_bytes())
    assert written["held_out"]["errors"]["network"]["arrivals"] == pytest.approx(
        errors["network"]["arrivals"], abs=1e-6
    )
    assert "Errors on what was held out" in (target / PAGE).read_text()
    for engine in MODEL_FILES:
        assert Network(target, engine).units == written["units"]
    # Another time, from the shipped one on: a gateway's own history is learned.
    tuned = train_forecast(waves(2400), tmp_path / "tuned", "h.sqlite", SHIPPED)
    assert tuned.figures.error("network") < tuned.figures.error("before")


@long
@needs_tensorflow
@pytest.mark.timeout(600)
def test_what_gets_no_better_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "_UPDATES", 1)
    monkeypatch.setattr(training, "_EPOCHS", (0, 0))
    target = tmp_path / "model"
    target.mkdir()
    for name in (*MODEL_FILES.values(), CARD):
        shutil.copy(SHIPPED / name, target)
    before = {file.name: file.read_bytes() for file in target.iterdir()}
    with pytest.raises(VerificationError, match="got no better"):
        train_forecast(waves(2000), target, "h.sqlite", target)
    assert {file.name: file.read_bytes() for file in target.iterdir()} == before


@long
@needs_tensorflow
@pytest.mark.timeout(600)
def test_the_same_history_gives_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "_UPDATES", 100)
    for name in ("one", "other"):
        train_forecast(waves(1900), tmp_path / name, "h.sqlite")
    for file in MODEL_FILES.values():
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "other" / file).read_bytes()
