"""Damaged and hostile TFLite files: read or refused by one error, in little time and memory, whatever they hold."""

from __future__ import annotations

import ast
import importlib.util
import re
import struct
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import ai_edge_litert.schema_py_generated as schema
import flatbuffers
import numpy as np
import pytest
from hostile.confine import confined
from hostile.damage import damaged_bytes
from hostile.models import TFLITE, Sketch, packed
from hostile.mutate import edited_tflite
from hypothesis import given, settings
from hypothesis import strategies as st

from midstream.errors import MidstreamError, ModelError
from midstream_converters import trial
from midstream_converters.convert import convert
from midstream_converters.opening import Options
from midstream_converters.tflite.bounds import MAX_TABLES, check_bounds
from midstream_converters.tflite.layout import LAYOUTS, Behind, Numbers, Tables, Text, Union
from midstream_converters.tflite.read import read_tflite


def assert_clear(error: MidstreamError, name: str = "hostile.tflite") -> None:
    message = str(error)
    assert name in message
    assert message.isprintable()
    assert len(message) < 2000


def refused(data: bytes) -> str:
    """What is said of a file that must be refused before it is unpacked."""
    with confined(), pytest.raises(ModelError) as caught:
        check_bounds(data, "hostile.tflite")
    assert_clear(caught.value)
    return str(caught.value)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.sampled_from(sorted(TFLITE)), st.randoms(use_true_random=False))
def test_damaged_bytes_are_read_or_refused(name: str, random: Random) -> None:
    data = damaged_bytes(TFLITE[name](), random)
    with confined():
        try:
            read_tflite(data, "hostile.tflite")
        except ModelError as error:
            assert_clear(error)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.sampled_from(sorted(TFLITE)), st.randoms(use_true_random=False))
def test_wrong_fields_are_read_or_refused(name: str, random: Random) -> None:
    data = edited_tflite(TFLITE[name](), random)
    if data is None:
        return
    with confined():
        try:
            read_tflite(data, "hostile.tflite")
        except ModelError as error:
            assert_clear(error)


@settings(max_examples=4, deadline=None, derandomize=True)
@given(name=st.sampled_from(sorted(TFLITE)), random=st.randoms(use_true_random=False))
def test_wrong_fields_are_converted_or_refused(
    name: str, random: Random, tmp_path_factory: pytest.TempPathFactory
) -> None:
    data = edited_tflite(TFLITE[name](), random)
    if data is not None:
        converted_or_refused(data, tmp_path_factory.mktemp("hostile"))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.binary(max_size=200))
def test_random_bytes_are_refused(data: bytes) -> None:
    refused(data[:4] + b"TFL3" + data[4:])


@pytest.mark.parametrize("name", sorted(TFLITE))
def test_every_truncation_is_refused(name: str) -> None:
    data = TFLITE[name]()
    check_bounds(data, name)
    for length in range(0, len(data), 7):
        with pytest.raises(ModelError, match="not a whole TFLite model"):
            check_bounds(data[:length], name)


def test_real_models_are_within_bounds(assets: Path) -> None:
    for path in sorted((assets / "models").glob("*.tflite")):
        check_bounds(path.read_bytes(), str(path))


def converted_or_refused(data: bytes, folder: Path) -> str:
    """The message of the refusal, empty where the model converts."""
    path = folder / "hostile.tflite"
    path.write_bytes(data)
    try:
        convert(path, folder / "bundle", Options(max_cuts=1))
    except MidstreamError as error:
        assert_clear(error)
        return str(error)
    return ""


# Bombs: little files that would unpack into much.


def shared_tables(subgraphs: int, tensors: int) -> bytes:
    """So many subgraphs that are all the same one, of so many tensors that are all the same one."""
    builder = flatbuffers.Builder(1024)
    schema.TensorStart(builder)
    tensor = schema.TensorEnd(builder)
    many = repeated(builder, tensor, tensors)
    schema.SubGraphStart(builder)
    schema.SubGraphAddTensors(builder, many)
    subgraph = schema.SubGraphEnd(builder)
    many = repeated(builder, subgraph, subgraphs)
    schema.ModelStart(builder)
    schema.ModelAddSubgraphs(builder, many)
    builder.Finish(schema.ModelEnd(builder), b"TFL3")
    return bytes(builder.Output())


