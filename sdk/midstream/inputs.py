"""What an input means: how a picture or a sound becomes the tensor a model takes, and back.

A picture's tensor is ``(pixel - mean) * scale`` for pixels of 0–255, the convention and the parameter order of OpenCV's
``blobFromImage``; scale and mean are one number, or one for each channel in the tensor's own colour order. An input of
bytes takes the pixels as they are, a signed one pixel - 128: scale and mean are part of its quantisation then.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from midstream.errors import InputError
from midstream.tensors import Tensor, TensorSpec

Layout = Literal["NHWC", "NCHW"]
Colour = Literal["RGB", "BGR", "GREY"]

_Size = TypeVar("_Size", int, int | None)

LAYOUTS: tuple[Layout, ...] = ("NHWC", "NCHW")
COLOURS: tuple[Colour, ...] = ("RGB", "BGR", "GREY")


@dataclass(frozen=True, slots=True)
class ImageInput:
    """A picture: tensor = (pixel - mean) * scale, in this layout and colour order."""

    layout: Layout
    colour: Colour
    scale: tuple[float, ...] = (1.0,)
    mean: tuple[float, ...] = (0.0,)

    @property
    def channels(self) -> int:
        """Channels of the tensor."""
        return 1 if self.colour == "GREY" else 3

    def size_of(self, shape: Sequence[_Size]) -> tuple[_Size, _Size]:
        """Height and width of a tensor of this shape, batch first."""
        return (shape[2], shape[3]) if self.layout == "NCHW" else (shape[1], shape[2])


@dataclass(frozen=True, slots=True)
class AudioInput:
    """Mono sound in samples of -1…1 at this rate."""

    sample_rate: int


Semantics = ImageInput | AudioInput


def parse_semantics(text: str) -> tuple[str, Semantics]:
    """Read ``NAME=image:NHWC:RGB:SCALE:MEAN`` or ``NAME=audio:RATE``.

    SCALE and MEAN are numbers, fractions such as ``1/127.5``, or three of them separated by commas; both may be left
    out. Raises InputError.
    """
    usage = "expected NAME=image:NHWC|NCHW:RGB|BGR|GREY[:SCALE[:MEAN]] or NAME=audio:RATE"
    name, equals, value = text.rpartition("=")
    kind, *fields = value.split(":")
    if not equals or not name:
        raise InputError(f"--input {text!r} has no NAME=; {usage}")
    if kind == "audio" and len(fields) == 1:
        rate = fields[0]
        if not re.fullmatch("[0-9]{4,6}", rate) or not 1000 <= int(rate) <= 384_000:
            raise InputError(f"--input {text!r}: {rate!r} is not a sample rate in Hz; {usage}")
        return name, AudioInput(int(rate))
    if kind == "image" and 2 <= len(fields) <= 4:
        layout, colour = fields[0].upper(), fields[1].upper().replace("GRAY", "GREY")
        if layout not in LAYOUTS:
            raise InputError(f"--input {text!r}: layout {fields[0]!r} is not one of {', '.join(LAYOUTS)}")
        if colour not in COLOURS:
            raise InputError(f"--input {text!r}: colour order {fields[1]!r} is not one of {', '.join(COLOURS)}")
        semantics = ImageInput(
            layout,
            colour,
            _numbers(fields[2], text) if len(fields) > 2 else (1.0,),
            _numbers(fields[3], text) if len(fields) > 3 else (0.0,),
        )
        if any(len(v) not in (1, semantics.channels) for v in (semantics.scale, semantics.mean)):
            counts = "1 number" if semantics.channels == 1 else f"1 or {semantics.channels} numbers"
            raise InputError(f"--input {text!r}: scale and mean take {counts}")
        with np.errstate(over="ignore"):
            used = np.asarray((*semantics.scale, *semantics.mean), dtype=np.float32)
        if not np.all(np.isfinite(used)) or not np.all(used[: len(semantics.scale)]):
            raise InputError(f"--input {text!r}: in single precision a scale must not be 0, and nothing infinite")
        return name, semantics
    raise InputError(f"--input {text!r} is not understood; {usage}")


def check_semantics(spec: TensorSpec, semantics: Semantics) -> None:
    """Raise InputError where a tensor of this specification cannot be such a picture or sound."""
    if isinstance(semantics, AudioInput):
        if spec.dtype.kind != "f":
            raise InputError(f"--input {spec.name}: sound is prepared as floating point, but the input is {spec}")
        return
    if len(spec.shape) != 4 or spec.shape[0] not in (1, None):
        raise InputError(f"--input {spec.name}: a picture is one of four dimensions, batch 1, but the input is {spec}")
    channels = spec.shape[1 if semantics.layout == "NCHW" else 3]
    if channels not in (semantics.channels, None):
        raise InputError(
            f"--input {spec.name}: {semantics.layout}:{semantics.colour} has {semantics.channels} channels, but the "
            f"input is {spec}; give the layout and colour order it was trained with"
        )
    if spec.dtype.kind != "f" and spec.dtype.itemsize != 1:
        raise InputError(f"--input {spec.name}: pictures are prepared as floats or bytes, but the input is {spec}")


def semantics_to_json(semantics: Semantics) -> dict[str, Any]:
    """The manifest's form."""
    if isinstance(semantics, AudioInput):
        return {"kind": "audio", "sample_rate": semantics.sample_rate}
    return {
        "kind": "image",
        "layout": semantics.layout,
        "colour": semantics.colour,
        "scale": list(semantics.scale),
        "mean": list(semantics.mean),
    }


