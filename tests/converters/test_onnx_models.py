"""ONNX models of every build that is likely to be met: all their cuts, against onnxruntime on the file itself."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort
import pytest
from onnx import numpy_helper

from midstream.bundle import Bundle
from midstream_converters.convert import convert
from midstream_converters.opening import Options

Maker = Callable[[], onnx.ModelProto]


def model(graph: str, weights: dict[str, Any] | None = None, *, opset: int = 17, text: str = "") -> onnx.ModelProto:
    """A model in ONNX's own notation; a weight is an array, or a shape to fill with seeded noise."""
    parsed = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}, "local" : 1]>\n{graph}\n{text}')
    rng = np.random.default_rng(7)
    for name, value in (weights or {}).items():
        array = value if isinstance(value, np.ndarray | np.generic) else rng.normal(0, 0.3, value).astype(np.float32)
        parsed.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    return parsed


def ints(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def chain() -> onnx.ModelProto:
    return model(
        """g (float[1,3,16,16] x) => (float[1,5] y) {
            a = Conv<pads=[1,1,1,1]>(x, w1, b1)
            b = Relu(a)
            c = MaxPool<kernel_shape=[2,2], strides=[2,2]>(b)
            d = Conv<pads=[1,1,1,1]>(c, w2)
            e = Relu(d)
            f = GlobalAveragePool(e)
            h = Flatten(f)
            i = Gemm(h, w3, b3)
            y = Softmax(i)
        }""",
        {"w1": (8, 3, 3, 3), "b1": (8,), "w2": (16, 8, 3, 3), "w3": (16, 5), "b3": (5,)},
    )


def two_layers() -> onnx.ModelProto:
    return model("g (float[1,8] x) => (float[1,4] y) { h = MatMul(x, w)\n y = Relu(h) }", {"w": (8, 4)})


def three_layers() -> onnx.ModelProto:
    return model("g (float[1,8] x) => (float[1,8] y) { h = MatMul(x, w)\n i = Tanh(h)\n y = Add(i, x) }", {"w": (8, 8)})


def one_layer() -> onnx.ModelProto:
    return model("g (float[1,8] x) => (float[1,4] y) { y = MatMul(x, w) }", {"w": (8, 4)})


def residual() -> onnx.ModelProto:
    return model(
        """g (float[1,4,12,12] x) => (float[1,4,12,12] y) {
            a = Conv<pads=[1,1,1,1]>(x, w1)
            b = BatchNormalization(a, s, o, m, v)
            c = Relu(b)
            d = Conv<pads=[1,1,1,1]>(c, w2)
            e = Add(d, x)
            f = Relu(e)
            l = Conv(f, w3)
            r = Conv<pads=[1,1,1,1]>(f, w1)
            j = Concat<axis=1>(l, r, f)
            k = Sigmoid(j)
            y = Conv(k, w4)
        }""",
        {
            "w1": (4, 4, 3, 3), "w2": (4, 4, 3, 3), "w3": (4, 4, 1, 1), "w4": (4, 12, 1, 1),
            "s": (4,), "o": (4,), "m": (4,), "v": np.ones(4, np.float32),
        },
    )  # fmt: skip


def late_input() -> onnx.ModelProto:
    return model(
        """g (float[1,8] x, float[1,8] late, float[1,8] last) => (float[1,8] y) {
            a = MatMul(x, w)
            b = Relu(a)
            c = MatMul(b, w)
            d = Mul(c, late)
            e = Tanh(d)
            y = Add(e, last)
        }""",
        {"w": (8, 8)},
    )


def outputs_on_the_way() -> onnx.ModelProto:
    return model(
        """g (float[1,8] x) => (float[1,8] early, float[1,8] y, float[1,8] middle, float[1,1] mean) {
            early = MatMul(x, w)
            b = Relu(early)
            middle = MatMul(b, w)
            mean = ReduceMean<axes=[1]>(middle)
            d = Tanh(middle)
            e = MatMul(d, w)
            y = Add(e, b)
        }""",
        {"w": (8, 8)},
    )


def identity_output() -> onnx.ModelProto:
    return model(
        """g (float[1,8] x, float[1,3] z) => (float[1,8] copy, float[1,8] y, float[1,3] zcopy) {
            copy = Identity(x)
            a = MatMul(x, w)
            b = Relu(a)
            y = MatMul(b, w)
            zcopy = Identity(z)
        }""",
        {"w": (8, 8)},
    )


def input_as_output() -> onnx.ModelProto:
    return model(
        "g (float[1,8] x) => (float[1,8] x, float[1,8] y) { a = MatMul(x, w)\n b = Relu(a)\n y = MatMul(b, w) }",
        {"w": (8, 8)},
    )


def constant_output() -> onnx.ModelProto:
    return model(
        """g (float[1,8] x) => (float[1,8] y, float[8,8] w, float[2] k) {
            a = MatMul(x, w)
            b = Relu(a)
            y = MatMul(b, w)
            k = Constant<value = float[2] {1.0, 2.0}>()
        }""",
        {"w": (8, 8)},
    )


def static_output() -> onnx.ModelProto:
    return model(
        """g (float[1,8] x) => (float[1,8] y, float[8,8] t) {
            s = Transpose(w)
            t = Relu(s)
            a = MatMul(x, t)
            b = Relu(a)
            y = MatMul(b, t)
        }""",
        {"w": (8, 8)},
    )


def unused_input() -> onnx.ModelProto:
    return model(
        "g (float[1,8] x, float[3] spare) => (float[1,8] y) { a = MatMul(x, w)\n b = Relu(a)\n y = MatMul(b, w) }",
        {"w": (8, 8)},
    )


def dynamic_batch() -> onnx.ModelProto:
    return model(
        """g (float[N,3,8,8] x) => (float[N,5] y) {
            a = Conv(x, w1)
            b = Relu(a)
            s = Shape(b)
            n = Gather(s, zero)
            n1 = Unsqueeze(n, axes)
            t = Concat<axis=0>(n1, rest)
            r = Reshape(b, t)
            y = MatMul(r, w2)
        }""",
        {"w1": (4, 3, 3, 3), "w2": (144, 5), "zero": np.array(0), "axes": ints(0), "rest": ints(-1)},
    )


def dynamic_size() -> onnx.ModelProto:
    return model(
        """g (float[N,3,H,W] x) => (float[N,2,H,W] y) {
            a = Conv<pads=[1,1,1,1], strides=[2,2]>(x, w1)
            b = Relu(a)
            c = Conv<pads=[1,1,1,1]>(b, w2)
            s = Shape<start=2>(x)
            s0 = Shape<end=2>(c)
            t = Concat<axis=0>(s0, s)
            u = Resize<mode="nearest">(c, , , t)
            y = Sigmoid(u)
        }""",
        {"w1": (4, 3, 3, 3), "w2": (2, 4, 3, 3)},
    )


def initializers_as_inputs() -> onnx.ModelProto:
    return model(
        """g (float[1,8] x, float[8,8] w, float[8] b) => (float[1,8] y) {
            a = MatMul(x, w)
            c = Add(a, b)
            d = Relu(c)
            y = MatMul(d, w)
        }""",
        {"w": (8, 8), "b": (8,)},
    )


def constant_nodes() -> onnx.ModelProto:
    return model(
        """g (float[1,12] x) => (float[3,4] y) {
            k = Constant<value_float = 0.5>()
            a = Mul(x, k)
            v = Constant<value_floats = [1.0, 2.0, 3.0, 4.0]>()
            s = Constant<value_ints = [3, 4]>()
            b = Reshape(a, s)
            c = Add(b, v)
            z = Constant<value_int = 0>()
            n = Cast<to = 1>(z)
            d = Max(c, n)
            y = Add(d, k)
        }"""
    )


def half_weights() -> onnx.ModelProto:
    half = np.random.default_rng(1).normal(0, 0.3, (8, 8)).astype(np.float16)
    return model(
        """g (float[1,8] x) => (float[1,8] y) {
            w = Cast<to = 1>(h)
            a = MatMul(x, w)
            b = Relu(a)
            v = Cast<to = 1>(h)
            c = MatMul(b, v)
            y = Softmax(c)
        }""",
        {"h": half},
    )


def half_throughout() -> onnx.ModelProto:
    half = np.random.default_rng(1).normal(0, 0.3, (8, 8)).astype(np.float16)
    return model(
        """g (float16[1,8] x) => (float16[1,8] y) {
            a = MatMul(x, h)
            b = Relu(a)
            c = MatMul(b, h)
            y = Add(c, a)
        }""",
        {"h": half},
    )


def quantised() -> onnx.ModelProto:
    rng = np.random.default_rng(3)
    return model(
        """g (float[1,4,8,8] x) => (float[1,4,8,8] y) {
            q = QuantizeLinear(x, s, z)
            d = DequantizeLinear(q, s, z)
            wd = DequantizeLinear(w, ws, wz)
            a = Conv<pads=[1,1,1,1]>(d, wd)
            q1 = QuantizeLinear(a, s, z)
            d1 = DequantizeLinear(q1, s, z)
            b = Add(d1, d)
            q2 = QuantizeLinear(b, s, z)
            d2 = DequantizeLinear(q2, s, z)
            c = Conv<pads=[1,1,1,1]>(d2, wd)
            q3 = QuantizeLinear(c, s, z)
            y = DequantizeLinear(q3, s, z)
        }""",
        {
            "w": rng.integers(-50, 50, (4, 4, 3, 3), dtype=np.int8),
            "ws": np.float32(0.01),
            "wz": np.int8(0),
            "s": np.float32(0.05),
            "z": np.int8(3),
        },
    )


def integer_operators() -> onnx.ModelProto:
    rng = np.random.default_rng(3)
    return model(
        """g (uint8[1,4,8,8] x) => (uint8[1,4,8,8] y) {
            a = QLinearConv<pads=[1,1,1,1]>(x, s, z, w, s, wz, s, z)
            b = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>(a)
            c = QLinearConv<pads=[1,1,1,1]>(b, s, z, w, s, wz, s, z)
            y = Max(c, a)
        }""",
        {
            "w": rng.integers(-50, 50, (4, 4, 3, 3), dtype=np.int8),
            "wz": np.int8(0),
            "s": np.float32(0.05),
            "z": np.uint8(3),
        },
    )


def sizes_from_values() -> onnx.ModelProto:
    return model(
        """g (float[1,16] x) => (int64[1,K] where, float[M] y) {
            zero = Constant<value_float = 0.0>()
            a = MatMul(x, w)
            p = Greater(a, zero)
            f = Flatten<axis=0>(p)
            shape = Constant<value_ints = [-1]>()
            flat = Reshape(f, shape)
            where = NonZero(flat)
            av = Reshape(a, shape)
            picked = Compress<axis=0>(av, flat)
            b = Relu(picked)
            y = Tanh(b)
        }""",
        {"w": (16, 16)},
    )


def branch_at_run_time() -> onnx.ModelProto:
    return model(
        """g (float[1,8] x) => (float[1,8] y) {
            a = MatMul(x, w)
            r = Relu(a)
            m = ReduceMax<keepdims=0>(r)
            one = Constant<value_float = 1.0>()
            c = Greater(m, one)
            b = If (c) <
                then_branch = t () => (float[1,8] u) { k = MatMul(r, w)
                    u = Add(k, x) },
                else_branch = e () => (float[1,8] v) { v = Tanh(a) }
            >
            d = MatMul(b, w)
            y = Softmax(d)
        }""",
        {"w": (8, 8)},
    )


def branch_known_before() -> onnx.ModelProto:
    return model(
        """g (float[1,8] x) => (float[1,8] y) {
            a = MatMul(x, w)
            n = Shape(w)
            first = Gather(n, zero)
            c = Equal(first, eight)
            b = If (c) <
                then_branch = t () => (float[1,8] u) { a2 = Relu(a)
                    u = Add(a2, x) },
                else_branch = e () => (float[1,8] v) { v = Tanh(a) }
            >
            d = MatMul(b, w)
            y = Softmax(d)
        }""",
        {"w": (8, 8), "zero": np.array(0), "eight": np.array(8)},
    )


def loop() -> onnx.ModelProto:
    return model(
        """g (float[1,8] x) => (float[1,8] y) {
            a = MatMul(x, w)
            n = Constant<value = int64 {3}>()
            t = Constant<value = bool {1}>()
            b = Loop (n, t, a) <
                body = body (int64 i, bool cond, float[1,8] state) => (bool cond_out, float[1,8] next) {
                    cond_out = Identity(cond)
                    m = MatMul(state, w)
                    next = Add(m, a)
                }
            >
            c = Relu(b)
            y = MatMul(c, w)
        }""",
        {"w": (8, 8)},
    )


def recurrent() -> onnx.ModelProto:
    return model(
        """g (float[5,1,4] x, float[1,1,6] h0) => (float[1,1,6] hn, float[5,1,3] y) {
            s, hn, cn = LSTM<hidden_size = 6>(x, w, r, , , h0)
            axis = Constant<value_ints = [1]>()
            q = Squeeze(s, axis)
            y0 = MatMul(q, p)
            y = Relu(y0)
        }""",
        {"w": (1, 24, 4), "r": (1, 24, 6), "p": (6, 3)},
    )


def no_declared_output_shape() -> onnx.ModelProto:
    made = chain()
    made.graph.output[0].type.tensor_type.ClearField("shape")
    return made


def split_and_join() -> onnx.ModelProto:
    return model(
        """g (float[1,12] x) => (float[1,8] y) {
            a = MatMul(x, w)
            p, q, unused = Split<axis=1>(a, sizes)
            r = Relu(p)
            s = Tanh(q)
            t = Concat<axis=1>(r, s)
            u = Mul(p, q)
            v = Concat<axis=1>(u, r)
            y = Add(t, v)
        }""",
        {"w": (12, 12), "sizes": ints(4, 4, 4)},
    )


def local_function() -> onnx.ModelProto:
    return model(
        "g (float[1,8] x) => (float[1,8] y) { a = local.twice(x, w)\n b = Relu(a)\n y = local.twice(b, w) }",
        {"w": (8, 8)},
        text='<domain: "local", opset_import: ["" : 17]> twice (x, w) => (y) { a = MatMul(x, w)\n y = MatMul(a, w) }',
    )


def token_ids() -> onnx.ModelProto:
    return model(
        """g (int64[N,S] ids, bool[N,S] mask) => (float[N,S,8] y) {
            e = Gather(table, ids)
            m = Cast<to = 1>(mask)
            axis = Constant<value_ints = [2]>()
            m3 = Unsqueeze(m, axis)
            a = Mul(e, m3)
            b = MatMul(a, w)
            t = Transpose<perm=[0,2,1]>(b)
            scores = MatMul(b, t)
            p = Softmax(scores)
            y = MatMul(p, b)
        }""",
        {"table": (10, 8), "w": (8, 8)},
    )


def sequences() -> onnx.ModelProto:
    return model(
        """g (float[4,8] x) => (float[1,8] y) {
            a = MatMul(x, w)
            s = SplitToSequence<axis=0>(a)
            i = Constant<value = int64 {2}>()
            b = SequenceAt(s, i)
            c = MatMul(b, w)
            y = Relu(c)
        }""",
        {"w": (8, 8)},
    )


def odd_names() -> onnx.ModelProto:
    made = three_layers()
    names = {"x": "images:0", "h": "a/b c.é", "i": "../../etc/passwd", "y": "out=1"}
    for node in made.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for value in (*made.graph.input, *made.graph.output):
        value.name = names[value.name]
    return made


def large_weights() -> onnx.ModelProto:
    return model(
        """g (float[1,256] x) => (float[1,256] y) {
            a = MatMul(x, w1)
            b = Relu(a)
            c = MatMul(b, w2)
            d = Tanh(c)
            e = MatMul(d, w3)
            f = Relu(e)
            y = MatMul(f, w1)
        }""",
        {"w1": (256, 256), "w2": (256, 256), "w3": (256, 256)},
    )


def loop_with_weights_of_its_own() -> onnx.ModelProto:
    made = loop()
    body = next(node for node in made.graph.node if node.op_type == "Loop").attribute[0].g
    weight = np.random.default_rng(5).normal(0, 0.1, (8, 64)).astype(np.float32)
    body.initializer.append(numpy_helper.from_array(weight, "inner"))
    body.initializer.append(numpy_helper.from_array(weight[:4].T.reshape(64, 4)[:, :].repeat(2, axis=1), "w"))
    body.node.insert(1, onnx.helper.make_node("MatMul", ["state", "inner"], ["wide"]))
    body.node[2].input[:] = ["wide", "w"]
    return made


MAKERS: dict[str, Maker] = {
    maker.__name__: maker
    for maker in (
        chain, two_layers, three_layers, one_layer, residual, late_input, outputs_on_the_way, identity_output,
        input_as_output, constant_output, static_output, unused_input, dynamic_batch, dynamic_size,
        initializers_as_inputs, constant_nodes, half_weights, half_throughout, quantised, integer_operators,
        sizes_from_values, branch_at_run_time, branch_known_before, loop, loop_with_weights_of_its_own, recurrent,
        no_declared_output_shape,
        split_and_join, local_function, token_ids, sequences, odd_names, large_weights,
    )
}  # fmt: skip
CUTLESS = {"one_layer"}


def fresh_inputs(session: ort.InferenceSession, seed: int, free: int) -> dict[str, np.ndarray]:
    """Inputs that no proof has seen; every dynamic size is ``free``."""
    rng = np.random.default_rng(1000 + seed)
    made = {}
    for spec in session.get_inputs():
        shape = [size if isinstance(size, int) else free for size in spec.shape]
        kind = spec.type.removeprefix("tensor(").removesuffix(")")
        dtype = np.dtype({"float": "float32"}.get(kind, kind))
        noise = rng.integers(0, 9, shape) if dtype.kind in "iub" else rng.normal(0, 2.0, shape)
        made[spec.name] = noise.astype(dtype)
    return made


def assert_same(got: dict[str, np.ndarray], wanted: dict[str, np.ndarray], what: str) -> None:
    assert list(got) == list(wanted), what
    for name, want in wanted.items():
        assert (got[name].dtype, got[name].shape) == (want.dtype, want.shape), f"{what}: {name}"
        assert got[name].tobytes() == want.tobytes(), f"{what}: {name}"


@pytest.mark.parametrize("name", MAKERS)
def test_every_cut_gives_the_bits_of_the_file(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"{name}.onnx"
    onnx.save(MAKERS[name](), path)
    convert(path, tmp_path / "bundle", Options(max_cuts=None))
    bundle = Bundle.open(tmp_path / "bundle")
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    assert [spec.name for spec in bundle.outputs] == names
    assert [spec.name for spec in bundle.inputs] == [spec.name for spec in session.get_inputs()]
    assert bool(bundle.cuts) == (name not in CUTLESS), bundle.manifest.rejected
    for free in (1, 6):
        inputs = fresh_inputs(session, len(name), free)
        wanted = dict(zip(names, session.run(names, inputs), strict=True))
        assert_same(bundle.run(inputs), wanted, "whole")
        chains = [(cut.id,) for cut in bundle.cuts] + list(bundle.manifest.middles())
        for chain in chains:
            assert_same(bundle.run_split(inputs, cut=chain), wanted, f"{chain} with sizes {free}")


@pytest.mark.long
@pytest.mark.timeout(900)
def test_over_two_gigabytes_of_external_data_need_little_memory(tmp_path: Path) -> None:
    """In a process of its own, whose memory is measured; the data is mostly a hole in its file."""
    rows, columns = 560_000, 1024
    made = model("g (int64[1,8] ids) => (float[1,8,64] y) { e = Gather(table, ids)\n r = Relu(e)\n y = MatMul(r, w) }")
    made.graph.initializer.append(numpy_helper.from_array(np.ones((columns, 64), np.float32), "w"))
    table = made.graph.initializer.add(name="table", data_type=onnx.TensorProto.FLOAT, dims=[rows, columns])
    table.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", "table.bin"), ("offset", "0"), ("length", str(rows * columns * 4))):
        table.external_data.add(key=key, value=value)
    onnx.save(made, tmp_path / "large.onnx")
    with (tmp_path / "table.bin").open("wb") as file:
        file.write(np.random.default_rng(0).normal(0, 1, (8, columns)).astype(np.float32).tobytes())
        file.truncate(rows * columns * 4)
    program = (
        "import re, sys; from pathlib import Path\n"
        "from midstream_converters.convert import convert; from midstream_converters.opening import Options\n"
        "convert(Path(sys.argv[1]), Path(sys.argv[2]), Options(max_cuts=None))\n"
        # Not ru_maxrss: that of the process which started it counts there too.
        "print(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1])"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "large.onnx"), str(tmp_path / "bundle")]
    peak_kb = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert peak_kb < 400_000
    bundle = Bundle.open(tmp_path / "bundle")
    assert bundle.manifest.model_bytes > 2 << 30
    ids = {"ids": np.arange(8, dtype=np.int64)[None]}
    whole = bundle.run(ids)["y"]
    assert np.abs(whole).max() > 0
    for cut in bundle.cuts:
        assert bundle.run_split(ids, cut=cut.id)["y"].tobytes() == whole.tobytes()
