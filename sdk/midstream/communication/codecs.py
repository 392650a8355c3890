"""Codecs: tensors as bytes for the wire, and back; what a rung of the codec ladder does to a tensor.

- ``raw``: the elements as they lie in memory, little-endian, C order.
- ``lossless``: one method byte, then 0: the elements; 1: zlib of their bytes, ordered by place in the element.
- ``jpeg75``, ``jpeg90``: a baseline JPEG for inputs that are one picture; other tensors as in ``lossless``.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from midstream.communication.wire import DTYPES, EncodedTensor, decoded_bytes
from midstream.errors import CodecError
from midstream.inputs import ImageInput, Semantics, from_pixels, to_pixels
from midstream.tensors import Tensor, Tensors, TensorSpec, nbytes

_STORED, _DEFLATED = 0, 1
_ZLIB_LEVEL = 1
_MAX_JPEG_SIDE = 65_500
_START_OF_IMAGE, _END_OF_IMAGE = b"\xff\xd8", b"\xff\xd9"
_BASELINE_FRAME, _START_OF_SCAN = 0xC0, 0xDA
_SCAN_MARKER = bytes([0xFF, _START_OF_SCAN])
_HEADER_SEGMENTS = {0xC4, 0xDB, 0xDD, 0xFE, *range(0xE0, 0xF0)}


@dataclass(frozen=True, slots=True)
class Codec:
    """One rung. ``pictures_only``: it does more than ``lossless`` only on inputs that are pictures.

    ``jpeg_quality`` is OpenCV's, 0–100, and counts for pictures alone.
    """

    name: str
    lossless: bool
    pictures_only: bool = False
    jpeg_quality: int = 0


CODECS: dict[str, Codec] = {
    codec.name: codec
    for codec in (
        Codec("raw", lossless=True),
        Codec("lossless", lossless=True),
        Codec("jpeg75", lossless=False, pictures_only=True, jpeg_quality=75),
        Codec("jpeg90", lossless=False, pictures_only=True, jpeg_quality=90),
    )
}


def find_codec(name: str) -> Codec:
    """The codec of this name; raises CodecError naming those there are."""
    codec = CODECS.get(name) if isinstance(name, str) else None
    if codec is None:
        raise CodecError(f"codec {str(name)[:64]!r} is unknown; these are known: {', '.join(CODECS)}")
    return codec


def encode(codec: str, tensors: Mapping[str, Tensor], semantics: Mapping[str, Semantics]) -> tuple[EncodedTensor, ...]:
    """The tensors in their order. With ``raw``, contiguous arrays are not copied: leave them alone until sent.

    ``semantics`` are the bundle's, by input name. Raises CodecError on an unknown codec or a dtype that
    cannot be sent.
    """
    rung = find_codec(codec)
    return tuple(_encode_one(rung, name, tensor, semantics.get(name)) for name, tensor in tensors.items())


def decode(
    codec: str,
    encoded: Sequence[EncodedTensor],
    specs: Sequence[TensorSpec],
    semantics: Mapping[str, Semantics],
    max_bytes: int,
) -> Tensors:
    """The tensors by name, in the order of ``specs``; ``raw`` gives read-only views of the message where it can.

    Raises CodecError where the number, a dtype or a shape is not that of ``specs``,
    where the decoded tensors would have more than ``max_bytes`` in all, or where the data is not what the
    codec writes. All sizes are checked before anything is decoded.
    """
    rung = find_codec(codec)
    if len(encoded) != len(specs):
        names = ", ".join(spec.name for spec in specs) or "none"
        raise CodecError(f"{len(encoded)} tensors came, needed {len(specs)}: {names}")
    for tensor, spec in zip(encoded, specs, strict=True):
        if tensor.dtype != spec.dtype or not spec.accepts(tensor.shape):
            raise CodecError(
                f"tensor {spec.name!r} came as {tensor.dtype}{list(tensor.shape)}, needed {spec}"
                + spec.hint(tensor.shape)
            )
    total = sum(decoded_bytes(tensor.shape, tensor.dtype) for tensor in encoded)
    if total > max_bytes:
        raise CodecError(f"tensors of {total} bytes in all came; {max_bytes} are allowed")
    return {
        spec.name: _decode_one(rung, tensor, spec, semantics.get(spec.name))
        for tensor, spec in zip(encoded, specs, strict=True)
    }


def _encode_one(codec: Codec, name: str, tensor: Tensor, semantics: Semantics | None) -> EncodedTensor:
    if tensor.dtype not in DTYPES:
        raise CodecError(f"tensor {name!r} of {tensor.dtype} cannot be sent; cast it to a float or an integer")
    picture = _as_picture(codec, tensor.shape, tensor.dtype, semantics)
    data: bytes | memoryview
    if codec.name == "raw":
        data = _element_bytes(tensor).data
    elif picture is not None:
        data = _encode_jpeg(name, tensor, picture, codec.jpeg_quality)
    else:
        data = _deflate(tensor)
    return EncodedTensor(tensor.shape, tensor.dtype, data)


def _decode_one(codec: Codec, tensor: EncodedTensor, spec: TensorSpec, semantics: Semantics | None) -> Tensor:
    picture = _as_picture(codec, tensor.shape, tensor.dtype, semantics)
    if codec.name == "raw":
        return _elements(tensor.data, tensor, spec.name)
    if picture is not None:
        return _decode_jpeg(tensor, spec, picture)
    return _inflate(tensor, spec.name)


def _element_bytes(tensor: Tensor) -> NDArray[np.uint8]:
    return np.ascontiguousarray(tensor).reshape(-1).view(np.uint8)


def _elements(data: bytes | memoryview, tensor: EncodedTensor, name: str) -> Tensor:
    """The array that these bytes are; a view of them where they lie aligned."""
    needed = nbytes(tensor.dtype, tensor.shape)
    if len(data) != needed:
        raise CodecError(f"tensor {name!r} came with {len(data)} bytes, needed {needed}")
    if needed == 0:
        return np.empty(tensor.shape, tensor.dtype)
    flat = np.frombuffer(data, np.uint8)
    if tensor.dtype == np.bool_ and flat.max() > 1:
        raise CodecError(f"tensor {name!r} is of bool, but holds the byte {flat.max()}; only 0 and 1 are bool")
    value: Tensor = flat.view(tensor.dtype).reshape(tensor.shape)
    return value if value.flags.aligned else value.copy()


def _deflate(tensor: Tensor) -> bytes:
    plain = _element_bytes(tensor)
    planes = np.ascontiguousarray(plain.reshape(-1, tensor.dtype.itemsize).T)
    deflated = zlib.compress(planes.data, _ZLIB_LEVEL)
    if len(deflated) < len(plain):
        return b"".join((bytes([_DEFLATED]), deflated))
    return b"".join((bytes([_STORED]), plain.data))


def _inflate(tensor: EncodedTensor, name: str) -> Tensor:
    view = memoryview(tensor.data)
    needed = nbytes(tensor.dtype, tensor.shape)
    method = view[0] if view else None
    if method == _STORED:
        return _elements(view[1:], tensor, name)
    if method != _DEFLATED:
        raise CodecError(f"tensor {name!r} came with method {method}; known are {_STORED} and {_DEFLATED}")
    inflater = zlib.decompressobj()
    try:
        planes = inflater.decompress(view[1:], needed + 1)
    except zlib.error as error:
        raise CodecError(f"tensor {name!r} of {len(view)} bytes cannot be inflated: {error}") from None
    if len(planes) != needed or not inflater.eof or inflater.unused_data:
        raise CodecError(f"tensor {name!r} does not inflate to exactly the {needed} bytes of its shape")
    itemsize = tensor.dtype.itemsize
    plain = np.empty((needed // itemsize, itemsize), np.uint8)
    for place, plane in enumerate(np.frombuffer(planes, np.uint8).reshape(itemsize, -1)):
        plain[:, place] = plane
    return _elements(plain.reshape(-1).data, tensor, name)


def _as_picture(
    codec: Codec, shape: Sequence[int], dtype: np.dtype[np.generic], semantics: Semantics | None
) -> ImageInput | None:
    """What the picture means where a tensor travels as a JPEG; both ends ask this of the same values."""
    if not codec.pictures_only or not isinstance(semantics, ImageInput) or len(shape) != 4 or shape[0] != 1:
        return None
    height, width, channels = _picture_shape(shape, semantics)
    pixels = np.issubdtype(dtype, np.floating) or dtype in (np.dtype(np.uint8), np.dtype(np.int8))
    sides_fit = 0 < height <= _MAX_JPEG_SIDE and 0 < width <= _MAX_JPEG_SIDE
    return semantics if pixels and sides_fit and channels == semantics.channels else None


def _picture_shape(shape: Sequence[int], semantics: ImageInput) -> tuple[int, int, int]:
    """Height, width, channels."""
    _, a, b, c = shape
    return (b, c, a) if semantics.layout == "NCHW" else (a, b, c)


def _encode_jpeg(name: str, tensor: Tensor, semantics: ImageInput, quality: int) -> bytes:
    # A NaN becomes some pixel; that is as good as any.
    with np.errstate(invalid="ignore"):
        pixels = to_pixels(tensor, semantics)
    if semantics.colour == "RGB":
        pixels = np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), np.uint8)
    done, data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise CodecError(f"picture {name!r} of {list(tensor.shape)} cannot be encoded; send it with 'lossless'")
    return data.tobytes()


def _decode_jpeg(tensor: EncodedTensor, spec: TensorSpec, semantics: ImageInput) -> Tensor:
    height, width, channels = _picture_shape(tensor.shape, semantics)
    data = bytes(tensor.data)
    found = _jpeg_shape(data)
    if found != (height, width, channels):
        what = "is not a baseline JPEG of one scan" if found is None else f"is a JPEG of {list(found)}"
        raise CodecError(
            f"picture {spec.name!r} of {len(data)} bytes {what}; needed height, width and channels "
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


def _jpeg_shape(data: bytes) -> tuple[int, int, int] | None:
    """Height, width and channels from the header; None unless it is a baseline JPEG of exactly one scan.

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
