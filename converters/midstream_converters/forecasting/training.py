"""A forecaster trained on what a gateway has seen, judged on the last part of it, and written with its card."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from midstream.errors import InputError, MissingExtraError, ModelError, VerificationError
from midstream.files import read_at_most
from midstream.forecaster import CARD, MAX_FILE_BYTES, MODEL_FILES, Network
from midstream_converters.apart import run_apart
from midstream_converters.forecasting.card import BEFORE, NETWORK, Card, essentials
from midstream_converters.forecasting.folder import PAGE, check_target, write_model
from midstream_converters.forecasting.judging import figures, forecasts
from midstream_converters.forecasting.sequences import Observed, Sequences, sequences
from midstream_converters.forecasting.stored import FROM, MADE_ONNX, MADE_TFLITE, store

MIN_INTERVALS = 1800
"""A history must span at least so many."""
MIN_BUSY = 600
"""In at least so many of them something must have come, to one partition or another."""

_WORKER = "midstream_converters.forecasting.worker"
# Trained on, and looked at to choose when to stop; the rest is held out.
_TRAINED, _LOOKED_AT = 0.6, 0.8
# Intervals that the network sees before it is judged.
_WARM_UP = 256
_SEGMENT = 1024
_MOST_ROW_STEPS = 2_000_000
_UPDATES, _EPOCHS = 1500, (2, 30)


@dataclass(frozen=True, slots=True)
class Recipe:
    """How it is trained; `worker`."""

    epochs: int
    rate: float
    batch: int
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Fitted:
    """A trained network's files by name, and the losses before the first epoch and after each; ``kept`` was taken."""

    files: Mapping[str, bytes]
    losses: tuple[float, ...]
    kept: int


def train_forecast(
    observed: Observed,
    output: Path,
    name: str,
    start: Path | None = None,
    on_begin: Callable[[], None] = lambda: None,
) -> Card:
    """Train on one gateway's intervals, from the model in the folder ``start`` on or anew, and write ``output``.

    The last fifth is held out. ``on_begin`` is called once all that can be wrong at the start is found right. Raises
    InputError for a history that is too short, VerificationError where the model that it started from errs no more on
    what is held out; then nothing is written. ModelError, MissingExtraError.
    """
    _check_enough(observed, name)
    require_tensorflow()
    check_target(output)
    before = None if start is None else _onnx_of(start)
    known = _as_fits(observed)
    steps = known.features.shape[1]
    trained, looked_at = int(steps * _TRAINED), int(steps * _LOOKED_AT)
    held_out = _judged(known, looked_at, steps)
    learned = _segments(known.steps(slice(0, trained)))
    recipe = _recipe(learned, again=start is not None)
    on_begin()
    fitted = fit(learned, _judged(known, trained, looked_at), recipe, name, before)
    data = {
        "history": name,
        "span": " to ".join(_told(interval) for interval in _ends(observed, steps)),
        "partitions": len(known.features),
        "intervals": {"trained": trained, "looked_at": looked_at - trained, "held_out": steps - looked_at},
    }
    training = {**asdict(recipe), "epochs_kept": fitted.kept, "from": "nothing" if start is None else str(start)}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for file, content in {**fitted.files, CARD: essentials()}.items():
            (folder / file).write_bytes(content)
        found = {NETWORK: forecasts(Network(folder), held_out.features)}
        if start is not None:
            found[BEFORE] = forecasts(Network(start), held_out.features)
        card = Card(data, training, figures(held_out, found))
    if start is not None and card.figures.error(NETWORK) >= card.figures.error(BEFORE):
        raise VerificationError(
            f"trained on {name} the forecast model got no better: on the last {steps - looked_at} intervals it errs by "
            f"{card.figures.error(NETWORK):.4f}, the one in {start} by {card.figures.error(BEFORE):.4f}; that one "
            "stays, and nothing was written"
        )
    write_model(output, {**fitted.files, CARD: card.to_bytes(), PAGE: card.to_markdown().encode()})
    return card