def repeated(builder: flatbuffers.Builder, table: int, count: int) -> int:
    """A vector of so many references to one table."""
    builder.StartVector(4, count, 4)
    for _ in range(count):
        builder.PrependUOffsetTRelative(table)
    return int(builder.EndVector())


def test_a_billion_tensors_in_a_small_file_are_refused() -> None:
    data = shared_tables(31_623, 31_623)
    assert len(data) < 300_000
    assert "used so often" in refused(data)


def test_a_long_name_of_many_tensors_is_refused() -> None:
    builder = flatbuffers.Builder(1024)
    name = builder.CreateString("n" * 500_000)
    tensors = []
    for _ in range(2_000):
        schema.TensorStart(builder)
        schema.TensorAddName(builder, name)
        tensors.append(schema.TensorEnd(builder))
    schema.SubGraphStartTensorsVector(builder, len(tensors))
    for tensor in tensors:
        builder.PrependUOffsetTRelative(tensor)
    vector = builder.EndVector()
    schema.SubGraphStart(builder)
    schema.SubGraphAddTensors(builder, vector)
    subgraph = schema.SubGraphEnd(builder)
    schema.ModelStartSubgraphsVector(builder, 1)
    builder.PrependUOffsetTRelative(subgraph)
    vector = builder.EndVector()
    schema.ModelStart(builder)
    schema.ModelAddSubgraphs(builder, vector)
    builder.Finish(schema.ModelEnd(builder), b"TFL3")
    assert "used so often" in refused(bytes(builder.Output()))


def test_more_tables_than_a_model_has_are_refused() -> None:
    assert f"more than {MAX_TABLES} tables" in refused(distinct_tables(MAX_TABLES + 10))


def distinct_tables(count: int) -> bytes:
    """A model of so many operator codes, each with an empty table of its own."""
    model_layout, empty_layout = struct.pack("<HHHH", 8, 8, 0, 4), struct.pack("<HH", 4, 4)
    root = 8 + len(model_layout)
    tables = root + 12 + 4 * count
    layout = tables + 4 * count
    return b"".join((
        struct.pack("<I4s", root, b"TFL3"), model_layout,
        struct.pack("<iII", len(model_layout), 4, count), struct.pack(f"<{count}I", *[4 * count] * count),
        struct.pack(f"<{count}i", *(at - layout for at in range(tables, layout, 4))), empty_layout,
    ))  # fmt: skip


def test_a_vector_of_more_tables_than_a_model_has_is_not_unpacked() -> None:
    assert f"more than {MAX_TABLES} tables" in refused(shared_tables(1, 400_000))


def test_data_behind_the_flatbuffer_that_is_used_again_and_again_is_refused() -> None:
    build = Sketch()
    for _ in range(200):
        buffer = schema.BufferT()
        buffer.offset, buffer.size = 8, 20_000
        build.model.buffers.append(buffer)
    build.ends([], [])
    assert "used so often" in refused(build.bytes() + bytes(20_000))


@pytest.mark.parametrize(("offset", "size"), [(10**6, 4), (64, 10**12), ((1 << 64) - 1, (1 << 64) - 1), (2, 1 << 63)])
def test_data_behind_the_file_is_refused(offset: int, size: int) -> None:
    build = Sketch()
    buffer = schema.BufferT()
    buffer.offset, buffer.size = offset, size
    build.model.buffers.append(buffer)
    build.ends([], [])
    assert "behind the file" in refused(build.bytes())


# Single numbers of an honest file, replaced. Each is found by what the accessors say of where it lies.


def model_at(data: bytes) -> Any:
    return schema.Model.GetRootAs(data, 0)


def patched(data: bytes, at: int, number: int, code: str = "<I") -> bytes:
    damaged = bytearray(data)
    struct.pack_into(code, damaged, at, number)
    return bytes(damaged)


def root_elsewhere(data: bytes) -> bytes:
    return patched(data, 0, 1 << 31)


def root_askew(data: bytes) -> bytes:
    return patched(data, 0, model_at(data)._tab.Pos + 1)


def layout_before_the_file(data: bytes) -> bytes:
    at = model_at(data)._tab.Pos
    return patched(data, at, at + 400, "<i")


def layout_behind_the_file(data: bytes) -> bytes:
    return patched(data, model_at(data)._tab.Pos, -len(data), "<i")


def layout_longer_than_the_file(data: bytes) -> bytes:
    at = model_at(data)._tab.Pos
    return patched(data, at - struct.unpack_from("<i", data, at)[0], 0xFFFE, "<H")


