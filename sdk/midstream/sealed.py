"""How a bundle's manifest, graph and costs are written down: canonical JSON, under a SHA-256 of its own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from itertools import product
from typing import Any, TypeVar, cast

import numpy as np

from midstream.inputs import semantics_from_json, semantics_to_json
from midstream.manifest import (
    BATCH_SIZES,
    CARRIERS,
    EDGETPU_SUFFIX,
    FORMAT_VERSION,
    SLICES_FILE,
    WEIGHTS_FILE,
    WHOLE,
    CandidateCounts,
    CodingCost,
    Costs,
    Cut,
    Edge,
    EngineName,
    FileRecord,
    Graph,
    Layer,
    Manifest,
    OutputChange,
    Quantisation,
    RejectedCut,
    SliceCost,
    SliceRecord,
    carrier_names,
    edgetpu_name,
    head_name,
    middle_name,
    tail_name,
)
from midstream.seal import canonical, count, guard, number, seal, share, text, texts, truth, unseal
from midstream.tensors import CARRIED_DTYPES, TensorSpec

T = TypeVar("T")

_EDGETPU = "edgetpu"
_MAX_NODES = 4_000_000
_MOST_MS = 1e12


def manifest_to_bytes(manifest: Manifest) -> bytes:
    """Canonical JSON: the same manifest always gives the same bytes."""
    return seal(_manifest_body(manifest))


def manifest_digest(data: bytes) -> bytes:
    """The bundle's identity, 32 bytes: the SHA-256 of its manifest file."""
    return hashlib.sha256(data).digest()


def manifest_from_bytes(data: bytes, path: str) -> Manifest:
    """Read what `manifest_to_bytes` wrote. Raises BundleError on a flipped byte, or an unknown format version."""
    body = unseal(data, path, FORMAT_VERSION)
    return guard(path, lambda: _manifest_from_body(body))


def graph_to_bytes(graph: Graph) -> bytes:
    """The graph as canonical JSON, one column a property: it is large, and compresses well this way."""
    layers = graph.layers
    return canonical(
        {
            "name": [layer.name for layer in layers],
            "op": [layer.op for layer in layers],
            "macs": [layer.macs for layer in layers],
            "weight_bytes": [layer.weight_bytes for layer in layers],
            "output_bytes": [layer.output_bytes for layer in layers],
            "static": [layer.index for layer in layers if layer.static],
            "flops": [layer.flops for layer in layers],
            "edges": [[edge.source, edge.target, edge.bytes] for edge in graph.edges],
        }
    )


def graph_from_bytes(data: bytes, path: str) -> Graph:
    """The reverse of `graph_to_bytes`; raises BundleError."""

    def build() -> Graph:
        body = json.loads(data)
        static = set(map(count, body["static"]))
        if any(index >= len(body["name"]) for index in static):
            raise ValueError("a static layer is not in the graph")
        counts = (body[key] for key in ("macs", "weight_bytes", "output_bytes", "flops"))
        columns = zip(body["name"], body["op"], *counts, strict=True)
        layers = tuple(
            Layer(
                index,
                text(name),
                text(op),
                count(macs),
                count(weights),
                count(output),
                index in static,
                count(flops),
            )
            for index, (name, op, macs, weights, output, flops) in enumerate(columns)
        )
        edges = tuple(Edge(*map(count, edge)) for edge in body["edges"])
        if any(not edge.source < edge.target < len(layers) for edge in edges):
            raise ValueError("an edge leads out of the graph")
        return Graph(layers, edges)

    return guard(path, build)


def costs_to_bytes(costs: Costs) -> bytes:
    """Canonical JSON with its own SHA-256."""
    body: dict[str, Any] = {
        "format": FORMAT_VERSION,
        "machine": costs.machine,
        "whole_ms": costs.whole_ms,
        "recipe": costs.recipe,
        "cuts": {cut_id: [cost.head_ms, cost.tail_ms] for cut_id, cost in costs.cuts.items()},
        "layers_ms": costs.layers_ms,
    }
    if costs.coding:
        body["coding"] = {name: [cost.within_ms, cost.beside_ms] for name, cost in costs.coding.items()}
    return seal(body if costs.float_ms is None else body | {"float_ms": costs.float_ms})


