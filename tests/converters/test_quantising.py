"""Float models to int8 on real inputs: what comes out, what is told of it, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from midstream.bundle import Bundle
from midstream.errors import InputError, MissingExtraError, ModelError
from midstream.manifest import BUNDLE_FILES, COSTS_FILE
from midstream_converters.apart import run_apart
from midstream_converters.convert import convert
from midstream_converters.opening import Options
from midstream_converters.recipe import BundleCache
from midstream_converters.stored import StoredSamples

MODELS = Path(__file__).resolve().parent.parent / "models"
DIGITS = MODELS / "digits_calibration.npz"
INT8 = Options(calibration=DIGITS, max_cuts=2, quantize="int8")
needs_quantizer = pytest.mark.skipif(not find_spec("ai_edge_quantizer"), reason="the extra [quantize] is not installed")


def accuracy(bundle: Bundle) -> float:
    images, labels = np.load(DIGITS)["image"], np.load(MODELS / "labels.npz")["digits"]
    told = [int(np.argmax(bundle.run({"image": image})[bundle.outputs[0].name])) for image in images]
    return float(np.mean(told == labels))


@pytest.mark.parametrize(
    "name",
    [
        "digits_float32.onnx",
        "digits_any_size.onnx",  # dynamic sizes
        "digits_opset7.onnx",  # no scales per channel in this opset
        "digits_if.onnx",  # inner graphs that capture what a rectifier makes
        "digits_loop.onnx",
        "external/digits_external.onnx",
        pytest.param("digits_float32.tflite", marks=needs_quantizer),
        pytest.param("digits_any_size.tflite", marks=needs_quantizer),
    ],
)
def test_a_float_model_becomes_an_int8_one_that_still_tells_digits(tmp_path: Path, name: str) -> None:
    manifest = convert(MODELS / name, tmp_path / "b", INT8)
    change = manifest.quantisation
    assert change is not None
    assert (change.dtype, change.samples) == ("int8", 48)
    assert change.agreement >= 0.95
    path = MODELS / name
    assert change.model_bytes == path.stat().st_size + sum(
        f.stat().st_size for f in path.parent.glob(f"{path.stem}.data")
    )
    bundle = Bundle.open(tmp_path / "b")
    assert bundle.manifest.quantisation == change
    assert bundle.costs.float_ms is not None
    assert {spec.dtype.name for spec in (*bundle.inputs, *bundle.outputs)} == {"float32"}
    assert any("QUANT" in layer.op.upper() for layer in bundle.graph.layers)
    assert accuracy(bundle) > 0.93
    image = np.load(DIGITS)["image"][0]
    for cut in bundle.cuts:
        whole, split = bundle.run({"image": image}), bundle.run_split({"image": image}, cut=cut.id)
        assert {name: value.tobytes() for name, value in split.items()} == {
            name: value.tobytes() for name, value in whole.items()
        }


def test_the_agreement_told_is_that_of_the_two_models(tmp_path: Path) -> None:
    convert(MODELS / "digits_if.onnx", tmp_path / "float", replace(INT8, quantize=None))
    manifest = convert(MODELS / "digits_if.onnx", tmp_path / "int8", INT8)
    before, after = Bundle.open(tmp_path / "float"), Bundle.open(tmp_path / "int8")
    pairs = [(before.run({"image": x})["scores"], after.run({"image": x})["scores"]) for x in np.load(DIGITS)["image"]]
    assert manifest.quantisation is not None
    (change,) = manifest.quantisation.outputs
    assert change.agreement == np.mean([np.argmax(a) == np.argmax(b) for a, b in pairs])
    scale = max(a.max() for a, _ in pairs) - min(a.min() for a, _ in pairs)
    assert change.max_difference == pytest.approx(max(np.abs(a - b).max() for a, b in pairs) / scale)
    assert change.mean_difference == pytest.approx(np.mean([np.abs(a - b).mean() for a, b in pairs]) / scale, rel=1e-4)


def test_weights_in_constant_nodes_become_int8_too(assets: Path, tmp_path: Path) -> None:
    pictures = np.random.default_rng(0).normal(size=(3, 1, 3, 48, 192)).astype(np.float32)
    np.savez(tmp_path / "x.npz", x=pictures)
    options = Options(calibration=tmp_path / "x.npz", max_cuts=1, quantize="int8")
    manifest = convert(assets / "models" / "ch_ppocr_mobile_v2.0_cls_infer.onnx", tmp_path / "b", options)
    assert manifest.quantisation is not None
    assert manifest.model_bytes < 0.7 * manifest.quantisation.model_bytes


def test_a_model_without_weights_is_refused(tmp_path: Path) -> None:
    parsed = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[1,4] x) => (float[1,4] y) { a = Tanh(x)\n y = Relu(a) }'
    )
    onnx.save(parsed, tmp_path / "tanh.onnx")
    np.savez(tmp_path / "x.npz", x=np.ones((2, 1, 4), np.float32))
    options = Options(calibration=tmp_path / "x.npz", quantize="int8")
    with pytest.raises(ModelError, match=r"tanh\.onnx has no layers with weights that can be quantised"):
        convert(tmp_path / "tanh.onnx", tmp_path / "b", options)


def test_a_large_model_is_quantised_beside_its_weights(tmp_path: Path) -> None:
    images = np.load(DIGITS)["image"]
    made = []
    for size in (1, 2 << 30):
        folder = tmp_path / str(size)
        folder.mkdir()
        StoredSamples(folder / "samples", ("image",)).store({"image": image} for image in images)
        model = MODELS / "external" / "digits_external.onnx"
        request = {"name": "x", "model": str(model), "bytes": size, "inputs": ["image"]}
        run_apart("midstream_converters.onnx.quantise", folder, request, "x", "")
        made.append(ort.InferenceSession((folder / "made").read_bytes()).run(None, {"image": images[0]})[0])
    assert made[0].tobytes() == made[1].tobytes()


def test_inputs_bound_to_a_value_and_states_are_fed_too(tmp_path: Path) -> None:
    frames = np.load(MODELS / "keyword_calibration.npz")["frames"][:5]
    np.savez(tmp_path / "clips.npz", frames=frames)
    zeros = [[[0.0] * 20]]
    options = Options(
        calibration=tmp_path / "clips.npz", max_cuts=1, quantize="int8", values={"hidden": zeros, "cell": zeros}
    )
    manifest = convert(MODELS / "keyword_lstm.onnx", tmp_path / "b", options)
    assert manifest.quantisation is not None
    assert manifest.quantisation.samples == 5
    assert {change.name for change in manifest.quantisation.outputs} == {"scores", "next_hidden", "next_cell"}


def test_the_same_inputs_give_the_same_bundle_and_a_cached_one_still_tells(tmp_path: Path) -> None:
    cache = BundleCache(tmp_path / "cache")
    first = convert(MODELS / "digits_float32.onnx", tmp_path / "one", INT8, cache=cache)
    convert(MODELS / "digits_float32.onnx", tmp_path / "two", INT8)
    steps: list[str] = []
    again = convert(
        MODELS / "digits_float32.onnx", tmp_path / "three", INT8, lambda what, *_: steps.append(what), cache
    )
    for name in BUNDLE_FILES - {COSTS_FILE}:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert again == first
    assert set(steps) == {"reading"}


def test_another_number_format_is_another_recipe(tmp_path: Path) -> None:
    small = convert(MODELS / "digits_float32.onnx", tmp_path / "b", INT8)
    plain = convert(MODELS / "digits_float32.onnx", tmp_path / "b", replace(INT8, quantize=None))
    assert small.recipe != plain.recipe
    assert plain.quantisation is None


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("digits_qdq.onnx", r"quantised already \(it has DequantizeLinear, QuantizeLinear\)"),
        ("digits_qoperator.onnx", r"quantised already \(it has .*QLinearConv"),
        ("digits_float16.onnx", r"in half precision \(27 of its weights are float16\)"),
        ("digits_int8.tflite", r"quantised already \(\d+ of its \d+ tensors have a scale\)"),
        ("digits_int8_float_io.tflite", "quantised already"),
        ("digits_dynamic_range.tflite", "quantised already"),
        ("digits_float16.tflite", r"in half precision \(\d+ of its \d+ tensors are float16\)"),
    ],
)
def test_what_is_not_in_float32_is_refused(tmp_path: Path, name: str, what: str) -> None:
    with pytest.raises(ModelError, match=rf"{name} is {what}"):
        convert(MODELS / name, tmp_path / "b", INT8)
    assert list(tmp_path.iterdir()) == []


def test_made_up_inputs_are_never_used(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--quantize int8 needs real inputs.*give --calibration"):
        convert(MODELS / "digits_float32.onnx", tmp_path / "b", Options(quantize="int8"))


def test_calibration_without_samples_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "none.npz", image=np.zeros((0, 1, 8, 8, 1), np.float32))
    with pytest.raises(InputError, match=r"holds no samples"):
        convert(MODELS / "digits_float32.onnx", tmp_path / "b", replace(INT8, calibration=tmp_path / "none.npz"))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_inputs_without_a_range_are_refused(tmp_path: Path, value: float) -> None:
    images = np.load(DIGITS)["image"].astype(np.float32)
    images[4, 0, 3, 3, 0] = value
    np.savez(tmp_path / "c.npz", image=images)
    with pytest.raises(InputError, match=r"c\.npz: sample 5 of input 'image' has values that are not finite"):
        convert(MODELS / "digits_float32.onnx", tmp_path / "b", replace(INT8, calibration=tmp_path / "c.npz"))


@needs_quantizer
def test_a_model_that_breaks_the_runtime_once_quantised_is_one_error(tmp_path: Path) -> None:
    images = np.full_like(np.load(DIGITS)["image"].astype(np.float32), 3e38)
    np.savez(tmp_path / "c.npz", image=images)
    with pytest.raises(
        ModelError, match=r"digits_float32\.tflite cannot be run any more after quantising; see whether"
    ):
        convert(MODELS / "digits_float32.tflite", tmp_path / "b", replace(INT8, calibration=tmp_path / "c.npz"))


@pytest.mark.skipif(bool(find_spec("ai_edge_quantizer")), reason="the extra [quantize] is installed")
def test_without_its_extra_a_tflite_file_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(MissingExtraError, match=r"ai-edge-quantizer.*\[quantize\]"):
        convert(MODELS / "digits_float32.tflite", tmp_path / "b", INT8)


@needs_quantizer
@pytest.mark.parametrize("name", ["digits_if.tflite", "digits_while.tflite"])
def test_a_tflite_file_that_the_quantizer_cannot_take_is_one_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(
        ModelError, match=rf"{name} cannot be quantised as a finished TFLite file: .*give the Keras model"
    ):
        convert(MODELS / name, tmp_path / "b", INT8)
