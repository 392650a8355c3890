"""onnxruntime's static quantisation, in a process of its own: the converters' only module that imports it.

``python -m midstream_converters.onnx.quantise FOLDER`` makes int8 of the model that the request names, as pairs of
QuantizeLinear and DequantizeLinear, weights per channel, with the samples in the folder. Inputs and outputs stay as
they are.
"""

from __future__ import annotations

from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

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
# A message of 2 GiB cannot be written; what quantising adds on the way must fit too.
_LARGE_BYTES = 1 << 30


class _Feed(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, samples: StoredSamples) -> None:
        self._left = iter(samples)

    def get_next(self) -> Tensors | None:
        return next(self._left, None)


def main(folder: Path, request: dict[str, Any]) -> dict[str, Any]:
    """Do what is asked for; the model goes to the file ``made``."""
    path = Path(request["model"])
    model = onnx.load(path, load_external_data=False)
    large = request["bytes"] > _LARGE_BYTES
    if _opset(model) < PER_CHANNEL_OPSET:
        model = _newer(onnx.load(path), request["name"])
        path = folder / "newer.onnx"
        onnx.save(model, path, save_as_external_data=large, location="newer.data")
    # A rectifier before a narrower range is left out, but what an inner graph captures is read before that range.
    keep = any(True for node in model.graph.node for _ in inner_graphs(node))
    del model
    ready, made = folder / "ready.onnx", folder / "quantised.onnx"
    quant_pre_process(
        path,
        ready,
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
        per_channel=True,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        use_external_data_format=large,
        extra_options={"QDQKeepRemovableActivations": keep},
    )
    result = onnx.load(made)
    # The quantiser's own order does not know what inner graphs capture.
    _put_in_order(result.graph)
    (folder / "made").write_bytes(result.SerializeToString(deterministic=True))
    return {}


def _put_in_order(graph: onnx.GraphProto) -> None:
    """Nodes in an order in which they can run."""
    makers = {name: place for place, node in enumerate(graph.node) for name in node.output if name}
    needs = {place: {makers[name] for name in reads(node) if name in makers} for place, node in enumerate(graph.node)}
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in graph.node]
    del graph.node[:]
    graph.node.extend(nodes[place] for place in TopologicalSorter(needs).static_order())


def _opset(model: onnx.ModelProto) -> int:
    return next((int(entry.version) for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 1)


def _newer(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    opset = _opset(model)
    try:
        return onnx.version_converter.convert_version(model, _NEWER_OPSET)
    except (RuntimeError, ValueError):
        raise ModelError(
            f"{name} is in opset {opset}, int8 weights need {PER_CHANNEL_OPSET} or later, and it cannot be rewritten; "
            f"export it with opset {_NEWER_OPSET}"
        ) from None


if __name__ == "__main__":
    serve(main)