def table_longer_than_the_file(data: bytes) -> bytes:
    at = model_at(data)._tab.Pos
    return patched(data, at - struct.unpack_from("<i", data, at)[0] + 2, 0xFFFE, "<H")


def vector_longer_than_the_file(data: bytes) -> bytes:
    tab = model_at(data)._tab
    return patched(data, tab.Vector(tab.Offset(8)) - 4, 0xFFFFFFFF)


def vector_elsewhere(data: bytes) -> bytes:
    tab = model_at(data)._tab
    return patched(data, tab.Pos + tab.Offset(8), 0x7FFFFFF0)


def tensor_elsewhere(data: bytes) -> bytes:
    tab = model_at(data).Subgraphs(0)._tab
    return patched(data, tab.Vector(tab.Offset(4)), 0xFFFFFFFC)


def shape_of_a_million_axes(data: bytes) -> bytes:
    model = schema.ModelT.InitFromObj(model_at(data))
    model.subgraphs[0].tensors[0].shape = np.ones(1_000_000, np.int32)
    return packed(model)


def name_without_end(data: bytes) -> bytes:
    tab = model_at(data).Subgraphs(0)._tab
    start = tab.Vector(tab.Offset(12))
    return patched(data, start + struct.unpack_from("<I", data, start - 4)[0], 1, "<B")


def operator_inside_itself(data: bytes) -> bytes:
    """Its options are its own table, which is wider than options of that type."""
    tab = model_at(data).Subgraphs(0).Operators(0)._tab
    where = tab.Pos + tab.Offset(12)
    return patched(data, where, (tab.Pos - where) & 0xFFFFFFFF)


DAMAGES: list[Callable[[bytes], bytes]] = [
    root_elsewhere, root_askew, layout_before_the_file, layout_behind_the_file, layout_longer_than_the_file,
    table_longer_than_the_file, vector_longer_than_the_file, vector_elsewhere, tensor_elsewhere,
    shape_of_a_million_axes, name_without_end, operator_inside_itself,
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES, ids=[damage.__name__ for damage in DAMAGES])
def test_a_number_that_leads_out_of_the_file_is_refused(damage: Callable[[bytes], bytes]) -> None:
    refused(damage(TFLITE["tflite_floats"]()))


# Found by fuzzing: well-formed files on which LiteRT ends its process, or what came before it raised something else.


def quantised_without_parameters() -> bytes:
    model = schema.ModelT.InitFromObj(model_at(TFLITE["tflite_int8"]()))
    model.subgraphs[0].tensors[4].quantization = None
    return packed(model)


def zero_point_beyond_its_type() -> bytes:
    model = schema.ModelT.InitFromObj(model_at(TFLITE["tflite_int8"]()))
    model.subgraphs[0].tensors[1].quantization.zeroPoint = np.array([1 << 30])
    return packed(model)


@pytest.mark.parametrize("maker", [quantised_without_parameters, zero_point_beyond_its_type])
def test_what_ends_the_runtime_is_one_error(maker: Callable[[], bytes], tmp_path: Path) -> None:
    message = converted_or_refused(maker(), tmp_path)
    assert re.search(r"LiteRT breaks down on it \(SIG(ABRT|SEGV)", message), message


def test_a_subgraph_with_an_unknown_operator_code_is_refused(tmp_path: Path) -> None:
    model = schema.ModelT.InitFromObj(model_at(TFLITE["tflite_while"]()))
    model.subgraphs[2].operators[0].opcodeIndex = 99
    assert "damaged TFLite model" in converted_or_refused(packed(model), tmp_path)


def test_operators_out_of_order_are_refused(tmp_path: Path) -> None:
    model = schema.ModelT.InitFromObj(model_at(TFLITE["tflite_floats"]()))
    model.subgraphs[0].operators.reverse()
    assert "before it is made" in converted_or_refused(packed(model), tmp_path)


def test_a_tensor_that_two_operators_make_is_refused(tmp_path: Path) -> None:
    model = schema.ModelT.InitFromObj(model_at(TFLITE["tflite_int8"]()))
    quantise, _, add = model.subgraphs[0].operators[:3]
    add.outputs = [*quantise.outputs]
    assert "made by several operators" in converted_or_refused(packed(model), tmp_path)


