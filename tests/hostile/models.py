"""Small models of many kinds of operators, from which hostile ones are made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import ai_edge_litert.schema_py_generated as schema
import flatbuffers
import numpy as np
import onnx
import onnx.parser
from onnx import numpy_helper


class Sketch:
    """A TFLite model in the making; tensors are numbers."""

    def __init__(self) -> None:
        self.model = schema.ModelT()
        self.model.version = 3
        self.model.buffers, self.model.operatorCodes, self.model.subgraphs = [schema.BufferT()], [], []
        self.rng = np.random.default_rng(5)
        self.begin("main")

    def begin(self, name: str) -> None:
        """Start the next subgraph."""
        self.graph = schema.SubGraphT()
        self.graph.name, self.graph.tensors, self.graph.operators = name, [], []
        self.model.subgraphs.append(self.graph)

    def ends(self, inputs: Sequence[int], outputs: Sequence[int]) -> None:
        self.graph.inputs, self.graph.outputs = list(inputs), list(outputs)

    def tensor(
        self, shape: Sequence[int], dtype: str = "float32", content: Any = None, scale: Any = None, **fields: Any
    ) -> int:
        tensor = schema.TensorT()
        tensor.name = f"{self.graph.name}{len(self.graph.tensors)}"
        tensor.shape, tensor.type = list(shape), getattr(schema.TensorType, dtype.upper())
        tensor.buffer = 0
        if content is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(np.asarray(content, dtype).tobytes(), np.uint8)
            tensor.buffer = len(self.model.buffers)
            self.model.buffers.append(buffer)
        if scale is not None:
            tensor.quantization = schema.QuantizationParametersT()
            tensor.quantization.scale = np.atleast_1d(np.asarray(scale, np.float32))
            tensor.quantization.zeroPoint = np.zeros(len(tensor.quantization.scale), np.int64)
        for name, value in fields.items():
            setattr(tensor, name, value)
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def weight(self, *shape: int) -> int:
        return self.tensor(shape, content=self.rng.normal(0, 0.3, shape))

    def ints(self, *values: int) -> int:
        return self.tensor([len(values)], "int32", values)

    def op(
        self,
        kind: str,
        inputs: Sequence[int],
        shape: Sequence[int],
        options: str = "",
        dtype: str = "float32",
        scale: float | None = None,
        outputs: Sequence[int] = (),
        **fields: Any,
    ) -> int:
        operator = schema.OperatorT()
        code = schema.OperatorCodeT()
        code.builtinCode = getattr(schema.BuiltinOperator, kind)
        code.deprecatedBuiltinCode, code.version = min(code.builtinCode, 127), 1
        operator.opcodeIndex = len(self.model.operatorCodes)
        self.model.operatorCodes.append(code)
        operator.inputs = list(inputs)
        operator.outputs = list(outputs) or [self.tensor(shape, dtype, scale=scale)]
        if options:
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, options)
            operator.builtinOptions = getattr(schema, f"{options}T")()
            for name, value in fields.items():
                setattr(operator.builtinOptions, name, value)
        self.graph.operators.append(operator)
        return int(operator.outputs[0])

    def bytes(self) -> bytes:
        return packed(self.model)


def packed(model: Any) -> bytes:
    """The file of a TFLite model given as objects."""
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def tflite_floats() -> bytes:
    build = Sketch()
    x = build.tensor([1, 8, 8, 3])
    a = build.op("CONV_2D", [x, build.weight(4, 3, 3, 3), build.weight(4)], [1, 8, 8, 4], "Conv2DOptions",
                 strideW=1, strideH=1)  # fmt: skip
    b = build.op("DEPTHWISE_CONV_2D", [a, build.weight(1, 3, 3, 4), build.weight(4)], [1, 4, 4, 4],
                 "DepthwiseConv2DOptions", strideW=2, strideH=2, depthMultiplier=1)  # fmt: skip
    c = build.op("MAX_POOL_2D", [b], [1, 2, 2, 4], "Pool2DOptions",
                 strideW=2, strideH=2, filterWidth=2, filterHeight=2)  # fmt: skip
    d = build.op("RESHAPE", [c, build.ints(1, 16)], [1, 16], "ReshapeOptions", newShape=[1, 16])
    e = build.op("FULLY_CONNECTED", [d, build.weight(5, 16), build.weight(5)], [1, 5], "FullyConnectedOptions")
    build.ends([x], [build.op("SOFTMAX", [e], [1, 5], "SoftmaxOptions", beta=1.0)])
    return build.bytes()


def tflite_int8() -> bytes:
    build = Sketch()
    x = build.tensor([1, 6, 6, 2])
    q = build.op("QUANTIZE", [x], [1, 6, 6, 2], "QuantizeOptions", "int8", 0.1)
    kernel = build.tensor([4, 3, 3, 2], "int8", build.rng.integers(-99, 99, (4, 3, 3, 2)), [0.01, 0.02, 0.03, 0.04])
    bias = build.tensor([4], "int32", [1, 2, 3, 4], [0.001, 0.002, 0.003, 0.004])
    a = build.op("CONV_2D", [q, kernel, bias], [1, 6, 6, 4], "Conv2DOptions", "int8", 0.1, strideW=1, strideH=1)
    b = build.op("ADD", [a, a], [1, 6, 6, 4], "AddOptions", "int8", 0.2)
    m = build.op("MEAN", [b, build.ints(1, 2)], [1, 4], "ReducerOptions", "int8", 0.2)
    build.ends([x], [build.op("DEQUANTIZE", [m], [1, 4], "DequantizeOptions")])
    return build.bytes()


def tflite_shapes() -> bytes:
    build = Sketch()
    x = build.tensor([1, 6, 6, 4], shapeSignature=[-1, 6, 6, 4])
    a = build.op("STRIDED_SLICE", [x, build.ints(0, 1, 1, 0), build.ints(1, 5, 5, 4), build.ints(1, 1, 1, 1)],
                 [1, 4, 4, 4], "StridedSliceOptions")  # fmt: skip
    b = build.op("PAD", [a, build.tensor([4, 2], "int32", [0, 0, 1, 1, 1, 1, 0, 0])], [1, 6, 6, 4], "PadOptions")
    c = build.op("CONCATENATION", [b, x], [1, 6, 6, 8], "ConcatenationOptions", axis=3)
    d = build.op("TRANSPOSE", [c, build.ints(0, 3, 1, 2)], [1, 8, 6, 6], "TransposeOptions")
    e = build.op("GATHER", [d, build.ints(0, 3, 5)], [1, 3, 6, 6], "GatherOptions", axis=1)
    f = build.op("TRANSPOSE", [e, build.ints(0, 2, 3, 1)], [1, 6, 6, 3], "TransposeOptions")
    g = build.op("RESIZE_BILINEAR", [f, build.ints(9, 9)], [1, 9, 9, 3], "ResizeBilinearOptions")
    h = build.op("RESHAPE", [g, build.ints(9, 27)], [9, 27], "ReshapeOptions", newShape=[9, 27])
    halves = [build.tensor([9, 9]) for _ in range(3)]
    build.op("SPLIT", [build.ints(1), h], [], "SplitOptions", outputs=halves, numSplits=3)
    i = build.op("BATCH_MATMUL", [halves[0], halves[1]], [9, 9], "BatchMatMulOptions")
    best, where = build.tensor([9, 4]), build.tensor([9, 4], "int32")
    build.op("TOPK_V2", [i, build.tensor([], "int32", 4)], [], "TopKV2Options", outputs=[best, where])
    j = build.op("EMBEDDING_LOOKUP", [build.ints(0, 2), best], [2, 4])
    k = build.op("TILE", [j, build.ints(2, 1)], [4, 4], "TileOptions")
    build.ends([x], [build.op("SUM", [k, build.ints(0)], [4], "ReducerOptions"), where])
    return build.bytes()


def tflite_state() -> bytes:
    build = Sketch()
    x = build.tensor([1, 6])
    a = build.op("FULLY_CONNECTED", [x, build.weight(8, 6), -1], [1, 8], "FullyConnectedOptions")
    state = build.tensor([1, 20], isVariable=True)
    b = build.op("SVDF", [a, build.weight(4, 8), build.weight(4, 5), -1, state], [1, 4], "SVDFOptions", rank=1)
    build.ends([x], [build.op("FULLY_CONNECTED", [b, build.weight(3, 4), -1], [1, 3], "FullyConnectedOptions")])
    return build.bytes()


def tflite_while() -> bytes:
    build = Sketch()
    count, x = build.tensor([1], "int32"), build.tensor([1, 4])
    doubled = build.op("ADD", [x, x], [1, 4], "AddOptions")
    ends = [build.tensor([1], "int32"), build.tensor([1, 4])]
    build.op("WHILE", [count, doubled], [], "WhileOptions", outputs=ends, condSubgraphIndex=1, bodySubgraphIndex=2)
    build.ends([count, x], [build.op("TANH", [ends[1]], [1, 4]), ends[0]])
    build.begin("condition")
    count, x = build.tensor([1], "int32"), build.tensor([1, 4])
    build.ends([count, x], [build.op("LESS", [count, build.ints(6)], [1], "LessOptions", "bool")])
    build.begin("body")
    count, x = build.tensor([1], "int32"), build.tensor([1, 4])
    more = build.op("ADD", [count, build.ints(1)], [1], "AddOptions", "int32")
    build.ends([count, x], [more, build.op("MUL", [x, build.weight(1, 4)], [1, 4], "MulOptions")])
    return build.bytes()


TFLITE: dict[str, Callable[[], bytes]] = {
    maker.__name__: maker for maker in (tflite_floats, tflite_int8, tflite_shapes, tflite_state, tflite_while)
}


def onnx_model(graph: str, weights: dict[str, Any] | None = None, functions: str = "") -> onnx.ModelProto:
    """A model in ONNX's own notation; a weight is an array, or a shape to fill with seeded noise."""
    head = '<ir_version: 8, opset_import: ["" : 17, "local" : 1]>'
    parsed = onnx.parser.parse_model(f"{head}\n{graph}\n{functions}")
    rng = np.random.default_rng(7)
    for name, value in (weights or {}).items():
        array = rng.normal(0, 0.3, value).astype(np.float32) if isinstance(value, tuple) else np.asarray(value)
        parsed.graph.initializer.append(numpy_helper.from_array(array, name))
    return parsed


