"""Inputs to prove cuts on: made ones, the sizes a model runs with, and the user's own files."""

from __future__ import annotations

import io
import wave
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from midstream.errors import InputError, ModelError
from midstream.inputs import AudioInput, ImageInput, Semantics, to_pixels
from midstream.samples import InputTypes, archived_shapes
from midstream.tensors import CARRIED_DTYPES, Tensors, TensorSpec
from midstream_converters.samples import MAX_SAMPLES, find_shapes, read_calibration, varied_samples

Shape = tuple[int | None, ...]


def types(semantics: Mapping[str, Semantics] | None = None, **shapes: Shape | tuple[Shape, str]) -> InputTypes:
    """Inputs by name: a shape for float32, or a shape and a dtype."""
    specs = []
    for name, what in shapes.items():
        shape, dtype = what if what and isinstance(what[0], tuple) else (what, "float32")
        specs.append(TensorSpec(name, np.dtype(dtype), shape))  # type: ignore[arg-type]
    return InputTypes(tuple(specs), semantics or {})


def runs_with(*good: dict[str, tuple[int, ...]]) -> tuple[Callable[[Tensors], str | None], list[dict[str, Any]]]:
    """A model that runs on these shapes only, and the list of what it was tried with."""
    tried: list[dict[str, Any]] = []

    def refusal(sample: Tensors) -> str | None:
        tried.append({name: value.shape for name, value in sample.items()})
        return None if tried[-1] in good else "wrong size"

    return refusal, tried


def npz(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path, **arrays)
    return path


def write_picture(path: Path, grey: int) -> Path:
    assert cv2.imwrite(str(path), np.full((12, 16, 3), grey, np.uint8))
    return path


def write_sound(path: Path, value: int, frames: int = 800) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(np.full(frames, value, "<i2").tobytes())
    return path


PICTURE = types({"x": ImageInput("NHWC", "RGB", (1 / 255,), (0.0,))}, x=(1, 8, 8, 3))
SOUND = types({"x": AudioInput(16_000)}, x=(1, 1000))


@settings(deadline=None)
@given(st.sampled_from(sorted(CARRIED_DTYPES)), st.lists(st.integers(0, 5), max_size=4).map(tuple), st.integers(0, 99))
def test_an_input_is_made_for_every_dtype_and_shape(dtype: str, shape: tuple[int, ...], seed: int) -> None:
    made_for = types(x=(shape, dtype) if shape else ((), dtype))
    value = made_for.generate({"x": shape}, seed)["x"]
    assert (type(value), value.dtype, value.shape) == (np.ndarray, dtype, shape)
    assert value.tobytes() == made_for.generate({"x": shape}, seed)["x"].tobytes()
    assert np.isfinite(value.astype(np.float64)).all()
    if value.dtype.kind in "iu" and value.dtype.itemsize > 1:
        assert ((value >= 0) & (value < 4)).all(), "larger integers are ids, lengths or positions"


def test_made_inputs_use_the_range_of_their_dtype() -> None:
    made = types(f=(4000,), b=((4000,), "bool"), u=((4000,), "uint8"), i=((4000,), "int8"), n=((4000,), "int64"))
    values = made.generate(dict.fromkeys("fbuin", (4000,)), seed=0)
    assert {name: (value.min(), value.max()) for name, value in values.items() if name != "f"} == {
        "b": (False, True), "u": (0, 255), "i": (-128, 127), "n": (0, 3),
    }  # fmt: skip
    assert abs(values["f"].mean()) < 0.1
    assert abs(values["f"].std() - 1) < 0.1
    assert not np.array_equal(values["f"], made.generate(dict.fromkeys("fbuin", (4000,)), seed=1)["f"])


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize("colour", ["RGB", "GREY"])
@pytest.mark.parametrize("dtype", ["float32", "uint8", "int8"])
def test_a_made_picture_is_smooth_and_prepared_as_the_model_wants_it(layout: Any, colour: Any, dtype: str) -> None:
    semantics = ImageInput(layout, colour, (1 / 127.5,), (127.5,))
    shape = (1, semantics.channels, 64, 96) if layout == "NCHW" else (1, 64, 96, semantics.channels)
    value = types({"x": semantics}, x=(shape, dtype)).generate({"x": shape}, seed=3)["x"]
    assert (value.dtype, value.shape) == (dtype, shape)
    pixels = to_pixels(value, semantics).astype(int)
    assert pixels.shape == (64, 96, semantics.channels)
    assert pixels.max() - pixels.min() > 150
    assert np.abs(np.diff(pixels, axis=1)).mean() < 20
    if dtype == "float32":
        assert -1 <= value.min() < -0.5
        assert 0.5 < value.max() <= 1