def test_an_operator_that_reads_what_it_makes_is_refused(tmp_path: Path) -> None:
    model = schema.ModelT.InitFromObj(model_at(TFLITE["tflite_floats"]()))
    first = model.subgraphs[0].operators[0]
    first.inputs = [first.outputs[0], *first.inputs[1:]]
    assert "before it is made" in converted_or_refused(packed(model), tmp_path)


def test_state_in_a_subgraph_that_nothing_calls_is_no_hindrance(tmp_path: Path) -> None:
    """Found by fuzzing: LiteRT cannot reset variables that it has given no memory."""
    model = schema.ModelT.InitFromObj(model_at(TFLITE["tflite_state"]()))
    model.subgraphs.append(model.subgraphs[0])
    assert converted_or_refused(packed(model), tmp_path) == ""


def test_a_constant_that_is_an_output_is_given_by_the_tail(tmp_path: Path) -> None:
    """Found by fuzzing: the tail does not read it."""
    model = schema.ModelT.InitFromObj(model_at(TFLITE["tflite_floats"]()))
    model.subgraphs[0].outputs = [*model.subgraphs[0].outputs, 1]
    assert converted_or_refused(packed(model), tmp_path) == ""


@pytest.mark.parametrize("shape", [[1 << 30, 1 << 30, 1 << 30], [1, 1 << 20, 1 << 20, 3], [1, 50_000, 50_000, 3]])
def test_an_input_of_gigabytes_is_refused(shape: list[int], tmp_path: Path) -> None:
    build = Sketch()
    x = build.tensor(shape)
    build.ends([x], [build.op("TANH", [build.op("TANH", [x], shape)], shape)])
    with confined():
        assert converted_or_refused(build.bytes(), tmp_path)


def test_a_layer_that_takes_gigabytes_is_refused(tmp_path: Path) -> None:
    build = Sketch()
    x = build.tensor([1, 64])
    wide = build.op("TILE", [x, build.ints(1 << 14, 1 << 10)], [1 << 14, 1 << 16], "TileOptions")
    build.ends([x], [build.op("SUM", [wide, build.ints(0, 1)], [1], "ReducerOptions")])
    with confined():
        assert converted_or_refused(build.bytes(), tmp_path)


def test_an_endless_loop_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "_SECONDS", 2.0)
    model = schema.ModelT.InitFromObj(model_at(TFLITE["tflite_while"]()))
    (body,) = (graph for graph in model.subgraphs if graph.name == b"body")
    body.outputs = [body.inputs[0], body.outputs[1]]
    assert "within 2 s" in converted_or_refused(packed(model), tmp_path)


# The layout is written by hand: it must be that of the schema in use.


def test_the_layout_is_that_of_the_schema() -> None:
    source = importlib.util.find_spec("ai_edge_litert.schema_py_generated")
    assert source is not None
    assert source.origin is not None
    found: dict[str, dict[int, str]] = {}
    for owner in ast.parse(Path(source.origin).read_text()).body:
        if not isinstance(owner, ast.ClassDef):
            continue
        for method in owner.body:
            if not isinstance(method, ast.FunctionDef) or method.name.endswith(("AsNumpy", "Length", "IsNone")):
                continue
            text = ast.unparse(method)
            slot = re.search(r"self\._tab\.Offset\((\d+)\)", text)
            kind = re.search(r"_tab\.(Vector|String|Union|Indirect)\(", text)
            if slot and kind:
                of = re.search(r"obj = (\w+)\(\)", text) or re.search(r"number_types\.(\w+)Flags, a", text)
                known = found.setdefault(owner.name, {})
                known[(int(slot[1]) - 4) // 2] = f"{kind[1]} {of[1] if of else ''}".strip()
    written = {
        table: {slot: _described(field) for slot, field in layout.items() if not isinstance(field, Behind)}
        for table, layout in LAYOUTS.items()
    }
    simple = {"Bool": 1, "Uint8": 1, "Uint16": 2, "Int32": 4, "Uint32": 4, "Float32": 4, "Int64": 8}
    assert written == {
        table: {
            slot: f"Vector of {simple[kind.split()[1]]}" if kind.split()[-1] in simple else kind
            for slot, kind in slots.items()
        }
        for table, slots in found.items()
    }


def _described(field: Any) -> str:
    if isinstance(field, Numbers):
        return f"Vector of {field.item_bytes}"
    if isinstance(field, Tables):
        return f"{'Vector' if field.many else 'Indirect'} {field.name}"
    return "String" if isinstance(field, Text) else "Union" if isinstance(field, Union) else "?"