def onnx_chain() -> onnx.ModelProto:
    return onnx_model(
        """g (float[1,3,8,8] x) => (float[1,5] y) {
            a = Conv<pads=[1,1,1,1]>(x, w1, b1)
            b = Relu(a)
            c = MaxPool<kernel_shape=[2,2], strides=[2,2]>(b)
            d = ConvTranspose(c, w2)
            e = GlobalAveragePool(d)
            f = Flatten(e)
            h = Gemm(f, w3, b3)
            y = Softmax(h)
        }""",
        {"w1": (4, 3, 3, 3), "b1": (4,), "w2": (4, 6, 3, 3), "w3": (6, 5), "b3": (5,)},
    )


def onnx_shapes() -> onnx.ModelProto:
    return onnx_model(
        """g (float[N,4,6] x) => (float[N,K] y, int64[N,T] t) {
            s = Shape(x)
            n = Slice(s, zero, one)
            flat = Concat<axis=0>(n, minus)
            a = Reshape(x, flat)
            b = Pad(a, pads)
            c = Gather<axis=1>(b, picks)
            d = Tile(c, repeats)
            p, q = Split<axis=1>(d)
            e = Einsum<equation="ij,ij->ij">(p, q)
            f = Unsqueeze(e, one)
            h = Resize<mode="linear">(f, , scales)
            i = Squeeze(h, one)
            k = ReduceMean<axes=[1], keepdims=1>(i)
            l = Expand(k, wide)
            y = Add(l, i)
            v, t = TopK(y, two)
        }""",
        {
            "zero": np.array([0]), "one": np.array([1]), "two": np.array([2]), "minus": np.array([-1]),
            "pads": np.array([0, 1, 0, 1]), "picks": np.array([0, 3, 5, 25]), "repeats": np.array([1, 3]),
            "scales": np.array([1, 1, 2], np.float32), "wide": np.array([1, 12]),
        },
    )  # fmt: skip