def semantics_from_json(value: dict[str, Any]) -> Semantics:
    """The reverse of `semantics_to_json`; raises KeyError, TypeError or ValueError on anything else."""
    if value["kind"] == "audio":
        return AudioInput(int(value["sample_rate"]))
    if value["kind"] != "image" or value["layout"] not in LAYOUTS or value["colour"] not in COLOURS:
        raise ValueError(f"unknown input semantics {value!r}")
    return ImageInput(
        value["layout"],
        value["colour"],
        tuple(float(number) for number in value["scale"]),
        tuple(float(number) for number in value["mean"]),
    )


def prepare_image(
    frame: NDArray[np.uint8], spec: TensorSpec, semantics: ImageInput, size: tuple[int, int] | None = None
) -> Tensor:
    """A camera frame (H×W, H×W×3 or H×W×4, uint8, RGB as Pillow and picamera2's capture give it) as the model's tensor.

    The frame is stretched to the model's height and width; ``size`` (height, width) is needed where those are dynamic
    and defaults to the frame's own. Raises InputError on an empty frame or another dtype.
    """
    if frame.dtype != np.uint8 or frame.ndim not in (2, 3) or frame.size == 0:
        raise InputError(
            f"a frame for input {spec.name!r} must be a non-empty uint8 array of H×W or H×W×C; "
            f"this one is {frame.dtype} {list(frame.shape)}"
        )
    pixels = _to_colour(frame, semantics.colour, spec.name)
    height, width = _picture_size(spec, semantics, size or pixels.shape[:2])
    if pixels.shape[:2] != (height, width):
        shrinking = pixels.shape[0] * pixels.shape[1] > height * width
        method = cv2.INTER_AREA if shrinking else cv2.INTER_LINEAR
        pixels = np.asarray(cv2.resize(pixels, (width, height), interpolation=method), dtype=np.uint8)
    return from_pixels(pixels, spec, semantics)


def from_pixels(pixels: NDArray[np.uint8], spec: TensorSpec, semantics: ImageInput) -> Tensor:
    """Pixels (H×W or H×W×3, uint8, already in the tensor's colour order and size) as the model's tensor of batch 1."""
    planes = pixels[..., np.newaxis] if pixels.ndim == 2 else pixels
    if np.issubdtype(spec.dtype, np.floating):
        mean = np.asarray(semantics.mean, dtype=np.float32)
        scale = np.asarray(semantics.scale, dtype=np.float32)
        value: Tensor = ((planes.astype(np.float32) - mean) * scale).astype(spec.dtype)
    elif spec.dtype == np.int8:
        value = (planes.astype(np.int16) - 128).astype(np.int8)
    else:
        value = planes.astype(spec.dtype)
    if semantics.layout == "NCHW":
        value = value.transpose(2, 0, 1)
    return np.ascontiguousarray(value[np.newaxis])