def test_a_made_sound_is_quiet_noise() -> None:
    value = SOUND.generate({"x": (1, 1000)}, seed=0)["x"]
    assert 0.05 < value.std() < 0.2


def test_fixed_shapes_are_taken_as_declared() -> None:
    refusal, tried = runs_with({"x": (1, 5), "y": ()})
    assert find_shapes(types(x=(1, 5), y=()), {}, refusal, "m.onnx") == {"x": (1, 5), "y": ()}
    assert len(tried) == 1


def test_free_sizes_are_tried_until_the_model_runs() -> None:
    refusal, tried = runs_with({"x": (1, 512)})
    assert find_shapes(types(x=(None, None)), {}, refusal, "m.onnx") == {"x": (1, 512)}
    assert tried == [{"x": (1, 64)}, {"x": (1, 512)}]


@pytest.mark.parametrize(
    ("shape", "semantics", "wanted"),
    [
        ((1, 3, None, None), None, (1, 3, 224, 224)),
        ((1, None, None, 3), None, (1, 224, 224, 3)),
        ((None, 3, 48, None), None, (1, 3, 48, 224)),
        ((None, None, None, None), None, (1, 3, 224, 224)),
        ((None, None, None, None), ImageInput("NHWC", "GREY"), (1, 224, 224, 1)),
        ((None, None, None, None), ImageInput("NCHW", "GREY"), (1, 1, 224, 224)),
        ((None,), None, (1,)),
        ((None,), AudioInput(16_000), (64,)),
        ((None, 80, None), None, (1, 80, 64)),
        ((), None, ()),
    ],
)
def test_the_first_guess_is_a_likely_one(shape: Shape, semantics: Semantics | None, wanted: tuple[int, ...]) -> None:
    known = {} if semantics is None else {"x": semantics}
    one = InputTypes((TensorSpec("x", np.dtype(np.float32), shape),), known)
    assert find_shapes(one, {}, lambda _: None, "m.onnx") == {"x": wanted}


def test_states_may_be_of_length_one_while_the_rest_grows() -> None:
    refusal, _ = runs_with({"x": (1, 576), "state": (2, 1, 64)})
    found = find_shapes(types(x=(None, None), state=(2, None, 64)), {}, refusal, "m.onnx")
    assert found == {"x": (1, 576), "state": (2, 1, 64)}


def test_a_given_shape_is_taken_and_the_rest_is_found() -> None:
    refusal, tried = runs_with({"x": (2, 7), "y": (1, 16)})
    found = find_shapes(types(x=(None, None), y=(1, None)), {"x": (2, 7)}, refusal, "m.onnx")
    assert found == {"x": (2, 7), "y": (1, 16)}
    assert {shapes["x"] for shapes in tried} == {(2, 7)}


