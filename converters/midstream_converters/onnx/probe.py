"""Look at every value of a model in one run: what shape inference cannot know, a run shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from midstream.engines import Program, engine_for
from midstream.manifest import WEIGHTS_FILE, SliceRecord
from midstream.tensors import CARRIED_DTYPES, Tensors
from midstream_converters.onnx.proto import onnx

_TYPES = {"float": "float32", "double": "float64"} | {
    name: name for name in CARRIED_DTYPES if name not in ("float32", "float64")
}
_SHAPE_OPSET = 13


def probe_sizes(
    model: onnx.ModelProto,
    samples: Mapping[str, Any],
    known: Mapping[str, np.dtype[np.generic] | None],
    folder: Path,
) -> Tensors:
    """Run the model once and return these values with type and size, but without content or memory of their own.

    ``known`` has their types, None where that is not known; what turns out to be no tensor of numbers is left out.
    A run that gave the values themselves would keep all of them in memory at once, hundreds of times the model's need.
    """
    from midstream.engines.onnx import output_types, run_sizes_first

    types = {name: dtype for name, dtype in known.items() if dtype is not None}
    if unsure := [name for name in known if name not in types]:
        found = output_types(_probe(model, samples, unsure, folder))
        kinds = {name: _TYPES.get(found[name].removeprefix("tensor(").removesuffix(")")) for name in unsure}
        types |= {name: np.dtype(kind) for name, kind in kinds.items() if kind is not None}
    if not types:
        return {}
    sized = onnx.ModelProto()
    sized.CopyFrom(model)
    if not any(entry.domain in ("", "ai.onnx") for entry in sized.opset_import):
        sized.opset_import.add(domain="", version=_SHAPE_OPSET)
    marks = {name: f"{name}//size" for name in types}
    sized.graph.node.extend(onnx.helper.make_node("Shape", [name], [mark]) for name, mark in marks.items())
    del sized.graph.output[:]
    sizes = run_sizes_first(_probe(sized, samples, list(marks.values()), folder), samples)
    return {name: np.broadcast_to(np.empty((), dtype), sizes[marks[name]].tolist()) for name, dtype in types.items()}


def probe_values(
    model: onnx.ModelProto, samples: Mapping[str, Any], names: Sequence[str], folder: Path
) -> dict[str, Any]:
    """Run the model once and return these values: arrays, and lists where a value is a sequence.

    ``folder`` is where its external data lies.
    """
    session = engine_for("onnx").load(_probe(model, samples, names, folder))
    try:
        return dict(session.run(samples))
    finally:
        session.close()


def _probe(model: onnx.ModelProto, samples: Mapping[str, Any], names: Sequence[str], folder: Path) -> Program:
    """The model with these values among its outputs."""
    probed = onnx.ModelProto()
    probed.CopyFrom(model)
    have = {value.name for value in probed.graph.output}
    probed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in have)
    content = probed.SerializeToString()
    return Program(SliceRecord("probe", len(content), tuple(samples), tuple(names)), content, folder / WEIGHTS_FILE)
