from __future__ import annotations

import time
import warnings
import zlib
from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from midstream.communication.codecs import PICTURE_RUNGS, SOUND_RUNGS, TENSOR_RUNGS, decode, encode, find_codec
from midstream.communication.wire import DTYPES, EncodedTensor, Reply, Status, decode_reply, encode_reply
from midstream.errors import CodecError
from midstream.inputs import AudioInput, Colour, ImageInput, Layout, Semantics, from_pixels, to_pixels
from midstream.tensors import Tensor, TensorSpec

PLENTY = 1 << 20
FLOAT32 = np.dtype(np.float32)
RUNGS = (*TENSOR_RUNGS, *PICTURE_RUNGS, *SOUND_RUNGS)
LOSSLESS = [name for name in RUNGS if find_codec(name).lossless]


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
    reply = Reply(bytes(16), Status.OK, encode(codec, values, {}), codec, 0, 0)
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
    taken = {name: find_codec(name).takes for name in RUNGS}
    assert {name for name, takes in taken.items() if takes == "pictures"} == set(PICTURE_RUNGS)
    assert {name for name, takes in taken.items() if takes == "sounds"} == set(SOUND_RUNGS)
    assert find_codec("step0.25").setting == 0.25


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
    for codec, data in (("raw", b"\0\1\2"), ("lossless", b"\0\0\1\2"), ("lossless", b"\1" + zlib.compress(b"\0\1\2"))):
        with pytest.raises(CodecError, match="holds the byte 2"):
            decode(codec, [EncodedTensor((3,), spec.dtype, data)], [spec], {}, PLENTY)


DEFLATED = b"\1" + zlib.compress(bytes(24))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0",
        b"\1",
        b"\3" + bytes(24),
        b"\x13" + bytes(24),
        b"\x80" + bytes(24),
        b"\0" + bytes(25),
        DEFLATED[:-1],
        DEFLATED + b"!",
        b"\1" + zlib.compress(bytes(23)),
        b"\1" + zlib.compress(bytes(25)),
        b"\1" + zlib.compress(b""),
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
    encoded = [EncodedTensor((0, 3), FLOAT32, b"\1" + zlib.compress(b""))]
    assert decode("lossless", encoded, [spec], {}, PLENTY)["x"].shape == (0, 3)


def test_a_deflate_bomb_is_refused_before_it_opens() -> None:
    packer = zlib.compressobj(9)
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
    st.sampled_from(RUNGS),
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
