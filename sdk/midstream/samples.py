"""Inputs of the user's for a model: arrays, pictures or sounds, as the model takes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from midstream.arrays import read_arrays
from midstream.errors import InputError, MidstreamError
from midstream.inputs import AudioInput, ImageInput, Semantics, from_pixels, prepare_image
from midstream.media import media_files, media_kind, read_audio, read_image
from midstream.tensors import Tensor, Tensors, TensorSpec, check_tensors

MAX_CALIBRATION_BYTES = 1 << 30


@dataclass(frozen=True)
class InputTypes:
    """What a model takes, and what is known about it from outside the file."""

    specs: tuple[TensorSpec, ...]
    semantics: Mapping[str, Semantics] = field(default_factory=dict)

    def generate(self, shapes: Mapping[str, tuple[int, ...]], seed: int) -> Tensors:
        """One made input of these shapes."""
        rng = np.random.default_rng(seed)
        return {spec.name: _made(spec, shapes[spec.name], self.semantics.get(spec.name), rng) for spec in self.specs}


def calibration_samples(
    path: Path, types: InputTypes, shapes: Mapping[str, tuple[int, ...]], *, blank: bool = False, pieces: int = 1
) -> Iterator[Tensors]:
    """All of these inputs, one after the other. Raises InputError naming the file.

    Of a sound, up to ``pieces`` of the length that the model takes, spread over it. The inputs beside a picture or
    sound are made up, or zero where they are to be ``blank``.
    """
    archives = _archives(path)
    return _from_archives(archives, types) if archives else _from_media(path, types, shapes, blank, pieces)


def archived_shapes(path: Path, types: InputTypes) -> dict[str, tuple[int, ...]]:
    """The shapes of the first sample in .npz files; none where there are no such files."""
    first = next(_from_archives(_archives(path), types), {})
    return {name: value.shape for name, value in first.items()}


def _archives(path: Path) -> list[Path]:
    if not path.exists():
        raise InputError(f"calibration data {path} does not exist; give an .npz file, or a folder of them or of media")
    if path.is_dir():
        found = sorted(path.glob("*.npz"))
        media = next((file for file in sorted(path.iterdir()) if found and media_kind(file)), None)
        if media is not None:
            raise InputError(
                f"calibration data {path} holds both arrays ({found[0].name}) and media ({media.name}); give a folder "
                "of one kind"
            )
        return found
    return [path] if path.suffix == ".npz" else []


def _made(spec: TensorSpec, shape: tuple[int, ...], semantics: Semantics | None, rng: np.random.Generator) -> Tensor:
    if isinstance(semantics, ImageInput) and len(shape) == 4 and shape[0] == 1:
        height, width = semantics.size_of(shape)
        coarse = rng.integers(0, 256, (max(2, height // 16), max(2, width // 16), semantics.channels), dtype=np.uint8)
        smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        picture = np.asarray(smooth, dtype=np.uint8).reshape(height, width, semantics.channels)
        return from_pixels(picture, spec, semantics)
    if isinstance(semantics, AudioInput):
        return (0.1 * rng.standard_normal(shape)).astype(spec.dtype)
    kind = spec.dtype.kind
    if kind == "f":
        return rng.standard_normal(shape).astype(spec.dtype)
    if kind == "b":
        return rng.integers(0, 2, shape).astype(spec.dtype)
    if spec.dtype.itemsize == 1:
        limits = np.iinfo(spec.dtype.name)
        return rng.integers(limits.min, limits.max + 1, shape).astype(spec.dtype)
    # Larger integers are ids, lengths or positions: small ones are valid wherever any is.
    return rng.integers(0, 4, shape).astype(spec.dtype)


def _from_archives(paths: Sequence[Path], types: InputTypes) -> Iterator[Tensors]:
    for path in paths:
        try:
            arrays = read_arrays(path, MAX_CALIBRATION_BYTES)
        except InputError as error:
            raise InputError(f"calibration: {error}") from None
        yield from _unstack(arrays, types, path)


def _unstack(arrays: Mapping[str, Tensor], types: InputTypes, path: Path) -> Iterator[Tensors]:
    of = f"the model, in calibration file {path}"
    stacked = [spec for spec in types.specs if spec.name in arrays and arrays[spec.name].ndim == len(spec.shape) + 1]
    if not stacked:
        yield check_tensors(types.specs, arrays, of)
        return
    names = {spec.name for spec in stacked}
    for index in range(min(len(arrays[name]) for name in names)):
        sample = {name: np.asarray(array[index]) if name in names else array for name, array in arrays.items()}
        yield check_tensors(types.specs, sample, of)


def _from_media(
    path: Path, types: InputTypes, shapes: Mapping[str, tuple[int, ...]], blank: bool, pieces: int
) -> Iterator[Tensors]:
    media = media_files(path)
    described = [(spec, types.semantics[spec.name]) for spec in types.specs if spec.name in types.semantics]
    if len(described) != 1:
        raise InputError(
            f"calibration data {path} holds pictures or sounds, but which input takes them is not said; "
            "convert the model with --input NAME=image:… or NAME=audio:RATE, or give .npz files"
        )
    spec, semantics = described[0]
    wanted = "audio" if isinstance(semantics, AudioInput) else "image"
    files = [file for file in media if media_kind(file) == wanted]
    if not files:
        raise InputError(f"calibration data {path} holds no {wanted} files for input {spec.name!r}")
    zeros = {other.name: np.zeros(shapes[other.name], other.dtype) for other in types.specs}
    for seed, file in enumerate(files):
        try:
            values = _prepared(file, spec, semantics, shapes[spec.name], pieces)
        except MidstreamError as error:
            raise InputError(f"calibration: {error}") from None
        others = zeros if blank else types.generate(shapes, seed)
        for value in values:
            yield others | {spec.name: value}


def _prepared(file: Path, spec: TensorSpec, semantics: Semantics, shape: tuple[int, ...], pieces: int) -> list[Tensor]:
    if isinstance(semantics, ImageInput):
        height, width = semantics.size_of(shape)
        return [prepare_image(read_image(file), spec, semantics, (height, width))]
    sound, _ = read_audio(file, semantics.sample_rate)
    length = int(np.prod(shape))
    count = min(pieces, max(1, len(sound) // length))
    starts = np.linspace(0, max(0, len(sound) - length), count).astype(int) if count > 1 else [0]
    return [np.resize(sound[start : start + length], shape).astype(spec.dtype) for start in starts]
