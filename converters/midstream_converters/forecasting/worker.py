"""Training with TensorFlow, in a process of its own.

``python -m midstream_converters.forecasting.worker FOLDER`` answers the request there (`midstream_converters.apart`):
it learns from the sequences ``train``, keeps what is best on ``valid``, and writes the network in both formats.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from midstream.allocation.features import FEATURES
from midstream.errors import ModelError
from midstream_converters.apart import serve
from midstream_converters.forecasting.onnx_file import to_onnx, weights_of
from midstream_converters.forecasting.sequences import Sequences
from midstream_converters.forecasting.stored import FROM, MADE_ONNX, MADE_TFLITE, load
from midstream_converters.forecasting.weights import UNITS, Weights

_WINDOW = 64
_LEAST_DEVIATION = 0.02


def main(folder: Path, request: dict[str, Any]) -> dict[str, Any]:
    """Train; returns the losses after each epoch and which of them is kept."""
    from midstream_converters.forecasting import net as nets

    nets.start(request["seed"])
    train, valid = load(folder, "train"), load(folder, "valid")
    if (folder / FROM).is_file():
        first = weights_of((folder / FROM).read_bytes())
        if first is None:
            raise ModelError(f"{request['name']} is no forecast model of this release's features; train without --from")
    else:
        first = Weights.first(*_measured(train), request["seed"])
    net = nets.Net(first)
    losses = [_loss(nets, net, valid)]
    best, kept = first, 0
    windows = max(1, train.features.shape[1] // _WINDOW)
    batches = math.ceil(len(train.features) / request["batch"])
    step = nets.trainer(net, request["rate"], request["epochs"] * windows * batches)
    rng = np.random.default_rng(request["seed"])
    for epoch in range(1, request["epochs"] + 1):
        _epoch(step, train, request["batch"], rng)
        losses.append(_loss(nets, net, valid))
        if losses[-1] < losses[kept]:
            best, kept = net.weights(), epoch
    net.set(best)
    (folder / MADE_TFLITE).write_bytes(nets.to_tflite(net))
    (folder / MADE_ONNX).write_bytes(to_onnx(best))
    return {"losses": losses, "kept": kept}


def _measured(train: Sequences) -> tuple[Any, Any]:
    """Mean of each feature and one by its deviation; one that hardly varies is shown as it is."""
    flat = train.features.reshape(-1, len(FEATURES)).astype(np.float64)
    deviation = flat.std(axis=0)
    return flat.mean(axis=0), np.where(deviation > _LEAST_DEVIATION, 1.0 / np.maximum(deviation, _LEAST_DEVIATION), 1.0)


def _epoch(step: Any, train: Sequences, batch: int, rng: np.random.Generator) -> None:
    """All rows in random order, each from its start on in windows whose state goes on; where they start varies."""
    rows, steps = train.features.shape[:2]
    order, scales = rng.permutation(rows), train.scales
    # Every batch is as large, so that one program serves all.
    order = np.concatenate([order, order[: -rows % batch]]) if rows >= batch else np.resize(order, batch)
    for chosen in order.reshape(-1, batch):
        chosen = np.sort(chosen)
        state = np.zeros((batch, UNITS), np.float32)
        first = int(rng.integers(0, min(_WINDOW, max(1, steps - _WINDOW + 1))))
        for at in range(first, steps - _WINDOW + 1, _WINDOW):
            window = slice(at, at + _WINDOW)
            _, state = step(
                train.features[chosen, window], state, train.targets[chosen, window], train.counts[chosen, window],
                scales[chosen],
            )  # fmt: skip


def _loss(nets: Any, net: Any, valid: Sequences) -> float:
    """The loss on sequences, each from an empty state on."""
    quantiles = nets.forecasts(net, valid.features)
    return float(nets.pinball(quantiles, valid.targets, valid.counts, valid.scales))


if __name__ == "__main__":
    serve(main)
