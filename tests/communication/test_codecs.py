from __future__ import annotations

import signal
import struct
import time
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from midstream.communication.codecs import (
    ALL_RUNGS,
    PICTURE_RUNGS,
    SOUND_RUNGS,
    TENSOR_RUNGS,
    codes,
    decode,
    encode,
    find_codec,
)
from midstream.communication.wire import DTYPES, EncodedTensor, Reply, Status, decode_reply, encode_reply
from midstream.errors import CodecError
from midstream.inputs import AudioInput, Colour, ImageInput, Layout, Semantics, from_pixels, to_pixels
from midstream.ladder import ENTROPIES, Basis, Entropy, Ladder, Place, Settings
from midstream.tensors import Tensor, TensorSpec

PLENTY = 1 << 20
FLOAT32 = np.dtype(np.float32)
LOSSLESS = [name for name in ALL_RUNGS if find_codec(name).lossless]


def spec_of(name: str, tensor: Tensor) -> TensorSpec:
    return TensorSpec(name, tensor.dtype, tensor.shape)


def round_trip(codec: str, tensor: Tensor, semantics: ImageInput | None = None) -> Tensor:
    known = {} if semantics is None else {"x": semantics}
    encoded = encode(codec, {"x": tensor}, known)
    return decode(codec, encoded, [spec_of("x", tensor)], known, PLENTY)["x"]