@pytest.mark.parametrize(
    ("given_shapes", "reason"),
    [
        ({"z": (1,)}, r"--shape z: m\.onnx has no such input; it has x"),
        ({"x": (1, 5)}, r"--shape x=1,5 does not fit input x: float32\[1, 4, \?\] of m\.onnx"),
        ({"x": (1, 5, 5)}, "--shape x=1,5,5 does not fit"),
        ({"x": (1, 4, 1 << 28)}, "--shape x=1,4,268435456 is larger than 256 MiB; give a smaller shape"),
    ],
)
def test_a_given_shape_that_cannot_be_is_refused(given_shapes: dict[str, tuple[int, ...]], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        find_shapes(types(x=(1, 4, None)), given_shapes, lambda _: pytest.fail("it was run"), "m.onnx")


def test_where_no_size_works_the_user_is_asked_for_one() -> None:
    with pytest.raises(
        ModelError, match=r"on which m\.onnx runs; give one with --shape NAME=1,… for y: float32\[\?\]$"
    ):
        find_shapes(types(x=(1, 4), y=(None,)), {}, lambda _: "no", "m.onnx")
    with pytest.raises(ModelError, match=r"m\.onnx does not run on a made input of its own shapes: out of luck"):
        find_shapes(types(x=(1, 4)), {}, lambda _: "out of luck", "m.onnx")
    with pytest.raises(ModelError, match="of its own shapes: too small"):
        find_shapes(types(y=(None,)), {"y": (3,)}, lambda _: "too small", "m.onnx")


def test_inputs_too_large_to_make_are_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("midstream_converters.samples.MAX_SAMPLE_BYTES", 100)
    refusal, tried = runs_with({"x": (1, 16)})
    assert find_shapes(types(x=(None, None)), {}, refusal, "m.onnx") == {"x": (1, 16)}
    assert tried == [{"x": (1, 16)}]
    with pytest.raises(ModelError, match="own shapes: it would take 104 bytes, and inputs of more than"):
        find_shapes(types(x=(1, 13), y=(1, 13)), {}, lambda _: pytest.fail("it was run"), "m.onnx")
    assert varied_samples(types(x=(None, 13)), {"x": (1, 13)}, lambda _: pytest.fail("it was run")) == []


def sizes(samples: list[Tensors]) -> list[dict[str, tuple[int, ...]]]:
    return [{name: value.shape for name, value in sample.items()} for sample in samples]


def test_fixed_sizes_are_not_varied() -> None:
    assert varied_samples(types(x=(1, 4), y=()), {"x": (1, 4), "y": ()}, lambda _: pytest.fail("it was run")) == []


@pytest.mark.parametrize(
    ("shape", "size", "batch", "sides"),
    [((None, 4), (3, 4), True, False), ((1, None, 3), (1, 10, 3), False, True), ((None, None), (2, 9), True, True)],
)
def test_all_free_sizes_grow_at_once(shape: Shape, size: tuple[int, ...], batch: bool, sides: bool) -> None:
    (found,) = sizes(varied_samples(types(x=shape, y=(5,)), {"x": size, "y": (5,)}, lambda _: None))
    assert found["y"] == (5,)
    for axis, (want, before, after) in enumerate(zip(shape, size, found["x"], strict=True)):
        assert (after > before) is (want is None and (batch if axis == 0 else sides))
        assert axis == 0 or (after - before) % 32 == 0, "what pyramids of strides usually want"


def test_sizes_that_cannot_grow_at_once_grow_apart() -> None:
    start = {"x": (1, 8), "y": (1, 8)}

    def one_at_a_time(sample: Tensors) -> str | None:
        return "both" if sample["x"].shape[0] > 1 and sample["x"].shape[1] > 8 else None

    batch, sides = sizes(varied_samples(types(x=(None, None), y=(None, None)), start, one_at_a_time))
    assert batch["x"] == batch["y"]
    assert sides["x"] == sides["y"]
    assert (batch["x"][0] > 1, batch["x"][1]) == (True, 8)
    assert (sides["x"][0], sides["x"][1] > 8) == (1, True)
    assert varied_samples(types(x=(None, None), y=(None, None)), start, lambda _: "never") == []


def test_an_archive_holds_one_sample_or_several(tmp_path: Path) -> None:
    pair = types(x=(1, 2), k=((1,), "int64"))
    x, k = np.arange(6, dtype=np.float32).reshape(3, 1, 2), np.array([[7], [8], [9]])
    for name, ks, wanted in (("one", k[0], [7]), ("several", k, [7, 8, 9]), ("shared", k[0], [7, 7, 7])):
        path = npz(tmp_path / f"{name}.npz", x=x[0] if name == "one" else x, k=ks)
        found = read_calibration(path, pair, {})
        assert [sample["k"].tolist() for sample in found] == [[value] for value in wanted]
        assert [sample["x"].tolist() for sample in found] == x[: len(wanted)].tolist()


def test_at_most_a_few_samples_are_taken(tmp_path: Path) -> None:
    path = npz(tmp_path / "many.npz", x=np.zeros((MAX_SAMPLES + 5, 1, 2), np.float32))
    assert len(read_calibration(path, types(x=(1, 2)), {})) == MAX_SAMPLES


def test_a_folder_of_archives_is_read_in_order(tmp_path: Path) -> None:
    for name, value in (("b", 2), ("a", 1), ("c", 3)):
        npz(tmp_path / f"{name}.npz", x=np.full((1, 2), value, np.float32))
    found = read_calibration(tmp_path, types(x=(1, 2)), {})
    assert [int(sample["x"][0, 0]) for sample in found] == [1, 2, 3]


def test_archives_tell_the_shapes_of_a_model_with_free_sizes(tmp_path: Path) -> None:
    free = types(x=(None, 3))
    assert archived_shapes(npz(tmp_path / "a.npz", x=np.zeros((2, 5, 3), np.float32)), free) == {"x": (5, 3)}
    assert archived_shapes(npz(tmp_path / "b.npz", x=np.zeros((0, 5, 3), np.float32)), free) == {}
    (tmp_path / "pictures").mkdir()
    write_picture(tmp_path / "pictures" / "a.png", 1)
    assert archived_shapes(tmp_path / "pictures", free) == {}


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({}, "input 'x' of the model, in calibration file .* is missing"),
        ({"y": np.zeros(1)}, "has no input named 'y'"),
        ({"x": np.zeros((1, 2))}, "'x' .* has dtype float64, needed float32"),
        ({"x": np.zeros((1, 3), np.float32)}, r"has shape \[1, 3\], needed \[1, 2\]"),
        ({"x": np.zeros((4, 1, 3), np.float32)}, r"has shape \[1, 3\], needed \[1, 2\]"),
        ({"x": np.zeros((0, 1, 2), np.float32)}, "holds no samples"),
    ],
)
def test_an_archive_that_does_not_fit_is_named(tmp_path: Path, arrays: dict[str, np.ndarray], reason: str) -> None:
    with pytest.raises(InputError, match=reason) as raised:
        read_calibration(npz(tmp_path / "a.npz", **arrays), types(x=(1, 2)), {})
    assert "a.npz" in str(raised.value)


