"""TFLite models built from the schema: float and int8, branches, states; all their cuts, against LiteRT on the file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ai_edge_litert.schema_py_generated as schema
import flatbuffers
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

from midstream.bundle import Bundle
from midstream.errors import ModelError
from midstream_converters.convert import convert
from midstream_converters.opening import Options
from midstream_converters.tflite.read import read_tflite

OPS = schema.BuiltinOperator
KINDS = schema.BuiltinOptions


class Build:
    """A flatbuffer in the making. Tensors are numbers; a weight is given its content, or a shape to fill with noise."""

    def __init__(self, dtype: str = "float32", scale: float | None = None, zero_point: int = 0) -> None:
        self.dtype, self.scale, self.zero_point = dtype, scale, zero_point
        self.rng = np.random.default_rng(11)
        self.graph = schema.SubGraphT()
        self.graph.tensors, self.graph.operators = [], []
        self.model = schema.ModelT()
        self.model.version = 3
        self.model.buffers, self.model.operatorCodes = [schema.BufferT()], []
        self.model.subgraphs = [self.graph]

    def tensor(
        self,
        name: str,
        shape: Sequence[int],
        dtype: str | None = None,
        *,
        content: np.ndarray | None = None,
        scale: Sequence[float] | float | None = None,
        zero_point: int | None = None,
        variable: bool = False,
        signature: Sequence[int] | None = None,
    ) -> int:
        tensor = schema.TensorT()
        kind = np.dtype(dtype or self.dtype).name
        tensor.name, tensor.shape, tensor.isVariable = name.encode(), list(shape), variable
        tensor.type = getattr(schema.TensorType, kind.upper())
        tensor.shapeSignature = signature
        steps = self.scale if scale is None and kind == self.dtype and kind != "float32" else scale
        if steps is not None:
            quantization = schema.QuantizationParametersT()
            quantization.scale = [steps] if isinstance(steps, float) else list(steps)
            zero = self.zero_point if zero_point is None else zero_point
            quantization.zeroPoint = [zero] * len(quantization.scale)
            tensor.quantization = quantization
        if content is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(content).tobytes(), np.uint8)
            tensor.buffer = len(self.model.buffers)
            self.model.buffers.append(buffer)
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def weight(self, *shape: int) -> int:
        """A filter, in one byte with a scale for each channel where the model is quantised."""
        if self.scale is None:
            return self.tensor("w", shape, content=self.rng.normal(0, 0.3, shape).astype(np.float32))
        content = self.rng.integers(-127, 128, shape, dtype=np.int8)
        scales = [0.002 + 0.001 * channel for channel in range(shape[0])] if len(shape) == 4 else [0.004]
        return self.tensor("w", shape, "int8", content=content, scale=scales, zero_point=0)

    def bias(self, weight: int, length: int) -> int:
        if self.scale is None:
            return self.tensor("b", [length], content=self.rng.normal(0, 0.3, length).astype(np.float32))
        scales = [self.scale * float(step) for step in self.graph.tensors[weight].quantization.scale]
        content = self.rng.integers(-500, 500, length, dtype=np.int32)
        return self.tensor("b", [length], "int32", content=content, scale=scales, zero_point=0)

    def op(self, code: str, reads: Sequence[int], makes: Sequence[int], options: Any = None, **fields: Any) -> int:
        found = next(
            (i for i, known in enumerate(self.model.operatorCodes) if known.builtinCode == getattr(OPS, code)), -1
        )
        if found < 0:
            entry = schema.OperatorCodeT()
            entry.builtinCode, entry.version = getattr(OPS, code), 1
            entry.deprecatedBuiltinCode = min(entry.builtinCode, 127)
            self.model.operatorCodes.append(entry)
            found = len(self.model.operatorCodes) - 1
        operator = schema.OperatorT()
        operator.opcodeIndex, operator.inputs, operator.outputs = found, list(reads), list(makes)
        if options is not None:
            operator.builtinOptions = options()
            operator.builtinOptionsType = getattr(KINDS, options.__name__.removesuffix("T"))
            for name, value in fields.items():
                setattr(operator.builtinOptions, name, value)
        self.graph.operators.append(operator)
        return makes[0] if makes else -1

    def conv(self, x: int, into: int, size: int = 3, name: str = "conv", relu: bool = True) -> int:
        batch, height, width, channels = self.graph.tensors[x].shape
        weight = self.weight(into, size, size, channels)
        signature = self.graph.tensors[x].shapeSignature
        made = self.tensor(
            name, [batch, height, width, into], signature=None if signature is None else [*signature[:3], into]
        )
        options = {"strideW": 1, "strideH": 1, "fusedActivationFunction": int(relu)}
        return self.op("CONV_2D", [x, weight, self.bias(weight, into)], [made], schema.Conv2DOptionsT, **options)

    def add(self, a: int, b: int, name: str = "add") -> int:
        made = self.tensor(name, self.graph.tensors[a].shape)
        return self.op("ADD", [a, b], [made], schema.AddOptionsT)

    def concat(self, *parts: int) -> int:
        shape = list(self.graph.tensors[parts[0]].shape)
        shape[3] = sum(self.graph.tensors[part].shape[3] for part in parts)
        return self.op("CONCATENATION", parts, [self.tensor("cat", shape)], schema.ConcatenationOptionsT, axis=3)

    def pool(self, x: int, code: str = "MAX_POOL_2D") -> int:
        batch, height, width, channels = self.graph.tensors[x].shape
        made = self.tensor("pool", [batch, height // 2, width // 2, channels])
        options = {"strideW": 2, "strideH": 2, "filterWidth": 2, "filterHeight": 2, "padding": 1}
        return self.op(code, [x], [made], schema.Pool2DOptionsT, **options)

    def classes(self, x: int, count: int = 5) -> int:
        length = int(np.prod(self.graph.tensors[x].shape))
        shape = np.array([1, length], np.int32)
        where = self.tensor("shape", [2], "int32", content=shape)
        flat = self.op(
            "RESHAPE", [x, where], [self.tensor("flat", shape.tolist())], schema.ReshapeOptionsT, newShape=shape
        )
        weight = self.weight(count, length)
        scores = self.tensor("scores", [1, count])
        self.op("FULLY_CONNECTED", [flat, weight, self.bias(weight, count)], [scores], schema.FullyConnectedOptionsT)
        if self.scale is None:
            shares = self.tensor("shares", [1, count])
        else:
            shares = self.tensor("shares", [1, count], scale=1 / 256, zero_point=-128)
        return self.op("SOFTMAX", [scores], [shares], schema.SoftmaxOptionsT, beta=1.0)

    def finish(self, inputs: Sequence[int], outputs: Sequence[int]) -> bytes:
        self.graph.inputs, self.graph.outputs = list(inputs), list(outputs)
        builder = flatbuffers.Builder(1024)
        builder.Finish(self.model.Pack(builder), b"TFL3")
        return bytes(builder.Output())


def quantised() -> Build:
    return Build("int8", 0.05, 3)


def float_chain() -> bytes:
    build = Build()
    x = build.tensor("x", [1, 8, 8, 3])
    return build.finish([x], [build.classes(build.conv(build.pool(build.conv(x, 8)), 6))])


def branches(build: Build, x: int) -> int:
    stem = build.conv(x, 8)
    left = build.conv(stem, 4, size=1)
    right = build.conv(stem, 4)
    joined = build.concat(left, right, stem)
    narrow = build.conv(joined, 8, relu=False)
    skipped = build.add(narrow, stem)
    return build.classes(build.pool(skipped))


def float_branches() -> bytes:
    build = Build()
    x = build.tensor("x", [1, 8, 8, 3])
    return build.finish([x], [branches(build, x)])


def int8_branches() -> bytes:
    build = quantised()
    x = build.tensor("x", [1, 8, 8, 3])
    return build.finish([x], [branches(build, x)])


def int8_with_float_ends() -> bytes:
    build = quantised()
    x = build.tensor("x", [1, 8, 8, 3], "float32")
    q = build.op("QUANTIZE", [x], [build.tensor("q", [1, 8, 8, 3])], schema.QuantizeOptionsT)
    y = build.op("DEQUANTIZE", [branches(build, q)], [build.tensor("y", [1, 5], "float32")], schema.DequantizeOptionsT)
    return build.finish([x], [y])


def several_ends(build: Build) -> bytes:
    x, late = build.tensor("x", [1, 8, 8, 4]), build.tensor("late", [1, 8, 8, 4])
    early = build.conv(x, 4, name="early")
    middle = build.add(build.conv(early, 4), x, name="middle")
    last = build.add(build.conv(middle, 4), late)
    return build.finish([late, x], [build.classes(last), early, middle])


def float_several_ends() -> bytes:
    return several_ends(Build())


def int8_several_ends() -> bytes:
    return several_ends(quantised())


def dynamic_batch() -> bytes:
    build = Build()
    x = build.tensor("x", [1, 8, 8, 3], signature=[-1, 8, 8, 3])
    return build.finish([x], [build.conv(build.conv(build.conv(x, 4), 6), 2, name="y")])


def half_weights() -> bytes:
    build = Build()
    x = build.tensor("x", [1, 8, 8, 3])

    def conv(before: int, channels: int, into: int) -> int:
        stored = build.rng.normal(0, 0.3, (into, 3, 3, channels)).astype(np.float16)
        half = build.tensor("half", stored.shape, "float16", content=stored)
        weight = build.op("DEQUANTIZE", [half], [build.tensor("full", stored.shape)], schema.DequantizeOptionsT)
        made = build.tensor("conv", [1, 8, 8, into])
        reads = [before, weight, build.bias(weight, into)]
        return build.op("CONV_2D", reads, [made], schema.Conv2DOptionsT, strideW=1, strideH=1)

    return build.finish([x], [conv(conv(conv(x, 3, 8), 8, 4), 4, 2)])


def input_handed_through() -> bytes:
    build = Build()
    x, other = build.tensor("x", [1, 8, 8, 3]), build.tensor("other", [1, 3])
    return build.finish([x, other], [x, build.conv(build.conv(x, 4), 4), other])


def names_used_twice() -> bytes:
    build = Build()
    x = build.tensor("same", [1, 8, 8, 3])
    return build.finish([x], [build.conv(build.conv(build.conv(x, 4, name="same"), 4, name=""), 4, name="same")])


def two_layers() -> bytes:
    build = Build()
    x = build.tensor("x", [1, 8, 8, 3])
    return build.finish([x], [build.conv(build.conv(x, 4), 2)])


def with_state() -> bytes:
    build = Build()
    x = build.tensor("x", [1, 6])
    first = build.tensor("first", [1, 8])
    build.op("FULLY_CONNECTED", [x, build.weight(8, 6), -1], [first], schema.FullyConnectedOptionsT)
    state = build.tensor("state", [1, 4 * 5], variable=True)
    made = build.tensor("remembered", [1, 4])
    build.op("SVDF", [first, build.weight(4, 8), build.weight(4, 5), -1, state], [made], schema.SVDFOptionsT, rank=1)
    middle = build.tensor("middle", [1, 6])
    build.op("FULLY_CONNECTED", [made, build.weight(6, 4), -1], [middle], schema.FullyConnectedOptionsT)
    y = build.tensor("y", [1, 3])
    build.op("FULLY_CONNECTED", [middle, build.weight(3, 6), -1], [y], schema.FullyConnectedOptionsT)
    return build.finish([x], [y])


MAKERS: dict[str, Callable[[], bytes]] = {
    maker.__name__: maker
    for maker in (
        float_chain, float_branches, int8_branches, int8_with_float_ends, float_several_ends, int8_several_ends,
        dynamic_batch, half_weights, input_handed_through, names_used_twice, two_layers, with_state,
    )
}  # fmt: skip


def answers(content: bytes, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """What LiteRT alone gives, outputs in the file's order."""
    interpreter = Interpreter(model_content=content, num_threads=1)
    for detail, value in zip(interpreter.get_input_details(), inputs, strict=True):
        interpreter.resize_tensor_input(detail["index"], value.shape)
    interpreter.allocate_tensors()
    for detail, value in zip(interpreter.get_input_details(), inputs, strict=True):
        interpreter.set_tensor(detail["index"], value)
    interpreter.invoke()
    return [interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details()]


