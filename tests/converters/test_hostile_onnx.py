"""Damaged and hostile ONNX files: read or refused by one error, in little time and memory, whatever they hold."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import onnx
import pytest
from hostile.confine import confined
from hostile.damage import damaged_bytes
from hostile.models import ONNX, onnx_model
from hostile.mutate import edited_onnx
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from midstream.errors import MidstreamError, ModelError
from midstream_converters import trial
from midstream_converters.convert import convert
from midstream_converters.onnx.bounds import MAX_CALLS, MAX_NESTING, check_bounds
from midstream_converters.onnx.external import resolve_external
from midstream_converters.onnx.probe import probe_sizes
from midstream_converters.onnx.read import parse_onnx
from midstream_converters.onnx.simplify import simplify
from midstream_converters.onnx.wire import MAX_ITEMS, MAX_PACKED_BYTES, check_wire
from midstream_converters.opening import Options

HOSTILE = Path("hostile.onnx")


def assert_clear(error: MidstreamError) -> None:
    message = str(error)
    assert HOSTILE.name in message
    assert message.isprintable()
    assert len(message) < 2000


def read_or_refused(data: bytes) -> str:
    """The message of the refusal, empty where the model is read."""
    with confined():
        try:
            parse_onnx(data, HOSTILE)
        except ModelError as error:
            assert_clear(error)
            return str(error)
    return ""


def refused(model: onnx.ModelProto) -> str:
    """What is said of a model that must be refused before the runtime sees it."""
    message = read_or_refused(model.SerializeToString())
    assert message
    return message


def converted_or_refused(data: bytes, folder: Path) -> str:
    """The message of the refusal, empty where the model converts."""
    path = folder / HOSTILE
    path.write_bytes(data)
    try:
        convert(path, folder / "bundle", Options(max_cuts=1))
    except MidstreamError as error:
        assert_clear(error)
        return str(error)
    return ""


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.sampled_from(sorted(ONNX)), st.randoms(use_true_random=False))
def test_damaged_bytes_are_read_or_refused(name: str, random: Random) -> None:
    read_or_refused(damaged_bytes(ONNX[name]().SerializeToString(), random))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.sampled_from(sorted(ONNX)), st.randoms(use_true_random=False))
def test_wrong_fields_are_read_or_refused(name: str, random: Random) -> None:
    data = edited_onnx(ONNX[name](), random)
    if data is not None:
        read_or_refused(data)


@settings(max_examples=4, deadline=None, derandomize=True)
@given(name=st.sampled_from(sorted(ONNX)), random=st.randoms(use_true_random=False))
def test_wrong_fields_are_converted_or_refused(
    name: str, random: Random, tmp_path_factory: pytest.TempPathFactory
) -> None:
    data = edited_onnx(ONNX[name](), random)
    if data is not None:
        converted_or_refused(data, tmp_path_factory.mktemp("hostile"))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.binary(max_size=200))
def test_random_bytes_are_read_or_refused(data: bytes) -> None:
    read_or_refused(data)


@pytest.mark.parametrize("name", sorted(ONNX))
def test_every_truncation_is_read_or_refused(name: str) -> None:
    data = ONNX[name]().SerializeToString()
    assert not read_or_refused(data)
    kept = [length for length in range(len(data)) if not read_or_refused(data[:length])]
    assert len(kept) < 5, "only what ends just behind a field can be a message of its own"


def test_real_models_are_within_bounds(assets: Path) -> None:
    for path in sorted((assets / "models").glob("*.onnx")):
        check_wire(path.read_bytes(), path)
        check_bounds(onnx.load(path), path)


# Bytes that parse into far more than they are.


def field(number: int, content: bytes) -> bytes:
    """A field of bytes in the wire format."""
    length, head = len(content), bytearray([number << 3 | 2])
    while length > 127:
        head.append(length & 127 | 128)
        length >>= 7
    return bytes(head) + bytes([length]) + content


def test_many_empty_nodes_are_refused() -> None:
    assert f"more than {MAX_ITEMS} items" in read_or_refused(field(7, b"\x0a\x00" * (MAX_ITEMS + 10)))


def test_many_numbers_in_one_field_are_refused() -> None:
    numbers = field(7, field(5, field(7, b"\x01" * (MAX_PACKED_BYTES + 10))))
    assert "store them as raw data" in read_or_refused(numbers)


def test_deep_nesting_is_refused() -> None:
    data = b""
    for _ in range(500):
        data = field(1, field(5, field(6, data)))
    assert "nested" in read_or_refused(field(7, data))


def test_a_length_beyond_the_file_is_refused() -> None:
    assert "longer than the whole" in read_or_refused(b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\x7f" + bytes(100))


def test_a_varint_without_end_is_refused() -> None:
    assert read_or_refused(b"\x08" + b"\xff" * 1_000_000)


# Tensors that are not what they say.


def weighted(**changes: object) -> onnx.ModelProto:
    """A model of one weight, float[8, 8] of 256 raw bytes unless changed."""
    model = onnx_model("g (float[1,8] x) => (float[1,8] y) { a = MatMul(x, w)\n y = Relu(a) }", {"w": (8, 8)})
    weight = model.graph.initializer[0]
    for name, value in changes.items():
        weight.ClearField(name)
        if isinstance(value, list):
            getattr(weight, name).extend(value)
        elif value is not None:
            setattr(weight, name, value)
    return model


@pytest.mark.parametrize(
    "changes",
    [
        {"dims": [10**9, 10**9]},
        {"dims": [10**18]},
        {"dims": [1 << 32, 1 << 32], "raw_data": None},
        {"dims": [1 << 62, 4], "raw_data": None},
        {"dims": [1 << 38], "raw_data": None},
        {"dims": [-8, -8]},
        {"dims": [1] * 1000},
        {"raw_data": bytes(255)},
        {"raw_data": bytes(257)},
        {"raw_data": None},
        {"raw_data": None, "float_data": [1.0] * 63},
        {"data_type": TensorProto.STRING},
        {"data_type": TensorProto.UNDEFINED},
        {"data_type": 1000},
        {"data_type": TensorProto.INT4},
    ],
    ids=str,
)
def test_a_tensor_without_the_content_it_needs_is_refused(changes: dict[str, object]) -> None:
    assert "tensor 'w'" in refused(weighted(**changes))


@pytest.mark.parametrize("name", sorted({*TensorProto.DataType.keys()} - {"UNDEFINED"}))
def test_tensors_of_every_type_are_let_through(name: str) -> None:
    kind = TensorProto.DataType.Value(name)
    values = [b"text"] * 15 if name == "STRING" else np.ones(15)
    model = weighted()
    model.graph.initializer[0].CopyFrom(helper.make_tensor("w", kind, (3, 5), values))
    assert not read_or_refused(model.SerializeToString())
    if name != "STRING":
        array = numpy_helper.to_array(model.graph.initializer[0])
        model.graph.initializer[0].CopyFrom(numpy_helper.from_array(array, "w"))
        assert model.graph.initializer[0].HasField("raw_data")
        assert not read_or_refused(model.SerializeToString())


def test_a_tensor_inside_an_inner_graph_is_looked_at() -> None:
    model = ONNX["onnx_control"]()
    inner = model.graph.node[2].attribute[0].g.node[0]
    bad = helper.make_attribute("hidden", TensorProto(name="bad", data_type=1, dims=[10**18]))
    inner.attribute.append(bad)
    assert "tensor 'bad'" in refused(model)


def test_a_name_of_megabytes_is_not_repeated() -> None:
    model = weighted(dims=[10**18])
    model.graph.initializer[0].name = "n" * 5_000_000
    assert "nnn" in refused(model)


@pytest.mark.parametrize("dims", [[10**5, 10**5], [10**18], [1 << 40, 1 << 40], [-4, 4]], ids=str)
@pytest.mark.parametrize("where", ["initializer", "attribute"])
def test_a_sparse_tensor_that_fills_the_memory_is_refused(dims: list[int], where: str) -> None:
    model = weighted()
    sparse = onnx.SparseTensorProto(dims=dims)
    sparse.values.CopyFrom(numpy_helper.from_array(np.ones(2, np.float32), "s"))
    sparse.indices.CopyFrom(numpy_helper.from_array(np.arange(2), "i"))
    if where == "initializer":
        model.graph.sparse_initializer.append(sparse)
    else:
        model.graph.node[0].attribute.append(helper.make_attribute("hidden", sparse))
    assert "sparse tensor" in refused(model)


# Graphs that are deeper, larger or more entangled than they look.


def nested_ifs(depth: int) -> onnx.ModelProto:
    body = onnx_model("b () => (float[1,8] r) { r = Tanh(x) }").graph
    other = onnx_model("b () => (float[1,8] r) { r = Relu(x) }").graph
    for _ in range(depth - 1):
        node = helper.make_node("If", ["c"], ["r"], then_branch=body, else_branch=other)
        body = helper.make_graph([node], "b", [], [helper.make_tensor_value_info("r", 1, [1, 8])])
    model = onnx_model("g (bool c, float[1,8] x) => (float[1,8] y) { y = Relu(x) }")
    model.graph.node[0].CopyFrom(helper.make_node("If", ["c"], ["y"], then_branch=body, else_branch=other))
    return model


def test_graphs_nested_too_deep_are_refused() -> None:
    assert not read_or_refused(nested_ifs(MAX_NESTING).SerializeToString())
    assert "nested" in refused(nested_ifs(MAX_NESTING + 1))
    assert "nested" in refused(nested_ifs(30))


def test_an_inner_graph_in_an_attribute_of_another_type_is_looked_at() -> None:
    model = nested_ifs(30)
    for attribute in model.graph.node[0].attribute:
        attribute.type = onnx.AttributeProto.INT
    assert "nested" in refused(model)


def doubling(levels: int) -> onnx.ModelProto:
    """Functions that each call the one before twice: two to the power of so many nodes."""
    functions = ["f0 (x) => (y) { y = Relu(x) }"]
    functions += [f"f{n} (x) => (y) {{ a = local.f{n - 1}(x)\n y = local.f{n - 1}(a) }}" for n in range(1, levels)]
    head = '<domain: "local", opset_import: ["" : 17, "local" : 1]>'
    return onnx_model(
        f"g (float[1,8] x) => (float[1,8] y) {{ y = local.f{levels - 1}(x) }}",
        functions="\n".join(f"{head} {function}" for function in functions),
    )


def test_functions_that_double_each_other_are_refused() -> None:
    assert "once its functions are written out" in refused(doubling(40))


def called_in_a_row(levels: int) -> onnx.ModelProto:
    model = doubling(levels)
    for function in model.functions[1:]:
        function.node[0].op_type, function.node[0].domain = "Relu", ""
    return model


def test_functions_that_call_each_other_too_deep_are_refused() -> None:
    assert not read_or_refused(called_in_a_row(MAX_CALLS).SerializeToString())
    assert "call each other" in refused(called_in_a_row(MAX_CALLS + 1))


def test_functions_that_call_themselves_are_refused() -> None:
    model = doubling(3)
    model.functions[0].node[0].op_type, model.functions[0].node[0].domain = "f2", "local"
    assert "calls itself" in refused(model)
    model = doubling(1)
    model.functions[0].node[0].op_type, model.functions[0].node[0].domain = "f0", "local"
    assert "calls itself" in refused(model)


def test_functions_of_the_same_name_are_refused() -> None:
    model = doubling(3)
    model.functions.append(model.functions[1])
    assert "same name" in refused(model)


CYCLES = {
    "itself": "g (float[1,8] x) => (float[1,8] y) { y = Add(x, y) }",
    "each other": "g (float[1,8] x) => (float[1,8] y) { a = Add(x, y)\n y = Relu(a) }",
    "later": "g (float[1,8] x) => (float[1,8] y) { y = Relu(a)\n a = Tanh(x) }",
    "from inside": """g (bool c, float[1,8] x) => (float[1,8] y) {
        b = If(c) < then_branch = t () => (float[1,8] r) { r = Tanh(y) },
                    else_branch = e () => (float[1,8] s) { s = Relu(x) }>
        y = Relu(b) }""",
    "as a result": """g (bool c, float[1,8] x) => (float[1,8] y) {
        b = If(c) < then_branch = t () => (float[1,8] y) { k = Tanh(x) },
                    else_branch = e () => (float[1,8] s) { s = Relu(x) }>
        y = Relu(b) }""",
}


@pytest.mark.parametrize("graph", CYCLES.values(), ids=CYCLES)
def test_values_read_before_they_are_made_are_refused(graph: str) -> None:
    assert "before another makes it" in refused(onnx_model(graph))


# External data that is not where it may be.


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "outside.bin").write_bytes(bytes(1000))
    inside = tmp_path / "model"
    inside.mkdir()
    (inside / "weights.bin").write_bytes(bytes(300))
    (inside / "linked.bin").symlink_to("weights.bin")
    (inside / "escaped.bin").symlink_to(tmp_path / "outside.bin")
    (inside / "up").symlink_to(tmp_path)
    (inside / "loop").symlink_to("loop")
    if hasattr(os, "mkfifo"):
        os.mkfifo(inside / "pipe")
    return inside


def external(**entries: str) -> TensorProto:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[8, 8], data_location=TensorProto.EXTERNAL)
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


@pytest.mark.parametrize(
    ("entries", "start"),
    [
        ({"location": "weights.bin"}, 0),
        ({"location": "weights.bin", "offset": "44"}, 44),
        ({"location": "./weights.bin", "offset": "0", "length": "256", "checksum": "ignored"}, 0),
        ({"location": "linked.bin", "length": "256"}, 0),
    ],
)
def test_external_data_beside_the_model_is_found(entries: dict[str, str], start: int, folder: Path) -> None:
    assert resolve_external(external(**entries), folder) == (folder.resolve() / "weights.bin", start, 256)


@pytest.mark.parametrize(
    "entries",
    [
        {},
        {"location": ""},
        {"location": "."},
        {"location": "missing.bin"},
        {"location": "weights.bin\0"},
        {"location": "../outside.bin"},
        {"location": "up/outside.bin"},
        {"location": "escaped.bin"},
        {"location": "loop"},
        {"location": "pipe"},
        {"location": "/etc/passwd"},
        {"location": "/dev/zero"},
        {"location": "*/_ORT_MEM_ADDR_/*", "offset": "4096"},
        {"location": "weights.bin", "offset": "45"},
        {"location": "weights.bin", "offset": "-1"},
        {"location": "weights.bin", "offset": str(1 << 62)},
        {"location": "weights.bin", "offset": "9" * 5000},
        {"location": "weights.bin", "offset": "1_0"},
        {"location": "weights.bin", "offset": "１"},
        {"location": "weights.bin", "length": "-256"},
        {"location": "weights.bin", "length": "255"},
        {"location": "weights.bin", "length": "300"},
        {"location": "weights.bin", "length": ""},
    ],
    ids=str,
)
def test_external_data_elsewhere_is_refused(entries: dict[str, str], folder: Path) -> None:
    model = weighted()
    model.graph.initializer[0].CopyFrom(external(**entries))
    with confined(), pytest.raises(ModelError) as caught:
        parse_onnx(model.SerializeToString(), folder / HOSTILE)
    assert_clear(caught.value)
    assert "external data of tensor 'w'" in str(caught.value)


def test_external_data_that_is_said_twice_is_refused(folder: Path) -> None:
    tensor = external(location="weights.bin")
    tensor.external_data.add(key="location", value="../outside.bin")
    with pytest.raises(ModelError, match="no file of"):
        resolve_external(tensor, folder)


def test_one_file_used_for_very_many_tensors_is_refused(folder: Path) -> None:
    (folder / "weights.bin").write_bytes(bytes(1 << 20))
    model = weighted()
    for number in range(100):
        tensor = external(location="weights.bin")
        tensor.name, tensor.dims[:] = f"w{number}", [1 << 18]
        model.graph.initializer.append(tensor)
    with pytest.raises(ModelError, match="many times over"):
        check_bounds(model, folder / HOSTILE)


# What only a run shows.


def growing() -> onnx.ModelProto:
    """A loop of as many rounds as there are numbers, each of which adds to an output."""
    model = ONNX["onnx_control"]()
    three = next(tensor for tensor in model.graph.initializer if tensor.name == "three")
    three.CopyFrom(numpy_helper.from_array(np.array((1 << 63) - 1), "three"))
    return model


def filled(*sizes: int) -> onnx.ModelProto:
    return onnx_model(
        """g (float[1,8] x) => (float[1,8] y) {
            a = Relu(x)
            big = ConstantOfShape(sizes)
            sum = ReduceSum<keepdims=0>(big)
            y = Add(a, sum) }""",
        {"sizes": np.array(sizes)},
    )


def gru_of_a_matrix() -> onnx.ModelProto:
    """Found by fuzzing: onnxruntime 1.28 aborts on a GRU whose input has two axes."""
    model = ONNX["onnx_recurrent"]()
    del model.graph.input[0].type.tensor_type.shape.dim[1]
    return model


def function_that_gives_what_it_takes() -> onnx.ModelProto:
    """Found by fuzzing: onnxruntime 1.28 ends with SIGSEGV while it loads this."""
    model = ONNX["onnx_functions"]()
    model.functions[0].input.append("r")
    return model


def test_an_endless_loop_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "_SECONDS", 2.0)
    model = growing()
    loop = next(node for node in model.graph.node if node.op_type == "Loop")
    del loop.output[1], loop.attribute[0].g.output[2], model.graph.output[1]
    assert "within 2 s" in converted_or_refused(model.SerializeToString(), tmp_path)


def endless_condition() -> onnx.ModelProto:
    """An If whose condition follows from constants alone, by a loop without end."""
    return onnx_model(
        """g (float[1,8] x) => (float[1,8] y) {
            z = Loop(n, , start) <
                body = b (int64 i, bool before, float[1] s) => (bool after, float[1] next) {
                    after = Identity(before)
                    next = Sigmoid(s) }>
            c = Cast<to = 9>(z)
            y = If(c) <
                then_branch = t () => (float[1,8] r) { r = Tanh(x) },
                else_branch = e () => (float[1,8] s) { s = Relu(x) }>
        }""",
        {"n": np.array(1 << 62), "start": np.ones(1, np.float32)},
    )


def test_an_endless_condition_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "_SECONDS", 2.0)
    assert "within 2 s" in converted_or_refused(endless_condition().SerializeToString(), tmp_path)


def test_layers_that_are_large_together_are_looked_at_one_by_one(tmp_path: Path) -> None:
    """Each of these values takes 16 MiB, and all at once 6 GiB: it converts."""
    layers = "\n".join(f"a{n + 1} = Tanh(a{n})" for n in range(400))
    model = onnx_model(
        f"g (float[B,64] x) => (float[B] y) {{ a0 = Tile(x, t)\n{layers}\ny = ReduceMean<axes=[1],keepdims=0>(a400) }}",
        {"t": np.array([1, 1 << 16])},
    )
    with confined(1 << 30, 60):
        assert parsed_sizes(model)["a399"] == (1, 1 << 22)


def parsed_sizes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    names = [name for node in model.graph.node for name in node.output]
    sizes = probe_sizes(model, {"x": np.ones((1, 64), np.float32)}, dict.fromkeys(names), Path())
    return {name: value.shape for name, value in sizes.items()}


def test_many_constant_conditions_take_little_time() -> None:
    model = onnx_model("g (float[1,8] x) => (float[1,8] y) { a0 = Relu(x) }", {"c": np.array(True)})
    for number in range(1500):
        body = onnx_model(f"b () => (float[1,8] r) {{ q = Tanh(a{number})\n r = Relu(q) }}").graph
        model.graph.node.append(
            helper.make_node("If", ["c"], [f"a{number + 1}"], then_branch=body, else_branch=body),
        )
    model.graph.output[0].name = "a1500"
    with confined():
        simplify(model, {}, Path())
    assert len(model.graph.node) == 3001


RUNS = {
    "growing": (growing, "onnxruntime"),
    "terabytes": (lambda: filled(10**6, 10**6), "onnxruntime"),
    "gigabytes": (lambda: filled(10**5, 10**5), "onnxruntime"),
    "gru": (gru_of_a_matrix, r"breaks down on it \(SIGABRT"),
    "function": (function_that_gives_what_it_takes, r"breaks down on it \(SIGSEGV"),
}


@pytest.mark.parametrize("name", RUNS)
def test_what_harms_the_runtime_is_one_error(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIDSTREAM_TRIAL_MEMORY_MB", "256")
    maker, expected = RUNS[name]
    with confined():
        message = converted_or_refused(maker().SerializeToString(), tmp_path)
    assert re.search(expected, message), message


@pytest.mark.parametrize("sizes", [(10**6, 10**6, 10**6), (1 << 31, 1 << 31), (1, 10**9)])
def test_an_input_of_gigabytes_is_refused(sizes: tuple[int, ...], tmp_path: Path) -> None:
    shape = ",".join(map(str, sizes))
    model = onnx_model(f"g (float[{shape}] x) => (float[{shape}] y) {{ a = Relu(x)\n y = Tanh(a) }}")
    with confined():
        assert "MiB are not made" in converted_or_refused(model.SerializeToString(), tmp_path)


@pytest.mark.parametrize("elem_type", [255, -1, 1 << 30])
def test_an_input_of_no_type_is_refused(elem_type: int, tmp_path: Path) -> None:
    model = ONNX["onnx_chain"]()
    model.graph.input[0].type.tensor_type.elem_type = elem_type
    assert "not a tensor of numbers" in converted_or_refused(model.SerializeToString(), tmp_path)


def test_a_model_whose_outputs_no_layer_makes_is_refused(tmp_path: Path) -> None:
    model = ONNX["onnx_chain"]()
    model.graph.output[0].CopyFrom(model.graph.input[0])
    assert "no layers that lead to an output" in converted_or_refused(model.SerializeToString(), tmp_path)


def test_names_cannot_write_to_the_terminal(tmp_path: Path) -> None:
    model = ONNX["onnx_chain"]()
    model.graph.node[1].input[0] = "\x1b]0;owned\x07\n"
    message = converted_or_refused(model.SerializeToString(), tmp_path)
    assert "owned" in message


def test_a_maker_is_a_maker() -> None:
    makers: list[Callable[[], onnx.ModelProto]] = [maker for maker, _ in RUNS.values()]
    for maker in makers:
        assert not read_or_refused(maker().SerializeToString())
