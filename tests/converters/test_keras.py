"""Keras models and SavedModels through TensorFlow itself; run by scripts/test --long, which installs it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from midstream.bundle import Bundle
from midstream.errors import ModelError
from midstream.manifest import BUNDLE_FILES, COSTS_FILE
from midstream_converters.convert import convert
from midstream_converters.opening import Options
from midstream_converters.recipe import BundleCache

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not find_spec("tensorflow"), reason="the extra [convert-keras] is not installed"),
]

MODELS = Path(__file__).resolve().parent.parent / "models"
DIGITS = MODELS / "digits_calibration.npz"
FEW = Options(calibration=DIGITS, max_cuts=2)

MAKE = """
import os, sys
os.environ |= {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
import keras
import tensorflow as tf
layers = keras.layers
os.chdir(sys.argv[1])

digits = keras.saving.load_model(sys.argv[2], compile=False)
digits.save("digits.h5")
digits.export("digits", verbose=False)
digits.save_weights("only.weights.h5")

frames = keras.Input((24, 12), name="frames")
recurrent = keras.Model(frames, layers.Dense(6, name="scores")(layers.GRU(8)(frames)))
recurrent.save("gru.keras")
recurrent.export("gru", verbose=False)

x = keras.Input((4,), name="x")
z = keras.Input((3,), name="z")
keras.Model([x, z], {"sum": layers.Add()([layers.Dense(3)(x), z]), "first": layers.Dense(2)(x)}).save("two.keras")
keras.Model(x, [layers.Lambda(lambda v: v * 2, name="twice")(x), layers.Dense(2)(x)]).save("code.keras")
keras.Model(x, layers.Lambda(lambda v: v * 2, name="twice")(x)).save("code.h5")
keras.Model(x, keras.ops.erfinv(x)).export("erfinv", verbose=False)
chain = keras.Sequential([keras.Input((4,), name="x"), layers.Dense(3), layers.Dense(2, name="last")])
chain.save("chain.keras")

@keras.saving.register_keras_serializable("mine")
class Shift(layers.Layer):
    def call(self, value):
        return value + 1

keras.Model(x, Shift(name="moved")(x)).save("own.keras")
keras.Model(x, Shift(name="moved")(x)).save("own.h5")

module = tf.Module()
module.one = tf.function(lambda x: {"y": x + 1}, [tf.TensorSpec((1, 4), tf.float32, "x")])
module.two = tf.function(lambda x: {"y": x + 2}, [tf.TensorSpec((1, 4), tf.float32, "x")])
tf.saved_model.save(module, "several", {"plus_one": module.one, "plus_two": module.two})
tf.saved_model.save(module, "single", {"plus_two": module.two})
tf.saved_model.save(tf.Module(), "none")
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models that Keras itself saved, in every form."""
    folder = tmp_path_factory.mktemp("made")
    shutil.copy(MODELS / "digits.keras", folder)
    subprocess.run([sys.executable, "-c", MAKE, folder, MODELS / "digits.keras"], check=True, capture_output=True)
    return folder


def answers(bundle: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    opened = Bundle.open(bundle)
    (output,) = opened.outputs
    return np.concatenate([opened.run({"image": image})[output.name] for image in np.load(DIGITS)["image"]])


@pytest.mark.parametrize("to", ["tflite", "onnx"])
@pytest.mark.parametrize("name", ["digits.keras", "digits.h5", "digits"])
def test_every_form_gives_what_the_finished_file_gives(made: Path, tmp_path: Path, name: str, to: str) -> None:
    manifest = convert(made / name, tmp_path / "b", Options(max_cuts=2, calibration=DIGITS, to=to))  # type: ignore[arg-type]
    assert (manifest.name, manifest.model_format) == ("digits", to)
    assert [spec.name for spec in manifest.inputs] == ["image"]
    assert [spec.name for spec in manifest.outputs] == ["output_0" if name == "digits" else "scores"]
    assert len(manifest.cuts) == 2
    convert(MODELS / f"digits_float32.{to}", tmp_path / "finished", FEW)
    assert np.abs(answers(tmp_path / "b") - answers(tmp_path / "finished")).max() < 1e-5


@pytest.mark.parametrize(("name", "to"), [("digits.keras", "tflite"), ("digits", "tflite"), ("digits.keras", "onnx")])
def test_int8_keeps_the_answers(made: Path, tmp_path: Path, name: str, to: str) -> None:
    options = Options(calibration=DIGITS, max_cuts=2, quantize="int8", to=to)  # type: ignore[arg-type]
    manifest = convert(made / name, tmp_path / "b", options)
    assert manifest.quantisation is not None
    assert manifest.quantisation.agreement >= 0.95
    labels = np.load(MODELS / "labels.npz")["digits"]
    assert np.mean(answers(tmp_path / "b").argmax(1) == labels) > 0.93
    bundle = Bundle.open(tmp_path / "b")
    assert any("QUANT" in layer.op.upper() for layer in bundle.graph.layers)
    assert {spec.dtype.name for spec in (*bundle.inputs, *bundle.outputs)} == {"float32"}


@pytest.mark.parametrize(("to", "quantize"), [("onnx", None), ("tflite", "int8")])
def test_the_same_model_gives_the_same_bytes(made: Path, tmp_path: Path, to: str, quantize: str | None) -> None:
    options = Options(calibration=DIGITS, max_cuts=2, quantize=quantize, to=to)  # type: ignore[arg-type]
    for target in ("one", "two"):
        convert(made / "digits.keras", tmp_path / target, options)
    for file in BUNDLE_FILES - {COSTS_FILE}:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_what_was_converted_is_known_again_before_tensorflow_starts(made: Path, tmp_path: Path) -> None:
    cache = BundleCache(tmp_path / "cache")
    steps: list[str] = []
    for target in ("one", "two"):
        steps.clear()
        convert(made / "digits.keras", tmp_path / target, FEW, lambda what, *_: steps.append(what), cache)
    assert steps == ["reading"]


def test_a_layer_with_a_memory_takes_one_input_at_a_time(made: Path, tmp_path: Path) -> None:
    manifest = convert(made / "gru.keras", tmp_path / "b", Options(max_cuts=1))
    assert manifest.inputs[0].shape == (1, 24, 12)
    free = convert(made / "gru.keras", tmp_path / "o", Options(max_cuts=1, to="onnx"))
    assert free.inputs[0].shape == (None, 24, 12)
    frames = {"frames": np.load(MODELS / "keyword_calibration.npz")["frames"][0]}
    one, other = (Bundle.open(tmp_path / name).run(frames)["scores"] for name in "bo")
    assert np.abs(one - other).max() < 1e-5


def test_several_ends_keep_their_names(made: Path, tmp_path: Path) -> None:
    manifest = convert(made / "two.keras", tmp_path / "b", Options())
    assert {spec.name for spec in manifest.inputs} == {"x", "z"}
    assert {spec.name for spec in manifest.outputs} == {"sum", "first"}
    chain = convert(made / "chain.keras", tmp_path / "c", Options())
    assert [spec.name for spec in (*chain.inputs, *chain.outputs)] == ["x", "last"]


def test_the_only_signature_is_taken_whatever_it_is_called(made: Path, tmp_path: Path) -> None:
    convert(made / "single", tmp_path / "b", Options())
    (answer,) = Bundle.open(tmp_path / "b").run({"x": np.zeros((1, 4), np.float32)}).values()
    assert np.all(answer == 2)


@pytest.mark.parametrize(
    ("name", "options", "what"),
    [
        ("code.keras", Options(), r"code\.keras has Lambda layers \(twice\): .* never run; export it"),
        ("code.h5", Options(), r"code\.h5 has Lambda layers \(twice\)"),
        ("own.keras", Options(), r"own\.keras has layers whose code is not in Keras \(moved \(Shift\)\).*export it"),
        ("own.h5", Options(), r"own\.h5 has layers whose code is not in Keras \(moved \(mine>Shift\)\)"),
        ("only.weights.h5", Options(), r"holds weights only, no model; save the whole model"),
        ("several", Options(), r"several has the signatures plus_one, plus_two and none named 'serving_default'"),
        ("none", Options(), r"none has no signatures"),
        ("erfinv", Options(), r"erfinv uses the TensorFlow operators Erfinv, which LiteRT cannot run.*--to onnx"),
        ("erfinv", Options(to="onnx"), r"erfinv uses the TensorFlow operators Erfinv, which tf2onnx cannot translate"),
        ("gru", Options(), r"TensorList.*save it for a batch of one input, or try --to onnx"),
    ],
)
def test_what_cannot_be_converted_says_why_and_what_to_do(
    made: Path, tmp_path: Path, name: str, options: Options, what: str
) -> None:
    with pytest.raises(ModelError, match=what):
        convert(made / name, tmp_path / "b", options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
@pytest.mark.parametrize("name", ["digits.keras", "digits.h5"])
def test_a_truncated_file_is_one_error(made: Path, tmp_path: Path, name: str, share: float) -> None:
    content = (made / name).read_bytes()
    (tmp_path / name).write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ModelError, match=rf"{name}.*truncated or damaged"):
        convert(tmp_path / name, tmp_path / "b", Options())


def test_an_archive_or_folder_of_something_else_is_one_error(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.keras", "w") as archive:
        archive.writestr("other.txt", "")
    with pytest.raises(ModelError, match=r"a\.keras is a zip archive without config\.json"):
        convert(tmp_path / "a.keras", tmp_path / "b", Options())
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "saved_model.pb").write_bytes(b"nothing of the kind")
    with pytest.raises(ModelError, match=r"TensorFlow cannot load the SavedModel .*folder"):
        convert(tmp_path / "folder", tmp_path / "b", Options())


def test_the_command_prints_one_value_and_nothing_of_tensorflows(made: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "midstream_converters", made / "digits.keras", "-o", tmp_path / "b", "--json"]
    command += ["--quantize", "int8", "--calibration", DIGITS, "--max-cuts", "1", "--no-cache"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    told = json.loads(done.stdout)
    assert told["quantized"]["agreement"] >= 0.95
    assert 0 < told["quantized"]["size_ratio"] < 1
    assert done.stderr == ""
