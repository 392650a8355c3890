"""The network as ONNX: weights come back as they were, and nothing else is taken for one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx

from midstream.allocation.features import FEATURES
from midstream_converters.forecasting.onnx_file import to_onnx, weights_of
from midstream_converters.forecasting.weights import Weights


def weights(seed: int = 3) -> Weights:
    rng = np.random.default_rng(seed)
    first = Weights.first(rng.normal(size=len(FEATURES)), rng.uniform(0.5, 2, len(FEATURES)), seed)
    return replace(first, out=rng.normal(size=first.out.shape).astype(np.float32))


def test_weights_come_back() -> None:
    known = weights()
    found = weights_of(to_onnx(known))
    assert found is not None
    for name, value in known.named().items():
        np.testing.assert_array_equal(found.named()[name], value)


def test_the_same_weights_give_the_same_bytes() -> None:
    assert to_onnx(weights()) == to_onnx(weights())
    assert to_onnx(weights()) != to_onnx(weights(4))


def test_what_is_no_such_network_has_no_weights() -> None:
    assert weights_of(b"nothing of the kind") is None
    assert weights_of(b"") is None
    other = onnx.load_model_from_string(to_onnx(weights()))
    for constant in other.graph.initializer:
        if constant.name == "dense_bias":
            constant.CopyFrom(onnx.numpy_helper.from_array(np.zeros(7, np.float32), "dense_bias"))
    assert weights_of(other.SerializeToString()) is None
    known = weights()
    known.out[0, 0] = np.nan
    assert weights_of(to_onnx(known)) is None


def test_weights_in_another_file_are_not_looked_for() -> None:
    model = onnx.load_model_from_string(to_onnx(weights()))
    for constant in model.graph.initializer:
        if constant.name == "kernel":
            constant.ClearField("raw_data")
            constant.data_location = onnx.TensorProto.EXTERNAL
            constant.external_data.add(key="location", value="/etc/hostname")
    assert weights_of(model.SerializeToString()) is None
