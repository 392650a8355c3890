"""Make a runnable ONNX model of some layers of a model.

Requires: layers in running order, whose reads are given as inputs, made by these layers, or constant. Ensures: a model
that names the weights it uses by their place in ``weights.bin``.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from midstream.engines import Program
from midstream.manifest import WEIGHTS_FILE, EngineName, SliceRecord
from midstream.tensors import Tensors, TensorSpec
from midstream_converters.graph import PLAIN, Encoders, Floats, ModelGraph, Slice, Variant, carried
from midstream_converters.onnx.coders import can_code, encoder_programs, encoders, with_decoders
from midstream_converters.onnx.profile import layer_times
from midstream_converters.onnx.proto import onnx, reads
from midstream_converters.onnx.read import OnnxModel

_FLOAT, _FLOAT16 = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16


class OnnxSource:
    """An ONNX model that can be sliced."""

    engine: EngineName = "onnx"

    def __init__(self, model: OnnxModel, graph: ModelGraph, inferred: Mapping[str, onnx.ValueInfoProto]) -> None:
        self._model = model
        self._inferred = inferred
        self.graph = graph
        self.inputs: tuple[TensorSpec, ...] = model.inputs
        specs = (graph.values[name].spec for name in graph.outputs)
        self.outputs: tuple[TensorSpec, ...] = tuple(spec for spec in specs if spec is not None)

    def slice(
        self, member: str, nodes: Sequence[int], inputs: Sequence[str], outputs: Sequence[str], variant: Variant
    ) -> Slice:
        """A model that runs these layers. What is wide travels in single precision, and becomes half inside."""
        source = self._model.model
        kept = [source.graph.node[index] for index in nodes]
        made = {name for node in kept for name in node.output} | set(inputs)
        needed = dict.fromkeys(name for node in kept for name in reads(node) if name not in made)
        needed |= dict.fromkeys(name for name in outputs if name not in made)
        unknown = [name for name in needed if name not in self._model.constants]
        unknown += [name for name in variant.gives_coded if name not in made]
        if unknown:
            raise ValueError(f"these layers neither make nor are given {unknown}")
        takes, narrowing = self._carried(inputs, variant.takes_wide, _FLOAT16)
        gives, widening = self._carried(outputs, variant.gives_wide, _FLOAT)
        given, decoding = with_decoders([self._declared(spec) for spec in takes], variant.takes_coded, variant.codec)
        encoded = [self._declared(carried(self.graph, name, wide=False)) for name in variant.gives_coded]
        carriers, encoding = encoders(encoded, variant.codec)
        answers = [*(self._declared(spec) for spec in gives), *carriers]
        graph = onnx.helper.make_graph(
            [*decoding, *narrowing, *kept, *widening, *encoding],
            member,
            [
                *given,
                *(self._model.replaceable[name] for name in needed if name in self._model.replaceable),
            ],
            answers,
            [self._model.constants[name] for name in needed],
        )
        model = onnx.helper.make_model(
            graph,
            opset_imports=source.opset_import,
            ir_version=source.ir_version,
            functions=source.functions,
        )
        content = model.SerializeToString(deterministic=True)
        record = SliceRecord(
            member,
            len(content),
            tuple(value.name for value in given),
            tuple(value.name for value in answers),
            without=variant.without,
        )
        return Slice(record, content)

    def decodes(self, codec: str) -> bool:
        """Whether the model has the operators for it."""
        return can_code(self._model.model, codec)

    def encoders(self, codec: str, values: Sequence[str]) -> Encoders | None:
        """As onnxruntime's own quantisation does it, from operator set 11 on."""
        if not can_code(self._model.model, codec):
            return None
        declared = [self._declared(carried(self.graph, value, wide=False)) for value in values]
        return encoder_programs(self._model.model, declared, codec)

    def operators(self, part: Slice) -> Counter[str]:
        """What onnxruntime's optimisations leave, its processor's own layouts apart."""
        from midstream.engines.onnx import write_optimised

        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / "optimised.onnx"
            write_optimised(Program(part.record, part.content, self._model.folder / WEIGHTS_FILE), target)
            graph = onnx.load(target, load_external_data=False).graph
            return Counter(node.op_type for node in graph.node)

    def profile(self, sample: Tensors) -> Floats | None:
        """As onnxruntime's profiler shows them on the whole model; its nodes are shared out over the layers in them."""
        from midstream.engines.onnx import profile_nodes

        named = {spec.name: sample[spec.name] for spec in self.inputs}
        everything = range(len(self.graph.nodes))
        part = self.slice("profiled", everything, self.graph.inputs, self.graph.outputs, PLAIN)
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / "optimised.onnx"
            program = Program(part.record, part.content, self._model.folder / WEIGHTS_FILE)
            node_ms = profile_nodes(program, named, target)
            made = onnx.load(target, load_external_data=False).graph.node
            return layer_times(self.graph, made, node_ms)

    def _declared(self, spec: TensorSpec) -> onnx.ValueInfoProto:
        """What a slice says of a value that goes in or out: no more than the runtime finds out in the whole model.

        With sizes that it does not know there, it would optimise the slice in another way.
        """
        if not self._inferred or spec.name not in self.graph.producer or spec.name in self.graph.outputs:
            return _value_info(spec)
        known = self._inferred.get(spec.name)
        if known is not None:
            return known
        return onnx.helper.make_tensor_value_info(spec.name, onnx.helper.np_dtype_to_tensor_dtype(spec.dtype), None)

    def _carried(self, names: Sequence[str], wide: bool, cast_to: int) -> tuple[list[TensorSpec], list[onnx.NodeProto]]:
        """The specifications under which values are carried, and the casts between those and the layers' own."""
        specs, casts = [], []
        for name in names:
            spec = carried(self.graph, name, wide)
            if spec.name != name:
                ends = ([spec.name], [name]) if cast_to == _FLOAT16 else ([name], [spec.name])
                casts.append(onnx.helper.make_node("Cast", *ends, to=cast_to))
            specs.append(spec)
        return specs, casts


def _value_info(spec: TensorSpec) -> onnx.ValueInfoProto:
    elem_type = onnx.helper.np_dtype_to_tensor_dtype(spec.dtype)
    shape = [size if size is not None else f"{spec.name}.{axis}" for axis, size in enumerate(spec.shape)]
    return onnx.helper.make_tensor_value_info(spec.name, elem_type, shape)
