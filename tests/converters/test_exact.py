"""Keeping cuts exact where onnxruntime optimises across them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper

from midstream.bundle import Bundle
from midstream_converters.convert import convert
from midstream_converters.exact import Trace, cause, switched_off
from midstream_converters.opening import Options


def test_what_a_side_makes_more_of_is_switched_off_there() -> None:
    trace = Trace(Counter(FusedMatMul=1), Counter(FusedMatMul=1), Counter(FusedMatMul=1))
    off = ("MatMulScaleFusion", "MatmulTransposeFusion")
    assert list(switched_off(trace)) == [((), off), (off, ()), (off, off)]


def test_what_nothing_is_known_to_make_is_left_alone() -> None:
    assert list(switched_off(Trace(Counter(), Counter(Relu=1), Counter()))) == []


def test_the_cause_names_what_was_parted() -> None:
    parted = Trace(Counter(LayerNormalization=1), Counter(ReduceMean=1), Counter(Div=1))
    assert cause(parted, "onnxruntime 1").endswith("as one (LayerNormalization)")
    assert "other steps" in cause(Trace(Counter(), Counter(), Counter()), "onnxruntime 1")


def build(text: str, **weights: np.ndarray) -> onnx.ModelProto:
    graph = onnx.parser.parse_graph(text)
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in weights.items())
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)


def converted(model: onnx.ModelProto, folder: Path) -> Bundle:
    onnx.save(model, folder / "model.onnx")
    convert(folder / "model.onnx", folder / "bundle", Options(max_cuts=None))
    return Bundle.open(folder / "bundle")


def test_a_cut_through_a_convolution_and_its_normalisation_is_rejected_with_its_cause(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weights = {"w": rng.normal(0, 0.3, (8, 3, 3, 3)), "s": rng.normal(1, 0.2, 8), "o": rng.normal(0, 0.2, 8)}
    weights |= {"m": rng.normal(0, 0.2, 8), "v": rng.uniform(0.5, 2, 8)}
    model = build(
        """g (float[1,3,16,16] x) => (float[1,8,14,14] y) {
            a = Relu(x)
            b = Conv(a, w)
            c = BatchNormalization(b, s, o, m, v)
            y = Sigmoid(c)
        }""",
        **{name: value.astype(np.float32) for name, value in weights.items()},
    )
    bundle = converted(model, tmp_path)
    (rejected,) = bundle.manifest.rejected
    assert rejected.id == "c2"
    assert "computes layers on both sides of it as one (FusedConv)" in rejected.reason
    assert 0 < (rejected.max_abs_error or 0) < 1e-4


def test_a_half_precision_value_crosses_in_single_precision(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weights = {name: rng.normal(0, 0.3, (16, 16)).astype(np.float16) for name in ("w", "v")}
    model = build(
        "g (float16[1,16] x) => (float16[1,16] y) { a = MatMul(x, w)\n b = Tanh(a)\n c = MatMul(b, v)\n y = Tanh(c) }",
        **weights,
    )
    bundle = converted(model, tmp_path)
    assert len(bundle.cuts) == 3
    crossing = {spec.name: spec.dtype for cut in bundle.cuts for spec in cut.tensors}
    assert crossing == {"a.float32": np.float32, "b.float32": np.float32, "c.float32": np.float32}
    x = rng.normal(0, 1, (1, 16)).astype(np.float16)
    session = ort.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    (want,) = session.run(None, {"x": x})
    for chain in [(cut.id,) for cut in bundle.cuts] + list(bundle.manifest.middles()):
        assert bundle.run_split({"x": x}, cut=chain)["y"].tobytes() == want.tobytes()