def fresh_inputs(bundle: Bundle, seed: int, free: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1000 + seed)
    made: dict[str, np.ndarray] = {}
    for spec in bundle.inputs:
        shape = [free if size is None else size for size in spec.shape]
        noise = rng.integers(-128, 128, shape) if spec.dtype == np.int8 else rng.normal(0, 2.0, shape)
        made[spec.name] = noise.astype(spec.dtype)
    return made


def converted(content: bytes, folder: Path) -> Bundle:
    path = folder / "model.tflite"
    path.write_bytes(content)
    convert(path, folder / "bundle", Options(max_cuts=None))
    return Bundle.open(folder / "bundle")


def assert_splits_exactly(bundle: Bundle, content: bytes) -> None:
    for free in (1, 3):
        inputs = fresh_inputs(bundle, len(content), free)
        wanted = answers(content, list(inputs.values()))
        chains = [(cut.id,) for cut in bundle.cuts] + list(bundle.manifest.middles())
        runs = {"whole": bundle.run(inputs)} | {"+".join(c): bundle.run_split(inputs, cut=c) for c in chains}
        for what, outputs in runs.items():
            assert list(outputs) == [spec.name for spec in bundle.outputs]
            for want, (name, got) in zip(wanted, outputs.items(), strict=True):
                assert (got.dtype, got.shape, got.tobytes()) == (want.dtype, want.shape, want.tobytes()), (what, name)


