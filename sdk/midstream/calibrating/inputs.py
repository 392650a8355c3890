"""The inputs to calibrate a bundle with, from the user's files."""

from __future__ import annotations

from pathlib import Path

from midstream.bundle import Bundle
from midstream.errors import InputError
from midstream.samples import InputTypes, calibration_samples
from midstream.tensors import Tensors

MAX_INPUTS = 200
MAX_INPUT_BYTES = 1 << 30
# How many pieces are taken of one sound.
PIECES = 16


def read_inputs(bundle: Bundle, path: Path, limit: int = MAX_INPUTS) -> list[Tensors]:
    """At most this many inputs, and of at most 1 GiB, from an .npz file, or a folder of such, pictures or sounds.

    Of a sound, up to 16 pieces of the length that the model takes, spread over it. Inputs beside the picture or sound
    are zero. Raises InputError naming the file.
    """
    manifest = bundle.manifest
    types = InputTypes(manifest.free_inputs(), manifest.semantics)
    found: list[Tensors] = []
    held = 0
    for sample in calibration_samples(path, types, manifest.sample_shapes, blank=True, pieces=PIECES):
        held += sum(tensor.nbytes for tensor in sample.values())
        if found and held > MAX_INPUT_BYTES:
            break
        found.append(sample)
        if len(found) == limit:
            break
    if not found:
        raise InputError(f"calibration data {path} holds no samples")
    return found