def picture(height: int = 48, width: int = 80) -> NDArray[np.uint8]:
    """Left to right the first channel grows, top to bottom the last; the middle one stays dark."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0] = np.linspace(0, 255, width)
    pixels[..., 2] = np.linspace(0, 255, height)[:, np.newaxis]
    return pixels


def assert_bits(found: Tensor, wanted: Tensor) -> None:
    assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape)
    assert found.tobytes() == wanted.tobytes()


@st.composite
def arrays(draw: st.DrawFn) -> Tensor:
    dtype = draw(st.sampled_from(DTYPES))
    shape = tuple(draw(st.lists(st.integers(0, 6), max_size=4)))
    size = int(np.prod(shape)) * dtype.itemsize
    data = draw(st.binary(min_size=size, max_size=size)) if draw(st.booleans()) else bytes(size)
    plain = np.frombuffer(data, np.uint8)
    array: Tensor = (plain & 1 if dtype == np.bool_ else plain).view(dtype).reshape(shape)
    return array.T if draw(st.booleans()) else array


@pytest.mark.parametrize("codec", LOSSLESS)
@settings(deadline=None)
@given(tensor=arrays())
def test_every_bit_survives(codec: str, tensor: Tensor) -> None:
    assert_bits(round_trip(codec, tensor), tensor)


@pytest.mark.parametrize("codec", LOSSLESS)
@settings(deadline=None)
@given(tensor=arrays(), other=arrays())
def test_every_bit_survives_the_wire(codec: str, tensor: Tensor, other: Tensor) -> None:
    values = {"a": tensor, "b": other}
    reply = Reply(bytes(16), Status.OK, encode(codec, values, {}), codec, 0, 0, outputs=(0, 1))
    received = decode_reply(encode_reply(reply))
    found = decode(received.codec, received.tensors, [spec_of(k, v) for k, v in values.items()], {}, PLENTY)
    assert list(found) == ["a", "b"]
    assert_bits(found["a"], tensor)
    assert_bits(found["b"], other)


@pytest.mark.parametrize("codec", LOSSLESS)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_nan_payloads_survive(codec: str, dtype: type[np.floating]) -> None:
    bits = np.dtype(dtype).itemsize * 8
    quiet = np.array([2 ** (bits - 1) - 1 - n for n in range(40)], dtype=f"u{bits // 8}")
    assert np.isnan(quiet.view(dtype)).all()
    assert_bits(round_trip(codec, quiet.view(dtype)), quiet.view(dtype))


def test_raw_copies_nothing() -> None:
    tensor = np.arange(1000, dtype=np.float32).reshape(10, 100)
    (encoded,) = encode("raw", {"x": tensor}, {})
    assert np.shares_memory(np.frombuffer(encoded.data, np.uint8), tensor)
    found = decode("raw", [encoded], [spec_of("x", tensor)], {}, PLENTY)["x"]
    assert np.shares_memory(found, tensor)


def test_raw_realigns_what_lies_askew() -> None:
    tensor = np.arange(10, dtype=np.float64)
    askew = EncodedTensor((10,), tensor.dtype, memoryview(b"!" + tensor.tobytes())[1:])
    found = decode("raw", [askew], [spec_of("x", tensor)], {}, PLENTY)["x"]
    assert found.flags.aligned
    assert_bits(found, tensor)


def test_lossless_gains_where_it_can_and_never_costs_more_than_a_byte() -> None:
    smooth = np.linspace(1, 2, 10_000, dtype=np.float32)
    noise = np.frombuffer(np.random.default_rng(1).bytes(40_000), np.float32)
    (small,) = encode("lossless", {"x": smooth}, {})
    (large,) = encode("lossless", {"x": noise}, {})
    assert len(small.data) < 0.6 * smooth.nbytes
    assert len(small.data) < 0.8 * len(zlib.compress(smooth.tobytes(), 1))
    assert (small.data[0], large.data[0]) == (1, 0)
    assert len(large.data) == noise.nbytes + 1


def test_lossless_takes_hardly_longer_than_its_compressor() -> None:
    tensor = np.maximum(np.random.default_rng(1).normal(size=250_000), 0).astype(np.float32)
    planes = np.ascontiguousarray(tensor.view(np.uint8).reshape(-1, 4).T).data

    def fastest(work) -> float:  # type: ignore[no-untyped-def]
        times = []
        for _ in range(5):
            start = time.process_time()
            work()
            times.append(time.process_time() - start)
        return min(times)

    alone = fastest(lambda: zlib.compress(planes, 1))
    assert fastest(lambda: encode("lossless", {"x": tensor}, {})) < 1.5 * alone


@pytest.mark.parametrize("codec", ["jpeg75", "jpeg90"])
@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize("colour", ["RGB", "BGR"])
@pytest.mark.parametrize(
    ("dtype", "scale", "mean"),
    [
        (np.float32, (1 / 127.5,), (127.5,)),
        (np.float32, (0.01, 0.02, 0.03), (100.0, 110.0, 120.0)),
        (np.float16, (1 / 255,), (0.0,)),
        (np.uint8, (1.0,), (0.0,)),
        (np.int8, (1.0,), (0.0,)),
    ],
)
def test_a_picture_survives_nearly(  # type: ignore[no-untyped-def]
    codec: str, layout: Layout, colour: Colour, dtype, scale: tuple[float, ...], mean: tuple[float, ...]
) -> None:
    semantics = ImageInput(layout, colour, scale, mean)
    shape = (1, 48, 80, 3) if layout == "NHWC" else (1, 3, 48, 80)
    tensor = from_pixels(picture(), TensorSpec("x", np.dtype(dtype), shape), semantics)
    found = round_trip(codec, tensor, semantics)
    assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape)
    error = np.abs(to_pixels(found, semantics).astype(int) - picture())
    assert error.mean() < 3
    assert error.max() < 30


@pytest.mark.parametrize("colour", ["RGB", "BGR"])
def test_others_see_the_colours_that_were_meant(colour: Colour) -> None:
    semantics = ImageInput("NHWC", colour)
    red = np.zeros((1, 16, 16, 3), np.uint8)
    red[..., 0 if colour == "RGB" else 2] = 255
    (encoded,) = encode("jpeg90", {"x": red}, {"x": semantics})
    blue_green_red = cv2.imdecode(np.frombuffer(encoded.data, np.uint8)[1:], cv2.IMREAD_COLOR)
    assert blue_green_red is not None
    assert np.abs(blue_green_red[8, 8].astype(int) - [0, 0, 255]).max() < 8


@pytest.mark.parametrize(("layout", "shape"), [("NHWC", (1, 20, 30, 1)), ("NCHW", (1, 1, 20, 30))])
def test_a_grey_picture_survives_nearly(layout: Layout, shape: tuple[int, ...]) -> None:
    grey = np.linspace(0, 255, 600).astype(np.uint8).reshape(shape)
    found = round_trip("jpeg90", grey, ImageInput(layout, "GREY"))
    assert found.shape == shape
    assert np.abs(found.astype(int) - grey).mean() < 3


def test_less_quality_is_less_to_send() -> None:
    noise = np.random.default_rng(1).integers(0, 255, (1, 64, 64, 3), np.uint8)
    known = {"x": ImageInput("NHWC", "RGB")}
    sizes = [len(encode(codec, {"x": noise}, known)[0].data) for codec in ("jpeg75", "jpeg90", "lossless")]
    assert sizes == sorted(sizes)
    assert sizes[0] < 0.8 * sizes[1]


@pytest.mark.parametrize(
    "tensor",
    [
        np.ones((2, 8, 8, 3), np.float32),
        np.ones((1, 8, 8, 4), np.float32),
        np.ones((1, 8, 8), np.float32),
        np.ones((1, 0, 8, 3), np.float32),
        np.ones((1, 8, 8, 3), np.int32),
    ],
)
def test_what_is_not_one_picture_travels_lossless(tensor: Tensor) -> None:
    assert_bits(round_trip("jpeg75", tensor, ImageInput("NHWC", "RGB")), tensor)


def test_tensors_beside_a_picture_travel_lossless() -> None:
    values: dict[str, Tensor] = {
        "threshold": np.array(0.1, np.float32),
        "frame": picture()[np.newaxis],
        "sound": np.linspace(-1, 1, 99, dtype=np.float32),
    }
    known: dict[str, Semantics] = {"frame": ImageInput("NHWC", "RGB"), "sound": AudioInput(16_000)}
    encoded = encode("jpeg75", values, known)
    specs = [spec_of(name, value) for name, value in values.items()]
    found = decode("jpeg75", encoded, specs, known, PLENTY)
    assert_bits(found["threshold"], values["threshold"])
    assert_bits(found["sound"], values["sound"])
    assert 0 < np.abs(found["frame"].astype(int) - values["frame"]).mean() < 3


def test_codecs_say_what_they_are() -> None:
    assert LOSSLESS == ["raw", "lossless", "png", "webp101"]
    taken = {name: find_codec(name).takes for name in ALL_RUNGS}
    assert {name for name, takes in taken.items() if takes == "pictures"} == set(PICTURE_RUNGS)
    assert {name for name, takes in taken.items() if takes == "sounds"} == set(SOUND_RUNGS)
    assert find_codec("step0.25").setting == 0.25


@pytest.mark.parametrize(
    ("family", "settings"),
    [("jpeg", range(1, 101)), ("webp", range(1, 102)), ("opus", range(6, 257)), ("step", range(1, 101)), ("klt", [8])],
)
def test_every_whole_setting_has_a_name(family: str, settings: Sequence[int]) -> None:
    for setting in settings:
        codec = find_codec(f"{family}{setting}")
        assert (codec.name, codec.family, codec.setting) == (f"{family}{setting}", family, setting)


@pytest.mark.parametrize(
    "name",
    [
        *(
            "",
            "gzip",
            "jpeg",
            "jpeg0",
            "jpeg101",
            "jpeg7.5",
            "jpeg075",
            "step",
            "step0",
            "step00.5",
            "step.5",
            "step1e3",
        ),
        *("int8 ", "int16", "klt101", "webp102", "opus5", "RAW", "step0.500", "jpeg٣", "x" * 33, None, 7),
    ],
)
def test_a_name_that_is_no_codec_is_refused(name: object) -> None:
    with pytest.raises(CodecError, match="is unknown; there are raw, lossless"):
        find_codec(name)  # type: ignore[arg-type]


def test_an_unknown_codec_is_named() -> None:
    with pytest.raises(CodecError, match="codec 'gzip' is unknown; there are raw, lossless"):
        encode("gzip", {}, {})
    with pytest.raises(CodecError, match="unknown"):
        decode("gzip", [], [], {}, PLENTY)


@pytest.mark.parametrize("dtype", ["c8", "U3", "O", ">f4", "M8[s]"])
def test_a_dtype_that_cannot_be_sent_is_named(dtype: str) -> None:
    with pytest.raises(CodecError, match=r"tensor 'x' of .* cannot be sent"):
        encode("raw", {"x": np.zeros(2, dtype)}, {})


SPEC = TensorSpec("x", FLOAT32, (None, 3))


@pytest.mark.parametrize(
    ("encoded", "reason"),
    [
        ([], "0 tensors came, needed 1: x"),
        ([EncodedTensor((1, 3), np.dtype(np.int32), bytes(12))], r"'x' came as int32\[1, 3\], needed x: float32"),
        ([EncodedTensor((1, 4), FLOAT32, bytes(16))], r"came as float32\[1, 4\]"),
        ([EncodedTensor((3,), FLOAT32, bytes(12))], r"came as float32\[3\]"),
        ([EncodedTensor((2, 3), FLOAT32, bytes(23))], "came with 23 bytes, needed 24"),
        ([EncodedTensor((9, 3), FLOAT32, bytes(108))], "108 bytes in all came; 100 are allowed"),
        ([EncodedTensor((2**31, 3), FLOAT32, b"")], "25769803776 bytes in all came; 100 are allowed"),
    ],
)
def test_what_was_not_announced_is_refused(encoded: list[EncodedTensor], reason: str) -> None:
    with pytest.raises(CodecError, match=reason):
        decode("raw", encoded, [SPEC], {}, max_bytes=100)


def test_the_limit_holds_for_all_tensors_together() -> None:
    part = EncodedTensor((4, 3), FLOAT32, bytes(48))
    specs = [SPEC, TensorSpec("y", FLOAT32, (None, 3))]
    assert len(decode("raw", [part, part], specs, {}, max_bytes=96)) == 2
    with pytest.raises(CodecError, match="96 bytes in all came; 95 are allowed"):
        decode("raw", [part, part], specs, {}, max_bytes=95)


def test_a_bool_that_is_neither_is_refused() -> None:
    spec = TensorSpec("x", np.dtype(np.bool_), (3,))
    for codec, data in (("raw", b"\0\1\2"), ("lossless", b"\0\0\1\2"), ("lossless", b"\1" + deflated(b"\0\1\2"))):
        with pytest.raises(CodecError, match="holds the byte 2"):
            decode(codec, [EncodedTensor((3,), spec.dtype, data)], [spec], {}, PLENTY)


def deflated(plain: bytes) -> bytes:
    packer = zlib.compressobj(1, zlib.DEFLATED, -15)
    return packer.compress(plain) + packer.flush()


DEFLATED = b"\1" + deflated(bytes(24))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0",
        b"\1",
        b"\4" + bytes(24),
        b"\3" + bytes(24),
        b"\x13" + bytes(24),
        b"\x80" + bytes(24),
        b"\0" + bytes(25),
        DEFLATED[:-1],
        DEFLATED + b"!",
        b"\1" + deflated(bytes(23)),
        b"\1" + deflated(bytes(25)),
        b"\1" + deflated(b""),
    ],
)
def test_damaged_lossless_data_is_refused(data: bytes) -> None:
    spec = TensorSpec("x", FLOAT32, (2, 3))
    assert decode("lossless", [EncodedTensor((2, 3), FLOAT32, DEFLATED)], [spec], {}, PLENTY)["x"].sum() == 0
    with pytest.raises(CodecError, match="tensor 'x'"):
        decode("lossless", [EncodedTensor((2, 3), FLOAT32, data)], [spec], {}, PLENTY)


def test_a_tensor_may_come_empty_where_its_sizes_follow_from_content() -> None:
    none_found = np.empty((0, 4), np.float32)
    boxes = TensorSpec("boxes", none_found.dtype, (None, 4), may_be_empty=True)
    batch = replace(boxes, may_be_empty=False)
    for codec in ("raw", "lossless"):
        encoded = encode(codec, {"boxes": none_found}, {})
        assert_bits(decode(codec, encoded, [boxes], {}, PLENTY)["boxes"], none_found)
        with pytest.raises(CodecError, match=r"float32\[0, 4\], needed boxes: float32\[\?, 4\]; \? is 1 or more"):
            decode(codec, encoded, [batch], {}, PLENTY)


@pytest.mark.parametrize("codec", PICTURE_RUNGS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e6, -2.0, 258.0])
def test_what_is_none_of_a_picture_travels_exact(codec: str, value: float) -> None:
    semantics = ImageInput("NHWC", "RGB")
    tensor = from_pixels(picture(), TensorSpec("x", FLOAT32, (1, 48, 80, 3)), semantics)
    tensor[0, 20, 30, 1] = value
    assert_bits(round_trip(codec, tensor, semantics), tensor)


def test_a_picture_that_was_resized_as_floats_is_still_one() -> None:
    semantics = ImageInput("NHWC", "RGB", (1 / 127.5,), (127.5,))
    tensor = from_pixels(picture(), TensorSpec("x", FLOAT32, (1, 48, 80, 3)), semantics)
    tensor[0, 20, 30, 1] = 1.003
    assert codes("jpeg90", encode("jpeg90", {"x": tensor}, {"x": semantics}))


def test_a_picture_with_what_is_no_number_is_encoded_without_a_warning() -> None:
    semantics = ImageInput("NHWC", "RGB", (1e-30,), (0.0,))
    tensor = np.full((1, 16, 16, 3), np.nan, np.float32)
    tensor[0, :8] = np.inf
    tensor[0, 8:12] = 3e38
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels = to_pixels(tensor, semantics)
        encode("jpeg90", {"x": tensor}, {"x": semantics})
    assert pixels[:12].min() == 255
    assert pixels[12:].max() == 0


def test_an_empty_tensor_may_come_deflated() -> None:
    spec = TensorSpec("x", FLOAT32, (0, 3))
    encoded = [EncodedTensor((0, 3), FLOAT32, b"\1" + deflated(b""))]
    assert decode("lossless", encoded, [spec], {}, PLENTY)["x"].shape == (0, 3)


def test_a_deflate_bomb_is_refused_before_it_opens() -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = b"\1" + b"".join(packer.compress(bytes(1 << 20)) for _ in range(64)) + packer.flush()
    spec = TensorSpec("x", FLOAT32, (2, 3))
    start = time.process_time()
    with pytest.raises(CodecError, match="does not inflate to exactly the 24 bytes"):
        decode("lossless", [EncodedTensor((2, 3), FLOAT32, bomb)], [spec], {}, PLENTY)
    assert time.process_time() - start < 0.05


RGB = {"x": ImageInput("NHWC", "RGB")}
FRAME = TensorSpec("x", np.dtype(np.uint8), (1, None, None, 3))


def jpeg(pixels: NDArray[np.uint8], *options: int) -> bytes:
    done, data = cv2.imencode(".jpg", pixels, list(options))
    assert done
    return bytes(data.tobytes())


def decode_frame(data: bytes, shape: tuple[int, ...] = (1, 48, 80, 3)) -> Tensor:
    return decode("jpeg75", [EncodedTensor(shape, FRAME.dtype, b"\x10" + data)], [FRAME], RGB, PLENTY)["x"]


def test_a_picture_of_another_size_is_refused_unopened(monkeypatch: pytest.MonkeyPatch) -> None:
    data = jpeg(picture())
    assert decode_frame(data).shape == (1, 48, 80, 3)
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("a picture was opened before its size was checked"))
    with pytest.raises(CodecError, match=r"is a JPEG of \[48, 80, 3\]; needed .* \[47, 80, 3\]"):
        decode_frame(data, (1, 47, 80, 3))
    with pytest.raises(CodecError, match=r"is a JPEG of \[48, 80, 1\]"):
        decode_frame(jpeg(picture()[..., 0]))


def test_a_frame_header_that_promises_too_much_is_refused() -> None:
    data = bytearray(jpeg(picture()))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = b"\xff\xdc\xff\xdc"
    with pytest.raises(CodecError, match=r"is a JPEG of \[65500, 65500, 3\]"):
        decode_frame(bytes(data))
    with pytest.raises(CodecError, match="bytes in all came"):
        decode_frame(bytes(data), (1, 65500, 65500, 3))


def test_more_scans_than_one_are_refused() -> None:
    data = jpeg(picture())
    scan = data[data.index(b"\xff\xda") : -2]
    for hostile in (
        jpeg(picture(), cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
        data[:-2] + scan * 3 + b"\xff\xd9",
    ):
        with pytest.raises(CodecError, match="not a baseline JPEG of one scan"):
            decode_frame(hostile)


def test_the_orientation_a_camera_noted_is_not_applied() -> None:
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    data = jpeg(picture())
    noted = data[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2) + exif + data[2:]
    turned = cv2.imdecode(np.frombuffer(noted, np.uint8), cv2.IMREAD_COLOR)
    assert turned is not None
    assert turned.shape == (80, 48, 3)
    assert_bits(decode_frame(noted), decode_frame(data))


@pytest.mark.parametrize("end", range(0, 700, 7))
def test_a_truncated_picture_is_refused(end: int) -> None:
    with pytest.raises(CodecError):
        decode_frame(jpeg(picture())[:end])


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(ALL_RUNGS),
    st.sampled_from([b"", b"\0", b"\1", DEFLATED, b"\xff\xd8", jpeg(picture(2, 1))]),
    st.binary(max_size=60),
    st.sampled_from([b"", b"\xff\xd9"]),
    st.lists(st.integers(0, 4), max_size=5).map(tuple),
    st.sampled_from(DTYPES),
)
def test_random_data_raises_codec_errors_only(  # type: ignore[no-untyped-def]
    codec: str, start: bytes, data: bytes, end: bytes, shape: tuple[int, ...], dtype
) -> None:
    spec = TensorSpec("x", dtype, (None,) * len(shape))
    try:
        found = decode(codec, [EncodedTensor(shape, dtype, start + data + end)], [spec], RGB, 1000)["x"]
    except CodecError:
        return
    assert (found.dtype, found.shape) == (dtype, shape)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(["lossless", "jpeg90"]),
    st.lists(st.tuples(st.integers(0, 10**9), st.integers(1, 255)), min_size=1, max_size=3),
)
def test_flipped_bits_raise_codec_errors_only(codec: str, flips: list[tuple[int, int]]) -> None:
    frame = picture()[np.newaxis]
    (encoded,) = encode(codec, {"x": frame}, RGB)
    damaged = bytearray(encoded.data)
    for place, bits in flips:
        damaged[place % len(damaged)] ^= bits
    try:
        found = decode(codec, [EncodedTensor(frame.shape, frame.dtype, bytes(damaged))], [FRAME], RGB, PLENTY)["x"]
    except CodecError:
        return
    assert found.shape == frame.shape


HARD: dict[str, Tensor] = {
    "empty": np.empty((0, 3), np.float32),
    "scalar": np.array(3.25, np.float32),
    "zero": np.zeros((1, 8, 8, 4), np.float32),
    "minus zero": np.full((1, 4), -0.0, np.float32),
    "constant": np.full((1, 8, 8, 4), 0.7, np.float32),
    "denormal": np.full((1, 64), 1e-42, np.float32),
    "nan": np.where(np.arange(64) == 7, np.nan, np.arange(64)).astype(np.float32),
    "infinite": np.where(np.arange(64) == 7, np.inf, np.arange(64)).astype(np.float32),
    "huge": np.linspace(-3e38, 3e38, 64, dtype=np.float32),
    "largest": np.full(4, np.finfo(np.float32).max, np.float32),
    "outlier": np.where(np.arange(4096) == 9, 1e6, np.random.default_rng(0).standard_normal(4096)).astype(np.float32),
    "half": np.linspace(-5, 5, 60, dtype=np.float16).reshape(1, 5, 12),
    "half nan": np.array([1, np.nan, -np.inf], np.float16),
    "double": np.linspace(0, 1, 60),
    "int8": np.arange(-128, 128, dtype=np.int8),
    "int16": np.arange(-3000, 3000, dtype=np.int16),
    "bool": np.arange(99) % 3 == 0,
}
BASIS = Basis(-1, np.array([0.5, 0, 0, 1], np.float32), np.eye(4, dtype=np.float32))


@pytest.mark.parametrize("entropy", ENTROPIES)
@pytest.mark.parametrize("codec", TENSOR_RUNGS)
@pytest.mark.parametrize("name", HARD)
def test_hard_tensors_come_back_exact_or_within_their_step(codec: str, name: str, entropy: Entropy) -> None:
    tensor = HARD[name]
    settings = Settings(entropy, bases={"x": BASIS}, last_first=frozenset({"x"}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoded = encode(codec, {"x": tensor}, {}, settings)
        found = decode(codec, encoded, [spec_of("x", tensor)], {}, PLENTY, settings.bases)["x"]
    if not codes(codec, encoded):
        assert_bits(found, np.ascontiguousarray(tensor).reshape(tensor.shape))
        return
    assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape)
    assert np.isfinite(found).all()
    assert tensor.dtype in (np.float32, np.float16)
    wanted = tensor.astype(np.float64)
    sigma = float(np.sqrt(np.mean((wanted - BASIS.mean if codec.startswith("klt") else wanted) ** 2)))
    step = {"f16": 1e-3, "bf16": 8e-3}.get(codec)
    if step is not None:
        assert np.all(np.abs(found - wanted) <= np.abs(wanted) * step + 6e-8)
    else:
        finest = float(np.ptp(np.append(wanted, 0))) / (255 if codec == "int8" else 32_767)
        width = max(find_codec(codec).setting * sigma, finest)
        # Half precision rounds once more.
        slack = 1e-3 * np.abs(wanted) if tensor.dtype == np.float16 else 1e-6 * np.abs(wanted)
        assert np.all(np.abs(found - wanted) <= width * (1 if codec.startswith("klt") else 0.5001) + slack)
    if codec not in ("f16", "bf16") and not codec.startswith("klt"):
        assert not np.any(found[wanted == 0])


def test_what_a_few_outliers_would_wipe_out_travels_exact() -> None:
    outlier = HARD["outlier"]
    for codec in ("int8", "step0.5", "step4"):
        assert not codes(codec, encode(codec, {"x": outlier}, {}))
    gentle = np.random.default_rng(0).standard_normal(4096).astype(np.float32)
    assert codes("int8", encode("int8", {"x": gentle}, {}))
    assert codes("step2", encode("step2", {"x": gentle}, {}, Settings(kept={"x": 0.02})))
    assert not codes("step2", encode("step2", {"x": gentle}, {}, Settings(kept={"x": 0.5})))


def test_what_is_all_one_value_travels_exact_and_small() -> None:
    settings = Settings(bases={"x": BASIS})
    for codec in (codec for codec in TENSOR_RUNGS if codec.startswith(("int8", "step", "klt"))):
        for value in (0.0, 0.7, -3.0):
            (encoded,) = encode(codec, {"x": np.full((1, 50, 50, 4), value, np.float32)}, {}, settings)
            assert not codes(codec, [encoded])
            assert len(encoded.data) < 400


def test_the_largest_value_is_kept() -> None:
    tensor = np.random.default_rng(1).standard_normal(10_000).astype(np.float32) ** 3
    for codec in ("int8", "step0.5", "step0.03"):
        found = round_trip(codec, tensor)
        step = max(find_codec(codec).setting * float(np.sqrt(np.mean(tensor**2))), float(np.ptp(tensor)) / 255)
        assert abs(found.max() - tensor.max()) <= step / 2 * 1.0001
        assert abs(found.min() - tensor.min()) <= step / 2 * 1.0001


def test_rungs_are_smaller_the_bolder_they_are() -> None:
    rng = np.random.default_rng(2)
    mixed = rng.standard_normal((1, 30, 30, 4)) @ rng.standard_normal((4, 4))
    tensor = np.maximum(mixed, 0).astype(np.float32)
    sizes = {
        codec: len(encode(codec, {"x": tensor}, {}, Settings(bases={"x": BASIS}))[0].data) for codec in TENSOR_RUNGS
    }
    for family in ("step", "klt"):
        found = [size for codec, size in sizes.items() if codec.startswith(family)]
        assert found == sorted(found, reverse=True)
    assert sizes["raw"] >= sizes["lossless"] > sizes["f16"] > sizes["int8"] > sizes["step0.5"]


@pytest.mark.parametrize("axis", [1, -1])
def test_a_basis_puts_the_channels_back_where_they_were(axis: int) -> None:
    rng = np.random.default_rng(3)
    vectors, _ = np.linalg.qr(rng.standard_normal((5, 5)))
    basis = Basis(axis, rng.standard_normal(5).astype(np.float32), vectors.astype(np.float32))
    shape = (2, 5, 3, 4) if axis == 1 else (2, 3, 4, 5)
    tensor = rng.standard_normal(shape).astype(np.float32)
    settings = Settings(bases={"x": basis})
    encoded = encode("klt0.001", {"x": tensor}, {}, settings)
    assert codes("klt0.001", encoded)
    found = decode("klt0.001", encoded, [spec_of("x", tensor)], {}, PLENTY, settings.bases)["x"]
    assert np.abs(found - tensor).max() < 0.01


def test_another_basis_is_refused() -> None:
    tensor = np.random.default_rng(4).standard_normal((1, 9, 4)).astype(np.float32)
    encoded = encode("klt0.25", {"x": tensor}, {}, Settings(bases={"x": BASIS}))
    for bases in ({}, {"x": replace(BASIS, mean=BASIS.mean + 1)}, {"x": replace(BASIS, axis=1)}):
        with pytest.raises(CodecError, match="a basis that this bundle does not hold"):
            decode("klt0.25", encoded, [spec_of("x", tensor)], {}, PLENTY, bases)


@pytest.mark.parametrize("codec", ["f16", "bf16", "int8", "step0.25", "klt0.25", "lossless"])
@pytest.mark.parametrize("entropy", ENTROPIES)
def test_damage_is_refused_or_gives_finite_values_of_the_right_shape(codec: str, entropy: Entropy) -> None:
    rng = np.random.default_rng(5)
    tensor = np.maximum(rng.standard_normal((1, 9, 9, 4)), 0).astype(np.float32)
    settings = Settings(entropy, bases={"x": BASIS})
    data = bytes(encode(codec, {"x": tensor}, {}, settings)[0].data)
    for cut in (*range(min(24, len(data))), len(data) - 1):
        with pytest.raises(CodecError):
            decode(codec, [EncodedTensor(tensor.shape, FLOAT32, data[:cut])], [spec_of("x", tensor)], {}, PLENTY,
                   settings.bases)  # fmt: skip
    with pytest.raises(CodecError):
        decode(codec, [EncodedTensor(tensor.shape, FLOAT32, data + b"\0")], [spec_of("x", tensor)], {}, PLENTY,
               settings.bases)  # fmt: skip
    for _ in range(200):
        damaged = bytearray(data)
        for place in rng.integers(0, len(data), 3):
            damaged[place] = int(rng.integers(0, 256))
        try:
            found = decode(codec, [EncodedTensor(tensor.shape, FLOAT32, bytes(damaged))], [spec_of("x", tensor)], {},
                           PLENTY, settings.bases)["x"]  # fmt: skip
        except CodecError:
            continue
        assert found.shape == tensor.shape


def zstd_bomb(size: int) -> bytes:
    return zstandard.ZstdCompressor(level=19).compress(bytes(size))


@pytest.mark.parametrize("codec", ["lossless", "f16", "int8", "klt0.25"])
def test_a_zstd_bomb_is_refused_before_it_opens(codec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    header = {"int8": struct.pack("<fB", 1.0, 0), "klt0.25": BASIS.digest + struct.pack("<f", 1.0)}
    form = bytes([2 if codec == "lossless" else 0x12])
    hostile = form + header.get(codec, b"") + zstd_bomb(1 << 28)
    monkeypatch.setattr(zstandard, "ZstdDecompressor", lambda *_: pytest.fail("it was opened"))
    spec = TensorSpec("x", FLOAT32, (2, 4))
    with pytest.raises(CodecError, match=r"came as 268435456 bytes of zstd, needed exactly"):
        decode(codec, [EncodedTensor((2, 4), FLOAT32, hostile)], [spec], {}, PLENTY, {"x": BASIS})


def test_a_zstd_frame_that_does_not_say_how_much_it_holds_is_refused() -> None:
    packed = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(24))
    with pytest.raises(CodecError, match="of zstd, needed exactly 24"):
        decode("lossless", [EncodedTensor((2, 3), FLOAT32, b"\2" + packed)], [SPEC], {}, PLENTY)


def test_without_zstd_zlib_serves_and_what_came_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    tensor = np.zeros((64, 3), np.float32)
    packed = encode("lossless", {"x": tensor}, {}, Settings("zstd"))
    assert packed[0].data[0] == 2
    monkeypatch.setattr("midstream.communication.codecs.entropy.find_spec", lambda _: None)
    plain = encode("lossless", {"x": tensor}, {}, Settings("zstd"))
    assert plain[0].data[0] == 1
    assert_bits(decode("lossless", plain, [SPEC], {}, PLENTY)["x"], tensor)
    with pytest.raises(CodecError, match=r"which is not installed here: pip install 'midstream\[zstd\]'"):
        decode("lossless", packed, [SPEC], {}, PLENTY)


@pytest.mark.parametrize("colour", ["RGB", "BGR", "GREY"])
@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize("codec", ["png", "webp101"])
def test_lossless_pictures_come_back_bit_for_bit(codec: str, layout: Layout, colour: Colour) -> None:
    semantics = ImageInput(
        layout, colour, (1 / 58.395, 1 / 57.12, 1 / 57.375)[: 1 if colour == "GREY" else 3], (123.7,)
    )
    pixels = np.random.default_rng(6).integers(0, 256, (20, 30, semantics.channels), np.uint8)
    for dtype in (np.float32, np.uint8, np.int8):
        shape = (1, 20, 30, semantics.channels) if layout == "NHWC" else (1, semantics.channels, 20, 30)
        tensor = from_pixels(pixels, TensorSpec("x", np.dtype(dtype), shape), semantics)
        encoded = encode(codec, {"x": tensor}, {"x": semantics})
        assert codes(codec, encoded)
        assert_bits(decode(codec, encoded, [spec_of("x", tensor)], {"x": semantics}, PLENTY)["x"], tensor)


def test_a_tensor_that_is_more_than_its_pixels_is_not_rounded() -> None:
    semantics = ImageInput("NHWC", "RGB", (1 / 255,))
    tensor = np.random.default_rng(7).random((1, 8, 8, 3), np.float32)
    for codec in ("png", "webp101"):
        assert not codes(codec, encode(codec, {"x": tensor}, {"x": semantics}))
        assert_bits(round_trip(codec, tensor, semantics), tensor)


@pytest.mark.parametrize(("codec", "kind", "options"), [
    ("png", ".png", []), ("webp75", ".webp", [cv2.IMWRITE_WEBP_QUALITY, 75]),
])  # fmt: skip
def test_pictures_of_another_kind_or_size_are_refused(codec: str, kind: str, options: list[int]) -> None:
    def decoded(data: bytes, shape: tuple[int, ...] = (1, 48, 80, 3)) -> Tensor:
        return decode(codec, [EncodedTensor(shape, FRAME.dtype, b"\x10" + data)], [FRAME], RGB, 1 << 40)["x"]

    done, array = cv2.imencode(kind, picture(), options)
    assert done
    data = array.tobytes()
    assert decoded(data).shape == (1, 48, 80, 3)
    for hostile in (data[:-1], data + b"\0", data[:40], jpeg(picture()), b"", b"RIFF" + data[4:20]):
        with pytest.raises(CodecError, match=r"needed height, width|damaged|cannot be decoded"):
            decoded(hostile)
    with pytest.raises(CodecError, match=r"of \[48, 80, 3\]; needed .* \[47, 80, 3\]"):
        decoded(data, (1, 47, 80, 3))


def test_a_png_with_more_than_the_picture_is_refused() -> None:
    done, array = cv2.imencode(".png", picture())
    assert done
    data = array.tobytes()
    text = b"zTXtComment\0\0" + zlib.compress(bytes(1 << 20))
    chunk = struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text))
    with pytest.raises(CodecError, match="is not a PNG of 8 bits, grey or RGB, not interlaced, of IHDR"):
        encoded = EncodedTensor((1, 48, 80, 3), FRAME.dtype, b"\x10" + data[:33] + chunk + data[33:])
        decode("png", [encoded], [FRAME], RGB, PLENTY)


SOUND = {"x": AudioInput(16_000)}


def tone(count: int = 4000) -> NDArray[np.float32]:
    return (0.5 * np.sin(np.arange(count) * 0.1)).astype(np.float32).reshape(1, count)


@pytest.mark.parametrize(("codec", "most", "smaller"), [
    ("pcm16", 2e-5, 1.9), ("flac", 2e-5, 3), ("opus64", 0.05, 5), ("opus24", 0.1, 5),
])  # fmt: skip
def test_sounds_come_back_nearly(codec: str, most: float, smaller: float) -> None:
    sound = tone()
    encoded = encode(codec, {"x": sound}, SOUND)
    assert codes(codec, encoded)
    assert sound.nbytes / len(encoded[0].data) > smaller
    found = decode(codec, encoded, [spec_of("x", sound)], SOUND, PLENTY)["x"]
    assert np.abs(found - sound)[:, 400:-400].max() < most


@pytest.mark.parametrize("codec", SOUND_RUNGS)
def test_sounds_that_the_format_cannot_hold_travel_exact(codec: str) -> None:
    for value in (1.5, np.nan, np.inf):
        sound = tone()
        sound[0, 7] = value
        assert not codes(codec, encode(codec, {"x": sound}, SOUND))
        encoded = encode(codec, {"x": sound}, SOUND)
        assert_bits(decode(codec, encoded, [spec_of("x", sound)], SOUND, PLENTY)["x"], sound)
    assert not codes(codec, encode(codec, {"x": tone().reshape(2, 2000)}, SOUND))
    assert not codes(codec, encode(codec, {"x": tone()}, {}))


@pytest.mark.parametrize("codec", SOUND_RUNGS)
def test_damaged_sounds_are_refused(codec: str) -> None:
    sound = tone()
    data = bytes(encode(codec, {"x": sound}, SOUND)[0].data)

    def decoded(data: bytes, count: int = 4000, rate: int = 16_000) -> Tensor:
        spec = TensorSpec("x", FLOAT32, (1, count))
        return decode(codec, [EncodedTensor((1, count), FLOAT32, data)], [spec], {"x": AudioInput(rate)}, 1 << 40)["x"]

    for hostile in (data[:1], data[: len(data) // 2], b"\x10RIFF" + data[6:], b"\x11" + data[1:]):
        with pytest.raises(CodecError, match="'x'"):
            decoded(hostile)
    with pytest.raises(CodecError, match="'x'"):
        decoded(data, count=3999)
    with pytest.raises(CodecError, match="'x'"):
        decoded(data, count=1 << 30)
    if codec != "pcm16":
        with pytest.raises(CodecError, match="at 16000 Hz, needed 4000 of 1 at 48000 Hz"):
            decoded(data, rate=48_000)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no such timer on Windows")
def test_a_signal_is_not_lost_while_a_sound_is_coded() -> None:
    long = np.random.default_rng(0).uniform(-0.5, 0.5, 1 << 18).astype(np.float32)
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            signal.setitimer(signal.ITIMER_REAL, 0.03)
            encode("opus64", {"x": long}, {"x": AudioInput(16_000)})
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("codec", ["klt0.3", "klt1", "step0.3"])
def test_an_outlier_travels_exact_with_codecs_that_were_not_measured_too(codec: str) -> None:
    ladder = Ladder("", "", 1.0, "auto", 1, True, 0.0, (Place("c1", 1.0, (), {"x": BASIS}),))
    shape = (1, len(BASIS.mean), 32, 32) if BASIS.axis == 1 else (1, 32, 32, len(BASIS.mean))
    tensor = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    settings = ladder.settings("c1", codec)
    assert codes(codec, encode(codec, {"x": tensor}, {}, settings))
    tensor.reshape(-1)[7] = 1e6
    assert not codes(codec, encode(codec, {"x": tensor}, {}, settings))


def test_opus_is_for_its_own_rates() -> None:
    assert not codes("opus24", encode("opus24", {"x": tone()}, {"x": AudioInput(22_050)}))