def to_pixels(tensor: Tensor, semantics: ImageInput) -> NDArray[np.uint8]:
    """The picture (H×W×C, uint8, in the tensor's colour order) a prepared tensor of batch 1 came from, rounded.

    What is no number becomes 0, and what is none of a picture its nearest.
    """
    return _rounded(_pixel_values(tensor, semantics))


def true_pixels(tensor: Tensor, semantics: ImageInput) -> NDArray[np.uint8] | None:
    """The same; None where a value is not finite, or further than 1 from what 8-bit pixels can be."""
    values = _pixel_values(tensor, semantics)
    within = values.size and values.min() >= -1 and values.max() <= 256
    return _rounded(values) if within else None


def _pixel_values(tensor: Tensor, semantics: ImageInput) -> NDArray[np.generic]:
    planes = tensor[0].transpose(1, 2, 0) if semantics.layout == "NCHW" else tensor[0]
    if np.issubdtype(tensor.dtype, np.floating):
        mean = np.asarray(semantics.mean, dtype=np.float32)
        scale = np.asarray(semantics.scale, dtype=np.float32)
        # Runtimes give what is no number and what is none of a picture.
        with np.errstate(over="ignore", invalid="ignore"):
            return np.asarray(planes.astype(np.float32) / scale + mean)
    return np.asarray(planes.astype(np.int16) + 128 if tensor.dtype == np.int8 else planes)


def _rounded(values: NDArray[np.generic]) -> NDArray[np.uint8]:
    if np.issubdtype(values.dtype, np.floating):
        values = np.fmax(np.rint(values), 0)
    return np.ascontiguousarray(np.clip(values, 0, 255).astype(np.uint8))


def _numbers(text: str, whole: str) -> tuple[float, ...]:
    values = []
    for part in text.split(","):
        above, slash, below = part.partition("/")
        try:
            number = float(above) / (float(below) if slash else 1.0)
        except (ValueError, ZeroDivisionError):
            number = float("nan")
        if not np.isfinite(number):
            raise InputError(f"--input {whole!r}: {part!r} is not a finite number or fraction")
        values.append(number)
    return tuple(values)


def _to_colour(frame: NDArray[np.uint8], colour: Colour, name: str) -> NDArray[np.uint8]:
    channels = 1 if frame.ndim == 2 else frame.shape[2]
    if channels not in (1, 3, 4):
        raise InputError(f"a frame for input {name!r} has {channels} channels; 1, 3 or 4 are understood")
    conversions = {
        ("RGB", 1): cv2.COLOR_GRAY2RGB,
        ("RGB", 4): cv2.COLOR_RGBA2RGB,
        ("BGR", 1): cv2.COLOR_GRAY2BGR,
        ("BGR", 3): cv2.COLOR_RGB2BGR,
        ("BGR", 4): cv2.COLOR_RGBA2BGR,
        ("GREY", 3): cv2.COLOR_RGB2GRAY,
        ("GREY", 4): cv2.COLOR_RGBA2GRAY,
    }
    code = conversions.get((colour, channels))
    return frame if code is None else np.asarray(cv2.cvtColor(frame, code), dtype=np.uint8)


def _picture_size(spec: TensorSpec, semantics: ImageInput, fallback: tuple[int, ...]) -> tuple[int, int]:
    if len(spec.shape) != 4:
        raise InputError(f"input {spec} is not a picture of four dimensions ({semantics.layout})")
    height, width = semantics.size_of(spec.shape)
    return height or fallback[0], width or fallback[1]