def costs_from_bytes(data: bytes, path: str) -> Costs:
    """The reverse of `costs_to_bytes`; raises BundleError."""
    body = unseal(data, path, FORMAT_VERSION)

    def build() -> Costs:
        cuts = {key: SliceCost(_ms(head), _ms(tail)) for key, (head, tail) in body["cuts"].items()}
        layers_ms = tuple(map(_ms, body["layers_ms"]))
        before = _ms(body["float_ms"]) if "float_ms" in body else None
        coding = {
            text(name): CodingCost(_ms(within), _ms(beside))
            for name, (within, beside) in body.get("coding", {}).items()
        }
        machine, whole_ms, recipe = text(body["machine"]), _ms(body["whole_ms"]), text(body["recipe"])
        costs = Costs(machine, whole_ms, cuts, layers_ms, recipe, before, coding)
        if costs.whole_ms == 0 or costs.float_ms == 0:
            raise ValueError("the whole model takes no time")
        return costs

    return guard(path, build)


def _manifest_body(manifest: Manifest) -> dict[str, Any]:
    body = {
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
        "cuts": [_cut_to_json(cut) for cut in manifest.cuts],
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
                **({"batch_sizes": list(record.batch_sizes)} if record.batch_sizes else {}),
            }
            for name, record in manifest.slices.items()
        },
        "files": {name: {"bytes": record.bytes, "sha256": record.sha256} for name, record in manifest.files.items()},
        "tolerance": manifest.tolerance,
        "unpacked_bytes": manifest.unpacked_bytes,
        "stateful": manifest.stateful,
        "created_by": manifest.created_by,
        "recipe": manifest.recipe,
        "found": asdict(manifest.found),
    }
    if manifest.quantisation is not None:
        body["quantisation"] = asdict(manifest.quantisation)
    return body


def _manifest_from_body(body: dict[str, Any]) -> Manifest:
    if body["engine"] not in ("litert", "onnx") or body["model"]["format"] not in ("tflite", "onnx"):
        raise ValueError(f"unknown engine {body['engine']!r}")
    files = {name: FileRecord(count(f["bytes"]), text(f["sha256"])) for name, f in body["files"].items()}
    if set(files) != {WEIGHTS_FILE, SLICES_FILE}:
        raise ValueError(f"unexpected files {sorted(files)}")
    manifest = Manifest(
        name=text(body["name"]),
        model_format=body["model"]["format"],
        model_bytes=count(body["model"]["bytes"]),
        model_sha256=text(body["model"]["sha256"]),
        engine=cast("EngineName", body["engine"]),
        inputs=_specs_from_json(body["inputs"]),
        outputs=_specs_from_json(body["outputs"]),
        sample_shapes={name: tuple(map(count, shape)) for name, shape in body["sample_shapes"].items()},
        cuts=_cuts_from_json(body["cuts"]),
        slices={
            name: SliceRecord(
                text(record["member"]),
                count(record["bytes"]),
                texts(record["inputs"]),
                texts(record["outputs"]),
                tuple((count(offset), count(length)) for offset, length in record["weights"]),
                texts(record["without"]),
                _batch_sizes(record.get("batch_sizes", [])),
            )
            for name, record in body["slices"].items()
        },
        files=files,
        semantics={name: semantics_from_json(value) for name, value in body["semantics"].items()},
        fixed=dict(body["fixed"]),
        rejected=tuple(
            RejectedCut(
                text(cut["id"]),
                text(cut["reason"]),
                None if cut["max_abs_error"] is None else number(cut["max_abs_error"]),
            )
            for cut in body["rejected"]
        ),
        tolerance=number(body["tolerance"]),
        unpacked_bytes=count(body["unpacked_bytes"]),
        stateful=body["stateful"] is True,
        created_by=text(body["created_by"]),
        recipe=text(body["recipe"]),
        quantisation=_quantisation_from_json(body["quantisation"]) if "quantisation" in body else None,
        found=CandidateCounts(**{name: count(many) for name, many in body["found"].items()}),
    )
    _check_parts(manifest)
    return manifest


def _batch_sizes(value: Any) -> tuple[int, ...]:
    sizes = tuple(map(count, value))
    if not set(sizes) <= set(BATCH_SIZES):
        raise ValueError(f"batches of {value}; there are {list(BATCH_SIZES)}")
    return sizes