@pytest.mark.parametrize("name", MAKERS)
def test_every_cut_gives_the_bits_of_the_file(name: str, tmp_path: Path) -> None:
    content = MAKERS[name]()
    bundle = converted(content, tmp_path)
    assert bundle.cuts, bundle.manifest.rejected
    assert bundle.manifest.rejected == ()
    assert_splits_exactly(bundle, content)
    assert bundle.manifest.stateful == (name == "with_state")


def test_a_quantised_boundary_travels_as_it_is(tmp_path: Path) -> None:
    bundle = converted(int8_branches(), tmp_path)
    widest = max(bundle.cuts, key=lambda cut: len(cut.tensors))
    assert len(widest.tensors) >= 2
    for tensor in widest.tensors:
        assert (tensor.dtype, tensor.scale, tensor.zero_point) == (np.int8, pytest.approx(0.05), 3)
    assert widest.payload_bytes == sum(int(np.prod(tensor.shape)) for tensor in widest.tensors)


def test_layers_with_state_stay_in_the_head(tmp_path: Path) -> None:
    bundle = converted(with_state(), tmp_path)
    assert [cut.nodes for cut in bundle.cuts] == [(0, 1), (0, 1, 2)]


def test_a_dynamic_size_is_dynamic_at_the_cuts_too(tmp_path: Path) -> None:
    bundle = converted(dynamic_batch(), tmp_path)
    assert bundle.inputs[0].shape == (None, 8, 8, 3)
    assert bundle.cuts[0].tensors[0].shape == (None, 8, 8, 4)


