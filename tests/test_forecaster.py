"""The shipped forecaster, and one that is untrained, run by both engines: what they say, second by second."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

from midstream import forecaster
from midstream.allocation.features import FEATURES, TARGETS
from midstream.allocation.intervals import Forecast, Interval
from midstream.allocation.usage import Partition
from midstream.errors import InputError, ModelError
from midstream.forecaster import CARD, MODEL_FILES, SHIPPED, Network, RecurrentForecaster, load_forecaster
from midstream.manifest import EngineName
from midstream_converters.forecasting.card import essentials
from midstream_converters.forecasting.onnx_file import to_onnx
from midstream_converters.forecasting.weights import Weights

ENGINES: tuple[EngineName, ...] = ("litert", "onnx")


def partition(number: int) -> Partition:
    return Partition(f"{number:064x}", "c1")


def steady(second: int, count: int = 10) -> Interval:
    return Interval(float(second), 1.0, count, count, 0, 4.0 * count, float(8 << 20), 3.0, 4.0, 0.1, 2.0, 0.3, 50.0)


def lived(network: Network, seconds: int, partitions: int = 3) -> RecurrentForecaster:
    running = RecurrentForecaster(network)
    for second in range(seconds):
        running.observe({partition(number): steady(second) for number in range(partitions)})
    return running


@pytest.fixture
def untrained(tmp_path: Path) -> Path:
    weights = Weights.first(np.zeros(len(FEATURES)), np.ones(len(FEATURES)), 0)
    (tmp_path / MODEL_FILES["onnx"]).write_bytes(to_onnx(weights))
    (tmp_path / CARD).write_bytes(essentials())
    return tmp_path


def in_order(forecast: Forecast) -> bool:
    each = [getattr(forecast, target) for target in TARGETS]
    return all(0 <= quantiles.low <= quantiles.middle <= quantiles.high for quantiles in each)


@pytest.mark.parametrize("engine", ENGINES)
def test_what_is_steady_is_forecast_to_go_on(engine: EngineName) -> None:
    forecasts = lived(Network(SHIPPED, engine), 60).forecast()
    assert len(forecasts) == 3
    for forecast in forecasts.values():
        assert in_order(forecast)
        assert forecast.arrivals.middle == pytest.approx(10, rel=0.1)
        assert forecast.cpu_ms.middle == pytest.approx(40, rel=0.15)
        assert forecast.memory_bytes.middle == pytest.approx(8 << 20, rel=0.02)


def test_both_files_hold_the_same_network() -> None:
    networks = [Network(SHIPPED, engine) for engine in ENGINES]
    rng = np.random.default_rng(0)
    states = [np.zeros((5, network.units), np.float32) for network in networks]
    for _ in range(50):
        features = rng.uniform(0, 6, (5, len(FEATURES))).astype(np.float32)
        found = [network.step(features, state) for network, state in zip(networks, states, strict=True)]
        states = [state for _, state in found]
        np.testing.assert_allclose(found[0][0], found[1][0], atol=2e-4)
        np.testing.assert_allclose(states[0], states[1], atol=2e-4)


@pytest.mark.parametrize("engine", ENGINES)
def test_files_are_small_and_their_card_says_what_was_measured(engine: EngineName) -> None:
    assert (SHIPPED / MODEL_FILES[engine]).stat().st_size < 100_000
    errors = json.loads((SHIPPED / CARD).read_bytes())["held_out"]["errors"]
    for target in ("arrivals", "wait_ms"):
        assert errors["network"][target] < errors["ewma"][target]


def test_untrained_it_forecasts_what_simple_formulas_do(untrained: Path) -> None:
    (forecast, *_) = lived(Network(untrained), 60).forecast().values()
    assert in_order(forecast)
    assert forecast.arrivals.middle == pytest.approx(10, rel=0.01)
    assert forecast.memory_bytes.middle == pytest.approx(8 << 20, rel=0.01)


def test_quantiles_are_in_order_and_finite_whatever_comes() -> None:
    running = RecurrentForecaster(Network(SHIPPED))
    odd = [float("nan"), float("inf"), -float("inf"), -5.0, 1e300, 0.0]
    rng = np.random.default_rng(1)
    for second in range(60):
        values = rng.choice(odd, 10)
        running.observe({partition(0): Interval(float(second), 1.0, int(rng.integers(0, 1 << 40)), 3, 0, *values[:8])})
        (forecast,) = running.forecast().values()
        assert in_order(forecast)
        assert all(np.isfinite(getattr(forecast, target).high) for target in TARGETS)


def test_partitions_come_and_go_and_begin_anew() -> None:
    network = Network(SHIPPED)
    running = lived(network, 40, partitions=40)
    running.observe({partition(1): steady(40)})
    assert list(running.forecast()) == [partition(1)]
    running.observe({partition(number): steady(41, 2) for number in range(40)})
    fresh = RecurrentForecaster(network)
    fresh.observe({partition(number): steady(41, 2) for number in range(40)})
    again = running.forecast()[partition(7)].memory_bytes.middle
    assert again == pytest.approx(fresh.forecast()[partition(7)].memory_bytes.middle, rel=1e-3)


def test_no_more_partitions_are_kept_than_it_may_and_all_are_forecast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecaster, "MAX_PARTITIONS", 20)
    running = lived(Network(SHIPPED), 3, partitions=30)
    said = running.forecast()
    assert len(said) == 30
    plain = [each for each in said.values() if each.arrivals.low == each.arrivals.high]
    assert len(plain) == 10
    assert plain[0].arrivals.middle == 10.0


def test_nothing_known_is_nothing_forecast(untrained: Path) -> None:
    running = RecurrentForecaster(Network(untrained))
    running.observe({})
    assert running.forecast() == {}


def test_a_network_that_says_no_number_is_not_believed(untrained: Path) -> None:
    network = Network(untrained)
    running = RecurrentForecaster(network)
    real = network.step

    def broken(features: np.ndarray, state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        quantiles, following = real(features, state)
        return np.full_like(quantiles, np.nan), following

    network.step = broken  # type: ignore[method-assign]
    running.observe({partition(0): steady(0)})
    assert running.forecast()[partition(0)].arrivals.middle == 10.0


def test_folders_without_a_model_that_fits_are_refused(tmp_path: Path, untrained: Path) -> None:
    with pytest.raises(ModelError, match=r"no forecast model in .* runs here"):
        Network(tmp_path / "nothing")
    (untrained / CARD).write_text(json.dumps({"features": ["other"], "units": 32}))
    with pytest.raises(ModelError, match="for other features"):
        Network(untrained)
    (untrained / CARD).write_text("[")
    with pytest.raises(ModelError, match="no forecast model's card"):
        Network(untrained)
    (untrained / CARD).write_text(json.dumps({"features": list(FEATURES), "units": -1}))
    with pytest.raises(ModelError, match="-1"):
        Network(untrained)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_card_that_says_another_state_than_the_network_has_is_refused(tmp_path: Path, engine: EngineName) -> None:
    card = json.loads((SHIPPED / CARD).read_bytes())
    (tmp_path / CARD).write_text(json.dumps(card | {"units": 2 * card["units"]}))
    shutil.copy(SHIPPED / MODEL_FILES[engine], tmp_path)
    with pytest.raises(ModelError, match=r"forecasts nothing.*train-forecast"):
        Network(tmp_path)


def test_a_network_with_other_outputs_is_refused(untrained: Path) -> None:
    model = onnx.load(untrained / MODEL_FILES["onnx"])
    for node in model.graph.node:
        node.output[:] = [{"quantiles": "next", "next": "quantiles"}.get(name, name) for name in node.output]
        node.input[:] = [{"quantiles": "next", "next": "quantiles"}.get(name, name) for name in node.input]
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    onnx.save(model, untrained / MODEL_FILES["onnx"])
    with pytest.raises(ModelError, match=r"shapes \(\d+, 32\) and \(\d+, 12\)"):
        Network(untrained, "onnx")


def test_where_the_network_gives_out_the_last_value_is_forecast(untrained: Path) -> None:
    running = lived(Network(untrained, "onnx"), 5)

    def refuses(*_: object) -> None:
        raise InputError("the runtime has no memory left")

    running._network.step = refuses  # type: ignore[method-assign,assignment]
    running.observe({partition(0): steady(5, count=7)})
    assert running.forecast()[partition(0)].arrivals.middle == 7.0


def test_the_first_folder_that_runs_is_taken_and_without_engines_there_is_none(
    tmp_path: Path, untrained: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load_forecaster([tmp_path / "nothing", untrained]) is not None
    assert "no recurrent forecasts from there" in caplog.text
    monkeypatch.setattr(forecaster, "installed_engines", lambda: ())
    caplog.clear()
    caplog.set_level(logging.WARNING)
    assert load_forecaster() is None
    assert "[tflite] or [onnx]" in caplog.text
