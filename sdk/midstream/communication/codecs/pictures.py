"""Pictures as whole inputs, in the formats that every viewer reads; sizes are known before anything is decoded."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Final, Literal

import cv2
import numpy as np

from midstream.errors import CodecError
from midstream.inputs import ImageInput, Semantics, from_pixels, true_pixels
from midstream.tensors import Tensor, TensorSpec

PictureFormat = Literal["png", "jpeg", "webp"]
LOSSLESS_QUALITY: Final = 101
"""OpenCV's quality above which a WebP loses nothing."""

_MAX_SIDE = {"jpeg": 65_500, "png": 65_500, "webp": 16_383}
_START_OF_IMAGE, _END_OF_IMAGE = b"\xff\xd8", b"\xff\xd9"
_BASELINE_FRAME, _START_OF_SCAN = 0xC0, 0xDA
_SCAN_MARKER = bytes([0xFF, _START_OF_SCAN])
_HEADER_SEGMENTS = {0xC4, 0xDB, 0xDD, 0xFE, *range(0xE0, 0xF0)}
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_HEAD = _PNG_SIGNATURE + b"\0\0\0\rIHDR"
_PNG_LEVEL = 1
# Bit depth 8; grey or RGB; deflate, adaptive filters, not interlaced.
_PNG_COLOURS = {b"\x08\0\0\0\0": 1, b"\x08\x02\0\0\0": 3}

Shape = tuple[int, int, int]
"""Height, width, channels."""


def as_picture(
    kind: PictureFormat, shape: Sequence[int], dtype: np.dtype[np.generic], semantics: Semantics | None
) -> ImageInput | None:
    """What a tensor means where it can travel as one picture, else None; both ends ask this of the same values."""
    if not isinstance(semantics, ImageInput) or len(shape) != 4 or shape[0] != 1:
        return None
    height, width, channels = _picture_shape(shape, semantics)
    pixels = np.issubdtype(dtype, np.floating) or dtype in (np.dtype(np.uint8), np.dtype(np.int8))
    sides_fit = 0 < height <= _MAX_SIDE[kind] and 0 < width <= _MAX_SIDE[kind]
    return semantics if pixels and sides_fit and channels == semantics.channels else None


def encode_picture(kind: PictureFormat, quality: int, name: str, tensor: Tensor, semantics: ImageInput) -> bytes | None:
    """The picture's file; None where a value is none of a picture.

    Of a format that loses nothing, None where the tensor holds more than 8-bit pixels do.
    """
    pixels = true_pixels(tensor, semantics)
    if pixels is None:
        return None
    if keeps_all(kind, quality):
        spec = TensorSpec(name, tensor.dtype, tensor.shape)
        if from_pixels(pixels, spec, semantics).tobytes() != np.ascontiguousarray(tensor).tobytes():
            return None
    if semantics.colour == "RGB":
        pixels = np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), np.uint8)
    options = {
        "png": [cv2.IMWRITE_PNG_COMPRESSION, _PNG_LEVEL],
        "jpeg": [cv2.IMWRITE_JPEG_QUALITY, quality],
        "webp": [cv2.IMWRITE_WEBP_QUALITY, quality],
    }
    done, data = cv2.imencode(f".{kind}", pixels, options[kind])
    if not done:
        raise CodecError(f"picture {name!r} of {list(tensor.shape)} cannot be encoded; send it with 'lossless'")
    return data.tobytes()


def keeps_all(kind: PictureFormat, quality: int) -> bool:
    """Whether a picture comes back as it was."""
    return kind == "png" or (kind == "webp" and quality >= LOSSLESS_QUALITY)