def test_weights_behind_the_flatbuffer_are_read(tmp_path: Path) -> None:
    """Files of more than 2 GB keep them there, and so do our own slices: one of them is converted again."""
    bundle = converted(float_branches(), tmp_path)
    record = bundle.manifest.slices["whole"]
    program = bundle._archive.read(record.member, record.bytes)
    weights = (tmp_path / "bundle" / "weights.bin").read_bytes()
    again = program + b"".join(weights[offset : offset + length] for offset, length in record.weights)
    (tmp_path / "again").mkdir()
    assert_splits_exactly(converted(again, tmp_path / "again"), again)


@pytest.mark.parametrize("remote", ["weights", "tensor", "operator"])
def test_a_model_that_does_not_hold_together_is_one_error(remote: str, tmp_path: Path) -> None:
    build = Build()
    x = build.tensor("x", [1, 8, 8, 3])
    y = build.conv(x, 4)
    if remote == "weights":
        build.graph.tensors[1].shape = [4, 3, 3, 300]
    elif remote == "tensor":
        build.graph.operators[0].inputs = [x, 77, 2]
    else:
        build.graph.operators[0].opcodeIndex = 5
    path = tmp_path / "broken.tflite"
    path.write_bytes(build.finish([x], [y]))
    with pytest.raises(ModelError, match="damaged TFLite model"):
        convert(path, tmp_path / "bundle", Options())


def test_an_operator_that_the_runtime_lacks_is_one_error(tmp_path: Path) -> None:
    build = Build()
    x = build.tensor("x", [1, 8, 8, 3])
    y = build.conv(x, 4)
    build.model.operatorCodes[0].version = 900
    path = tmp_path / "newer.tflite"
    path.write_bytes(build.finish([x], [y]))
    with pytest.raises(ModelError, match=r"newer\.tflite is a TFLite file that LiteRT refuses"):
        convert(path, tmp_path / "bundle", Options())


def test_a_custom_operator_is_named(tmp_path: Path, assets: Path) -> None:
    with pytest.raises(ModelError, match="custom operators Landmarks2TransformMatrix"):
        convert(assets / "models" / "face_landmark_with_attention.tflite", tmp_path / "bundle", Options())


