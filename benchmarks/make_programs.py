"""Make the small programs that ``midstream profile`` times: one archive in device_profiles/midstream_profiles.

Run it with ``python benchmarks/make_programs.py``; it needs the extra ``convert``. Every program is written for both
engines, in float32 and in int8, out of layers of one family. Weights have one value each, so that the archive packs to
a few kB; it is chosen so that what flows stays around one half, far from denormal numbers and from infinity.
"""

from __future__ import annotations

import io
import json
import lzma
import math
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import ai_edge_litert.schema_py_generated as schema
import flatbuffers
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from midstream.manifest import Edge, Graph, Layer
from midstream.sealed import graph_to_bytes

TARGET = Path(__file__).resolve().parent.parent / "device_profiles" / "midstream_profiles" / "programs.tar.xz"
DTYPES = ("float32", "int8")
SCALE = 1 / 128


@dataclass
class Programs:
    """The members of the archive."""

    members: dict[str, bytes] = field(default_factory=dict)

    def add(self, name: str, engine: str, dtype: str, builder: Builder) -> None:
        """A program, its graph, and what it takes and gives."""
        stem = f"{name}-{engine}-{dtype}"
        # The program first: writing it may add a layer to the graph.
        self.members[f"{stem}.program"] = builder.content()
        self.members[f"{stem}.graph"] = graph_to_bytes(Graph(tuple(builder.layers), builder.edges()))
        facts = {"input": builder.input_shape, "dtype": builder.input_dtype}
        self.members[f"{stem}.json"] = json.dumps(facts, sort_keys=True).encode()

    def archive(self) -> bytes:
        """The same members always give the same bytes."""
        unpacked = io.BytesIO()
        with tarfile.open(fileobj=unpacked, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for name, content in sorted(self.members.items()):
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
        return lzma.compress(unpacked.getvalue(), preset=9 | lzma.PRESET_EXTREME)


class Builder:
    """A chain of layers on one value, [1, height, width, channels]."""

    layers: list[Layer]

    def __init__(self, dtype: str, shape: tuple[int, ...]) -> None:
        self.dtype, self.shape, self.layers = dtype, shape, []
        self.input_shape, self.input_dtype = shape, dtype
        self.itemsize = np.dtype(dtype).itemsize

    def note(self, op: str, macs: int, shape: tuple[int, ...]) -> None:
        """The layer's entry in the graph."""
        size = math.prod(shape) * self.itemsize
        self.layers.append(Layer(len(self.layers), f"{op}{len(self.layers)}", op, macs, 0, size))
        self.shape = shape

    def edges(self) -> tuple[Edge, ...]:
        """Every layer reads what the one before it has written."""
        return tuple(Edge(first.index, second.index, first.output_bytes) for first, second in pairwise(self.layers))

    def content(self) -> bytes:
        """The program's file."""
        raise NotImplementedError

    def conv(self, channels: int, size: int) -> None:
        """A convolution with bias and rectifier, of the same height and width."""
        raise NotImplementedError

    def depthwise(self, size: int) -> None:
        """A convolution of each channel by itself."""
        raise NotImplementedError

    def dense(self, units: int) -> None:
        """A matrix product with bias."""
        raise NotImplementedError

    def elementwise(self) -> None:
        """A sum with the first value, and a product with a constant."""
        raise NotImplementedError

    def pool(self) -> None:
        """The maximum of each 3 × 3, of the same size."""
        raise NotImplementedError

    def small(self) -> None:
        """A layer of next to no work that is not fused with its neighbours."""
        raise NotImplementedError


class TfliteBuilder(Builder):
    """The chain as a flatbuffer."""

    def __init__(self, dtype: str, shape: tuple[int, ...]) -> None:
        super().__init__(dtype, shape)
        self.model = schema.ModelT()
        self.model.version, self.model.buffers, self.model.operatorCodes = 3, [schema.BufferT()], []
        self.graph = schema.SubGraphT()
        self.graph.name, self.graph.tensors, self.graph.operators = "main", [], []
        self.model.subgraphs = [self.graph]
        self._constants: dict[Any, int] = {}
        self.value = self._activation(shape)
        self.graph.inputs = [self.value]

    def conv(self, channels: int, size: int) -> None:
        """A convolution with bias and rectifier, of the same height and width."""
        taps = size * size * self.shape[-1]
        shape = (*self.shape[:-1], channels)
        weights = self._weights((channels, size, size, self.shape[-1]), taps, 0), self._bias(channels, taps)
        self._layer("CONV_2D", weights, shape, math.prod(shape) * taps, "Conv2DOptions", **_PICTURE)

    def depthwise(self, size: int) -> None:
        """A convolution of each channel by itself."""
        taps, channels = size * size, self.shape[-1]
        weights = self._weights((1, size, size, channels), taps, 3), self._bias(channels, taps)
        macs = math.prod(self.shape) * taps
        more = {**_PICTURE, "depthMultiplier": 1}
        self._layer("DEPTHWISE_CONV_2D", weights, self.shape, macs, "DepthwiseConv2DOptions", **more)

    def dense(self, units: int) -> None:
        """A matrix product with bias."""
        taps = self.shape[-1]
        weights = self._weights((units, taps), taps, None), self._bias(units, taps, one_scale=True)
        self._layer("FULLY_CONNECTED", weights, (1, units), taps * units, "FullyConnectedOptions")

    def elementwise(self) -> None:
        """A sum with the first value, and a product with a constant."""
        self._layer("ADD", (self.graph.inputs[0],), self.shape, 0, "AddOptions")
        self._layer("MUL", (self._weights((1,), 2, None),), self.shape, 0, "MulOptions")

    def pool(self) -> None:
        """The maximum of each 3 × 3, of the same size."""
        more = {"strideH": 1, "strideW": 1, "filterHeight": 3, "filterWidth": 3}
        self._layer("MAX_POOL_2D", (), self.shape, 0, "Pool2DOptions", **more)

    def small(self) -> None:
        """A layer of next to no work that is not fused with its neighbours."""
        self._layer("MUL", (self._weights(self.shape[-1:], 1, None),), self.shape, 0, "MulOptions")

    def content(self) -> bytes:
        """The program's file."""
        self.graph.outputs = [self.value]
        builder = flatbuffers.Builder(1024)
        builder.Finish(self.model.Pack(builder), b"TFL3")
        return bytes(builder.Output())

    def _layer(
        self, op: str, weights: Sequence[int], shape: tuple[int, ...], macs: int, options: str, **fields: int
    ) -> None:
        code = schema.OperatorCodeT()
        code.builtinCode = getattr(schema.BuiltinOperator, op)
        code.deprecatedBuiltinCode = min(code.builtinCode, 127)
        code.version = 1 if self.dtype == "float32" else _INT8_VERSIONS[op]
        operator = schema.OperatorT()
        operator.opcodeIndex = len(self.model.operatorCodes)
        self.model.operatorCodes.append(code)
        operator.inputs = [self.value, *weights]
        self.value = self._activation(shape)
        operator.outputs = [self.value]
        operator.builtinOptionsType = getattr(schema.BuiltinOptions, options)
        operator.builtinOptions = getattr(schema, f"{options}T")()
        for name, value in fields.items():
            setattr(operator.builtinOptions, name, value)
        self.graph.operators.append(operator)
        self.note(op, macs, shape)

    def _activation(self, shape: tuple[int, ...]) -> int:
        return self._tensor(shape, self.dtype, scales=None if self.dtype == "float32" else [SCALE])

    def _weights(self, shape: tuple[int, ...], taps: int, channel_axis: int | None) -> int:
        """Weights of 1 / taps each; int8 has the value 64 and a scale for each channel, or one for all."""
        if self.dtype == "float32":
            return self._constant(np.full(shape, 1 / taps, np.float32))
        count = 1 if channel_axis is None else shape[channel_axis]
        return self._constant(np.full(shape, 64, np.int8), [1 / taps / 64] * count, channel_axis or 0)

    def _bias(self, channels: int, taps: int, one_scale: bool = False) -> int:
        if self.dtype == "float32":
            return self._constant(np.full(channels, 0.01, np.float32))
        count = 1 if one_scale else channels
        return self._constant(np.full(channels, 1, np.int32), [SCALE / taps / 64] * count)

    def _constant(self, value: Any, scales: list[float] | None = None, axis: int = 0) -> int:
        key = (value.shape, value.dtype.str, value.flat[0], scales and scales[0])
        if key not in self._constants:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(value.tobytes(), np.uint8)
            self.model.buffers.append(buffer)
            self._constants[key] = self._tensor(
                value.shape, value.dtype.name, len(self.model.buffers) - 1, scales, axis
            )
        return self._constants[key]

    def _tensor(
        self,
        shape: Sequence[int],
        dtype: str,
        buffer: int = 0,
        scales: list[float] | None = None,
        axis: int = 0,
    ) -> int:
        tensor = schema.TensorT()
        tensor.name, tensor.shape = f"t{len(self.graph.tensors)}", list(shape)
        tensor.type, tensor.buffer = getattr(schema.TensorType, dtype.upper()), buffer
        if scales:
            tensor.quantization = schema.QuantizationParametersT()
            tensor.quantization.scale = np.asarray(scales, np.float32)
            tensor.quantization.zeroPoint = np.zeros(len(scales), np.int64)
            tensor.quantization.quantizedDimension = axis
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1


# The first release of each operator that takes int8.
_INT8_VERSIONS = {"CONV_2D": 3, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 4, "ADD": 2, "MUL": 2, "MAX_POOL_2D": 2}
# SAME padding and RELU are their enumerations' 0 and 1.
_PICTURE = {"strideH": 1, "strideW": 1, "dilationHFactor": 1, "dilationWFactor": 1, "fusedActivationFunction": 1}


class OnnxBuilder(Builder):
    """The chain as ONNX nodes, channels first; where quantised, float layers between the ends that say so (QDQ)."""

    def __init__(self, dtype: str, shape: tuple[int, ...]) -> None:
        super().__init__(dtype, shape)
        self.nodes: list[Any] = []
        self.initializers: dict[str, Any] = {}
        self.value = "x"
        self.input_shape, self.input_dtype = self._first(shape), "float32"
        if dtype == "int8":
            # Between floats at both ends: onnxruntime quantises no layer that reads the bytes of an input itself.
            self._layer_of(1, "QuantizeLinear")

    def conv(self, channels: int, size: int) -> None:
        """A convolution with bias and rectifier, of the same height and width."""
        taps = size * size * self.shape[-1]
        shape = (*self.shape[:-1], channels)
        self._convolve((channels, self.shape[-1], size, size), taps, shape, 1)

    def depthwise(self, size: int) -> None:
        """A convolution of each channel by itself."""
        channels = self.shape[-1]
        self._convolve((channels, 1, size, size), size * size, self.shape, channels)

    def dense(self, units: int) -> None:
        """A matrix product with bias."""
        taps = self.shape[-1]
        with self._between_bytes():
            self._layer("Gemm", self._parameters((taps, units), units, taps), (1, units), taps * units)

    def elementwise(self) -> None:
        """A sum with the first value, and a product with a constant."""
        self._to_floats()
        self._layer("Add", ["x"], self.shape, 0)
        self._layer("Mul", [self._constant("half", np.float32(0.5))], self.shape, 0)

    def pool(self) -> None:
        """The maximum of each 3 × 3, of the same size."""
        self._to_floats()
        self._layer("MaxPool", [], self.shape, 0, kernel_shape=[3, 3], pads=[1] * 4)

    def small(self) -> None:
        """A layer of next to no work that is not fused with its neighbours."""
        self._to_floats()
        self._layer("Neg", [], self.shape, 0)
        self._layer("Abs", [], self.shape, 0)

    def content(self) -> bytes:
        """The program's file."""
        self._to_floats()
        self.nodes[-1].output[0] = self.value = "y"
        ends = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape))
            for name, shape in (("x", self.input_shape), (self.value, self._first(self.shape)))
        ]
        graph = helper.make_graph(self.nodes, "program", ends[:1], ends[1:], list(self.initializers.values()))
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.checker.check_model(model)
        return bytes(model.SerializeToString())

    @contextmanager
    def _between_bytes(self) -> Iterator[None]:
        """What a quantised file has around a layer with weights."""
        self._to_floats()
        yield
        if self.dtype == "int8":
            self._layer_of(1, "QuantizeLinear")

    def _to_floats(self) -> None:
        """Layers without weights stay in floats when midstream quantises a model."""
        if self.itemsize == 1:
            self._layer_of(4, "DequantizeLinear")

    def _layer_of(self, itemsize: int, op: str) -> None:
        """From floats to bytes, or back."""
        self.itemsize = itemsize
        ends = [self._constant("unit", np.float32(SCALE)), self._constant("zero", np.int8(0))]
        self._layer(op, ends, self.shape, 0)

    def _convolve(self, kernel: tuple[int, ...], taps: int, shape: tuple[int, ...], group: int) -> None:
        more = {"kernel_shape": list(kernel[2:]), "pads": [kernel[2] // 2] * 4, "group": group}
        with self._between_bytes():
            self._layer("Conv", self._parameters(kernel, kernel[0], taps), shape, math.prod(shape) * taps, **more)
            # Quantised, the range of what is written stands for the rectifier; as a layer it would keep both apart.
            if self.dtype == "float32":
                self._layer("Relu", [], shape, 0)

    def _parameters(self, shape: tuple[int, ...], channels: int, taps: int) -> list[str]:
        """Weights of 1 / taps each and a small bias; where quantised, with what makes them floats again."""
        if self.dtype == "float32":
            weight = self._constant("weight", np.full(shape, 1 / taps, np.float32))
            return [weight, self._constant("bias", np.full(channels, 0.01, np.float32))]
        weight = self._constant("weight", np.full(shape, 64, np.int8))
        bias = self._constant("bias", np.full(channels, 1, np.int32))
        # As midstream quantises: a scale for every output channel, the first axis of a convolution, a product's last.
        axis = 0 if len(shape) == 4 else 1
        scale = self._constant("scale", np.full(channels, 1 / taps / 64, np.float32))
        bias_scale = self._constant("scale", np.full(channels, SCALE / taps / 64, np.float32))
        zeros = [self._constant("zero", np.zeros(channels, dtype)) for dtype in (np.int8, np.int32)]
        return [self._static(axis, weight, scale, zeros[0]), self._static(0, bias, bias_scale, zeros[1])]

    def _static(self, axis: int, *inputs: str) -> str:
        """The float behind a quantised constant."""
        made = f"float_{inputs[0]}_{len(self.nodes)}"
        self.nodes.append(helper.make_node("DequantizeLinear", list(inputs), [made], axis=axis))
        return made

    def _layer(self, op: str, inputs: list[str], shape: tuple[int, ...], macs: int, **fields: Any) -> None:
        made = f"v{len(self.layers)}"
        self.nodes.append(helper.make_node(op, [self.value, *inputs], [made], **fields))
        self.value = made
        self.note(op, macs, shape)

    def _constant(self, kind: str, value: Any) -> str:
        value = np.asarray(value)
        name = f"{kind}_{value.dtype}_{'x'.join(map(str, value.shape))}_{value.flat[0]}"
        self.initializers.setdefault(name, numpy_helper.from_array(value, name))
        return name

    @staticmethod
    def _first(shape: tuple[int, ...]) -> tuple[int, ...]:
        return (shape[0], shape[-1], *shape[1:-1]) if len(shape) == 4 else shape


def conv_deep(build: Builder) -> None:
    """Many channels on few places: bound by arithmetic."""
    for _ in range(3):
        build.conv(64, 3)
        build.conv(128, 1)
        build.conv(64, 1)


def conv_wide(build: Builder) -> None:
    """Few channels on many places: bound by what is read and written."""
    for _ in range(3):
        build.conv(24, 1)
        build.conv(16, 1)


def depthwise(build: Builder) -> None:
    """What separable networks have between their 1 × 1 convolutions."""
    for _ in range(2):
        build.depthwise(3)
        build.depthwise(5)


def dense(build: Builder) -> None:
    """Every weight used once."""
    for _ in range(4):
        build.dense(512)


def elementwise(build: Builder) -> None:
    """Sums and products, as blocks end with them, and a maximum."""
    for _ in range(4):
        build.elementwise()
    build.pool()


def single(build: Builder) -> None:
    """What a run costs whatever is in it."""
    build.small()


def small(build: Builder) -> None:
    """What a layer costs whatever its size."""
    for _ in range(32):
        build.small()


CHAINS: Sequence[tuple[Callable[[Builder], None], tuple[int, ...]]] = (
    (conv_deep, (1, 14, 14, 64)),
    (conv_wide, (1, 80, 80, 16)),
    (depthwise, (1, 64, 64, 32)),
    (dense, (1, 512)),
    (elementwise, (1, 56, 56, 32)),
    (small, (1, 2, 2, 4)),
    (single, (1, 2, 2, 4)),
)


def main() -> None:
    """Write the archive."""
    programs = Programs()
    for chain, shape in CHAINS:
        for dtype in DTYPES:
            for engine, kind in (("litert", TfliteBuilder), ("onnx", OnnxBuilder)):
                builder = kind(dtype, shape)
                chain(builder)
                programs.add(chain.__name__.replace("_", "-"), engine, dtype, builder)
    content = programs.archive()
    TARGET.write_bytes(content)
    print(f"{TARGET}: {len(programs.members)} members, {len(content):,} bytes")


if __name__ == "__main__":
    main()
