"""The inputs to calibrate a bundle with, from the user's files."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from midstream.bundle import Bundle
from midstream.errors import InputError
from midstream.samples import InputTypes, calibration_samples
from midstream.tensors import Tensors

MAX_INPUTS = 200
# How many pieces are taken of one sound.
PIECES = 16


def read_inputs(bundle: Bundle, path: Path, limit: int = MAX_INPUTS) -> list[Tensors]:
    """At most this many inputs from an .npz file, or a folder of .npz files, pictures or sounds.

    Of a sound, up to 16 pieces of the length that the model takes, spread over it. Inputs beside the picture or sound
    are zero. Raises InputError naming the file.
    """
    manifest = bundle.manifest
    types = InputTypes(manifest.free_inputs(), manifest.semantics)
    found = list(islice(calibration_samples(path, types, manifest.sample_shapes, blank=True, pieces=PIECES), limit))
    if not found:
        raise InputError(f"calibration data {path} holds no samples")
    return found
