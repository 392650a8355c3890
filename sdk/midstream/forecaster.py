"""The recurrent network's forecasts, run by this SDK's own engines on one thread.

The network is a GRU that sees one interval of each partition at a time (`midstream.allocation.features`) and says the
quantiles of the next one's. What it was taught, on what, and how well it does is in ``docs/forecast.md``; ``midstream
train-forecast`` trains one on a gateway's own history. A model is a folder with `CARD`, and one or both of the files of
`MODEL_FILES`. Where neither engine is installed, there is no such forecaster.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from midstream.allocation.features import FEATURES, TARGETS, Steps, all_amounts, numbers_of
from midstream.allocation.intervals import Forecast, Interval, Quantiles
from midstream.allocation.usage import Partition
from midstream.engines import Program, engine_for, installed_engines
from midstream.errors import MidstreamError, ModelError
from midstream.files import read_at_most
from midstream.manifest import EngineName, SliceRecord

_log = logging.getLogger("midstream.forecaster")

SHIPPED = Path(__file__).with_name("models")
"""The folder of the model that is part of the package."""
MODEL_FILES: Mapping[EngineName, str] = {"litert": "forecast.tflite", "onnx": "forecast.onnx"}
CARD = "forecast.json"
MAX_FILE_BYTES = 4 << 20
_MAX_UNITS = 1024
# Rows are added so many at a time: the runtimes plan their memory anew for each size.
_MORE_ROWS = 16
MAX_PARTITIONS = 256
_REMEDY = "train it anew with midstream train-forecast"


class Network:
    """One loaded network. Not thread-safe. Raises ModelError where the folder holds none that runs here."""

    def __init__(self, folder: Path = SHIPPED, engine: EngineName | None = None) -> None:
        installed = installed_engines()
        there = [name for name in installed if (folder / MODEL_FILES[name]).is_file()]
        if not there:
            raise ModelError(
                f"no forecast model in {folder} runs here: it needs {' or '.join(MODEL_FILES.values())}, and the extra "
                "[tflite] or [onnx] to run it; train one with midstream train-forecast, or install the extra"
            )
        self.engine: EngineName = engine if engine in there else there[0]
        self.units = _units(folder)
        path = folder / MODEL_FILES[self.engine]
        try:
            content = read_at_most(path, MAX_FILE_BYTES)
        except OSError as error:
            raise ModelError(f"cannot read forecast model {path}: {error.strerror}") from None
        record = SliceRecord(path.name, len(content), ("features", "state"), ("quantiles", "next"))
        try:
            self._session = engine_for(self.engine).load(Program(record, content, path))
            self.step(np.zeros((_MORE_ROWS, len(FEATURES)), np.float32), np.zeros((_MORE_ROWS, self.units), np.float32))
        except MidstreamError as error:
            raise ModelError(f"the forecast model {path} forecasts nothing: {error}; {_REMEDY}") from None

    def step(
        self, features: NDArray[np.float32], state: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Quantiles and the next state, of rows × `FEATURES` and rows × units.

        Quantiles are rows × 12: for each of `TARGETS` low, middle and high, as log(1 + amount / unit). Raises
        InputError where the runtime refuses them, ModelError where it answers with anything else.
        """
        found = self._session.run({"features": features, "state": state})
        quantiles, following = found["quantiles"], found["next"]
        if quantiles.shape != (len(features), 3 * len(TARGETS)) or following.shape != state.shape:
            raise ModelError(f"its answer has the shapes {quantiles.shape} and {following.shape}")
        return quantiles.astype(np.float32, copy=False), following.astype(np.float32, copy=False)


def _units(folder: Path) -> int:
    """How long its state is; raises ModelError where the card says that it is for other features than these."""
    path = folder / CARD
    try:
        card = json.loads(read_at_most(path, MAX_FILE_BYTES))
        features, units = card["features"], card["units"]
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}; {_REMEDY}") from None
    except (ValueError, TypeError, KeyError, RecursionError):
        raise ModelError(f"{path} is no forecast model's card; {_REMEDY}") from None
    if features != list(FEATURES):
        raise ModelError(f"the forecast model in {folder} is for other features than this release has; {_REMEDY}")
    if not isinstance(units, int) or not 1 <= units <= _MAX_UNITS:
        raise ModelError(f"{path} says that its state has {units!r} numbers, not 1 to {_MAX_UNITS}; {_REMEDY}")
    return units


