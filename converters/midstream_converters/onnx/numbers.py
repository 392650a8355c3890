"""Whether an ONNX model is in float32, or already in something narrower."""

from __future__ import annotations

from pathlib import Path

from midstream_converters.narrow import NarrowNumbers
from midstream_converters.onnx.proto import all_nodes, onnx
from midstream_converters.onnx.read import parse_onnx

_QUANTISED = frozenset(
    (
        "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger",
        "MatMulInteger",
    )
)  # fmt: skip
_HALVES = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)


def narrow_numbers(data: bytes, path: Path) -> NarrowNumbers:
    """What the model has of them. Raises ModelError where it is damaged."""
    model = parse_onnx(data, path)
    nodes = [*all_nodes(model.graph), *(node for function in model.functions for node in function.node)]
    quantised = sorted({node.op_type for node in nodes} & _QUANTISED)
    weights = [tensor for tensor in model.graph.initializer if tensor.data_type in _HALVES]
    return NarrowNumbers(
        f"it has {', '.join(quantised)}" if quantised else "",
        f"{len(weights)} of its weights are float16" if weights else "",
    )