def pickled() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, x=np.array([print], dtype=object))
    return buffer.getvalue()


def stored(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("x.npy", content)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK",
        b"no archive" * 50,
        pickled(),
        stored(b"\x93NUMPY\x01\0"),
        stored(b"\x93NUMPY\x09\0"),
        pickled()[:-30],
    ],
)
def test_what_is_no_archive_of_plain_arrays_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.npz").write_bytes(content)
    for path in (tmp_path, tmp_path / "bad.npz"):
        with pytest.raises(InputError, match=r"bad\.npz is not an \.npz archive of plain arrays"):
            read_calibration(path, types(x=(1, 2)), {})


def test_an_archive_that_unpacks_to_too_much_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "large.npz"
    np.savez_compressed(path, x=np.zeros((1, 100_000), np.float32))
    assert path.stat().st_size < 2000
    monkeypatch.setattr("midstream.samples.MAX_CALIBRATION_BYTES", 100_000)
    with pytest.raises(InputError, match=r"large\.npz holds 400\d\d\d bytes; at most"):
        read_calibration(path, types(x=(1, 100_000)), {})


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere does not exist; give an \.npz file, or a folder"):
        read_calibration(tmp_path / "nowhere", PICTURE, {"x": (1, 8, 8, 3)})
    with pytest.raises(InputError, match="has no pictures or sounds"):
        read_calibration(tmp_path, PICTURE, {"x": (1, 8, 8, 3)})
    (tmp_path / "notes.txt").write_text("no sample")
    with pytest.raises(InputError, match=r"notes\.txt"):
        read_calibration(tmp_path / "notes.txt", PICTURE, {"x": (1, 8, 8, 3)})