class RecurrentForecaster:
    """Forecasts of one gateway's partitions, all at once, each from what it has seen of it. Not thread-safe.

    A `midstream.allocation.predictors.Predictor`. It knows at most 256 partitions, and forgets one when an observation
    comes without it. Of others, and where the network has no answer or one that is no number, the last value is
    forecast.
    """

    name = "rnn"

    def __init__(self, network: Network) -> None:
        self._network = network
        self._steps = Steps(_MORE_ROWS)
        self._state = np.zeros((_MORE_ROWS, network.units), np.float32)
        self._rows: dict[Partition, int] = {}
        self._free = list(range(_MORE_ROWS))[::-1]
        self._forecasts: dict[Partition, Forecast] = {}

    def use(self, network: Network) -> None:
        """Forecast with another network from now on, which has seen nothing yet."""
        self._network = network
        self._state = np.zeros((self._steps.rows, network.units), np.float32)

    def observe(self, intervals: Mapping[Partition, Interval]) -> None:
        """An interval has closed; a partition that is not in it is known no longer."""
        for gone in self._rows.keys() - intervals.keys():
            self._forget(gone)
        for partition in intervals:
            if partition not in self._rows:
                self._learn_of(partition)
        known = list(self._rows)
        numbers = np.zeros((self._steps.rows, _NO_INTERVAL.shape[1]))
        if known:
            rows = [self._rows[each] for each in known]
            numbers[rows] = numbers_of([intervals[each] for each in known])
        features = self._steps.step(numbers)
        try:
            quantiles, state = self._network.step(features, self._state)
        except MidstreamError:
            self._forecasts = {each: _last_value(interval) for each, interval in intervals.items()}
            return
        whole: NDArray[np.bool_] = np.isfinite(np.concatenate([quantiles, state], axis=1)).all(axis=1)
        self._state = np.where(whole[:, np.newaxis], state, np.float32(0.0))
        found, heard = forecast_amounts(quantiles).tolist(), set(np.flatnonzero(whole).tolist())
        self._forecasts = {
            each: _forecast(found[row]) if (row := self._rows.get(each)) in heard else _last_value(interval)
            for each, interval in intervals.items()
        }

    def forecast(self) -> Mapping[Partition, Forecast]:
        """The next interval of every partition in the last one."""
        return self._forecasts

    def _forget(self, partition: Partition) -> None:
        self._free.append(self._rows.pop(partition))

    def _learn_of(self, partition: Partition) -> None:
        if len(self._rows) >= MAX_PARTITIONS:
            return
        if not self._free:
            first = self._steps.rows
            self._steps.grow(first + _MORE_ROWS)
            self._state = np.pad(self._state, ((0, _MORE_ROWS), (0, 0)))
            self._free = list(range(first, self._steps.rows))[::-1]
        row = self._rows[partition] = self._free.pop()
        self._steps.reset(row)
        self._state[row] = 0.0


_NO_INTERVAL = numbers_of([Interval(0.0, 1.0, 0)])


def forecast_amounts(quantiles: NDArray[np.float32]) -> NDArray[np.float64]:
    """Amounts of … × 12 quantiles as the network gives them: … × targets × 3, in order, at least 0."""
    return all_amounts(quantiles.reshape(*quantiles.shape[:-1], len(TARGETS), 3))


def _forecast(found: Sequence[Sequence[float]]) -> Forecast:
    arrivals, cpu_ms, memory_bytes, wait_ms = found
    return Forecast(Quantiles(*arrivals), Quantiles(*cpu_ms), Quantiles(*memory_bytes), Quantiles(*wait_ms))


def _last_value(interval: Interval) -> Forecast:
    found = (max(0.0, value) if math.isfinite(value) else 0.0 for value in (getattr(interval, t) for t in TARGETS))
    return Forecast(*(Quantiles(value, value, value) for value in found))


def load_forecaster(
    folders: Sequence[Path] = (SHIPPED,), engine: EngineName | None = None
) -> RecurrentForecaster | None:
    """A forecaster with the first of these folders' models that runs here; None, as the log says, where none does."""
    for folder in folders:
        try:
            return RecurrentForecaster(Network(folder, engine))
        except MidstreamError as error:
            _log.warning("no recurrent forecasts from there: %s", error)
    return None
