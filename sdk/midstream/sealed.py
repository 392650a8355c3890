"""How a bundle's manifest, graph and costs are written down: canonical JSON, under a SHA-256 of its own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar, cast

import numpy as np

from midstream.errors import BundleError
from midstream.inputs import semantics_from_json, semantics_to_json
from midstream.manifest import (
    FORMAT_VERSION,
    SLICES_FILE,
    WEIGHTS_FILE,
    WHOLE,
    Costs,
    Cut,
    Edge,
    EngineName,
    FileRecord,
    Graph,
    Layer,
    Manifest,
    RejectedCut,
    SliceCost,
    SliceRecord,
    head_name,
    tail_name,
)
from midstream.tensors import CARRIED_DTYPES, TensorSpec

T = TypeVar("T")


def manifest_to_bytes(manifest: Manifest) -> bytes:
    """Canonical JSON: the same manifest always gives the same bytes."""
    return _seal(_manifest_body(manifest))


def manifest_digest(data: bytes) -> bytes:
    """The bundle's identity, 32 bytes: the SHA-256 of its manifest file."""
    return hashlib.sha256(data).digest()


def manifest_from_bytes(data: bytes, path: str) -> Manifest:
    """Read what `manifest_to_bytes` wrote. Raises BundleError on a flipped byte, or an unknown format version."""
    body = _unseal(data, path)
    return _guard(path, lambda: _manifest_from_body(body))


def graph_to_bytes(graph: Graph) -> bytes:
    """The graph as canonical JSON, one column a property: it is large, and compresses well this way."""
    layers = graph.layers
    return _canonical(
        {
            "name": [layer.name for layer in layers],
            "op": [layer.op for layer in layers],
            "macs": [layer.macs for layer in layers],
            "weight_bytes": [layer.weight_bytes for layer in layers],
            "output_bytes": [layer.output_bytes for layer in layers],
            "static": [layer.index for layer in layers if layer.static],
            "edges": [[edge.source, edge.target, edge.bytes] for edge in graph.edges],
        }
    )


def graph_from_bytes(data: bytes, path: str) -> Graph:
    """The reverse of `graph_to_bytes`; raises BundleError."""

    def build() -> Graph:
        body = json.loads(data)
        static = set(body["static"])
        columns = zip(body["name"], body["op"], body["macs"], body["weight_bytes"], body["output_bytes"], strict=True)
        layers = tuple(
            Layer(index, str(name), str(op), int(macs), int(weights), int(output), index in static)
            for index, (name, op, macs, weights, output) in enumerate(columns)
        )
        edges = tuple(Edge(int(a), int(b), int(size)) for a, b, size in body["edges"])
        if any(not 0 <= edge.source < edge.target < len(layers) for edge in edges):
            raise ValueError("an edge leads out of the graph")
        return Graph(layers, edges)

    return _guard(path, build)


def costs_to_bytes(costs: Costs) -> bytes:
    """Canonical JSON with its own SHA-256."""
    return _seal(
        {
            "format": FORMAT_VERSION,
            "machine": costs.machine,
            "whole_ms": costs.whole_ms,
            "cuts": {cut_id: [cost.head_ms, cost.tail_ms] for cut_id, cost in costs.cuts.items()},
        }
    )


def costs_from_bytes(data: bytes, path: str) -> Costs:
    """The reverse of `costs_to_bytes`; raises BundleError."""
    body = _unseal(data, path)

    def build() -> Costs:
        cuts = {str(key): SliceCost(float(head), float(tail)) for key, (head, tail) in body["cuts"].items()}
        costs = Costs(str(body["machine"]), float(body["whole_ms"]), cuts)
        if costs.whole_ms <= 0 or any(cost.head_ms < 0 or cost.tail_ms < 0 for cost in cuts.values()):
            raise ValueError("a time is negative")
        return costs

    return _guard(path, build)


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


def _seal(body: dict[str, Any]) -> bytes:
    return _canonical({"body": body, "sha256": hashlib.sha256(_canonical(body)).hexdigest()}) + b"\n"


def _unseal(data: bytes, path: str) -> dict[str, Any]:
    """The body of a sealed file. Only the canonical bytes are taken, so that any flipped byte is seen."""
    damaged = f"{path} is damaged: it does not hold what its own SHA-256 says; convert the model again"
    try:
        document = json.loads(data)
        body = document["body"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise BundleError(damaged) from None
    if not isinstance(body, dict):
        raise BundleError(damaged)
    version = body.get("format")
    if version != FORMAT_VERSION and type(version) is int:
        raise BundleError(
            f"{path} has bundle format version {version}; this midstream reads version {FORMAT_VERSION}. "
            "Convert the model again with this release, or install the one that wrote it"
        )
    try:
        intact = _seal(body) == data
    except (ValueError, RecursionError):
        intact = False
    if not intact or version != FORMAT_VERSION:
        raise BundleError(damaged)
    return body


def _guard(path: str, build: Callable[[], T]) -> T:
    try:
        return build()
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, ArithmeticError, RecursionError) as error:
        raise BundleError(
            f"{path} does not read as this part of a bundle: {error!r}; convert the model again"
        ) from None