def test_pictures_are_prepared_for_the_input_that_takes_them(tmp_path: Path) -> None:
    for name, grey in (("b.png", 102), ("a.png", 51)):
        write_picture(tmp_path / name, grey)
    write_sound(tmp_path / "c.wav", 5)
    with_scale = InputTypes((*PICTURE.specs, TensorSpec("k", np.dtype(np.int64), (3,))), PICTURE.semantics)
    found = read_calibration(tmp_path, with_scale, {"x": (1, 8, 8, 3), "k": (3,)})
    assert [sample["x"].shape for sample in found] == [(1, 8, 8, 3)] * 2
    assert np.allclose([sample["x"].mean() for sample in found], [0.2, 0.4], atol=0.005)
    assert [sample["k"].shape for sample in found] == [(3,)] * 2
    (single,) = read_calibration(tmp_path / "b.png", PICTURE, {"x": (1, 8, 8, 3)})
    assert np.array_equal(single["x"], found[1]["x"])


def test_a_picture_takes_the_size_that_was_found(tmp_path: Path) -> None:
    free = types({"x": ImageInput("NCHW", "GREY")}, x=(None, 1, None, None))
    (found,) = read_calibration(write_picture(tmp_path / "a.png", 100), free, {"x": (1, 1, 5, 9)})
    assert found["x"].shape == (1, 1, 5, 9)


def test_sounds_are_cut_or_repeated_to_the_models_length(tmp_path: Path) -> None:
    write_sound(tmp_path / "a.wav", 1 << 13, frames=300)
    write_sound(tmp_path / "b.wav", 1 << 14, frames=5000)
    found = read_calibration(tmp_path, SOUND, {"x": (1, 1000)})
    assert [(sample["x"].shape, sample["x"].dtype) for sample in found] == [((1, 1000), np.float32)] * 2
    assert (found[0]["x"] == 0.25).all()
    assert (found[1]["x"] == 0.5).all()


@pytest.mark.parametrize(
    "model",
    [
        types(x=(1, 8, 8, 3)),
        types({"x": ImageInput("NHWC", "RGB"), "y": AudioInput(8000)}, x=(1, 8, 8, 3), y=(1, 80)),
    ],
)
def test_which_input_takes_the_files_has_to_be_said(tmp_path: Path, model: InputTypes) -> None:
    write_picture(tmp_path / "a.png", 1)
    with pytest.raises(InputError, match="which input takes them is not said; convert the model with --input"):
        read_calibration(tmp_path, model, {"x": (1, 8, 8, 3), "y": (1, 80)})


def test_an_empty_folder_is_said_to_be_one(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing")
    for model in (PICTURE, types(x=(1, 8, 8, 3))):
        with pytest.raises(InputError, match="has no pictures or sounds"):
            read_calibration(tmp_path, model, {"x": (1, 8, 8, 3)})


def test_files_of_the_other_kind_do_not_count(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.png", 1)
    with pytest.raises(InputError, match="holds no audio files for input 'x'"):
        read_calibration(tmp_path, SOUND, {"x": (1, 1000)})


def test_a_damaged_picture_is_named(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.png", 1)
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:40])
    with pytest.raises(InputError, match=r"calibration: picture .*b\.png is damaged"):
        read_calibration(tmp_path, PICTURE, {"x": (1, 8, 8, 3)})
