"""Tensors as bytes for the wire, and back, by a rung of the codec ladder.

With every codec but ``raw`` a tensor's data begins with one byte: in its two lowest bits how the rest is packed
(`entropy`), then ``CODED`` where the rung has coded the tensor and not left it exact, ``LAST_FIRST`` where the
codes lie with the tensor's last axis first, and ``WIDE`` where they have two bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final, cast

import numpy as np
from numpy.typing import NDArray

from midstream.communication.codecs import steps
from midstream.communication.codecs.elements import (
    element_bytes,
    from_bytes,
    pack_elements,
    unpack_elements,
)
from midstream.communication.codecs.entropy import Buffer
from midstream.communication.codecs.halves import from_bfloat16, to_bfloat16, to_float16
from midstream.communication.codecs.klt import NARROW_CODES, WIDE_CODES, Transformed, restore, transform
from midstream.communication.codecs.pictures import (
    PictureFormat,
    as_picture,
    decode_picture,
    encode_picture,
)
from midstream.communication.codecs.rungs import Codec, find_codec
from midstream.communication.codecs.sounds import SoundFormat, as_sound, decode_sound, encode_sound
from midstream.communication.codecs.steps import Stepped, dequantise, holds, keeps, kept_share, quantise
from midstream.communication.wire import DTYPES, EncodedTensor, decoded_bytes
from midstream.errors import CodecError
from midstream.inputs import Semantics
from midstream.ladder import DIGEST_BYTES, FEWEST_KEPT, UNCALIBRATED, Basis, Settings
from midstream.tensors import Tensor, Tensors, TensorSpec

CODED: Final = 0x10
LAST_FIRST: Final = 0x20
WIDE: Final = 0x40
_METHOD_MASK = 0x0F

_NARROW_STEP, _WIDE_STEP = struct.Struct("<fB"), struct.Struct("<fH")
_TRANSFORM = struct.Struct(f"<{DIGEST_BYTES}sf")
_LOSSY_DTYPES = (np.dtype(np.float32), np.dtype(np.float16))


def encode(
    codec: str,
    tensors: Mapping[str, Tensor],
    semantics: Mapping[str, Semantics],
    settings: Settings = UNCALIBRATED,
    made: Mapping[str, Stepped] | None = None,
) -> tuple[EncodedTensor, ...]:
    """The tensors in their order. With ``raw``, contiguous arrays are not copied: leave them alone until sent.

    ``semantics`` are the bundle's, by input name. ``made`` are codes that a slice has made of some tensors already,
    with ``int8``; they are taken for that codec, where they do the tensor no harm. Raises CodecError on an unknown
    codec or a dtype that cannot be sent, MissingExtraError where a codec's library is not installed.
    """
    rung, there = find_codec(codec), made or {}
    if rung.entropy is not None:
        settings = replace(settings, entropy=rung.entropy)
    return tuple(
        _encode_one(rung, name, tensor, semantics.get(name), settings, there.get(name))
        for name, tensor in tensors.items()
    )


def decode(
    codec: str,
    encoded: Sequence[EncodedTensor],
    specs: Sequence[TensorSpec],
    semantics: Mapping[str, Semantics],
    max_bytes: int,
    bases: Mapping[str, Basis] | None = None,
) -> Tensors:
    """The tensors by name, in the order of ``specs``; ``raw`` gives read-only views of the message where it can.

    ``bases`` are the bundle's at this cut, by tensor name. Raises CodecError where the number, a dtype or a shape is
    not that of ``specs``, where the decoded tensors would have more than ``max_bytes`` in all, or where the data is not
    what the codec writes. All sizes are checked before anything is decoded.
    """
    rung = find_codec(codec)
    check_table(encoded, specs, max_bytes)
    known = bases or {}
    return {
        spec.name: _decode_one(rung, tensor, spec, semantics.get(spec.name), known.get(spec.name))
        for tensor, spec in zip(encoded, specs, strict=True)
    }


def decode_codes(
    codec: str, encoded: Sequence[EncodedTensor], specs: Sequence[TensorSpec], max_bytes: int
) -> dict[str, Stepped] | None:
    """The tensors' 8-bit codes by name; None where one of them came exact, in another form, or in wider codes.

    Raises CodecError as `decode` does.
    """
    rung = find_codec(codec)
    check_table(encoded, specs, max_bytes)
    found = {}
    for tensor, spec in zip(encoded, specs, strict=True):
        form = tensor.data[0] if tensor.shape and len(tensor.data) else 0
        if rung.family != "int8" or tensor.dtype != np.float32 or form & ~_METHOD_MASK & ~LAST_FIRST != CODED:
            return None
        found[spec.name] = _unpacked_codes(form, memoryview(tensor.data)[1:], tensor, spec.name)
    return found


def check_table(encoded: Sequence[EncodedTensor], specs: Sequence[TensorSpec], max_bytes: int) -> None:
    """Raises CodecError where the number, a dtype or a shape is not that of ``specs``, or all are more than allowed."""
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


def _encode_one(
    codec: Codec, name: str, tensor: Tensor, semantics: Semantics | None, settings: Settings, made: Stepped | None
) -> EncodedTensor:
    if tensor.dtype not in DTYPES:
        raise CodecError(f"tensor {name!r} of {tensor.dtype} cannot be sent; cast it to a float or an integer")
    if codec.family == "raw":
        return EncodedTensor(tensor.shape, tensor.dtype, element_bytes(tensor).data)
    parts = _coded(codec, name, tensor, semantics, settings, made) if tensor.size and tensor.shape else None
    if parts is None:
        method, packed = pack_elements(tensor, settings.entropy)
        parts = (bytes([method]), packed)
    return EncodedTensor(tensor.shape, tensor.dtype, b"".join(parts))


def _coded(
    codec: Codec, name: str, tensor: Tensor, semantics: Semantics | None, settings: Settings, made: Stepped | None
) -> tuple[Buffer, ...] | None:
    """What the rung makes of a tensor of one value or more and one axis or more, in parts; None: it travels exact."""
    data: bytes | None
    match codec.takes:
        case "pictures":
            picture = as_picture(cast(PictureFormat, codec.family), tensor.shape, tensor.dtype, semantics)
            if picture is None:
                return None
            data = encode_picture(cast(PictureFormat, codec.family), int(codec.setting), name, tensor, picture)
        case "sounds":
            sound = as_sound(cast(SoundFormat, codec.family), tensor.shape, tensor.dtype, semantics)
            if sound is None:
                return None
            data = encode_sound(cast(SoundFormat, codec.family), codec.setting, tensor, sound)
        case _:
            coded = tensor.dtype in _LOSSY_DTYPES and codec.family != "lossless"
            return _coded_floats(codec, name, tensor, settings, made) if coded else None
    return None if data is None else (bytes([CODED]), data)


def _coded_floats(
    codec: Codec, name: str, tensor: Tensor, settings: Settings, made: Stepped | None
) -> tuple[Buffer, ...] | None:
    if codec.family in ("f16", "bf16"):
        halves: Tensor | None = to_float16(tensor) if codec.family == "f16" else to_bfloat16(tensor)
        if halves is None or not np.isfinite(tensor).all():
            return None
        method, packed = pack_elements(halves, settings.entropy)
        return bytes([CODED | method]), packed
    if codec.family == "klt":
        basis, transformed = settings.bases.get(name), _transformed(codec, name, tensor, settings)
        if basis is None or transformed is None or transformed.kept < settings.kept.get(name, 0.0):
            return None
        method, packed = pack_elements(transformed.codes, settings.entropy)
        form = CODED | method | (WIDE if transformed.codes.itemsize > 1 else 0)
        return bytes([form]), _TRANSFORM.pack(basis.digest, transformed.step), packed
    values = _floats(tensor).reshape(-1)
    fits = made is not None and codec.family == "int8" and holds(made, values)
    stepped = made if fits else quantise(values, codec.setting)
    if stepped is None or not keeps(stepped, values, settings.kept.get(name, FEWEST_KEPT)):
        return None
    last_first = name in settings.last_first and tensor.ndim > 1
    codes = stepped.codes.reshape(-1, tensor.shape[-1]).T if last_first else stepped.codes
    method, packed = pack_elements(codes, settings.entropy)
    wide = stepped.codes.itemsize > 1
    form = CODED | method | (LAST_FIRST if last_first else 0) | (WIDE if wide else 0)
    return bytes([form]), (_WIDE_STEP if wide else _NARROW_STEP).pack(stepped.step, stepped.zero), packed


def codes(codec: str, encoded: Sequence[EncodedTensor]) -> bool:
    """Whether this codec has coded any of these tensors, rather than left all of them exact."""
    return codec != "raw" and any(len(tensor.data) and tensor.data[0] & CODED for tensor in encoded)


def kept_shares(codec: str, tensors: Mapping[str, Tensor], settings: Settings) -> dict[str, float]:
    """Of each tensor that this codec quantises, the share of what is not zero that does not become zero."""
    rung = find_codec(codec)
    shares = {}
    for name, tensor in tensors.items():
        if not tensor.size or tensor.dtype not in _LOSSY_DTYPES:
            continue
        if rung.family == "klt" and (coded := _transformed(rung, name, tensor, settings)) is not None:
            shares[name] = coded.kept
        elif rung.family in ("int8", "step"):
            values = _floats(tensor).reshape(-1)
            if (stepped := quantise(values, rung.setting)) is not None:
                shares[name] = kept_share(stepped, values)
    return shares


def _transformed(codec: Codec, name: str, tensor: Tensor, settings: Settings) -> Transformed | None:
    basis = settings.bases.get(name)
    if basis is None or not basis.fits(tensor.shape):
        return None
    return transform(_floats(tensor), basis, codec.setting)


def _floats(tensor: Tensor) -> NDArray[np.float32]:
    return np.ascontiguousarray(tensor, np.float32)


def _decode_one(
    codec: Codec, tensor: EncodedTensor, spec: TensorSpec, semantics: Semantics | None, basis: Basis | None
) -> Tensor:
    if codec.family == "raw":
        return from_bytes(tensor.data, tensor, spec.name)
    view = memoryview(tensor.data)
    form = view[0] if view else 0xFF
    method, rest = form & _METHOD_MASK, view[1:]
    if form == method:
        return unpack_elements(method, rest, tensor, spec.name)
    found = _decoded(codec, form, rest, tensor, spec, semantics, basis)
    if found is None:
        raise CodecError(f"tensor {spec.name!r} came in form {form:#04x}, which {codec.name!r} does not make of {spec}")
    return found


def _decoded(
    codec: Codec,
    form: int,
    rest: memoryview,
    tensor: EncodedTensor,
    spec: TensorSpec,
    semantics: Semantics | None,
    basis: Basis | None,
) -> Tensor | None:
    """The tensor that the rung has coded; None where it cannot have. Raises CodecError on damage."""
    if codec.takes == "pictures":
        picture = as_picture(cast(PictureFormat, codec.family), tensor.shape, tensor.dtype, semantics)
        if picture is None or form != CODED:
            return None
        return decode_picture(cast(PictureFormat, codec.family), bytes(rest), tensor.shape, spec, picture)
    if codec.takes == "sounds":
        sound = as_sound(cast(SoundFormat, codec.family), tensor.shape, tensor.dtype, semantics)
        if sound is None or form != CODED:
            return None
        samples = decode_sound(cast(SoundFormat, codec.family), bytes(rest), tensor.shape, sound, spec.name)
        return samples.astype(tensor.dtype)
    if tensor.dtype not in _LOSSY_DTYPES or codec.family == "lossless":
        return None
    flags = form & ~_METHOD_MASK
    if codec.family in ("f16", "bf16") and flags == CODED:
        return _decoded_halves(codec, form & _METHOD_MASK, rest, tensor, spec.name)
    if codec.family == "klt" and flags & ~WIDE == CODED:
        return _restored(form, rest, tensor, spec.name, basis)
    if codec.family in ("int8", "step") and flags & ~WIDE & ~LAST_FIRST == CODED and tensor.shape:
        values = dequantise(_unpacked_codes(form, rest, tensor, spec.name))
        return _as_dtype(values.reshape(tensor.shape), tensor.dtype)
    return None


def _decoded_halves(codec: Codec, method: int, rest: memoryview, tensor: EncodedTensor, name: str) -> Tensor:
    dtype = np.dtype(np.float16 if codec.family == "f16" else np.uint16)
    halves = unpack_elements(method, rest, EncodedTensor(tensor.shape, dtype, b""), name)
    if codec.family == "bf16":
        halves = from_bfloat16(cast("NDArray[np.uint16]", halves))
    with np.errstate(over="ignore"):
        return halves.astype(tensor.dtype)


def _unpacked_codes(form: int, rest: memoryview, tensor: EncodedTensor, name: str) -> Stepped:
    header, dtype = (_WIDE_STEP, steps.WIDE_CODES) if form & WIDE else (_NARROW_STEP, steps.NARROW_CODES)
    if len(rest) < header.size:
        raise CodecError(f"tensor {name!r} came with {len(rest)} bytes, too few for a step")
    step, zero = header.unpack_from(rest)
    _check_step(step, name)
    shape = (tensor.shape[-1], -1) if form & LAST_FIRST else tensor.shape
    packed = EncodedTensor((int(np.prod(tensor.shape)),), dtype, b"")
    codes = unpack_elements(form & _METHOD_MASK, rest[header.size :], packed, name).reshape(shape)
    flat = cast("NDArray[np.unsignedinteger]", (codes.T if form & LAST_FIRST else codes).reshape(-1))
    return Stepped(step, zero, flat)


def _restored(form: int, rest: memoryview, tensor: EncodedTensor, name: str, basis: Basis | None) -> Tensor:
    if len(rest) < _TRANSFORM.size:
        raise CodecError(f"tensor {name!r} came with {len(rest)} bytes, too few for a transform")
    digest, step = _TRANSFORM.unpack_from(rest)
    if basis is None or basis.digest != digest or not basis.fits(tensor.shape):
        raise CodecError(
            f"tensor {name!r} came in a basis that this bundle does not hold; calibrate once, and copy the bundle's "
            "codecs.json to both ends"
        )
    _check_step(step, name)
    positions = int(np.prod(tensor.shape)) // len(basis.mean)
    packed = EncodedTensor((len(basis.vectors), positions), WIDE_CODES if form & WIDE else NARROW_CODES, b"")
    codes = unpack_elements(form & _METHOD_MASK, rest[_TRANSFORM.size :], packed, name)
    restored = restore(Transformed(step, 1.0, cast("NDArray[np.signedinteger]", codes)), basis, tensor.shape)
    return _as_dtype(restored, tensor.dtype)


def _as_dtype(values: NDArray[np.float32], dtype: np.dtype[np.generic]) -> Tensor:
    if dtype == values.dtype:
        return values
    with np.errstate(over="ignore"):
        return values.astype(dtype)


def _check_step(step: float, name: str) -> None:
    if not 0 < step < np.inf:
        raise CodecError(f"tensor {name!r} came with a step of {step}, needed a finite number above 0")