def onnx_control() -> onnx.ModelProto:
    return onnx_model(
        """g (float[1,4] x) => (float[1,4] y, float[S,1,4] z) {
            total = ReduceSum<keepdims=0>(x)
            positive = Greater(total, nought)
            h = If(positive) <
                then_branch = t () => (float[1,4] tt) { tt = Mul(x, w) },
                else_branch = e () => (float[1,4] ee) { s = Neg(x)
                    ee = If(positive) <
                        then_branch = u () => (float[1,4] uu) { uu = Identity(s) },
                        else_branch = v () => (float[1,4] vv) { vv = Tanh(s) }> }>
            y, z = Loop(three, go, h) <
                body = b (int64 i, bool before, float[1,4] state) => (bool after, float[1,4] next, float[1,4] seen) {
                    after = Identity(before)
                    next = Add(state, x)
                    seen = Sigmoid(next) }>
        }""",
        {"w": (1, 4), "nought": np.float32(0), "three": np.int64(3), "go": np.bool_(True)},
    )


def onnx_functions() -> onnx.ModelProto:
    return onnx_model(
        """g (float[1,8] x) => (float[1,8] y) {
            a = local.twice(x)
            k = Constant<value = float[1,8] {1, 2, 3, 4, 5, 6, 7, 8}>()
            b = MatMul(a, w)
            y = local.twice(b)
        }""",
        {"w": (8, 8)},
        """<domain: "local", opset_import: ["" : 17, "local" : 1]>
        twice (v) => (r) { m = local.half(v)
            r = Add(m, m) }
        <domain: "local", opset_import: ["" : 17]>
        half (v) => (r) { k = Constant<value_float = 0.5>()
            r = Mul(v, k) }""",
    )