@pytest.mark.parametrize(
    ("name", "advice"),
    [("edgetpu-custom-op", "the Edge TPU"), ("ethos-u", "by Vela"), ("FlexErf", "TFLITE_BUILTINS"), ("Mine", "Mine")],
)
def test_what_another_runtime_computes_is_named_with_a_remedy(name: str, advice: str, tmp_path: Path) -> None:
    build = Build()
    x = build.tensor("x", [1, 8, 8, 3])
    y = build.op("CUSTOM", [build.conv(x, 4)], [build.tensor("y", [1, 8, 8, 4])])
    build.model.operatorCodes[-1].customCode = name.encode()
    path = tmp_path / "compiled.tflite"
    path.write_bytes(build.finish([x], [y]))
    with pytest.raises(ModelError, match=advice):
        convert(path, tmp_path / "bundle", Options())


def test_a_custom_operator_that_the_runtime_has_is_cut_like_any_other(tmp_path: Path, assets: Path) -> None:
    path = assets / "models" / "selfie_segmentation.tflite"
    assert not convert(path, tmp_path / "bundle", Options(max_cuts=3)).rejected


def test_another_entry_point_is_left_out(tmp_path: Path) -> None:
    build = Build()
    x = build.tensor("x", [1, 8, 8, 3])
    y = build.conv(build.conv(x, 4), 4)
    build.graph.inputs, build.graph.outputs = [x], [y]
    build.model.subgraphs.append(build.graph)
    content = build.finish([x], [y])
    bundle = converted(content, tmp_path)
    assert len(bundle.cuts) == 1
    assert_splits_exactly(bundle, content)


def test_a_call_out_of_the_file_is_one_error(tmp_path: Path) -> None:
    build = Build()
    x = build.tensor("x", [1, 8, 8, 3])
    y = build.conv(x, 4)
    build.op("CALL_ONCE", [], [], schema.CallOnceOptionsT, initSubgraphIndex=7)
    path = tmp_path / "broken.tflite"
    path.write_bytes(build.finish([x], [y]))
    with pytest.raises(ModelError, match="calls subgraph 7 of 1"):
        convert(path, tmp_path / "bundle", Options())


def test_recurrent_layers_count_the_products_of_their_gates() -> None:
    path = Path(__file__).parents[1] / "models" / "keyword_lstm.tflite"
    layers = read_tflite(path.read_bytes(), str(path)).graph.nodes
    steps, inputs, units = 24, 16, 20
    (macs,) = (layer.macs for layer in layers if layer.op == "UNIDIRECTIONAL_SEQUENCE_LSTM")
    assert macs == steps * 4 * units * (inputs + units)


def _metadata(name: str | None, buffer: int) -> Any:
    entry = schema.MetadataT()
    entry.name, entry.buffer = name, buffer
    return entry


def _each_tensor(field: str, value: Callable[[], Any]) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        for tensor in model.subgraphs[0].tensors:
            setattr(tensor, field, value())

    return change


def _set(path: str, value: Any) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        owner, field = (model.subgraphs[0], path[6:]) if path.startswith("graph.") else (model, path)
        setattr(owner, field, value)

    return change


@pytest.mark.parametrize(
    "change",
    [
        _set("metadata", [_metadata("far away", 9999)]),
        _set("metadata", [_metadata(None, 1)]),
        _set("metadata", [_metadata("min_runtime_version", 0)]),
        _set("metadataBuffer", [99_999]),
        _set("description", None),
        _set("signatureDefs", None),
        _set("graph.name", None),
        _each_tensor("shapeSignature", list),
        _each_tensor("quantization", schema.QuantizationParametersT),
        _each_tensor("name", lambda: None),
    ],
)
def test_what_is_out_of_spec_and_runs_converts(change: Callable[[Any], None], tmp_path: Path) -> None:
    content = (Path(__file__).parents[1] / "models" / "digits_float32.tflite").read_bytes()
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    change(model)
    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), b"TFL3")
    path = tmp_path / "odd.tflite"
    path.write_bytes(builder.Output())
    interpreter = Interpreter(model_path=str(path))
    interpreter.allocate_tensors()
    (taken,), (given,) = interpreter.get_input_details(), interpreter.get_output_details()
    image = np.random.default_rng(0).uniform(0, 1, taken["shape"]).astype(np.float32)
    interpreter.set_tensor(taken["index"], image)
    interpreter.invoke()
    assert convert(path, tmp_path / "bundle", Options(max_cuts=2)).cuts
    bundle = Bundle.open(tmp_path / "bundle")
    (spec,), cut = bundle.inputs, bundle.cuts[-1].id
    for answer in (bundle.run({spec.name: image}), bundle.run_split({spec.name: image}, cut)):
        assert [value.tobytes() for value in answer.values()] == [interpreter.get_tensor(given["index"]).tobytes()]
