"""Names that a framework has given, in our own way: ends of TFLite models, numbers in ONNX models; stored samples."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from ai_edge_litert.interpreter import Interpreter

from midstream_converters.onnx.numbering import renumber
from midstream_converters.stored import StoredSamples
from midstream_converters.tflite.ends import name_by_position, name_by_signature, with_signature

MODELS = Path(__file__).resolve().parent.parent / "models"
IMAGE = np.load(MODELS / "digits_calibration.npz")["image"][0]


def scores(content: bytes) -> bytes:
    interpreter = Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], IMAGE)
    interpreter.invoke()
    return bytes(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]).tobytes())


def ends(content: bytes) -> tuple[list[str], list[str]]:
    interpreter = Interpreter(model_content=content)
    inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    return [detail["name"] for detail in inputs], [detail["name"] for detail in outputs]


def test_ends_are_named_and_nothing_else_changes() -> None:
    content = (MODELS / "digits_float32.tflite").read_bytes()
    signed = with_signature(content, "main", ["picture"], ["told"])
    assert Interpreter(model_content=signed).get_signature_list() == {
        "main": {"inputs": ["picture"], "outputs": ["told"]}
    }
    named = name_by_signature(signed, {"told": "scores"})
    assert ends(named) == (["picture"], ["scores"])
    assert Interpreter(model_content=named).get_signature_list()["main"]["outputs"] == ["scores"]
    again = name_by_position(named, ["a"], ["b"])
    assert ends(again) == (["a"], ["b"])
    assert scores(content) == scores(named) == scores(again)


def test_a_name_that_is_taken_goes_to_the_end() -> None:
    content = (MODELS / "digits_float32.tflite").read_bytes()
    details = Interpreter(model_content=content).get_tensor_details()
    middle = details[len(details) // 2]["name"]
    named = name_by_position(content, ["image"], [middle])
    names = [detail["name"] for detail in Interpreter(model_content=named).get_tensor_details()]
    assert names.count(middle) == 1
    assert ends(named)[1] == [middle]


def test_weights_lie_where_the_runtime_wants_them() -> None:
    from midstream_converters.tflite.schema import schema

    content = name_by_position((MODELS / "digits_float32.tflite").read_bytes(), ["a"], ["b"])
    model = schema.Model.GetRootAs(content, 0)
    large = [model.Buffers(i) for i in range(model.BuffersLength()) if model.Buffers(i).DataLength() > 64]
    assert large
    assert all(buffer._tab.Vector(buffer._tab.Offset(4)) % 16 == 0 for buffer in large)


@pytest.mark.parametrize("name", ["digits_float32.onnx", "digits_if.onnx", "digits_loop.onnx"])
def test_other_numbers_give_the_same_model(name: str) -> None:
    first = onnx.load(MODELS / name)
    second = onnx.ModelProto.FromString(first.SerializeToString())
    ends = {value.name for value in (*second.graph.input, *second.graph.output)}

    def other(text: str) -> str:
        return text if text in ends else re.sub(r"__(\d+)", lambda found: f"__{int(found[1]) + 1000}", text)

    for node in second.graph.node:
        node.name = f"other {node.name}"
        node.input[:] = map(other, node.input)
        node.output[:] = map(other, node.output)
    for value in (*second.graph.initializer, *second.graph.value_info):
        value.name = other(value.name)
    weights = list(second.graph.initializer)[::-1]
    del second.graph.initializer[:]
    second.graph.initializer.extend(weights)
    before = ort.InferenceSession(first.SerializeToString()).run(None, {"image": IMAGE})
    for model in (first, second):
        renumber(model)
    assert first.SerializeToString(deterministic=True) == second.SerializeToString(deterministic=True)
    after = ort.InferenceSession(first.SerializeToString()).run(None, {"image": IMAGE})
    assert [value.tobytes() for value in before] == [value.tobytes() for value in after]


def test_samples_come_back_as_they_went_whatever_inputs_are_called(tmp_path: Path) -> None:
    names = ("file", "a/b:0")
    stored = StoredSamples(tmp_path / "s", names)
    given = [{"file": np.full((1, 2), i, np.float32), "a/b:0": np.array(i)} for i in range(12)]
    assert stored.store(iter(given)) == 12
    for _ in range(2):
        back = list(StoredSamples(tmp_path / "s", names))
        assert [sample["file"].tobytes() for sample in back] == [sample["file"].tobytes() for sample in given]
        assert [int(sample["a/b:0"]) for sample in back] == list(range(12))