def fit(train: Sequences, valid: Sequences, recipe: Recipe, name: str, before: bytes | None = None) -> Fitted:
    """Train in a process of its own, from an ONNX file's weights on or anew. Raises ModelError."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        store(folder, "train", train)
        store(folder, "valid", valid)
        if before is not None:
            (folder / FROM).write_bytes(before)
        request = {"name": name, **asdict(recipe)}
        answer = run_apart(_WORKER, folder, request, f"{name}: training with TensorFlow", "try a shorter history")
        files = {
            MODEL_FILES["litert"]: (folder / MADE_TFLITE).read_bytes(),
            MODEL_FILES["onnx"]: (folder / MADE_ONNX).read_bytes(),
        }
    return Fitted(files, tuple(answer["losses"]), answer["kept"])


def require_tensorflow() -> None:
    """Raise MissingExtraError where it, or what else training takes, is not installed."""
    for package in ("tensorflow", "onnx"):
        if find_spec(package) is None:
            raise MissingExtraError(package, "convert-keras", "training a forecast model")


def _check_enough(observed: Observed, name: str) -> None:
    """Raise InputError where there is too little to learn from."""
    count = len(observed.intervals)
    busy = sum(any(each.arrivals for each in interval.values()) for interval in observed.intervals)
    if count < MIN_INTERVALS or busy < MIN_BUSY:
        raise InputError(
            f"{name} is too short to learn from: it spans {count} s of a gateway's work, requests came in {busy} of "
            f"them; at least {MIN_INTERVALS} and {MIN_BUSY} are needed: let the gateway run on, and try again"
        )


def _as_fits(observed: Observed) -> Sequences:
    """What there is to learn from, at its end where it is more than fits."""
    count = len(observed.intervals)
    rows = min(64, len({partition for each in observed.intervals for partition in each}))
    most = _MOST_ROW_STEPS // rows
    if count > most:
        waits = {partition: values[-most:] for partition, values in observed.waits_ms.items()}
        observed = Observed(observed.intervals[-most:], waits)
    return sequences([observed])


def _ends(observed: Observed, steps: int) -> list[float]:
    """Where what is learned from begins and ends, seconds since 1970."""
    times = [each.start_s for interval in observed.intervals[-steps - 1 :] for each in interval.values()]
    return [min(times), max(times)]


def _told(time_s: float) -> str:
    return datetime.fromtimestamp(time_s, UTC).isoformat(timespec="seconds")


def _recipe(learned: Sequences, *, again: bool) -> Recipe:
    """As many epochs as make some number of updates; with less change where there is a network already."""
    rows, steps = learned.features.shape[:2]
    batch = min(32, rows)
    updates = math.ceil(rows / batch) * max(1, steps // 64)
    epochs = max(_EPOCHS[0], min(_EPOCHS[1], _UPDATES // updates))
    return Recipe(epochs, 3e-4 if again else 3e-3, batch)


def _segments(known: Sequences) -> Sequences:
    """Rows cut into pieces, each to be learned from by itself, so that batches are full."""
    steps = known.features.shape[1]
    length = min(_SEGMENT, steps)
    pieces = [known.steps(slice(at, at + length)) for at in range(0, steps - length + 1, length)]
    return Sequences(
        np.concatenate([each.features for each in pieces]),
        np.concatenate([each.targets for each in pieces]),
        np.concatenate([each.counts for each in pieces]),
        np.concatenate([each.groups for each in pieces]),
    )


def _judged(known: Sequences, first: int, end: int) -> Sequences:
    """These steps, and before them some that do not count."""
    warm_up = min(_WARM_UP, first)
    part = known.steps(slice(first - warm_up, end))
    counts = part.counts.copy()
    counts[:, :warm_up] = 0.0
    return replace(part, counts=counts)


def _onnx_of(start: Path) -> bytes:
    path = start / MODEL_FILES["onnx"]
    try:
        return read_at_most(path, MAX_FILE_BYTES)
    except OSError as error:
        raise ModelError(
            f"there is no forecast model to begin from in {start}: {path.name}: {error.strerror}; give another --from, "
            "or leave it out"
        ) from None
