"""Look at every value of a model in one run: what shape inference cannot know, a run shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from midstream.engines import Program, engine_for
from midstream.manifest import WEIGHTS_FILE, SliceRecord
from midstream_converters.onnx.proto import onnx


def probe_values(
    model: onnx.ModelProto, samples: Mapping[str, Any], names: Sequence[str], folder: Path
) -> dict[str, Any]:
    """Run the model once and return these values: arrays, and lists where a value is a sequence.

    ``folder`` is where its external data lies.
    """
    probed = onnx.ModelProto()
    probed.CopyFrom(model)
    have = {value.name for value in probed.graph.output}
    probed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in have)
    content = probed.SerializeToString()
    record = SliceRecord("probe", len(content), tuple(samples), tuple(names))
    session = engine_for("onnx").load(Program(record, content, folder / WEIGHTS_FILE))
    try:
        return dict(session.run(samples))
    finally:
        session.close()
