"""Slices that code what crosses themselves: which there are, what they give, how they are held against the codec."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from numpy.typing import NDArray

from midstream.bundle import Bundle
from midstream.communication.codecs.steps import Stepped, dequantise, holds, quantise
from midstream.engines import Program, engine_for
from midstream.manifest import WEIGHTS_FILE, CodingCost, Manifest, carrier_names, head_name, tail_name
from midstream.tensors import Tensors
from midstream_converters.coding import carriers, codes_of, digest, right
from midstream_converters.convert import CODED_CUTS, convert
from midstream_converters.opening import Options
from midstream_converters.verify import verify_bundle

MODELS = Path(__file__).parents[1] / "models"
# 64 KiB cross after each of the first layers, 4 KiB after the mean.
LARGE = """<ir_version: 8, opset_import: ["" : OPSET]>
    g (float[1,SIZE,16,64] x) => (float[1,SIZE,1,64] y)
    <float[1] half = {0.5}> {
        a = Tanh(x)
        b = Mul(a, half)
        c = Sigmoid(b)
        d = ReduceMean<axes=[2]>(c)
        y = Exp(d)
    }"""
TWO = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[1,16,16,64] x) => (float[1,16,16,64] y)
    { a = Tanh(x)\n b = Sigmoid(a)\n y = Add(a, b) }"""
