"""The network as an ONNX graph, opset 17, written node by node; and the weights of one read back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper, numpy_helper

from midstream.allocation.features import FEATURES, TARGETS
from midstream_converters.forecasting.weights import CLIP, MOST_ADDED, UNITS, Weights, parts

_OPSET, _IR = 17, 8


def to_onnx(weights: Weights) -> bytes:
    """Inputs "features" (rows × features) and "state" (rows × units), outputs "quantiles" (rows × 12) and "next"."""
    graph = _Graph()
    for name, value in weights.named().items():
        graph.constant(name, value)
    centred = graph.node("Mul", [graph.node("Sub", ["features", "mean"]), "scale"])
    x = graph.node("Clip", [centred, graph.number(-CLIP), graph.number(CLIP)])
    state = _gru(graph, x)
    both = graph.node("Concat", [state, x], axis=1)
    dense = graph.node("Relu", [graph.node("Add", [graph.node("MatMul", [both, "dense"]), "dense_bias"])])
    beside = graph.node("Add", [graph.node("MatMul", [dense, "out"]), "out_bias"])
    y = graph.node("Add", [graph.node("MatMul", [both, "skip"]), beside])
    quantiles = []
    for part in parts():
        shares = graph.node("Softmax", [graph.columns(y, part.mixture)], axis=1)
        mixed = graph.node("Mul", [shares, graph.columns("features", part.bases)])
        base = graph.node("ReduceSum", [mixed, graph.whole([1])], keepdims=1)
        added, below, above = (graph.columns(y, slice(part.after + k, part.after + k + 1)) for k in range(3))
        held = graph.node("Tanh", [graph.node("Div", [added, graph.number(MOST_ADDED)])])
        middle = graph.node("Add", [base, graph.node("Mul", [held, graph.number(MOST_ADDED)])])
        low = graph.node("Sub", [middle, graph.node("Softplus", [below])])
        quantiles += [low, middle, graph.node("Add", [middle, graph.node("Softplus", [above])])]
    graph.node("Concat", quantiles, into="quantiles", axis=1)
    graph.node("Identity", [state], into="next")

    def end(name: str, width: int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ("rows", width))

    made = helper.make_graph(
        graph.nodes,
        "forecast",
        [end("features", len(FEATURES)), end("state", UNITS)],
        [end("quantiles", 3 * len(TARGETS)), end("next", UNITS)],
        graph.constants,
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


def weights_of(content: bytes) -> Weights | None:
    """The weights that `to_onnx` has written; None where the content is something else, or another release's."""
    try:
        model = onnx.load_model_from_string(content)
        # What names a file beside it is none of ours.
        arrays = {
            each.name: numpy_helper.to_array(each)
            for each in model.graph.initializer
            if each.data_location == TensorProto.DEFAULT
        }
        weights = Weights.of(arrays)
    except (DecodeError, KeyError, ValueError, TypeError):
        return None
    whole = weights.fits() and all(np.isfinite(value).all() for value in weights.named().values())
    return weights if whole else None


def _gru(graph: _Graph, x: str) -> str:
    given = graph.node("Add", [graph.node("MatMul", [x, "kernel"]), "bias"])
    kept = graph.node("Add", [graph.node("MatMul", ["state", "recurrent"]), "recurrent_bias"])
    gates = [slice(at * UNITS, (at + 1) * UNITS) for at in range(3)]
    update, reset = (
        graph.node("Sigmoid", [graph.node("Add", [graph.columns(given, gate), graph.columns(kept, gate)])])
        for gate in gates[:2]
    )
    remembered = graph.node("Mul", [reset, graph.columns(kept, gates[2])])
    fresh = graph.node("Tanh", [graph.node("Add", [graph.columns(given, gates[2]), remembered])])
    # z·h + (1-z)·n = n + z·(h-n)
    return graph.node("Add", [fresh, graph.node("Mul", [update, graph.node("Sub", ["state", fresh])])])


class _Graph:
    """Nodes and constants as they are added, each under a name of its own."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._known: dict[object, str] = {}

    def node(self, operator: str, inputs: Sequence[str], *, into: str | None = None, **attributes: Any) -> str:
        """The name of its only output."""
        name = into or f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [name], **attributes))
        return name

    def constant(self, name: str, value: np.ndarray) -> str:
        """A constant under this name."""
        self.constants.append(numpy_helper.from_array(value, name))
        return name

    def number(self, value: float) -> str:
        """A float."""
        return self._once(value, np.array(value, np.float32))

    def whole(self, values: Sequence[int]) -> str:
        """Whole numbers."""
        return self._once(tuple(values), np.array(values, np.int64))

    def columns(self, name: str, which: slice) -> str:
        """Some columns of a matrix."""
        return self.node("Slice", [name, self.whole([which.start]), self.whole([which.stop]), self.whole([1])])

    def _once(self, key: object, value: np.ndarray) -> str:
        kept = (type(key), key)
        if kept not in self._known:
            self._known[kept] = self.constant(f"c{len(self.constants)}", value)
        return self._known[kept]
