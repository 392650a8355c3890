"""Make a runnable TFLite flatbuffer of some layers of a model.

Requires: layers in running order, whose reads are given as inputs, made by these layers, or constant. Ensures: a
flatbuffer of one subgraph whose large buffers are named by offset and lie behind it, in the order of the slice's weight
ranges.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from midstream.manifest import WEIGHT_ALIGNMENT, EngineName, SliceRecord
from midstream.tensors import TensorSpec
from midstream_converters.graph import ModelGraph
from midstream_converters.tflite.check import tensor_numbers
from midstream_converters.tflite.read import TfliteModel
from midstream_converters.tflite.schema import IDENTIFIER, flatbuffers, schema
from midstream_converters.weights import WeightRange, WeightStore, merge_ranges

# Below this size a constant stays inside the program: shapes, paddings, axes.
_INLINE_BYTES = 64
_SCHEMA_VERSION = 3
# Any value above 1 makes room for the field; the true offset is known once the program's length is.
_PLACEHOLDER = 2


class TfliteSource:
    """A TFLite model that can be sliced."""

    engine: EngineName = "litert"

    def __init__(self, model: TfliteModel) -> None:
        self._model = model
        self.graph: ModelGraph = model.graph
        self.inputs: tuple[TensorSpec, ...] = model.inputs
        self.outputs: tuple[TensorSpec, ...] = model.outputs
        self._index = {key: index for index, key in enumerate(model.keys)}

    def slice(
        self, member: str, nodes: Sequence[int], inputs: Sequence[str], outputs: Sequence[str], weights: WeightStore
    ) -> tuple[SliceRecord, bytes]:
        """A flatbuffer that runs these layers; its weights are added to the store."""
        build = _Build(self._model, weights)
        build.add([self._index[key] for key in inputs], nodes, [self._index[key] for key in outputs])
        program, ranges = build.finish()
        record = SliceRecord(member, len(program), tuple(inputs), tuple(outputs), ranges)
        return record, program


class _Build:
    """One flatbuffer in the making: old tensor, buffer and operator-code numbers mapped to new ones."""

    def __init__(self, source: TfliteModel, weights: WeightStore) -> None:
        self._source = source
        self._weights = weights
        self._tensors: dict[int, int] = {}
        self._buffers: dict[int, int] = {0: 0}
        self._codes: dict[int, int] = {}
        self._external: list[tuple[Any, WeightRange]] = []
        self._model = schema.ModelT()
        self._model.version = _SCHEMA_VERSION
        self._model.buffers = [schema.BufferT()]
        self._model.operatorCodes = []
        self._keep_small_metadata()

    def add(self, inputs: Sequence[int], nodes: Sequence[int], outputs: Sequence[int]) -> None:
        """The main subgraph."""
        source = self._source.subgraph
        named = {*inputs, *outputs}
        graph = schema.SubGraphT()
        graph.tensors = []
        graph.inputs = [self._tensor(i, graph, named) for i in inputs]
        graph.operators = []
        for index in nodes:
            operator = copy.copy(source.operators[index])
            operator.opcodeIndex = self._code(operator.opcodeIndex)
            operator.inputs = [self._tensor(i, graph, named) for i in tensor_numbers(operator.inputs)]
            operator.outputs = [self._tensor(i, graph, named) for i in tensor_numbers(operator.outputs)]
            if operator.intermediates is not None:
                numbers = tensor_numbers(operator.intermediates)
                operator.intermediates = [self._tensor(i, graph, named) for i in numbers]
            graph.operators.append(operator)
        missing = [self._source.keys[i] for i in outputs if i not in self._tensors]
        if missing:
            raise ValueError(f"these layers do not make {missing}")
        graph.outputs = [self._tensors[i] for i in outputs]
        self._model.subgraphs = [graph]

    def finish(self) -> tuple[bytes, tuple[tuple[int, int], ...]]:
        """The program, and the weight ranges that follow it."""
        length = len(self._pack())
        ranges = merge_ranges(place for _, place in self._external)
        behind = length + -length % WEIGHT_ALIGNMENT
        for buffer, place in self._external:
            start = behind
            for offset, size in ranges:
                if offset <= place.offset < offset + size:
                    buffer.offset = start + place.offset - offset
                start += size
        program = self._pack()
        if len(program) != length:
            raise ValueError("setting the offsets changed the program's length")
        return program + bytes(behind - length), ranges

    def _tensor(self, old: int, graph: Any, named: set[int]) -> int:
        if old < 0:
            return old
        if old not in self._tensors:
            tensor = copy.copy(self._source.subgraph.tensors[old])
            tensor.buffer = self._buffer(tensor.buffer)
            if old not in named:
                tensor.name = None
            self._tensors[old] = len(graph.tensors)
            graph.tensors.append(tensor)
        return self._tensors[old]

    def _buffer(self, old: int) -> int:
        if old not in self._buffers:
            data = self._source.model.buffers[old].data
            if data is None or len(data) == 0:
                return 0
            buffer = schema.BufferT()
            if len(data) <= _INLINE_BYTES:
                buffer.data = data
            else:
                place = self._weights.add(bytes(data))
                buffer.offset, buffer.size = _PLACEHOLDER, place.length
                self._external.append((buffer, place))
            self._buffers[old] = len(self._model.buffers)
            self._model.buffers.append(buffer)
        return self._buffers[old]

    def _code(self, old: int) -> int:
        if old not in self._codes:
            self._codes[old] = len(self._model.operatorCodes)
            self._model.operatorCodes.append(self._source.model.operatorCodes[old])
        return self._codes[old]

    def _keep_small_metadata(self) -> None:
        """Entries of a few bytes, such as the permission to compute in half precision, change what kernels do."""
        self._model.metadata = []
        for entry in self._source.model.metadata or []:
            data = self._source.model.buffers[entry.buffer].data
            if data is not None and 0 < len(data) <= _INLINE_BYTES:
                kept = schema.MetadataT()
                kept.name = entry.name
                kept.buffer = self._buffer(entry.buffer)
                self._model.metadata.append(kept)

    def _pack(self) -> bytes:
        builder = flatbuffers.Builder(1 << 16)
        builder.Finish(self._model.Pack(builder), IDENTIFIER)
        return bytes(builder.Output())