HALF = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[1,32,16,64] x) => (float[1,32,16,64] y)
    { h = Cast<to=10>(x)\n a = Relu(h)\n b = Cast<to=1>(a)\n y = Exp(b) }"""


def converted(text: str, folder: Path, **options: object) -> Bundle:
    folder.mkdir(exist_ok=True)
    onnx.save(onnx.parser.parse_model(text), folder / "model.onnx")
    convert(folder / "model.onnx", folder / "bundle", Options(max_cuts=None, **options))  # type: ignore[arg-type]
    return Bundle.open(folder / "bundle")


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return converted(LARGE.replace("SIZE", "16").replace("OPSET", "13"), tmp_path_factory.mktemp("large"))


def coded(manifest: Manifest) -> list[str]:
    """The cuts that have slices of their own for int8, both or none of them."""
    heads = [cut.id for cut in manifest.cuts if head_name(cut.id, "int8") in manifest.slices]
    assert heads == [cut.id for cut in manifest.cuts if tail_name(cut.id, "int8") in manifest.slices]
    return heads


def run(bundle: Bundle, name: str, tensors: Tensors) -> Tensors:
    record = bundle.manifest.slices[name]
    program = Program(record, bundle._archive.read(record.member, record.bytes), bundle.path / WEIGHTS_FILE)
    return engine_for("onnx").load(program).run({key: tensors[key] for key in record.inputs})


def noise(seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(1, 16, 16, 64)).astype(np.float32)


def test_where_enough_floats_cross_there_are_slices_that_code(large: Bundle) -> None:
    payloads = {cut.id: cut.payload_bytes for cut in large.cuts}
    assert {payloads[cut] for cut in coded(large.manifest)} == {64 << 10}
    assert len(coded(large.manifest)) == CODED_CUTS
    assert set(payloads.values()) == {64 << 10, 4 << 10}
    assert set(large.costs.coding) == {
        name(c, "int8") for c in coded(large.manifest) for name in (head_name, tail_name)
    }
    assert all(cost.within_ms >= 0 and cost.beside_ms >= 0 for cost in large.costs.coding.values())


@pytest.mark.parametrize("input_values", [noise(), np.maximum(noise(), 0), -np.abs(noise()), np.zeros_like(noise())])
def test_a_head_gives_what_the_plain_one_does_and_the_codec_s_codes(large: Bundle, input_values: Tensors) -> None:
    for cut in coded(large.manifest):
        crossing, _ = large.run_head(cut, {"x": input_values})
        made = run(large, head_name(cut, "int8"), {"x": input_values})
        for name, values in crossing.items():
            assert made[name].tobytes() == values.tobytes()
            codes, scale, zero = (made[key] for key in carrier_names("int8", name))
            assert (codes.shape, scale.shape, zero.shape) == (values.shape, (), ())
            wanted = quantise(values.reshape(-1), 0.0)
            if wanted is None:
                assert values.min() == values.max()
                assert not holds(Stepped(float(scale), int(zero), codes.reshape(-1)), values.reshape(-1))
                continue
            assert float(scale) == pytest.approx(wanted.step, rel=1e-6)
            assert int(zero) == wanted.zero
            assert np.abs(codes.reshape(-1).astype(int) - wanted.codes).max() <= 1


def test_a_tail_does_what_the_plain_one_does_on_the_codes_values(large: Bundle) -> None:
    for cut in coded(large.manifest):
        crossing, _ = large.run_head(cut, {"x": noise()})
        carried: Tensors = {}
        decoded: Tensors = {}
        for name, values in crossing.items():
            stepped = quantise(values.reshape(-1), 0.0)
            assert stepped is not None
            carried |= zip(carrier_names("int8", name), stepped.carriers(values.shape), strict=True)
            decoded[name] = dequantise(stepped).reshape(values.shape)
        wanted = large.run_tail(cut, decoded)
        assert {k: v.tobytes() for k, v in run(large, tail_name(cut, "int8"), carried).items()} == {
            k: v.tobytes() for k, v in wanted.items()
        }


def test_several_tensors_are_coded_each_by_itself(tmp_path: Path) -> None:
    bundle = converted(TWO, tmp_path)
    (cut,) = [cut for cut in bundle.cuts if len(cut.tensors) == 2]
    assert cut.id in coded(bundle.manifest)
    outputs = set(bundle.manifest.slices[head_name(cut.id, "int8")].outputs)
    assert outputs == {"a", "b", *carrier_names("int8", "a"), *carrier_names("int8", "b")}


def test_sizes_may_differ_from_run_to_run(tmp_path: Path) -> None:
    bundle = converted(LARGE.replace("SIZE", "N").replace("OPSET", "13"), tmp_path, shapes={"x": (1, 16, 16, 64)})
    cut = coded(bundle.manifest)[0]
    made = run(bundle, head_name(cut, "int8"), {"x": noise()[:, :3]})
    assert made[carrier_names("int8", bundle.manifest.cut(cut).tensors[0].name)[0]].shape == (1, 3, 16, 64)


@pytest.mark.parametrize(
    ("text", "tensors"),
    [
        pytest.param(LARGE.replace("SIZE", "16").replace("OPSET", "10"), set(), id="an old operator set"),
        pytest.param(LARGE.replace("SIZE", "15").replace("OPSET", "13"), set(), id="too little crosses"),
        pytest.param(HALF, {"b"}, id="half precision crosses"),
    ],
)
def test_where_they_cannot_be_made_there_are_none(text: str, tensors: set[str], tmp_path: Path) -> None:
    bundle = converted(text, tmp_path)
    assert bundle.cuts
    assert {spec.name for cut in coded(bundle.manifest) for spec in bundle.manifest.cut(cut).tensors} == tensors


def test_a_name_that_the_model_has_is_no_carrier_s(tmp_path: Path) -> None:
    model = onnx.parser.parse_model(LARGE.replace("SIZE", "16").replace("OPSET", "13"))
    model.graph.node[1].output[0] = model.graph.node[2].input[0] = "a.scale"
    onnx.save(model, tmp_path / "model.onnx")
    manifest = convert(tmp_path / "model.onnx", tmp_path / "bundle", Options(max_cuts=None))
    tensors = {spec.name for cut in manifest.cuts for spec in cut.tensors}
    assert {"a", "a.scale", "c"} <= tensors
    assert {spec.name for cut in coded(manifest) for spec in manifest.cut(cut).tensors} == {"a.scale", "c"}


def test_a_tflite_model_has_none(tmp_path: Path) -> None:
    manifest = convert(MODELS / "digits_float32.tflite", tmp_path / "bundle", Options(max_cuts=None))
    assert not coded(manifest)


def test_only_the_most_useful_cuts_have_them(tmp_path: Path) -> None:
    steps = "\n".join(f"v{i + 1} = Tanh(v{i})" for i in range(9))
    text = f"""<ir_version: 8, opset_import: ["" : 17]>
    g (float[1,16,16,64] v0) => (float[1,16,16,64] v9) {{ {steps} }}"""
    assert len(coded(converted(text, tmp_path).manifest)) == CODED_CUTS


def test_the_same_model_gives_the_same_slices_whatever_the_times(large: Bundle, tmp_path: Path) -> None:
    again = converted(LARGE.replace("SIZE", "16").replace("OPSET", "13"), tmp_path)
    assert again.digest == large.digest


@pytest.mark.parametrize(
    "change",
    [
        lambda good: replace(good, codes=(good.codes ^ np.uint8(2))),
        lambda good: replace(good, step=good.step * 1.02),
        lambda good: replace(good, zero=good.zero + 1),
        lambda good: replace(good, step=float("nan")),
    ],
)
def test_wrong_codes_are_seen(change: object) -> None:
    values = noise()
    good = quantise(values.reshape(-1), 0.0)
    assert good is not None
    assert right(good, values)
    bad: Stepped = change(good)  # type: ignore[operator]
    assert not right(bad, values)
    values[0, 0, 0, 0] = np.nan
    assert not right(good, values)


def test_what_crosses_is_known_again_by_its_bits() -> None:
    values = noise()
    known = digest({"a": values})
    assert digest({"a": values.copy()}) == known
    values[0, 3, 2, 1] = np.nextafter(values[0, 3, 2, 1], np.float32(9))
    assert digest({"a": values}) != known


def test_verify_repeats_the_proof_of_slices_that_code(large: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    def proofs() -> dict[str, float]:
        found = verify_bundle(large, [{"x": noise()}, {"x": np.zeros_like(noise())}])
        return {proof.id: proof.max_abs_error for proof in found if proof.id.endswith(" int8")}

    assert proofs() == {f"{cut} int8": 0.0 for cut in coded(large.manifest)}
    # A slice that coded otherwise: half as fine.
    run_slice = Bundle.run_slice

    def coarser(bundle: Bundle, name: str, tensors: Tensors) -> Tensors:
        made = run_slice(bundle, name, tensors)
        return {key: value // 2 if value.dtype == np.uint8 and value.ndim else value for key, value in made.items()}

    monkeypatch.setattr(Bundle, "run_slice", coarser)
    assert set(proofs().values()) == {math.inf}


@pytest.fixture(scope="module")
def segments(assets: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A TFLite model at some of whose cuts more than 64 KiB cross."""
    target = tmp_path_factory.mktemp("segments") / "bundle"
    convert(assets / "models" / "selfie_segmentation.tflite", target, Options(max_cuts=4))
    return Bundle.open(target)


