"""Operators that encode what a slice gives, and decode what it takes.

Requires: float32 values by their declarations, a model of operator set 11 or later. Ensures: codec ``int8``, by the
operators that ONNX has for it: DynamicQuantizeLinear keeps the minimum, the maximum and an exact zero as the codec
does, and DequantizeLinear is the codec's own (code − zero) · scale.
"""

from __future__ import annotations

from collections.abc import Container, Sequence

from midstream.manifest import SliceRecord, carrier_names
from midstream_converters.graph import Encoders, Slice
from midstream_converters.onnx.proto import onnx

_INT8 = "int8"
_FIRST_OPSET = 11
_UINT8, _FLOAT = onnx.TensorProto.UINT8, onnx.TensorProto.FLOAT

Values = list[onnx.ValueInfoProto]
Nodes = list[onnx.NodeProto]
_Some = Sequence[onnx.ValueInfoProto]


def can_code(model: onnx.ModelProto, codec: str) -> bool:
    """Whether slices of this model can carry out the codec themselves."""
    opset = max((each.version for each in model.opset_import if each.domain in ("", "ai.onnx")), default=0)
    return codec == _INT8 and opset >= _FIRST_OPSET


def encoders(values: Sequence[onnx.ValueInfoProto], codec: str) -> tuple[Values, Nodes]:
    """The carriers of these values, and the operators that make them."""
    carriers: Values = []
    nodes: Nodes = []
    for value in values:
        names = carrier_names(codec, value.name)
        carriers += _carriers(value, names)
        nodes.append(onnx.helper.make_node("DynamicQuantizeLinear", [value.name], list(names)))
    return carriers, nodes


def with_decoders(values: Sequence[onnx.ValueInfoProto], coded: Container[str], codec: str) -> tuple[Values, Nodes]:
    """The same values, but the carriers in place of those that come coded, and the operators that decode them."""
    taken: Values = []
    nodes: Nodes = []
    for value in values:
        if value.name not in coded:
            taken.append(value)
            continue
        names = carrier_names(codec, value.name)
        taken += _carriers(value, names)
        nodes.append(onnx.helper.make_node("DequantizeLinear", list(names), [value.name]))
    return taken, nodes


def encoder_programs(model: onnx.ModelProto, values: Sequence[onnx.ValueInfoProto], codec: str) -> Encoders:
    """Programs of a ReLU for each value: as quick as a layer can be that reads and writes all of it."""
    sources = [_renamed(value, f"{value.name}.before") for value in values]
    making = [onnx.helper.make_node("Relu", [a.name], [b.name]) for a, b in zip(sources, values, strict=True)]
    carriers, encoding = encoders(values, codec)
    return Encoders(
        _program(model, making, sources, values),
        _program(model, [*making, *encoding], sources, [*values, *carriers]),
    )


def _program(model: onnx.ModelProto, nodes: Nodes, takes: _Some, gives: _Some) -> Slice:
    graph = onnx.helper.make_graph(nodes, "encoder", list(takes), list(gives))
    made = onnx.helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    content = made.SerializeToString(deterministic=True)
    inputs, outputs = (tuple(value.name for value in values) for values in (takes, gives))
    return Slice(SliceRecord("encoder.onnx", len(content), inputs, outputs), content)


def _renamed(value: onnx.ValueInfoProto, name: str) -> onnx.ValueInfoProto:
    renamed = onnx.ValueInfoProto()
    renamed.CopyFrom(value)
    renamed.name = name
    return renamed


def _carriers(value: onnx.ValueInfoProto, names: Sequence[str]) -> Values:
    """Codes of the value's own shape, as far as it is declared: the runtime optimises what follows by it."""
    codes, scale, zero = names
    first = _renamed(value, codes)
    first.type.tensor_type.elem_type = _UINT8
    return [
        first,
        onnx.helper.make_tensor_value_info(scale, _FLOAT, []),
        onnx.helper.make_tensor_value_info(zero, _UINT8, []),
    ]
