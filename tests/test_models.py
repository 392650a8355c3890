"""The models in tests/models load, hold what they are there for, and still tell digits and sounds from each other."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime as ort

FOLDER = Path(__file__).parent / "models"
OPERATORS = {number: name for name, number in vars(schema.BuiltinOperator).items() if isinstance(number, int)}
CLASSES = {"digits": 10, "keyword": 6}

# What each file must hold: operators anywhere in it, and other marks that ``contents`` finds.
KINDS = {
    "digits_float32.tflite": {"CONV_2D", "ADD", "CONCATENATION"},
    "digits_float16.tflite": {"DEQUANTIZE", "weights FLOAT16"},
    "digits_dynamic_range.tflite": {"weights INT8", "ends FLOAT32"},
    "digits_int8.tflite": {"weights INT8", "ends INT8", "scales per channel"},
    "digits_uint8.tflite": {"weights INT8", "ends UINT8", "scales per channel"},
    "digits_int8_float_io.tflite": {"weights INT8", "ends FLOAT32", "scales per channel", "QUANTIZE"},
    "digits_any_size.tflite": {"dynamic sizes"},
    "digits_two_signatures.tflite": {"signature classify", "signature stem"},
    "digits_if.tflite": {"IF", "5 subgraphs"},
    "digits_while.tflite": {"WHILE", "3 subgraphs"},
    "digits_resource_variables.tflite": {"CALL_ONCE", "VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE"},
    "digits_two_halves.tflite": {"2 inputs", "3 outputs"},
    "digits_sparse.tflite": {"sparse weights", "DENSIFY"},
    "digits_sparse_int8.tflite": {"sparse weights", "weights INT8", "ends INT8"},
    "keyword_gru.tflite": {"WHILE"},
    "keyword_gru_stream.tflite": {"CALL_ONCE", "VAR_HANDLE", "ASSIGN_VARIABLE"},
    "keyword_lstm_while.tflite": {"WHILE"},
    "keyword_lstm.tflite": {"UNIDIRECTIONAL_SEQUENCE_LSTM", "variable tensors"},
    "keyword_lstm_int8.tflite": {"UNIDIRECTIONAL_SEQUENCE_LSTM", "variable tensors", "ends INT8"},
    "keyword_lstm_stream.tflite": {"UNIDIRECTIONAL_SEQUENCE_LSTM", "variable tensors"},
    "digits_float32.onnx": {"opset 17", "Conv", "Add", "Concat"},
    "digits_float16.onnx": {"ends FLOAT16", "weights FLOAT16"},
    "digits_qdq.onnx": {"QuantizeLinear", "DequantizeLinear", "Conv", "weights INT8"},
    "digits_qoperator.onnx": {"QLinearConv", "weights INT8"},
    "digits_opset7.onnx": {"opset 7", "IR version 3", "listed initializers"},
    "digits_any_size.onnx": {"dynamic sizes"},
    "digits_functions.onnx": {"local functions", "Padded", "Rectified"},
    "digits_sequence.onnx": {"SplitToSequence", "SequenceInsert", "ConcatFromSequence"},
    "digits_optional_values.onnx": {"Optional", "OptionalGetElement", "If"},
    "digits_empty_inputs.onnx": {"Clip", "Resize", "empty inputs"},
    "digits_listed_initializers.onnx": {"IR version 8", "listed initializers"},
    "digits_no_shapes.onnx": {"outputs without shape"},
    "digits_if.onnx": {"If", "If inside If", "captured values"},
    "digits_loop.onnx": {"Loop", "captured values", "2 outputs"},
    "digits_scan.onnx": {"Scan", "captured values"},
    "digits_two_halves.onnx": {"2 inputs", "3 outputs"},
    "keyword_gru.onnx": {"GRU", "empty inputs", "2 inputs", "2 outputs"},
    "keyword_lstm.onnx": {"LSTM", "empty inputs", "3 inputs", "3 outputs", "dynamic sizes"},
    "external/digits_external.onnx": {"external data"},
}
# Frames of a clip that one call takes, where it is not the whole clip.
CHUNKS = {
    "keyword_gru_stream.tflite": 2,
    "keyword_lstm_stream.tflite": 8,
    "keyword_gru.onnx": 4,
    "keyword_lstm.onnx": 4,
}


class Model:
    """A file in its engine; what it keeps goes from call to call until it starts over."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._session: ort.InferenceSession | None = None
        if path.suffix == ".onnx":
            options = ort.SessionOptions()
            options.intra_op_num_threads = 1
            options.log_severity_level = 3
            self._session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.start_over()

    def start_over(self) -> None:
        self._states: list[np.ndarray] | None = None
        if self._session is None:
            self._interpreter = Interpreter(str(self._path), num_threads=1)
            self._interpreter.allocate_tensors()

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        return self._run_litert(inputs) if self._session is None else self._run_onnx(self._session, inputs)

    def _run_litert(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        interpreter = self._interpreter
        details = interpreter.get_input_details()
        for detail, value in zip(details, inputs, strict=True):
            if tuple(detail["shape"]) != value.shape:
                interpreter.resize_tensor_input(detail["index"], value.shape)
                interpreter.allocate_tensors()
        for detail, value in zip(details, inputs, strict=True):
            scale, zero = detail["quantization"]
            if scale:
                limits = np.iinfo(detail["dtype"])
                value = np.clip(np.round(value / scale) + zero, limits.min, limits.max)
            interpreter.set_tensor(detail["index"], value.astype(detail["dtype"]))
        interpreter.invoke()
        return [interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details()]

    def _run_onnx(self, session: ort.InferenceSession, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        declared = session.get_inputs()
        states = declared[len(inputs) :]
        if self._states is None:
            self._states = [np.zeros(state.shape, np.float32) for state in states]
        halves = declared[0].type == "tensor(float16)"
        values = [value.astype(np.float16) if halves else value for value in inputs] + self._states
        outputs: list[np.ndarray] = session.run(
            None, {want.name: value for want, value in zip(declared, values, strict=True)}
        )
        self._states = outputs[1 : 1 + len(states)]
        return outputs


def load(name: str, kind: str) -> np.ndarray:
    with np.load(FOLDER / name) as archive:
        values: np.ndarray = archive[kind]
    return values


def samples(file: str) -> list[list[list[np.ndarray]]]:
    """Of each sample the calls, of each call the inputs."""
    if file.startswith("keyword"):
        chunk = CHUNKS.get(file, 24)
        clips = load("keyword_calibration.npz", "frames")
        return [[[clip[:, at : at + chunk]] for at in range(0, clip.shape[1], chunk)] for clip in clips]
    images = load("digits_calibration.npz", "image")
    if "two_halves" in file:
        return [[[image[:, :, :4], image[:, :, 4:]]] for image in images]
    return [[[image]] for image in images]


def right_share(file: str, *, forgetful: bool = False) -> float:
    """How many of the calibration samples the file tells right; the last call of each counts."""
    model = Model(FOLDER / file)
    kind = "keyword" if file.startswith("keyword") else "digits"
    labels = load("labels.npz", "keywords" if kind == "keyword" else "digits")
    right = 0
    for calls, label in zip(samples(file), labels, strict=True):
        if kind == "keyword":
            model.start_over()
        for inputs in calls:
            if forgetful:
                model.start_over()
            outputs = model.run(inputs)
        shares = next(output for output in outputs if output.shape == (1, CLASSES[kind]))
        right += int(np.argmax(shares)) == label
    return right / len(labels)


def contents(path: Path) -> set[str]:
    return set(_tflite_contents(path) if path.suffix == ".tflite" else _onnx_contents(path))


def _tflite_contents(path: Path) -> Iterator[str]:
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(path.read_bytes(), 0))
    types = {number: name for name, number in vars(schema.TensorType).items() if isinstance(number, int)}
    main = model.subgraphs[0]
    yield f"{len(model.subgraphs)} subgraphs"
    yield f"{len(main.inputs)} inputs"
    yield f"{len(main.outputs)} outputs"
    yield from (f"signature {signature.signatureKey.decode()}" for signature in model.signatureDefs or [])
    ends = {types[main.tensors[i].type] for i in (*main.inputs, *main.outputs)}
    yield from (f"ends {kind}" for kind in ends if len(ends) == 1)
    yield from (OPERATORS[max(code.builtinCode, code.deprecatedBuiltinCode)] for code in model.operatorCodes)
    for tensor in (tensor for graph in model.subgraphs for tensor in graph.tensors):
        if model.buffers[tensor.buffer].data is not None:
            yield f"weights {types[tensor.type]}"
        if tensor.quantization is not None and len(_list(tensor.quantization.scale)) > 1:
            yield "scales per channel"
        if tensor.sparsity is not None:
            yield "sparse weights"
        if tensor.isVariable:
            yield "variable tensors"
        if -1 in _list(tensor.shapeSignature):
            yield "dynamic sizes"


def _list(values: Any) -> list[Any]:
    return [] if values is None else list(values)


def _onnx_contents(path: Path) -> Iterator[str]:
    model = onnx.load(path, load_external_data=False)
    graph, kinds = model.graph, onnx.TensorProto.DataType
    weights = {weight.name: weight for weight in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    ends = [value.type.tensor_type for value in (*inputs, *graph.output)]
    yield f"opset {next(entry.version for entry in model.opset_import if entry.domain == '')}"
    yield f"IR version {model.ir_version}"
    yield f"{len(inputs)} inputs"
    yield f"{len(graph.output)} outputs"
    yield from {f"ends {kinds.Name(end.elem_type)}" for end in ends}
    yield from {f"weights {kinds.Name(weight.data_type)}" for weight in weights.values()}
    if len(inputs) < len(graph.input):
        yield "listed initializers"
    if any(dim.dim_param for end in ends for dim in end.shape.dim):
        yield "dynamic sizes"
    if not any(value.type.tensor_type.HasField("shape") for value in graph.output) and not graph.value_info:
        yield "outputs without shape"
    if any(weight.external_data for weight in weights.values()):
        yield "external data"
    if model.functions:
        yield "local functions"
    yield from _graph_contents(graph, set(weights), "")
    for function in model.functions:
        yield from (node.op_type for node in function.node)


def _graph_contents(graph: onnx.GraphProto, constants: set[str], holder: str) -> Iterator[str]:
    known = constants | {value.name for value in graph.input}
    for node in graph.node:
        yield node.op_type
        if holder:
            yield f"{node.op_type} inside {holder}"
        if "" in node.input:
            yield "empty inputs"
        if holder and not known.issuperset(filter(None, node.input)):
            yield "captured values"
        known.update(node.output)
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _graph_contents(attribute.g, constants, node.op_type)


def test_every_file_is_listed_and_all_are_small() -> None:
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    assert {path.relative_to(FOLDER).as_posix() for path in files if path.suffix in (".tflite", ".onnx")} == set(KINDS)
    assert sum(path.stat().st_size for path in files) < 1_000_000


@pytest.mark.parametrize("file", KINDS)
def test_a_file_holds_what_it_is_there_for(file: str) -> None:
    assert KINDS[file] <= contents(FOLDER / file)


@pytest.mark.parametrize("file", KINDS)
def test_a_file_still_tells_unseen_samples(file: str) -> None:
    assert right_share(file) > 0.93


@pytest.mark.parametrize("file", CHUNKS)
def test_a_clip_in_pieces_needs_the_state_between_them(file: str) -> None:
    assert right_share(file, forgetful=True) < 0.85


@pytest.mark.parametrize("file", [file for file in KINDS if "any_size" in file])
def test_any_size_is_taken(file: str) -> None:
    model = Model(FOLDER / file)
    labels = load("labels.npz", "digits")
    images = [np.pad(calls[0][0], ((0, 0), (1, 2), (4, 2), (0, 0))) for calls in samples(file)]
    right = sum(int(np.argmax(model.run([image])[0])) == label for image, label in zip(images, labels, strict=True))
    assert right / len(labels) > 0.9


@pytest.mark.parametrize("file", ["digits_while.tflite", "digits_loop.onnx"])
def test_a_loop_takes_steps_by_its_input(file: str) -> None:
    model = Model(FOLDER / file)
    told = [next(output for output in model.run(calls[0]) if output.ndim < 2) for calls in samples(file)]
    assert len({int(steps) if steps.ndim == 0 else len(steps) for steps in told}) > 1


def test_both_signatures_run() -> None:
    interpreter = Interpreter(str(FOLDER / "digits_two_signatures.tflite"))
    image = load("digits_calibration.npz", "image")[0]
    assert interpreter.get_signature_runner("classify")(image=image)["scores"].shape == (1, 10)
    assert interpreter.get_signature_runner("stem")(image=image)["features"].shape == (1, 4, 4, 8)
