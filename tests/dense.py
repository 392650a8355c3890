"""A small network of three dense layers whose first axis is free, or as its text says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser

from midstream_converters.convert import convert
from midstream_converters.opening import Options

DENSE = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[N, 64] x) => (float[N, 64] y) {
  a = MatMul(x, w)
  b = Relu(a)
  c = MatMul(b, w)
  d = Relu(c)
  y = MatMul(d, w)
}
"""


def dense_bundle(folder: Path, text: str = DENSE) -> Path:
    """Its bundle, made in a folder that is there."""
    model = onnx.parser.parse_model(text)
    weights = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32) / 8
    model.graph.initializer.append(onnx.numpy_helper.from_array(weights, "w"))
    onnx.save(model, folder / "dense.onnx")
    convert(folder / "dense.onnx", folder / "bundle", Options(shapes={"x": (1, 64)}))
    return folder / "bundle"
