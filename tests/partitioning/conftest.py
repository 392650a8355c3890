"""A model small enough to work out by hand: a picture, five layers of which one is static, and three cuts."""

from __future__ import annotations

import numpy as np
import pytest

from midstream.inputs import ImageInput
from midstream.manifest import Costs, Cut, Edge, Graph, Layer, Manifest, SliceCost
from midstream.tensors import TensorSpec

FLOAT32 = np.dtype(np.float32)


@pytest.fixture
def graph() -> Graph:
    return Graph(
        layers=(
            Layer(0, "conv", "Conv", macs=4000, weight_bytes=400, output_bytes=1000),
            Layer(1, "shape", "Constant", macs=0, weight_bytes=8, output_bytes=8, static=True),
            Layer(2, "pool", "MaxPool", macs=0, weight_bytes=0, output_bytes=500),
            Layer(3, "dense", "Gemm", macs=2400, weight_bytes=900, output_bytes=60),
            Layer(4, "softmax", "Softmax", macs=0, weight_bytes=0, output_bytes=40),
        ),
        edges=(Edge(0, 2, 1000), Edge(1, 3, 8), Edge(2, 3, 500), Edge(3, 4, 60)),
    )


@pytest.fixture
def manifest() -> Manifest:
    picture = TensorSpec("picture", FLOAT32, (1, 3, 20, 20))
    threshold = TensorSpec("threshold", FLOAT32, ())
    return Manifest(
        name="hand",
        model_format="onnx",
        model_bytes=1308,
        model_sha256="",
        engine="onnx",
        inputs=(picture, threshold),
        outputs=(TensorSpec("scores", FLOAT32, (1, 10)),),
        sample_shapes={"picture": (1, 3, 20, 20), "threshold": ()},
        cuts=(
            Cut("c0", (TensorSpec("conv", FLOAT32, (1, 250)),), 1000, (0,), reveals_input=True),
            Cut("c2", (TensorSpec("pool", FLOAT32, (1, 125)),), 500, (0, 2), reveals_input=False),
            Cut("skip", (TensorSpec("dense", FLOAT32, (1, 15)), picture), 4860, (0, 1, 2, 3), reveals_input=True),
        ),
        slices={},
        files={},
        semantics={"picture": ImageInput("NCHW", "RGB")},
        fixed={"threshold": 0.5},
    )


@pytest.fixture
def costs() -> Costs:
    return Costs(
        "bench",
        whole_ms=10.0,
        cuts={"c0": SliceCost(6.0, 4.0), "c2": SliceCost(7.0, 3.0), "skip": SliceCost(9.5, 0.5)},
        layers_ms=(6.0, 0.0, 1.0, 2.75, 0.25),
    )
