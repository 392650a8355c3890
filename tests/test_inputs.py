"""What an input means: how it is said, and how a frame becomes the tensor and back."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from midstream.errors import InputError
from midstream.inputs import (
    COLOURS,
    LAYOUTS,
    AudioInput,
    Colour,
    ImageInput,
    Layout,
    Semantics,
    check_semantics,
    from_pixels,
    parse_semantics,
    prepare_image,
    semantics_from_json,
    semantics_to_json,
    to_pixels,
)
from midstream.tensors import TensorSpec

DTYPES = ("float16", "float32", "float64", "uint8", "int8")
GREY_SHARES = (0.299, 0.587, 0.114)


def spec_of(shape: tuple[int | None, ...], dtype: str = "float32") -> TensorSpec:
    return TensorSpec("x", np.dtype(dtype), shape)


def spec_for(semantics: ImageInput, height: int | None, width: int | None, dtype: str = "float32") -> TensorSpec:
    sides = (height, width)
    shape = (1, semantics.channels, *sides) if semantics.layout == "NCHW" else (1, *sides, semantics.channels)
    return spec_of(shape, dtype)


def picture(height: int = 6, width: int = 9) -> NDArray[np.uint8]:
    """RGB: every channel of every pixel another value."""
    return (np.arange(height * width * 3).reshape(height, width, 3) * 7 % 256).astype(np.uint8)


@pytest.mark.parametrize(
    ("text", "name", "semantics"),
    [
        ("x=audio:16000", "x", AudioInput(16_000)),
        ("x=audio:1000", "x", AudioInput(1000)),
        ("x=audio:384000", "x", AudioInput(384_000)),
        ("x=image:NHWC:RGB", "x", ImageInput("NHWC", "RGB", (1.0,), (0.0,))),
        ("x=image:nchw:bgr", "x", ImageInput("NCHW", "BGR")),
        ("x=image:NHWC:gray", "x", ImageInput("NHWC", "GREY")),
        ("x=image:NHWC:RGB:1/127.5:127.5", "x", ImageInput("NHWC", "RGB", (1 / 127.5,), (127.5,))),
        ("x=image:NHWC:RGB:-2e-3", "x", ImageInput("NHWC", "RGB", (-0.002,), (0.0,))),
        ("x=image:NCHW:RGB:1,.5,1/4:-1,2,3", "x", ImageInput("NCHW", "RGB", (1, 0.5, 0.25), (-1, 2, 3))),
        ("a=b:0=audio:8000", "a=b:0", AudioInput(8000)),
        ("serving_default_x:0=image:NHWC:RGB", "serving_default_x:0", ImageInput("NHWC", "RGB")),
    ],
)
def test_what_can_be_said(text: str, name: str, semantics: Semantics) -> None:
    assert parse_semantics(text) == (name, semantics)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "has no NAME=; expected NAME=image"),
        ("audio:16000", "has no NAME="),
        ("=audio:16000", "has no NAME="),
        ("x=", "is not understood; expected NAME=image"),
        ("x=video:NHWC", "is not understood"),
        ("x=Audio:16000", "is not understood"),
        ("x=audio", "is not understood"),
        ("x=audio:16000:2", "is not understood"),
        ("x=audio:", "'' is not a sample rate in Hz"),
        ("x=audio:16k", "'16k' is not a sample rate"),
        ("x=audio:-8000", "'-8000' is not a sample rate"),
        ("x=audio:8000.5", "is not a sample rate"),
        ("x=audio:999", "is not a sample rate"),
        ("x=audio:0999", "is not a sample rate"),
        ("x=audio:384001", "is not a sample rate"),
        ("x=audio:١٦٠٠٠", "is not a sample rate"),
        ("x=image", "is not understood"),
        ("x=image:NHWC", "is not understood"),
        ("x=image:NHWC:RGB:1:2:3", "is not understood"),
        ("x=image:HWC:RGB", "layout 'HWC' is not one of NHWC, NCHW"),
        ("x=image:RGB:NHWC", "layout 'RGB' is not one of"),
        ("x=image:NHWC:RGBA", "colour order 'RGBA' is not one of RGB, BGR, GREY"),
        ("x=image:NHWC:", "colour order '' is not one of"),
        ("x=image:NHWC:RGB:", "'' is not a finite number or fraction"),
        ("x=image:NHWC:RGB:one", "'one' is not a finite number"),
        ("x=image:NHWC:RGB:1/0", "'1/0' is not a finite number"),
        ("x=image:NHWC:RGB:1/2/3", "'1/2/3' is not a finite number"),
        ("x=image:NHWC:RGB:nan", "'nan' is not a finite number"),
        ("x=image:NHWC:RGB:1:inf", "'inf' is not a finite number"),
        ("x=image:NHWC:RGB:1:1e999", "'1e999' is not a finite number"),
        ("x=image:NHWC:RGB:1/1e-999", "is not a finite number"),
        ("x=image:NHWC:RGB:1,,1", "'' is not a finite number"),
        ("x=image:NHWC:RGB:1,2", "scale and mean take 1 or 3 numbers"),
        ("x=image:NHWC:RGB:1:1,2,3,4", "scale and mean take 1 or 3 numbers"),
        ("x=image:NHWC:GREY:1,1,1", "scale and mean take 1 number"),
        ("x=image:NHWC:RGB:0", "a scale must not be 0"),
        ("x=image:NHWC:RGB:1,0/5,1", "a scale must not be 0"),
    ],
)
def test_what_is_not_understood_is_one_error(text: str, reason: str) -> None:
    with pytest.raises(InputError, match=reason) as raised:
        parse_semantics(text)
    assert str(raised.value).startswith(f"--input {text!r}")


@settings(deadline=None)
@given(st.text(max_size=30) | st.text("x=image:NHWCRGB,./0123456789", max_size=30).map("x=image:NHWC:RGB:{}".format))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        name, semantics = parse_semantics(text)
    except InputError:
        return
    assert name
    if isinstance(semantics, ImageInput):
        assert all(math.isfinite(number) for number in (*semantics.scale, *semantics.mean))
        assert 0 not in semantics.scale


def images() -> st.SearchStrategy[ImageInput]:
    def with_colour(colour: Colour) -> st.SearchStrategy[ImageInput]:
        count = 1 if colour == "GREY" else 3
        scale = st.sampled_from([1.0, 1 / 127.5, 1 / 255, -0.01, 0.02])
        mean = st.sampled_from([0.0, 127.5, 103.94, -10.0])

        def each(number: st.SearchStrategy[float]) -> st.SearchStrategy[tuple[float, ...]]:
            return st.tuples(number) | st.tuples(*[number] * count)

        return st.builds(ImageInput, st.sampled_from(LAYOUTS), st.just(colour), each(scale), each(mean))

    return st.sampled_from(COLOURS).flatmap(with_colour)


@settings(deadline=None)
@given(images() | st.builds(AudioInput, st.integers(1000, 384_000)))
def test_meanings_survive_the_manifest(semantics: Semantics) -> None:
    assert semantics_from_json(json.loads(json.dumps(semantics_to_json(semantics)))) == semantics


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"kind": "video"},
        {"kind": "audio"},
        {"kind": "audio", "sample_rate": "fast"},
        {"kind": "image", "layout": "NHWC", "colour": "RGB", "scale": [1]},
        {"kind": "image", "layout": "HWCN", "colour": "RGB", "scale": [1], "mean": [0]},
        {"kind": "image", "layout": "NHWC", "colour": "CMYK", "scale": [1], "mean": [0]},
        {"kind": "image", "layout": "NHWC", "colour": "RGB", "scale": 1, "mean": [0]},
        {"kind": "image", "layout": "NHWC", "colour": "RGB", "scale": ["a"], "mean": [0]},
        None,
        "audio",
    ],
)
def test_any_other_meaning_is_refused(value: Any) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        semantics_from_json(value)


@pytest.mark.parametrize(
    ("shape", "dtype", "semantics"),
    [
        ((1, 8, 8, 3), "float32", ImageInput("NHWC", "RGB")),
        ((1, 3, 8, 8), "uint8", ImageInput("NCHW", "BGR")),
        ((1, 1, 8, 8), "int8", ImageInput("NCHW", "GREY")),
        ((None, None, None, None), "float16", ImageInput("NHWC", "GREY")),
        ((1, 16_000), "float32", AudioInput(16_000)),
        ((None,), "float16", AudioInput(16_000)),
    ],
)
def test_what_a_tensor_can_mean(shape: tuple[int | None, ...], dtype: str, semantics: Semantics) -> None:
    check_semantics(spec_of(shape, dtype), semantics)


@pytest.mark.parametrize(
    ("shape", "dtype", "semantics", "reason"),
    [
        ((1, 160), "int16", AudioInput(8000), r"sound is prepared as floating point, but the input is x: int16\[1"),
        ((1, 160), "uint8", AudioInput(8000), "floating point"),
        ((8, 8, 3), "float32", ImageInput("NHWC", "RGB"), r"four dimensions, batch 1, but .* float32\[8, 8, 3\]"),
        ((1, 8, 8, 3, 1), "float32", ImageInput("NHWC", "RGB"), "four dimensions"),
        ((2, 8, 8, 3), "float32", ImageInput("NHWC", "RGB"), "batch 1"),
        ((1, 3, 8, 8), "float32", ImageInput("NHWC", "RGB"), "NHWC:RGB has 3 channels, but the input is"),
        ((1, 8, 8, 3), "float32", ImageInput("NCHW", "BGR"), "NCHW:BGR has 3 channels"),
        ((1, 8, 8, 3), "float32", ImageInput("NHWC", "GREY"), "NHWC:GREY has 1 channels"),
        ((1, 8, 8, 1), "float32", ImageInput("NHWC", "RGB"), "has 3 channels"),
        ((1, 8, 8, 3), "int32", ImageInput("NHWC", "RGB"), "prepared as floats or bytes"),
        ((1, 8, 8, 3), "int16", ImageInput("NHWC", "RGB"), "prepared as floats or bytes"),
    ],
)
def test_what_a_tensor_cannot_mean(
    shape: tuple[int | None, ...], dtype: str, semantics: Semantics, reason: str
) -> None:
    with pytest.raises(InputError, match=reason) as raised:
        check_semantics(spec_of(shape, dtype), semantics)
    assert str(raised.value).startswith("--input x: ")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [0, 1, 3, 4])
def test_a_frame_becomes_the_tensor(layout: Layout, colour: Colour, dtype: str, channels: int) -> None:
    rgb = picture() if channels > 2 else np.repeat(picture()[..., :1], 3, axis=2)
    frame = {0: rgb[..., 0], 1: rgb[..., :1], 3: rgb, 4: np.dstack([rgb, 255 - rgb[..., 0]])}[channels]
    semantics = ImageInput(layout, colour, (0.5,), (10.0,))
    tensor = prepare_image(frame, spec_for(semantics, 6, 9, dtype), semantics)
    assert (tensor.dtype, tensor.flags.c_contiguous) == (dtype, True)
    planes = tensor[0].transpose(1, 2, 0) if layout == "NCHW" else tensor[0]
    wanted: NDArray[np.generic] = {"RGB": rgb, "BGR": rgb[..., ::-1], "GREY": rgb @ np.array(GREY_SHARES)}[colour]
    wanted = wanted.reshape(6, 9, semantics.channels).astype(np.float64)
    if dtype == "int8":
        wanted = wanted - 128
    elif dtype != "uint8":
        wanted = (wanted - 10) * 0.5
    assert planes.shape == wanted.shape
    assert np.abs(planes.astype(np.float64) - wanted).max() <= (1.0 if colour == "GREY" else 0.0)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("colour", ["RGB", "BGR"])
def test_scale_and_mean_are_in_the_tensors_own_colour_order(layout: Layout, colour: Colour) -> None:
    semantics = ImageInput(layout, colour, (1.0, 0.5, 0.25), (10.0, 20.0, 30.0))
    frame = np.full((1, 1, 3), (50, 60, 70), np.uint8)
    tensor = prepare_image(frame, spec_for(semantics, 1, 1), semantics)
    assert tensor.ravel().tolist() == ([40, 20, 10] if colour == "RGB" else [60, 20, 5])


@settings(deadline=None)
@given(images(), st.sampled_from(DTYPES), st.data())
def test_every_picture_comes_back_from_its_tensor(semantics: ImageInput, dtype: str, data: st.DataObject) -> None:
    sides = data.draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    pixels = data.draw(hnp.arrays(np.uint8, (*sides, semantics.channels)))
    tensor = from_pixels(pixels, spec_for(semantics, *sides, dtype), semantics)
    assert tensor.shape == spec_for(semantics, *sides).shape
    assert np.array_equal(to_pixels(tensor, semantics), pixels)
    if semantics.channels == 1:
        assert np.array_equal(from_pixels(pixels[..., 0], spec_for(semantics, *sides, dtype), semantics), tensor)


def test_what_lies_outside_a_picture_is_clipped() -> None:
    semantics = ImageInput("NHWC", "GREY", (0.5,), (100.0,))
    tensor = np.array([-60.0, -50.0, 0.24, 0.26, 77.5, 90.0], np.float32).reshape(1, 1, 6, 1)
    assert to_pixels(tensor, semantics).ravel().tolist() == [0, 0, 100, 101, 255, 255]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("colour", COLOURS)
def test_a_frame_is_stretched_to_the_models_size(layout: Layout, colour: Colour) -> None:
    semantics = ImageInput(layout, colour)
    frame = np.zeros((40, 60, 3), np.uint8)
    frame[:, 30:] = 200
    tensor = prepare_image(frame, spec_for(semantics, 8, 6), semantics)
    assert tensor.shape == spec_for(semantics, 8, 6).shape
    pixels = to_pixels(tensor, semantics)
    assert (pixels[:, :3] == 0).all()
    assert (pixels[:, 3:] == 200).all()
    larger = to_pixels(prepare_image(frame, spec_for(semantics, 80, 120), semantics), semantics)
    assert (larger[:, 119] == 200).all()
    assert larger.shape == (80, 120, semantics.channels)


def test_shrinking_averages_all_pixels_and_growing_blends_neighbours() -> None:
    semantics = ImageInput("NHWC", "GREY")
    dots = np.zeros((16, 32), np.uint8)
    dots[::4, ::4] = 160
    assert (prepare_image(dots, spec_for(semantics, 4, 8), semantics) == 10).all()
    step = np.array([[0, 0, 200, 200]], np.uint8)
    grown = prepare_image(step, spec_for(semantics, 2, 16), semantics)[0, 0, :, 0]
    assert (np.diff(grown) >= 0).all()
    assert len(np.unique(grown)) > 3


def test_a_free_size_is_the_frames_own_or_the_one_that_is_asked_for() -> None:
    semantics = ImageInput("NCHW", "RGB")
    free, half_free = spec_for(semantics, None, None), spec_for(semantics, None, 4)
    assert prepare_image(picture(6, 9), free, semantics).shape == (1, 3, 6, 9)
    assert prepare_image(picture(6, 9), free, semantics, (2, 5)).shape == (1, 3, 2, 5)
    assert prepare_image(picture(6, 9), half_free, semantics).shape == (1, 3, 6, 4)
    assert prepare_image(picture(6, 9), spec_for(semantics, 3, 3), semantics, (2, 5)).shape == (1, 3, 3, 3)


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("size", [(6, 9), (3, 4)])
def test_a_frame_may_be_a_view_of_another(colour: Colour, size: tuple[int, int]) -> None:
    semantics = ImageInput("NHWC", colour)
    view = picture(12, 18)[::-2, ::2, ::-1]
    spec = spec_for(semantics, *size)
    assert np.array_equal(prepare_image(view, spec, semantics), prepare_image(view.copy(), spec, semantics))


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (np.zeros((4, 4, 3), np.float32), r"'x' must be a non-empty uint8 .* this one is float32 \[4, 4, 3\]"),
        (np.zeros((4, 4, 3), np.int8), "this one is int8"),
        (np.zeros((0, 4, 3), np.uint8), r"non-empty .* uint8 \[0, 4, 3\]"),
        (np.zeros((4, 4, 0), np.uint8), r"\[4, 4, 0\]"),
        (np.zeros(4, np.uint8), r"this one is uint8 \[4\]"),
        (np.zeros((1, 4, 4, 3), np.uint8), r"this one is uint8 \[1, 4, 4, 3\]"),
        (np.zeros((4, 4, 2), np.uint8), "has 2 channels; 1, 3 or 4 are understood"),
        (np.zeros((4, 4, 5), np.uint8), "has 5 channels"),
    ],
)
def test_what_is_no_frame_is_refused(frame: NDArray[Any], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        prepare_image(frame, spec_of((1, 4, 4, 3)), ImageInput("NHWC", "RGB"))


def test_a_tensor_that_is_no_picture_is_refused() -> None:
    with pytest.raises(InputError, match=r"x: float32\[1, 48\] is not a picture of four dimensions \(NHWC\)"):
        prepare_image(picture(), spec_of((1, 48)), ImageInput("NHWC", "RGB"))