def _manifest_body(manifest: Manifest) -> dict[str, Any]:
    return {
        "format": FORMAT_VERSION,
        "name": manifest.name,
        "model": {
            "format": manifest.model_format,
            "bytes": manifest.model_bytes,
            "sha256": manifest.model_sha256,
        },
        "engine": manifest.engine,
        "inputs": [_spec_to_json(spec) for spec in manifest.inputs],
        "outputs": [_spec_to_json(spec) for spec in manifest.outputs],
        "semantics": {name: semantics_to_json(value) for name, value in manifest.semantics.items()},
        "fixed": manifest.fixed,
        "sample_shapes": {name: list(shape) for name, shape in manifest.sample_shapes.items()},
        "cuts": [
            {
                "id": cut.id,
                "tensors": [_spec_to_json(spec) for spec in cut.tensors],
                "payload_bytes": cut.payload_bytes,
                "nodes": _to_ranges(cut.nodes),
                "head_outputs": list(cut.head_outputs),
            }
            for cut in manifest.cuts
        ],
        "rejected": [
            {"id": cut.id, "reason": cut.reason, "max_abs_error": cut.max_abs_error} for cut in manifest.rejected
        ],
        "slices": {
            name: {
                "member": record.member,
                "bytes": record.bytes,
                "inputs": list(record.inputs),
                "outputs": list(record.outputs),
                "weights": [list(part) for part in record.weights],
                "without": list(record.without),
            }
            for name, record in manifest.slices.items()
        },
        "files": {name: {"bytes": record.bytes, "sha256": record.sha256} for name, record in manifest.files.items()},
        "tolerance": manifest.tolerance,
        "unpacked_bytes": manifest.unpacked_bytes,
        "stateful": manifest.stateful,
        "created_by": manifest.created_by,
        "recipe": manifest.recipe,
    }


def _manifest_from_body(body: dict[str, Any]) -> Manifest:
    if body["engine"] not in ("litert", "onnx") or body["model"]["format"] not in ("tflite", "onnx"):
        raise ValueError(f"unknown engine {body['engine']!r}")
    files = {name: FileRecord(int(f["bytes"]), str(f["sha256"])) for name, f in body["files"].items()}
    if set(files) != {WEIGHTS_FILE, SLICES_FILE}:
        raise ValueError(f"unexpected files {sorted(files)}")
    manifest = Manifest(
        name=str(body["name"]),
        model_format=body["model"]["format"],
        model_bytes=int(body["model"]["bytes"]),
        model_sha256=str(body["model"]["sha256"]),
        engine=cast("EngineName", body["engine"]),
        inputs=tuple(_spec_from_json(spec) for spec in body["inputs"]),
        outputs=tuple(_spec_from_json(spec) for spec in body["outputs"]),
        sample_shapes={name: tuple(int(n) for n in shape) for name, shape in body["sample_shapes"].items()},
        cuts=tuple(
            Cut(
                str(cut["id"]),
                tuple(_spec_from_json(spec) for spec in cut["tensors"]),
                int(cut["payload_bytes"]),
                _from_ranges(cut["nodes"]),
                tuple(cut["head_outputs"]),
            )
            for cut in body["cuts"]
        ),
        slices={
            name: SliceRecord(
                str(record["member"]),
                int(record["bytes"]),
                tuple(record["inputs"]),
                tuple(record["outputs"]),
                tuple((int(offset), int(length)) for offset, length in record["weights"]),
                tuple(str(name) for name in record["without"]),
            )
            for name, record in body["slices"].items()
        },
        files=files,
        semantics={name: semantics_from_json(value) for name, value in body["semantics"].items()},
        fixed=dict(body["fixed"]),
        rejected=tuple(
            RejectedCut(str(cut["id"]), str(cut["reason"]), cut["max_abs_error"]) for cut in body["rejected"]
        ),
        tolerance=float(body["tolerance"]),
        unpacked_bytes=int(body["unpacked_bytes"]),
        stateful=bool(body["stateful"]),
        created_by=str(body["created_by"]),
        recipe=str(body["recipe"]),
    )
    needed = {WHOLE, *(name(cut.id) for cut in manifest.cuts for name in (head_name, tail_name))}
    if missing := needed - set(manifest.slices):
        raise ValueError(f"no slice {sorted(missing)[0]!r}")
    size = files[WEIGHTS_FILE].bytes
    for record in manifest.slices.values():
        if any(start < 0 or length < 0 or start + length > size for start, length in record.weights):
            raise ValueError(f"slice {record.member!r} reads outside the weights")
    return manifest


def _spec_to_json(spec: TensorSpec) -> dict[str, Any]:
    value: dict[str, Any] = {"name": spec.name, "dtype": spec.dtype.name, "shape": list(spec.shape)}
    if spec.scale is not None:
        value |= {"scale": spec.scale, "zero_point": spec.zero_point}
    return value


def _spec_from_json(value: dict[str, Any]) -> TensorSpec:
    if value["dtype"] not in CARRIED_DTYPES:
        raise ValueError(f"dtype {value['dtype']!r} is not one of {', '.join(sorted(CARRIED_DTYPES))}")
    dtype = np.dtype(value["dtype"])
    shape = tuple(None if size is None else int(size) for size in value["shape"])
    scale = value.get("scale")
    return TensorSpec(
        str(value["name"]),
        dtype,
        shape,
        None if scale is None else float(scale),
        None if scale is None else int(value["zero_point"]),
    )


def _to_ranges(indices: Sequence[int]) -> list[list[int]]:
    """Sorted indices as [first, last] pairs."""
    ranges: list[list[int]] = []
    for index in indices:
        if ranges and ranges[-1][1] == index - 1:
            ranges[-1][1] = index
        else:
            ranges.append([index, index])
    return ranges


def _from_ranges(ranges: Iterable[Sequence[int]]) -> tuple[int, ...]:
    indices: list[int] = []
    for first, last in ranges:
        if not 0 <= first <= last <= 10_000_000 or (indices and first <= indices[-1]):
            raise ValueError(f"bad range of layers {[first, last]}")
        indices.extend(range(first, last + 1))
    return tuple(indices)