def _check_parts(manifest: Manifest) -> None:
    """Raise ValueError where the parts of a manifest do not fit each other: what uses it relies on that they do."""
    inputs, outputs = ({spec.name for spec in specs} for specs in (manifest.inputs, manifest.outputs))
    size = manifest.files[WEIGHTS_FILE].bytes
    for record in manifest.slices.values():
        if any(start + length > size for start, length in record.weights):
            raise ValueError(f"slice {record.member!r} reads outside the weights")
    for spec in manifest.free_inputs():
        if not spec.accepts(manifest.sample_shapes[spec.name]):
            raise ValueError(f"the sample shape of {spec.name!r} does not fit it")
    if not set(manifest.fixed) | set(manifest.semantics) <= inputs:
        raise ValueError("an input that is not there has a value or a meaning")
    if manifest.quantisation and not {change.name for change in manifest.quantisation.outputs} <= outputs:
        raise ValueError("an output that is not there has changed")
    counts = manifest.found
    tried = len(manifest.cuts) + len(manifest.rejected)
    if counts.total < max(tried, counts.optimal + counts.dominated, counts.single_tensor):
        raise ValueError(f"{counts.total} candidates are fewer than what became of them")
    if counts.single_tensor < counts.dominated:
        raise ValueError(f"more than the {counts.single_tensor} candidates of one tensor are dominated")
    if any(cut.share > 1 for cut in manifest.cuts):
        raise ValueError("a cut is the best in more than all of the sweep")
    _check_slice(manifest, WHOLE, inputs, outputs)
    crossing = {cut.id: {spec.name for spec in cut.tensors} for cut in manifest.cuts}
    if len(crossing) != len(manifest.cuts):
        raise ValueError("two cuts have one id")
    for cut in manifest.cuts:
        if cut.reveals_input is False and not crossing[cut.id].isdisjoint(inputs - set(manifest.fixed)):
            raise ValueError(f"cut {cut.id!r} sends an input and is said to reveal none")
        here = set(cut.head_outputs)
        head = manifest.slices.get(head_name(cut.id))
        made = set(head.outputs) if head else set()
        _check_slice(manifest, head_name(cut.id), inputs, made)
        if not here <= outputs or not crossing[cut.id] | here <= made | inputs:
            raise ValueError(f"the head of cut {cut.id!r} does not make what crosses")
        _check_slice(manifest, tail_name(cut.id), crossing[cut.id], outputs - here)
    for first, second in manifest.middles():
        name = middle_name(first, second)
        made = set(manifest.slices[name].outputs)
        if not crossing[second] <= made | crossing[first]:
            raise ValueError(f"slice {name!r} does not make what crosses")
        _check_slice(manifest, name, crossing[first], made)
    for cut, codec in product(manifest.cuts, CARRIERS):
        _check_coding(manifest, cut, codec, inputs)
    _check_compiled(manifest)


def _check_coding(manifest: Manifest, cut: Cut, codec: str, inputs: set[str]) -> None:
    """A head that encodes gives what the plain one does and carriers besides; a tail that decodes takes only those."""
    carriers = {name for spec in cut.tensors for name in carrier_names(codec, spec.name)}
    plain_head, plain_tail = (manifest.slices[name(cut.id)] for name in (head_name, tail_name))
    if head_name(cut.id, codec) in manifest.slices:
        _check_slice(manifest, head_name(cut.id, codec), inputs, set(plain_head.outputs) | carriers)
    if tail_name(cut.id, codec) in manifest.slices:
        _check_slice(manifest, tail_name(cut.id, codec), carriers, set(plain_tail.outputs))


def _check_compiled(manifest: Manifest) -> None:
    """What is compiled is the head of a cut that is marked, takes and gives what that does, with its weights within."""
    marked = {edgetpu_name(head_name(cut.id)): cut for cut in manifest.cuts if _EDGETPU in cut.accelerators}
    for name, record in manifest.slices.items():
        if not name.endswith(EDGETPU_SUFFIX):
            continue
        if name not in marked:
            raise ValueError(f"slice {name!r} is compiled, and not the head of a cut that is marked for it")
        plain = manifest.slices[name.removesuffix(EDGETPU_SUFFIX)]
        if (plain.inputs, plain.outputs, ()) != (record.inputs, record.outputs, record.weights):
            raise ValueError(f"slice {name!r} takes or gives other tensors than what it was compiled from")


