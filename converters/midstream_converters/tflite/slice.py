"""Make a runnable TFLite flatbuffer of some layers of a model.

Requires: layers in running order, whose reads are given as inputs, made by these layers, or constant. Ensures: a
flatbuffer of these layers and of the subgraphs they call, whose large buffers are named by offset and lie behind it, in
the order of the slice's weight ranges.
"""

from __future__ import annotations

import copy
import struct
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from midstream.manifest import WEIGHT_ALIGNMENT, EngineName, SliceRecord, carrier_names
from midstream.tensors import Tensors, TensorSpec
from midstream_converters.graph import Encoders, Floats, ModelGraph, Slice, Variant
from midstream_converters.tflite.decoders import Decoder
from midstream_converters.tflite.names import tensor_numbers
from midstream_converters.tflite.read import TfliteModel
from midstream_converters.tflite.schema import IDENTIFIER, flatbuffers, schema
from midstream_converters.tflite.subgraphs import calls
from midstream_converters.weights import WeightRange, WeightStore, merge_ranges

# Below this size a constant stays inside the program: shapes, paddings, axes.
_INLINE_BYTES = 64
_SCHEMA_VERSION = 3
# Any value above 1 makes room for the field; the true offset is known once the program's length is.
_PLACEHOLDER = 2
_OFFSET = struct.Struct("<Q")
# Where the table of a Buffer says that this field lies.
_OFFSET_SLOT = 6


class TfliteSource:
    """A TFLite model that can be sliced."""

    engine: EngineName = "litert"

    def __init__(self, model: TfliteModel, weights: WeightStore) -> None:
        self._model = model
        self.graph: ModelGraph = model.graph
        self.inputs: tuple[TensorSpec, ...] = model.inputs
        self.outputs: tuple[TensorSpec, ...] = model.outputs
        self._index = {key: index for index, key in enumerate(model.keys)}
        self._places: dict[int, WeightRange] = {}
        self._place(weights)

    def _place(self, weights: WeightStore) -> None:
        """Put every weight that layers use where slices will find it."""

        def place(buffer: int) -> WeightRange:
            self._places[buffer] = weights.add(bytes(self._model.model.buffers[buffer].data))
            return self._places[buffer]

        self._build(place, range(len(self.graph.nodes)), self.graph.inputs, self.graph.outputs)

    def _build(
        self,
        place: Callable[[int], WeightRange],
        nodes: Sequence[int],
        inputs: Sequence[str],
        outputs: Sequence[str],
    ) -> _Build:
        build = _Build(self._model.model, place)
        build.add_main([self._index[key] for key in inputs], nodes, [self._index[key] for key in outputs])
        return build

    def slice(
        self, member: str, nodes: Sequence[int], inputs: Sequence[str], outputs: Sequence[str], variant: Variant
    ) -> Slice:
        """A flatbuffer that runs these layers; LiteRT computes a layer alone as it does among others.

        Of a variant it decodes what comes coded; what it gives is never coded.
        """
        coded = {name: carrier_names(variant.codec, name) for name in variant.takes_coded if name in inputs}
        build = self._build(self._places.__getitem__, nodes, inputs, outputs)
        build.decode({self._index[name]: names for name, names in coded.items()})
        program, ranges = build.finish()
        taken = tuple(each for name in inputs for each in coded.get(name, (name,)))
        return Slice(SliceRecord(member, len(program), taken, tuple(outputs), ranges), program)

    def decodes(self, codec: str) -> bool:
        """int8 by DEQUANTIZE of scale 1, SUB and MUL, which every LiteRT has."""
        return codec == "int8"

    def encoders(self, codec: str, values: Sequence[str]) -> Encoders | None:
        """None: TFLite's own quantisation clips at a range that is set ahead, and others do not pay."""
        del codec, values
        return None

    def operators(self, part: Slice) -> Counter[str]:
        """None: LiteRT keeps the layers."""
        del part
        return Counter()

    def profile(self, sample: Tensors) -> Floats | None:
        """None: LiteRT's profiler is not in its Python package."""
        del sample
        return None


