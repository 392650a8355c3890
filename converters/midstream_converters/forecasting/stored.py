"""Sequences and models as files in the folder that the command and its worker share."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from midstream_converters.forecasting.sequences import Sequences

MADE_TFLITE, MADE_ONNX, FROM = "made.tflite", "made.onnx", "from.onnx"
_PARTS = ("features", "targets", "counts", "groups")


def store(folder: Path, name: str, sequences: Sequences) -> None:
    """Write them."""
    for part in _PARTS:
        np.save(folder / f"{name}.{part}.npy", getattr(sequences, part), allow_pickle=False)


def load(folder: Path, name: str) -> Sequences:
    """Read them; they stay on disk until they are used."""
    return Sequences(*(np.load(folder / f"{name}.{part}.npy", mmap_mode="r", allow_pickle=False) for part in _PARTS))