def _check_slice(manifest: Manifest, name: str, given: set[str], wanted: set[str]) -> None:
    record = manifest.slices.get(name)
    if record is None:
        raise ValueError(f"no slice {name!r}")
    if not set(record.inputs) <= given or set(record.outputs) != wanted:
        raise ValueError(f"slice {name!r} takes or gives other tensors than it should")


def _cut_to_json(cut: Cut) -> dict[str, Any]:
    value: dict[str, Any] = {
        "id": cut.id,
        "tensors": [_spec_to_json(spec) for spec in cut.tensors],
        "payload_bytes": cut.payload_bytes,
        "nodes": _to_ranges(cut.nodes),
        "head_outputs": list(cut.head_outputs),
        "share": cut.share,
        "accelerators": list(cut.accelerators),
    }
    return value if cut.reveals_input is None else value | {"reveals_input": cut.reveals_input}


def _cuts_from_json(value: list[dict[str, Any]]) -> tuple[Cut, ...]:
    # Ranges are short and what they stand for is not: all of them together are bounded.
    if sum(last - first + 1 for cut in value for first, last in cut["nodes"]) > _MAX_NODES:
        raise ValueError(f"the heads of the cuts have more than {_MAX_NODES} layers in all")
    return tuple(
        Cut(
            text(cut["id"]),
            _specs_from_json(cut["tensors"]),
            count(cut["payload_bytes"]),
            _from_ranges(cut["nodes"]),
            texts(cut["head_outputs"]),
            number(cut["share"]),
            _accelerators_from_json(cut["accelerators"]),
            truth(cut["reveals_input"]) if "reveals_input" in cut else None,
        )
        for cut in value
    )


def _accelerators_from_json(value: Any) -> tuple[str, ...]:
    if value not in ([], [_EDGETPU]):
        raise ValueError(f"{value!r} names accelerators that no head is marked for")
    return tuple(value)


def _quantisation_from_json(value: dict[str, Any]) -> Quantisation:
    changes = tuple(
        OutputChange(
            text(output["name"]),
            text(output["kind"]),
            share(output["agreement"]),
            *(None if output[key] is None else number(output[key]) for key in ("max_difference", "mean_difference")),
        )
        for output in value["outputs"]
    )
    if any(change.kind not in ("scores", "values", "exact") for change in changes):
        raise ValueError("an output has an answer of unknown kind")
    quantisation = Quantisation(
        text(value["dtype"]),
        count(value["model_bytes"]),
        text(value["model_sha256"]),
        count(value["samples"]),
        share(value["agreement"]),
        changes,
    )
    if quantisation.dtype != "int8" or quantisation.model_bytes == 0 or quantisation.samples == 0:
        raise ValueError("it is quantised from nothing, on nothing, or to an unknown dtype")
    return quantisation


def _ms(value: Any) -> float:
    """Milliseconds, at most 30 years of them: no sum of them overflows."""
    if number(value) > _MOST_MS:
        raise ValueError(f"{value!r} ms are more than a run can take")
    return float(value)


def _spec_to_json(spec: TensorSpec) -> dict[str, Any]:
    value: dict[str, Any] = {"name": spec.name, "dtype": spec.dtype.name, "shape": list(spec.shape)}
    if spec.scale is not None:
        value |= {"scale": spec.scale, "zero_point": spec.zero_point}
    if spec.may_be_empty:
        value["may_be_empty"] = True
    return value


def _spec_from_json(value: dict[str, Any]) -> TensorSpec:
    if value["dtype"] not in CARRIED_DTYPES:
        raise ValueError(f"dtype {value['dtype']!r} is not one of {', '.join(sorted(CARRIED_DTYPES))}")
    dtype = np.dtype(value["dtype"])
    shape = tuple(None if size is None else count(size) for size in value["shape"])
    empty = "may_be_empty" in value
    if "scale" not in value:
        return TensorSpec(text(value["name"]), dtype, shape, may_be_empty=empty)
    if type(value["zero_point"]) is not int:
        raise TypeError(f"{value['zero_point']!r} is not a zero point")
    return TensorSpec(text(value["name"]), dtype, shape, number(value["scale"]), value["zero_point"], empty)


def _specs_from_json(value: list[dict[str, Any]]) -> tuple[TensorSpec, ...]:
    specs = tuple(map(_spec_from_json, value))
    if len({spec.name for spec in specs}) != len(specs):
        raise ValueError("two tensors have one name")
    return specs


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