class _Build:
    """One flatbuffer in the making: old subgraph, buffer and operator-code numbers mapped to new ones.

    ``place`` says where the weight of a buffer of the source lies.
    """

    def __init__(self, source: Any, place: Callable[[int], WeightRange]) -> None:
        self._source = source
        self._place = place
        self._subgraphs: dict[int, int] = {}
        self._buffers: dict[int, int] = {0: 0}
        self._codes: dict[int, int] = {}
        self._external: list[tuple[int, WeightRange]] = []
        self._inputs: dict[int, int] = {}
        self._model = schema.ModelT()
        self._model.version = _SCHEMA_VERSION
        self._model.buffers = [schema.BufferT()]
        self._model.operatorCodes = []
        self._model.subgraphs = []
        self._keep_small_metadata()

    def add_main(self, inputs: Sequence[int], nodes: Sequence[int], outputs: Sequence[int]) -> None:
        """These layers of the main subgraph, and all that they call."""
        main = self._source.subgraphs[0]
        graph = schema.SubGraphT()
        self._model.subgraphs.append(graph)
        self._fill(graph, main, inputs, [main.operators[index] for index in nodes], outputs)
        self._inputs = dict(zip(inputs, graph.inputs, strict=True))

    def decode(self, coded: Mapping[int, Sequence[str]]) -> None:
        """Take, in place of these inputs of the main subgraph, carriers of these names, and decode them first."""
        graph = self._model.subgraphs[0]
        decoders = {
            self._inputs[old]: Decoder(self._model, graph, self._inputs[old], names) for old, names in coded.items()
        }
        graph.operators = [each for decoder in decoders.values() for each in decoder.operators] + graph.operators
        graph.inputs = [
            each for number in graph.inputs for each in (decoders[number].carriers if number in decoders else (number,))
        ]

    def finish(self) -> tuple[bytes, tuple[tuple[int, int], ...]]:
        """The program, and the weight ranges that follow it."""
        program = bytearray(self._pack())
        ranges = merge_ranges(place for _, place in self._external)
        behind = len(program) + -len(program) % WEIGHT_ALIGNMENT
        packed = schema.Model.GetRootAs(program)
        for number, place in self._external:
            start = behind
            for offset, size in ranges:
                if offset <= place.offset < offset + size:
                    _OFFSET.pack_into(program, _offset_field(packed, number), start + place.offset - offset)
                start += size
        return bytes(program) + bytes(behind - len(program)), ranges

    def _called(self, old: int) -> int:
        """The new number of a subgraph that an operator calls; a subgraph may call itself."""
        if old not in self._subgraphs:
            source, graph = self._source.subgraphs[old], schema.SubGraphT()
            self._subgraphs[old] = len(self._model.subgraphs)
            self._model.subgraphs.append(graph)
            inputs, outputs = tensor_numbers(source.inputs), tensor_numbers(source.outputs)
            self._fill(graph, source, inputs, source.operators or [], outputs)
        return self._subgraphs[old]

    def _fill(
        self, graph: Any, source: Any, inputs: Sequence[int], operators: Sequence[Any], outputs: Sequence[int]
    ) -> None:
        tensors = _Tensors(self, graph, source, {*inputs, *outputs})
        graph.inputs = tensors.numbers(inputs)
        graph.operators = [self._operator(operator, tensors) for operator in operators]
        # A constant may be an output of the model: every slice that gives it can, whether its layers read it or not.
        missing = [n for n in outputs if n not in tensors and not self.buffer(source.tensors[n].buffer)]
        if missing and operators:
            raise ValueError(f"these layers do not make tensors {missing}")
        graph.outputs = tensors.numbers(outputs)

    def _operator(self, source: Any, tensors: _Tensors) -> Any:
        operator = copy.copy(source)
        operator.opcodeIndex = self._code(source.opcodeIndex)
        operator.inputs = tensors.numbers(tensor_numbers(source.inputs))
        operator.outputs = tensors.numbers(tensor_numbers(source.outputs))
        if source.intermediates is not None:
            operator.intermediates = tensors.numbers(tensor_numbers(source.intermediates))
        for call in calls(source):
            options = copy.copy(getattr(operator, call.options))
            setattr(options, call.field, self._called(call.subgraph))
            setattr(operator, call.options, options)
        return operator

    def buffer(self, old: int) -> int:
        """The new number of a buffer; large ones are named by their place behind the program."""
        if old not in self._buffers:
            data = self._source.buffers[old].data
            if data is None or len(data) == 0:
                return 0
            buffer = schema.BufferT()
            if len(data) <= _INLINE_BYTES:
                buffer.data = data
            else:
                place = self._place(old)
                buffer.offset, buffer.size = _PLACEHOLDER, place.length
                self._external.append((len(self._model.buffers), place))
            self._buffers[old] = len(self._model.buffers)
            self._model.buffers.append(buffer)
        return self._buffers[old]

    def _code(self, old: int) -> int:
        if old not in self._codes:
            self._codes[old] = len(self._model.operatorCodes)
            self._model.operatorCodes.append(self._source.operatorCodes[old])
        return self._codes[old]

    def _keep_small_metadata(self) -> None:
        """Entries of a few bytes, such as the permission to compute in half precision, change what kernels do."""
        self._model.metadata = []
        for entry in self._source.metadata or []:
            data = self._source.buffers[entry.buffer].data if 0 <= entry.buffer < len(self._source.buffers) else None
            if data is not None and 0 < len(data) <= _INLINE_BYTES:
                kept = schema.MetadataT()
                kept.name = entry.name
                kept.buffer = self.buffer(entry.buffer)
                self._model.metadata.append(kept)

    def _pack(self) -> bytes:
        builder = flatbuffers.Builder(1 << 16)
        builder.Finish(self._model.Pack(builder), IDENTIFIER)
        return bytes(builder.Output())


class _Tensors:
    """The tensors of one new subgraph, made as they are asked for; only inputs and outputs keep their names."""

    def __init__(self, build: _Build, graph: Any, source: Any, named: set[int]) -> None:
        self._build = build
        self._graph = graph
        self._source = source
        self._named = named
        self._new: dict[int, int] = {}
        graph.tensors = []

    def __contains__(self, old: int) -> bool:
        return old in self._new

    def numbers(self, old: Sequence[int]) -> list[int]:
        """The new numbers of these; -1 stands for none."""
        return [self._number(number) for number in old]

    def _number(self, old: int) -> int:
        if old >= 0 and old not in self._new:
            tensor = copy.copy(self._source.tensors[old])
            tensor.buffer = self._build.buffer(tensor.buffer)
            if old not in self._named:
                tensor.name = None
            self._new[old] = len(self._graph.tensors)
            self._graph.tensors.append(tensor)
        return self._new.get(old, old)


def _offset_field(packed: Any, number: int) -> int:
    """Where in a packed model the offset of a buffer is written."""
    table = packed.Buffers(number)._tab
    return int(table.Pos + table.Offset(_OFFSET_SLOT))