def onnx_int8() -> onnx.ModelProto:
    rng = np.random.default_rng(3)
    return onnx_model(
        """g (float[1,3,6,6] x) => (float[1,4,6,6] y) {
            q = QuantizeLinear(x, s, z)
            d = DequantizeLinear(q, s, z)
            wd = DequantizeLinear<axis=0>(w, ws, wz)
            a = Conv<pads=[1,1,1,1]>(d, wd)
            r = Relu(a)
            q2 = QuantizeLinear(r, s, z)
            y = DequantizeLinear(q2, s, z)
        }""",
        {
            "s": np.float32(0.05), "z": np.int8(3), "w": rng.integers(-99, 99, (4, 3, 3, 3)).astype(np.int8),
            "ws": np.array([0.01, 0.02, 0.03, 0.04], np.float32), "wz": np.zeros(4, np.int8),
        },
    )  # fmt: skip


def onnx_recurrent() -> onnx.ModelProto:
    return onnx_model(
        """g (float[5,1,3] x, float[1,1,4] h0) => (float[5,1,1,4] y, float[1,1,4] hn) {
            pieces = SplitToSequence<axis=0, keepdims=1>(x)
            back = ConcatFromSequence<axis=0>(pieces)
            y, hn = GRU<hidden_size=4>(back, w, r, b, , h0)
        }""",
        {"w": (1, 12, 3), "r": (1, 12, 4), "b": (1, 24)},
    )


ONNX: dict[str, Callable[[], onnx.ModelProto]] = {
    maker.__name__: maker
    for maker in (onnx_chain, onnx_shapes, onnx_control, onnx_functions, onnx_int8, onnx_recurrent)
}
