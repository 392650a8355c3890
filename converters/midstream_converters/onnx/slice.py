"""Make a runnable ONNX model of some layers of a model.

Requires: layers in running order, whose reads are given as inputs, made by these layers, or constant. Ensures: a model
whose large constants are external data in ``weights.bin``.
"""

from __future__ import annotations

from collections.abc import Sequence

from midstream.manifest import WEIGHTS_FILE, EngineName, SliceRecord
from midstream.tensors import TensorSpec
from midstream_converters.graph import ModelGraph
from midstream_converters.onnx.proto import onnx, reads
from midstream_converters.onnx.read import OnnxModel, constant_bytes
from midstream_converters.weights import WeightRange, WeightStore

# Below this size a constant stays inside the program; shape inference in the runtime wants to see these.
_INLINE_BYTES = 1024


class OnnxSource:
    """An ONNX model that can be sliced."""

    engine: EngineName = "onnx"

    def __init__(self, model: OnnxModel, graph: ModelGraph) -> None:
        self._model = model
        self.graph = graph
        self.inputs: tuple[TensorSpec, ...] = model.inputs
        specs = (graph.values[name].spec for name in graph.outputs)
        self.outputs: tuple[TensorSpec, ...] = tuple(spec for spec in specs if spec is not None)

    def slice(
        self, member: str, nodes: Sequence[int], inputs: Sequence[str], outputs: Sequence[str], weights: WeightStore
    ) -> tuple[SliceRecord, bytes]:
        """A model that runs these layers; its weights are added to the store."""
        source = self._model.model
        kept = [source.graph.node[index] for index in nodes]
        made = {name for node in kept for name in node.output} | set(inputs)
        needed = dict.fromkeys(name for node in kept for name in reads(node) if name not in made)
        needed |= dict.fromkeys(name for name in outputs if name not in made)
        unknown = [name for name in needed if name not in self._model.constants]
        if unknown:
            raise ValueError(f"these layers neither make nor are given {unknown}")
        graph = onnx.helper.make_graph(
            kept,
            member,
            [
                *(self._value_info(name) for name in inputs),
                *(self._model.replaceable[name] for name in needed if name in self._model.replaceable),
            ],
            [self._value_info(name) for name in outputs],
            [_constant(self._model.constants[name], weights) for name in needed],
        )
        model = onnx.helper.make_model(
            graph,
            opset_imports=source.opset_import,
            ir_version=source.ir_version,
            functions=source.functions,
        )
        content = model.SerializeToString(deterministic=True)
        return SliceRecord(member, len(content), tuple(inputs), tuple(outputs)), content

    def _value_info(self, name: str) -> onnx.ValueInfoProto:
        spec = self.graph.values[name].spec
        if spec is None:
            raise ValueError(f"value {name!r} cannot cross a cut")
        elem_type = onnx.helper.np_dtype_to_tensor_dtype(spec.dtype)
        shape = [size if size is not None else f"{name}.{axis}" for axis, size in enumerate(spec.shape)]
        return onnx.helper.make_tensor_value_info(name, elem_type, shape)


def _constant(tensor: onnx.TensorProto, weights: WeightStore) -> onnx.TensorProto:
    data = b"" if tensor.data_type == onnx.TensorProto.STRING else constant_bytes(tensor)
    if len(data) < _INLINE_BYTES:
        return tensor
    place = weights.add(data)
    outside = onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    outside.data_location = onnx.TensorProto.EXTERNAL
    for key, value in _location(place).items():
        outside.external_data.add(key=key, value=value)
    return outside


def _location(place: WeightRange) -> dict[str, str]:
    return {"location": WEIGHTS_FILE, "offset": str(place.offset), "length": str(place.length)}
