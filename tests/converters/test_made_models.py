"""The trained models in tests/models, of every kind there is: all their cuts, and pairs of them, against the file.

The file runs in its runtime as its own authors would run it: not through midstream.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from ai_edge_litert.interpreter import Interpreter

from midstream.bundle import Bundle
from midstream.samples import InputTypes
from midstream.tensors import Tensors
from midstream_converters.convert import convert
from midstream_converters.opening import Options

FOLDER = Path(__file__).resolve().parent.parent / "models"
FILES = sorted(file for kind in ("*.tflite", "*.onnx") for file in FOLDER.rglob(kind))
# Layers that remember the run before: all of them belong to the head.
STATEFUL = {
    "digits_resource_variables.tflite", "keyword_gru_stream.tflite", "keyword_lstm.tflite", "keyword_lstm_int8.tflite",
    "keyword_lstm_stream.tflite",
}  # fmt: skip


def answer(path: Path, inputs: Tensors) -> list[Any]:
    """The outputs of a fresh runtime, in the file's order."""
    if path.suffix == ".onnx":
        session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
        return list(session.run(None, inputs))
    interpreter = Interpreter(str(path), num_threads=1)
    details = interpreter.get_input_details()
    for detail, value in zip(details, inputs.values(), strict=True):
        interpreter.resize_tensor_input(detail["index"], value.shape)
    interpreter.allocate_tensors()
    for detail, value in zip(details, inputs.values(), strict=True):
        interpreter.set_tensor(detail["index"], value)
    interpreter.invoke()
    return [interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details()]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_cut_gives_the_bits_of_the_file(path: Path, tmp_path: Path) -> None:
    manifest = convert(path, tmp_path / "bundle", Options(max_cuts=None))
    bundle = Bundle.open(tmp_path / "bundle")
    assert bundle.cuts, manifest.rejected
    assert manifest.stateful == (path.name in STATEFUL)
    # What is rejected differs in the last bits, with a cause; it never fails to load or run.
    assert all((cut.max_abs_error or 0) > 0 for cut in manifest.rejected), manifest.rejected
    assert path.suffix == ".onnx" or not manifest.rejected
    inputs = InputTypes(manifest.free_inputs()).generate(manifest.sample_shapes, seed=99)
    wanted = answer(path, inputs)
    chains = [(cut.id,) for cut in bundle.cuts] + list(manifest.middles())
    for chain in [(), *chains]:
        got = bundle.run_split(inputs, cut=chain) if chain else bundle.run(inputs)
        assert list(got) == [spec.name for spec in bundle.outputs]
        for want, have in zip(wanted, got.values(), strict=True):
            assert (have.dtype, have.shape, have.tobytes()) == (want.dtype, want.shape, want.tobytes()), chain


def test_a_state_is_kept_from_call_to_call_by_the_head_alone(tmp_path: Path) -> None:
    """Reset before each run, so the same input gives the same answer however often it comes."""
    path = FOLDER / "keyword_gru_stream.tflite"
    convert(path, tmp_path / "bundle", Options(max_cuts=None))
    bundle = Bundle.open(tmp_path / "bundle")
    manifest = bundle.manifest
    inputs = InputTypes(manifest.free_inputs()).generate(manifest.sample_shapes, seed=5)
    first = bundle.run(inputs)
    for cut in bundle.cuts:
        assert all(np.array_equal(first[name], value) for name, value in bundle.run_split(inputs, cut=cut.id).items())
        state = {index for index, layer in enumerate(bundle.graph.layers) if "VARIABLE" in layer.op}
        assert state <= set(cut.nodes)