def test_tails_of_tflite_decode_and_their_heads_do_not_encode(segments: Bundle) -> None:
    tails = [cut for cut in segments.cuts if tail_name(cut.id, "int8") in segments.manifest.slices]
    assert tails
    assert all(head_name(cut.id, "int8") not in segments.manifest.slices for cut in segments.cuts)
    assert set(segments.costs.coding) == {tail_name(cut.id, "int8") for cut in tails}
    (spec,) = segments.inputs
    sample = {spec.name: np.random.default_rng(1).random(spec.shape).astype(np.float32)}
    for cut in tails:
        crossing, _ = segments.run_head(cut.id, sample)
        codes = codes_of(crossing)
        assert codes is not None
        decoded = {name: dequantise(codes[name]).reshape(value.shape) for name, value in crossing.items()}
        found = segments.run_slice(tail_name(cut.id, "int8"), carriers("int8", codes, crossing))
        for name, value in segments.run_tail(cut.id, decoded).items():
            assert found[name].tobytes() == value.tobytes()
    told = {proof.id: proof.max_abs_error for proof in verify_bundle(segments, [sample])}
    assert {key: error for key, error in told.items() if key.endswith(" int8")} == {f"{c.id} int8": 0.0 for c in tails}


def test_what_comes_over_the_wire_is_decoded_within_the_tail_where_that_pays(segments: Bundle) -> None:
    (spec,) = segments.inputs
    sample = {spec.name: np.random.default_rng(2).random(spec.shape).astype(np.float32)}
    (cut, *_) = (cut.id for cut in segments.cuts if tail_name(cut.id, "int8") in segments.manifest.slices)
    quick = replace(segments.costs, coding={tail_name(cut, "int8"): CodingCost(0.0, 1.0)})
    slow = replace(segments.costs, coding={tail_name(cut, "int8"): CodingCost(1.0, 1.0)})
    outputs = []
    for costs, wanted in ((quick, tail_name(cut, "int8")), (slow, tail_name(cut))):
        bundle = Bundle.open(segments.path)
        bundle.costs = costs
        crossing, _, codes = bundle.run_head_for(cut, "int8", sample)
        assert codes is None
        came = bundle.decode_for_tail(cut, "int8", bundle.encode(cut, "int8", crossing), 1 << 30)
        assert came.slice == wanted
        outputs.append(bundle.run_tail_on(came))
    for name, value in outputs[0].items():
        assert value.tobytes() == outputs[1][name].tobytes()
