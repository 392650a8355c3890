"""A convolutional network large enough for an early exit, and pictures for it: gratings of six directions, in noise.

Its kernels are random and its last layer is fitted to pictures of its own, so that it is made in a second.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

SIDE = 64
CLASSES = 6
CHANNELS = (12, 16, 64, 96, 96, 96)
STRIDES = (2, 1, 2, 1, 1, 1)


def pictures(count: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """N × 1 × 1 × SIDE × SIDE, an input each, and which of the directions each has."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, count)
    y, x = np.mgrid[:SIDE, :SIDE]
    angles = labels * np.pi / CLASSES + rng.normal(0, 0.06, count)
    turns = x * np.cos(angles)[:, None, None] + y * np.sin(angles)[:, None, None]
    waves = np.sin(turns * rng.uniform(0.7, 1.0, (count, 1, 1)) + rng.uniform(0, 6, (count, 1, 1)))
    noisy = waves + rng.uniform(0.1, 2.0, (count, 1, 1)) * rng.standard_normal(waves.shape)
    return noisy.astype(np.float32)[:, None, None], labels


def write_model(path: Path) -> None:
    """The network as ONNX: pictures [1, 1, SIDE, SIDE] to shares [1, CLASSES]."""
    rng = np.random.default_rng(7)
    nodes, weights, value, inside = [], [], "picture", 1
    for index, (channels, stride) in enumerate(zip(CHANNELS, STRIDES, strict=True)):
        kernel = rng.standard_normal((channels, inside, 3, 3)) * np.sqrt(2 / (9 * inside))
        weights.append(numpy_helper.from_array(kernel.astype(np.float32), f"kernel{index}"))
        nodes.append(
            helper.make_node(
                "Conv", [value, f"kernel{index}"], [f"conv{index}"], pads=[1] * 4, strides=[stride, stride]
            )
        )
        nodes.append(helper.make_node("Relu", [f"conv{index}"], [f"relu{index}"]))
        value, inside = f"relu{index}", channels
    nodes.append(helper.make_node("GlobalAveragePool", [value], ["pooled"]))
    nodes.append(helper.make_node("Flatten", ["pooled"], ["flat"]))
    features = _run(_model(nodes, weights, "flat", inside), pictures(600, 1)[0])
    wanted = np.eye(CLASSES)[pictures(600, 1)[1]] * 6
    table = np.hstack([features, np.ones((len(features), 1))])
    readout = np.linalg.solve(table.T @ table + 1e-4 * np.eye(table.shape[1]), table.T @ wanted).astype(np.float32)
    weights += [numpy_helper.from_array(readout[:-1], "readout"), numpy_helper.from_array(readout[-1], "bias")]
    nodes += [
        helper.make_node("Gemm", ["flat", "readout", "bias"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["shares"], axis=1),
    ]
    onnx.save(_model(nodes, weights, "shares", CLASSES), path)


def _model(nodes: list[onnx.NodeProto], weights: list[onnx.TensorProto], output: str, size: int) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "gratings",
        [helper.make_tensor_value_info("picture", TensorProto.FLOAT, [1, 1, SIDE, SIDE])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, [1, size])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _run(model: onnx.ModelProto, inputs: NDArray[np.float32]) -> NDArray[np.float64]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.array([session.run(None, {"picture": each})[0][0] for each in inputs], np.float64)
