"""onnxruntime's static quantisation, in a process of its own: the converters' only module that imports it.

``python -m midstream_converters.onnx.quantise FOLDER`` makes int8 of the model that the request names, as pairs of
QuantizeLinear and DequantizeLinear, weights per channel, with the samples in the folder. Inputs and outputs stay as
they are.
"""

from __future__ import annotations

from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from onnxruntime import GraphOptimizationLevel, InferenceSession, SessionOptions
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from midstream.errors import ModelError
from midstream.tensors import Tensors
from midstream_converters.apart import serve
from midstream_converters.onnx.proto import inner_graphs, onnx, reads
from midstream_converters.stored import StoredSamples

# The first in which a scale a channel can be written down.
PER_CHANNEL_OPSET = 13
_NEWER_OPSET = 17
# The first version of the format in which an initializer need not be an input.
_CONSTANT_INITIALIZERS = 4
# A message of 2 GiB cannot be written; what quantising adds on the way must fit too.
_LARGE_BYTES = 1 << 30


# What has weights and kernels for int8. All that lies between them too took 1.2, 1.4 and 1.7 times as long in three
# models for reading text, for an agreement on eleven pictures of 1.00 (this: .91), .82 (.82) and .36 (.73).
_WEIGHTED = ["Conv", "ConvTranspose", "Gemm", "MatMul"]


class _Feed(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, samples: StoredSamples) -> None:
        self._left = iter(samples)

    def get_next(self) -> Tensors | None:
        return next(self._left, None)


def main(folder: Path, request: dict[str, Any]) -> dict[str, Any]:
    """Do what is asked for; the model goes to the file ``made``."""
    large = request["bytes"] > _LARGE_BYTES
    model = _newer(onnx.load(request["model"]), request["name"])
    _fix_constants(model)
    nested = any(True for node in model.graph.node for _ in inner_graphs(node))
    plain, ready, made = (folder / f"{name}.onnx" for name in ("plain", "ready", "quantised"))
    onnx.save(model, plain, save_as_external_data=large, location="plain.data")
    del model
    quant_pre_process(
        # It brings names of inner graphs and of the main one into conflict.
        plain if nested else _optimised(plain, folder),
        ready,
        # What is built in would go on from the model as it was before.
        skip_optimization=True,
        # For want of sympy; the shapes that ONNX infers are enough.
        skip_symbolic_shape=True,
        save_as_external_data=large,
        all_tensors_to_one_file=large,
        external_data_location="ready.data" if large else None,
    )
    quantize_static(
        ready,
        made,
        _Feed(StoredSamples(folder / "samples", tuple(request["inputs"]))),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=_WEIGHTED,
        per_channel=True,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        use_external_data_format=large,
        # A rectifier before a narrower range is left out otherwise, but what an inner graph captures is read before it.
        extra_options={"QDQKeepRemovableActivations": nested},
    )
    result = onnx.load(made)
    # The quantiser's own order does not know what inner graphs capture.
    _put_in_order(result.graph)
    (folder / "made").write_bytes(result.SerializeToString(deterministic=True))
    return {}


def _fix_constants(model: onnx.ModelProto) -> None:
    """Make initializers, that no caller can replace, of all constants: only these are quantised."""
    graph = model.graph
    model.ir_version = max(model.ir_version, _CONSTANT_INITIALIZERS)
    stored = {tensor.name for tensor in graph.initializer}
    _keep(graph.input, [value for value in graph.input if value.name not in stored])
    lifted = [node for node in graph.node if _is_stored(node)]
    for node in lifted:
        tensor = onnx.TensorProto()
        tensor.CopyFrom(node.attribute[0].t)
        tensor.name = node.output[0]
        graph.initializer.append(tensor)
    _keep(graph.node, [node for node in graph.node if not _is_stored(node)])


def _is_stored(node: onnx.NodeProto) -> bool:
    return node.op_type == "Constant" and len(node.attribute) == 1 and node.attribute[0].HasField("t")


def _keep(field: Any, values: list[Any]) -> None:
    """Replace a repeated field by some of its own messages."""
    copies = [type(value).FromString(value.SerializeToString()) for value in values]
    del field[:]
    field.extend(copies)


def _optimised(path: Path, folder: Path) -> Path:
    """The model with constants folded and normalisation inside convolutions."""
    options = SessionOptions()
    options.graph_optimization_level = GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "optimised.data")
    InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return folder / "optimised.onnx"


def _put_in_order(graph: onnx.GraphProto) -> None:
    """Nodes in an order in which they can run."""
    makers = {name: place for place, node in enumerate(graph.node) for name in node.output if name}
    needs = {place: {makers[name] for name in reads(node) if name in makers} for place, node in enumerate(graph.node)}
    nodes = list(graph.node)
    _keep(graph.node, [nodes[place] for place in TopologicalSorter(needs).static_order()])


def _opset(model: onnx.ModelProto) -> int:
    return next((int(entry.version) for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 1)


def _newer(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """The model in an opset in which int8 weights can have a scale for each channel."""
    opset = _opset(model)
    if opset >= PER_CHANNEL_OPSET:
        return model
    try:
        return onnx.version_converter.convert_version(model, _NEWER_OPSET)
    except (RuntimeError, ValueError):
        raise ModelError(
            f"{name} is in opset {opset}, int8 weights need {PER_CHANNEL_OPSET} or later, and it cannot be rewritten; "
            f"export it with opset {_NEWER_OPSET}"
        ) from None


if __name__ == "__main__":
    serve(main)