def decode_picture(
    kind: PictureFormat, data: bytes, shape: Sequence[int], spec: TensorSpec, semantics: ImageInput
) -> Tensor:
    """The tensor that was a picture. Raises CodecError where the file is damaged, of another kind or size."""
    height, width, channels = _picture_shape(shape, semantics)
    read, what = _READERS[kind]
    found = read(data)
    # WebP has no grey: its pictures are all in colour.
    wanted = (height, width, 3 if kind == "webp" else channels)
    if found != wanted:
        seen = f"is not {what}" if found is None else f"is a {kind.upper()} of {list(found)}"
        raise CodecError(
            f"picture {spec.name!r} of {len(data)} bytes {seen}; needed height, width and channels "
            f"{[height, width, channels]}"
        )
    flag = cv2.IMREAD_GRAYSCALE if channels == 1 else cv2.IMREAD_COLOR
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flag | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        raise CodecError(f"picture {spec.name!r} of {len(data)} bytes cannot be decoded: {error.err}") from None
    if pixels is None or pixels.shape[:2] != (height, width):
        raise CodecError(f"picture {spec.name!r} of {len(data)} bytes cannot be decoded: it is damaged")
    if semantics.colour == "RGB":
        pixels = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
    return from_pixels(np.asarray(pixels, np.uint8), spec, semantics)


def _picture_shape(shape: Sequence[int], semantics: ImageInput) -> Shape:
    _, a, b, c = shape
    return (b, c, a) if semantics.layout == "NCHW" else (a, b, c)


def _jpeg_shape(data: bytes) -> Shape | None:
    """From the header; None unless it is a baseline JPEG of exactly one scan.

    Progressive and multi-scan files are refused because each further scan of a few bytes costs a pass over
    the whole picture. Within entropy-coded data every 0xFF is followed by a zero or a restart marker, so
    scans can be counted.
    """
    if not data.startswith(_START_OF_IMAGE) or not data.endswith(_END_OF_IMAGE):
        return None
    shape = None
    at = len(_START_OF_IMAGE)
    while at + 4 <= len(data):
        marker, size = data[at + 1], int.from_bytes(data[at + 2 : at + 4])
        segment = data[at + 4 : at + 2 + size]
        if data[at] != 0xFF or len(segment) != size - 2:
            return None
        if marker == _START_OF_SCAN:
            one_scan = shape is not None and segment[:1] == bytes([shape[2]])
            rest = data[at + 2 + size :]
            return shape if one_scan and _SCAN_MARKER not in rest else None
        if marker == _BASELINE_FRAME and shape is None and size >= 8:
            shape = (int.from_bytes(segment[1:3]), int.from_bytes(segment[3:5]), segment[5])
        elif marker not in _HEADER_SEGMENTS:
            return None
        at += 2 + size
    return None


def _png_shape(data: bytes) -> Shape | None:
    """From the header; None unless it is a PNG of 8 bits, grey or RGB, not interlaced, without optional chunks.

    Those may hold more than the picture does, such as compressed text and colour profiles.
    """
    if not data.startswith(_PNG_HEAD) or data[24:29] not in _PNG_COLOURS:
        return None
    at = len(_PNG_SIGNATURE)
    while (kind := data[at + 4 : at + 8]) != b"IEND":
        if kind not in (b"IHDR", b"IDAT"):
            return None
        at += 12 + int.from_bytes(data[at : at + 4])
    if at + 12 != len(data):
        return None
    width, height = struct.unpack(">II", data[16:24])
    return height, width, _PNG_COLOURS[data[24:29]]


def _webp_shape(data: bytes) -> Shape | None:
    """From the header; None unless it is a WebP of one plain picture, lossy or lossless, without extended features."""
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP" or len(data) < 30:
        return None
    if int.from_bytes(data[4:8], "little") + 8 != len(data):
        return None
    if data[12:16] == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        width, height = struct.unpack("<HH", data[26:30])
        return height & 0x3FFF, width & 0x3FFF, 3
    if data[12:16] == b"VP8L" and data[20] == 0x2F:
        bits = int.from_bytes(data[21:25], "little")
        return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1, 3
    return None


_READERS: dict[str, tuple[Callable[[bytes], Shape | None], str]] = {
    "jpeg": (_jpeg_shape, "a baseline JPEG of one scan"),
    "png": (_png_shape, "a PNG of 8 bits, grey or RGB, not interlaced, of IHDR, IDAT and IEND alone"),
    "webp": (_webp_shape, "a WebP of one plain picture"),
}
