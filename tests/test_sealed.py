"""Manifest, graph and costs as files: every value survives, damaged and hostile ones are one error."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from midstream.errors import BundleError
from midstream.inputs import AudioInput, ImageInput
from midstream.manifest import (
    FORMAT_VERSION,
    SLICES_FILE,
    WEIGHTS_FILE,
    WHOLE,
    CandidateCounts,
    CodingCost,
    Costs,
    Cut,
    Edge,
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
    tail_name,
)
from midstream.sealed import (
    costs_from_bytes,
    costs_to_bytes,
    graph_from_bytes,
    graph_to_bytes,
    manifest_digest,
    manifest_from_bytes,
    manifest_to_bytes,
)
from midstream.tensors import CARRIED_DTYPES, TensorSpec

NAMES = st.text(max_size=12)
COUNTS = st.integers(0, 2**53)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
TIMES = st.floats(0, 1e9)
LAYERS = st.sets(st.integers(0, 300), max_size=40).map(lambda indices: tuple(sorted(indices)))
SEMANTICS = st.builds(AudioInput, st.integers(1000, 384_000)) | st.builds(
    ImageInput,
    st.sampled_from(["NHWC", "NCHW"]),
    st.sampled_from(["RGB", "BGR", "GREY"]),
    st.lists(FINITE, min_size=1, max_size=3).map(tuple),
    st.lists(FINITE, min_size=1, max_size=3).map(tuple),
)


@st.composite
def specs(draw: st.DrawFn, name: str) -> TensorSpec:
    quantised = draw(st.booleans())
    return TensorSpec(
        name,
        np.dtype(draw(st.sampled_from(sorted(CARRIED_DTYPES)))),
        tuple(draw(st.lists(st.none() | st.integers(1, 2**31), max_size=5))),
        draw(st.floats(0, 1e30)) if quantised else None,
        draw(st.integers(-(2**31), 2**31)) if quantised else None,
        draw(st.booleans()),
    )


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    """Manifests whose parts fit each other: slices take and give what they are said to."""
    weights = draw(st.integers(0, 10_000))
    names = iter(draw(st.lists(NAMES, min_size=12, max_size=12, unique=True)))

    def few(of: Sequence[str]) -> tuple[str, ...]:
        return tuple(name for name in of if draw(st.booleans()))

    def some(count: int) -> tuple[TensorSpec, ...]:
        return tuple(draw(specs(next(names))) for _ in range(draw(st.integers(0, count))))

    def record(takes: Sequence[str], gives: Sequence[str]) -> SliceRecord:
        starts = draw(st.lists(st.integers(0, weights), max_size=3))
        ranges = tuple((start, draw(st.integers(0, weights - start))) for start in starts)
        return SliceRecord(draw(NAMES), draw(COUNTS), few(takes), tuple(gives), ranges, tuple(draw(st.lists(NAMES))))

    inputs, outputs = some(3), some(3)
    given, wanted = [spec.name for spec in inputs], [spec.name for spec in outputs]
    fixed = draw(st.sets(st.sampled_from(given))) if given else set()
    slices = {WHOLE: record(given, wanted)}
    cuts = []
    for cut_id in draw(st.lists(NAMES, max_size=3, unique=True)):
        crossing, here = some(2), few(wanted)
        made = [*(spec.name for spec in crossing), *here]
        slices[head_name(cut_id)] = record(given, made)
        slices[tail_name(cut_id)] = record(made[: len(crossing)], [name for name in wanted if name not in here])
        cuts.append(Cut(cut_id, crossing, draw(COUNTS), draw(LAYERS), here, draw(st.floats(0, 1))))
        cuts[-1] = replace(cuts[-1], reveals_input=draw(st.sampled_from([True, False, None])))
    rejected = draw(st.lists(st.builds(RejectedCut, NAMES, NAMES, st.none() | TIMES), max_size=2))
    optimal, dominated, others = (draw(st.integers(0, 5)) for _ in range(3))
    total = optimal + dominated + others + len(cuts) + len(rejected)
    values = st.integers() | FINITE | st.lists(st.booleans(), max_size=3)
    return Manifest(
        name=draw(NAMES),
        model_format=draw(st.sampled_from(["tflite", "onnx"])),
        model_bytes=draw(COUNTS),
        model_sha256=draw(NAMES),
        engine=draw(st.sampled_from(["litert", "onnx"])),
        inputs=inputs,
        outputs=outputs,
        sample_shapes={spec.name: tuple(size or 1 for size in spec.shape) for spec in inputs},
        cuts=tuple(cuts),
        slices=slices,
        files={WEIGHTS_FILE: FileRecord(weights, draw(NAMES)), SLICES_FILE: FileRecord(draw(COUNTS), draw(NAMES))},
        semantics={name: draw(SEMANTICS) for name in few(given)},
        fixed={name: draw(values) for name in fixed},
        rejected=tuple(rejected),
        tolerance=draw(TIMES),
        unpacked_bytes=draw(COUNTS),
        stateful=draw(st.booleans()),
        created_by=draw(NAMES),
        recipe=draw(NAMES),
        quantisation=draw(st.none() | quantisations(wanted)),
        found=CandidateCounts(total, optimal, dominated + others, dominated),
    )


def quantisations(outputs: Sequence[str]) -> st.SearchStrategy[Quantisation]:
    shares, sizes = st.floats(0, 1), st.integers(1, 2**53)
    kinds = st.sampled_from(["scores", "values", "exact"])

    def change(name: str) -> st.SearchStrategy[OutputChange]:
        return st.builds(OutputChange, st.just(name), kinds, shares, st.none() | TIMES, st.none() | TIMES)

    return st.builds(
        Quantisation, st.just("int8"), sizes, NAMES, sizes, shares, st.tuples(*(change(name) for name in outputs))
    )


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    count = draw(st.integers(0, 6))
    layers = tuple(
        Layer(
            index, draw(NAMES), draw(NAMES), draw(COUNTS), draw(COUNTS), draw(COUNTS), draw(st.booleans()), draw(COUNTS)
        )
        for index in range(count)
    )
    targets = draw(st.lists(st.integers(1, count - 1), max_size=6)) if count > 1 else []
    return Graph(layers, tuple(Edge(draw(st.integers(0, b - 1)), b, draw(COUNTS)) for b in targets))


COSTS = st.builds(
    Costs,
    NAMES,
    st.floats(min_value=0, max_value=1e9, exclude_min=True),
    st.dictionaries(NAMES, st.builds(SliceCost, TIMES, TIMES), max_size=4),
    st.lists(TIMES, max_size=4).map(tuple),
    NAMES,
    st.none() | st.floats(min_value=0, max_value=1e9, exclude_min=True),
    st.dictionaries(NAMES, st.builds(CodingCost, TIMES, TIMES), max_size=4),
)


def small() -> Manifest:
    x, y = TensorSpec("x", np.dtype(np.float32), (1, None)), TensorSpec("y", np.dtype(np.int8), (2,), 0.5, -3)
    names = (WHOLE, head_name("c1"), tail_name("c1"))
    return Manifest(
        name="small",
        model_format="onnx",
        model_bytes=9,
        model_sha256="00",
        engine="onnx",
        inputs=(x,),
        outputs=(y,),
        sample_shapes={"x": (1, 4)},
        cuts=(Cut("c1", (y,), 2, (0, 1, 2, 5)),),
        slices={
            name: SliceRecord(f"{name}.onnx", 5, ("y" if name == tail_name("c1") else "x",), ("y",), ((0, 16),))
            for name in names
        },
        files={WEIGHTS_FILE: FileRecord(16, "aa"), SLICES_FILE: FileRecord(5, "bb")},
        semantics={"x": AudioInput(16_000)},
        found=CandidateCounts(total=3, optimal=1, single_tensor=2, dominated=1),
    )


def seal(body: Any) -> bytes:
    """The documented form, with any body in it."""

    def canonical(value: Any) -> bytes:
        return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()

    return canonical({"body": body, "sha256": hashlib.sha256(canonical(body)).hexdigest()}) + b"\n"


def changed(data: bytes, value: Any, *path: Any) -> bytes:
    """A sealed file with one value replaced, and sealed again."""
    body = copy.deepcopy(json.loads(data)["body"])
    place = body
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return seal(body)


@settings(deadline=None, max_examples=60)
@given(manifests())
def test_every_manifest_survives(manifest: Manifest) -> None:
    data = manifest_to_bytes(manifest)
    again = manifest_from_bytes(data, "manifest.json")
    assert again == manifest
    assert all(type(index) is int for cut in again.cuts for index in cut.nodes)
    assert manifest_to_bytes(again) == data


@settings(deadline=None)
@given(graphs())
def test_every_graph_survives(graph: Graph) -> None:
    assert graph_from_bytes(graph_to_bytes(graph), "graph.json") == graph


@settings(deadline=None)
@given(COSTS)
def test_all_costs_survive(costs: Costs) -> None:
    assert costs_from_bytes(costs_to_bytes(costs), "costs.json") == costs


def test_a_slice_may_take_no_time() -> None:
    costs = Costs("here", 1.0, {"c1": SliceCost(0.0, 1.0), "c2": SliceCost(1.0, 0.0)}, (0.25, 0.75))
    assert costs_from_bytes(costs_to_bytes(costs), "costs.json") == costs


@pytest.mark.parametrize("path", [("whole_ms",), ("float_ms",), ("layers_ms", 0), ("cuts", "c1", 0)])
@pytest.mark.parametrize("value", [1e300, 10**400, -1, True, "1", None])
def test_times_that_no_run_takes_are_refused(path: tuple[Any, ...], value: Any) -> None:
    data = costs_to_bytes(Costs("here", 2.0, {"c1": SliceCost(1.0, 1.5)}, (2.0,), float_ms=1.0))
    with pytest.raises(BundleError, match=r"costs\.json does not read as this part of a bundle"):
        costs_from_bytes(changed(data, value, *path), "costs.json")


@pytest.mark.parametrize("key", ["macs", "weight_bytes", "output_bytes", "flops"])
def test_a_graph_with_a_number_beyond_63_bits_is_refused(key: str) -> None:
    graph = json.loads(graph_to_bytes(Graph((Layer(0, "a", "Conv", 1, 2, 3),), ())))
    with pytest.raises(BundleError, match="below 2⁶³"):
        graph_from_bytes(json.dumps(graph | {key: [1 << 63]}).encode(), "graph.json")


def test_a_static_layer_that_is_not_there_is_refused() -> None:
    graph = json.loads(graph_to_bytes(Graph((Layer(0, "a", "Conv", 1, 2, 3),), ())))
    with pytest.raises(BundleError, match="a static layer is not in the graph"):
        graph_from_bytes(json.dumps(graph | {"static": [1]}).encode(), "graph.json")


def test_a_manifest_is_sealed_as_documented() -> None:
    data = manifest_to_bytes(small())
    assert data == seal(json.loads(data)["body"])
    assert data.isascii()
    assert manifest_digest(data) == hashlib.sha256(data).digest()


def test_the_order_of_a_dict_does_not_change_the_bytes() -> None:
    manifest = small()
    turned = replace(manifest, slices=dict(reversed(manifest.slices.items())))
    assert manifest_to_bytes(turned) == manifest_to_bytes(manifest)
    assert manifest_digest(manifest_to_bytes(replace(manifest, name="other"))) != manifest_digest(
        manifest_to_bytes(manifest)
    )


def test_layers_are_stored_as_ranges() -> None:
    long = replace(small(), cuts=(replace(small().cuts[0], nodes=tuple(range(100_000))),))
    data = manifest_to_bytes(long)
    assert len(data) < len(manifest_to_bytes(small())) + 10
    assert manifest_from_bytes(data, "").cuts[0].nodes == tuple(range(100_000))


def with_cut(**changes: Any) -> Manifest:
    return replace(small(), cuts=(replace(small().cuts[0], **changes),))


@pytest.mark.parametrize("reveals", [True, False])
def test_whether_a_cut_reveals_the_input_is_kept(reveals: bool) -> None:
    data = manifest_to_bytes(with_cut(reveals_input=reveals))
    assert manifest_from_bytes(data, "m").cuts[0].reveals_input is reveals


def test_a_manifest_of_an_earlier_release_does_not_tell_what_reveals_the_input() -> None:
    data = manifest_to_bytes(small())
    assert b"reveals_input" not in data
    assert manifest_from_bytes(data, "m").cuts[0].reveals_input is None


@pytest.mark.parametrize("value", [None, 0, 1, "", "false", []])
def test_what_does_not_say_whether_a_cut_reveals_the_input_is_refused(value: Any) -> None:
    data = manifest_to_bytes(with_cut(reveals_input=False))
    with pytest.raises(BundleError, match="is not a truth value"):
        manifest_from_bytes(changed(data, value, "cuts", 0, "reveals_input"), "m")


def test_a_cut_that_sends_an_input_cannot_reveal_none() -> None:
    manifest = with_cut(tensors=(small().inputs[0], small().outputs[0]), reveals_input=False)
    manifest = replace(manifest, fixed={"x": 1.0}, semantics={})
    assert manifest_from_bytes(manifest_to_bytes(manifest), "m") == manifest
    with pytest.raises(BundleError, match="sends an input and is said to reveal none"):
        manifest_from_bytes(manifest_to_bytes(replace(manifest, fixed={})), "m")


QUANTISED = Quantisation("int8", 20, "00", 3, 1.0, (OutputChange("y", "scores", 1.0, 0.25, None),))


def test_what_was_not_quantised_has_no_such_key() -> None:
    assert b"quantisation" not in manifest_to_bytes(small())
    assert b"float_ms" not in costs_to_bytes(Costs("here", 1.0, {}, ()))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ((), None),
        ((), []),
        ((), {}),
        (("dtype",), "int4"),
        (("dtype",), None),
        (("model_bytes",), 0),
        (("model_bytes",), 1.5),
        (("model_sha256",), 7),
        (("samples",), 0),
        (("samples",), True),
        (("agreement",), 1.01),
        (("agreement",), -0.5),
        (("agreement",), None),
        (("agreement",), "1"),
        (("outputs",), None),
        (("outputs", 0), []),
        (("outputs", 0, "name"), "x"),
        (("outputs", 0, "kind"), "other"),
        (("outputs", 0, "agreement"), 2),
        (("outputs", 0, "max_difference"), -1.0),
        (("outputs", 0, "mean_difference"), "0"),
    ],
)
def test_a_sealed_quantisation_that_means_nothing_is_refused(path: tuple[Any, ...], value: Any) -> None:
    data = manifest_to_bytes(replace(small(), quantisation=QUANTISED))
    assert manifest_from_bytes(data, "m").quantisation == QUANTISED
    with pytest.raises(BundleError, match="does not read as this part of a bundle"):
        manifest_from_bytes(changed(data, value, "quantisation", *path), "manifest.json")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_never_written(value: float) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        manifest_to_bytes(replace(small(), tolerance=value))
    with pytest.raises(ValueError, match="JSON compliant"):
        costs_to_bytes(Costs("here", value, {}, ()))


SEALED: dict[str, tuple[bytes, Callable[[bytes, str], object]]] = {
    "manifest.json": (manifest_to_bytes(small()), manifest_from_bytes),
    "costs.json": (costs_to_bytes(Costs("here", 2.0, {"c1": SliceCost(1.0, 1.5)}, (2.0,))), costs_from_bytes),
}


@pytest.mark.parametrize("name", SEALED)
def test_any_flipped_bit_is_seen(name: str) -> None:
    data, read = SEALED[name]
    for bit in range(0, 8 * len(data), 3):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(BundleError, match=name):
            read(bytes(flipped), name)


@pytest.mark.parametrize("name", SEALED)
def test_any_lost_end_is_seen(name: str) -> None:
    data, read = SEALED[name]
    for length in range(len(data)):
        with pytest.raises(BundleError, match=rf"{name} is damaged.*convert the model again"):
            read(data[:length], name)


def pretty(data: bytes) -> bytes:
    return json.dumps(json.loads(data), indent=1).encode()


def utf16(data: bytes) -> bytes:
    return data.decode().encode("utf-16")


@pytest.mark.parametrize("name", SEALED)
@pytest.mark.parametrize(
    "damage",
    [
        pretty,
        utf16,
        lambda data: data[:-1],
        lambda data: data + b"\n",
        lambda data: b" " + data,
        lambda data: data.replace(b'"body":{', b'"body":{"format":2,', 1),
        lambda data: data.replace(b'"body"', b'"nobody"'),
        lambda data: data.replace(b'"sha256"', b'"more":0,"sha256"'),
        lambda _: b"",
        lambda _: b"null",
        lambda _: b"[]",
        lambda _: b"\xff\xfe\xfd",
        lambda _: b'{"body":[],"sha256":""}',
        lambda _: b'{"body":' + b"[" * 100_000,
        lambda _: b'{"body":{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}}",
        lambda _: b'{"body":{"format":2,"x":' + b"9" * 5000 + b"}}",
        lambda _: b'{"body":{"format":NaN}}',
        lambda data: seal(json.loads(data)["body"] | {"tolerance": float("nan"), "whole_ms": float("nan")}),
        lambda data: seal(json.loads(data)["body"] | {"tolerance": float("inf"), "whole_ms": float("inf")}),
        lambda data: seal(json.loads(data)["body"] | {"format": "1"}),
        lambda data: seal(json.loads(data)["body"] | {"format": None}),
        lambda data: seal({key: value for key, value in json.loads(data)["body"].items() if key != "format"}),
    ],
)
def test_only_the_canonical_bytes_are_read(name: str, damage: Callable[[bytes], bytes]) -> None:
    data, read = SEALED[name]
    with pytest.raises(BundleError, match=f"{name} is damaged"):
        read(damage(data), name)


@pytest.mark.parametrize("name", SEALED)
@pytest.mark.parametrize("version", [-1, 0, FORMAT_VERSION + 1, 10**30])
def test_another_format_version_is_named(name: str, version: int) -> None:
    data, read = SEALED[name]
    with pytest.raises(BundleError, match=rf"{name} has bundle format version {version}; this midstream reads version"):
        read(changed(data, version, "format"), name)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("cuts", 0, "nodes"), [[-1, 2]]),
        (("cuts", 0, "nodes"), [[0, 10**9]]),
        (("cuts", 0, "nodes"), [[10**12, 10**12]]),
        (("cuts", 0, "nodes"), [[3, 2]]),
        (("cuts", 0, "nodes"), [[0, 2], [2, 3]]),
        (("cuts", 0, "nodes"), [[4, 5], [0, 1]]),
        (("cuts", 0, "nodes"), [[0, 1, 2]]),
        (("cuts", 0, "nodes"), [[0.5, 1]]),
        (("cuts", 0, "nodes"), [["0", "1"]]),
        (("cuts", 0, "nodes"), 7),
        (("cuts",), None),
        (("cuts", 0, "id"), "c2"),
        (("cuts", 0, "accelerators"), ["abacus"]),
        (("cuts", 0, "accelerators"), ["edgetpu", "edgetpu"]),
        (("cuts", 0, "accelerators"), "edgetpu"),
        (("cuts", 0, "accelerators"), None),
        (("cuts", 0, "payload_bytes"), None),
        (("slices",), {}),
        (("slices", WHOLE, "weights"), [[-16, 16]]),
        (("slices", WHOLE, "weights"), [[0, -1]]),
        (("slices", WHOLE, "weights"), [[0, 17]]),
        (("slices", WHOLE, "weights"), [[10**30, 1]]),
        (("slices", WHOLE, "weights"), [[0]]),
        (("slices", WHOLE, "bytes"), "many"),
        (("engine",), "pickle"),
        (("engine",), ["onnx"]),
        (("model", "format"), "exe"),
        (("model",), "onnx"),
        (("inputs", 0, "dtype"), "object"),
        (("inputs", 0, "dtype"), "float128"),
        (("inputs", 0, "dtype"), "<U9"),
        (("inputs", 0, "dtype"), ["float32"]),
        (("inputs", 0, "dtype"), None),
        (("inputs", 0, "shape"), ["wide"]),
        (("inputs", 0, "shape"), 4),
        (("inputs", 0), "x"),
        (("outputs", 0, "scale"), "small"),
        (("outputs", 0, "zero_point"), None),
        (("files", WEIGHTS_FILE), None),
        (("files", "../../etc/passwd"), {"bytes": 1, "sha256": ""}),
        (("files",), {}),
        (("semantics", "x"), {"kind": "video"}),
        (("semantics", "x"), {"kind": "image", "layout": "CHWN", "colour": "RGB", "scale": [1], "mean": [0]}),
        (("semantics", "x"), {"kind": "image", "layout": "NHWC", "colour": "RGB", "scale": 1, "mean": [0]}),
        (("semantics", "x"), {"kind": "audio", "sample_rate": []}),
        (("sample_shapes", "x"), 5),
        (("tolerance",), "none"),
        (("unpacked_bytes",), {}),
        (("fixed",), 3),
    ],
)
def test_a_sealed_manifest_that_means_nothing_is_refused(path: tuple[Any, ...], value: Any) -> None:
    data, read = SEALED["manifest.json"]
    with pytest.raises(BundleError, match=r"manifest\.json does not read as this part of a bundle"):
        read(changed(data, value, *path), "manifest.json")


def with_compiled(name: str, marks: tuple[str, ...], **changes: Any) -> bytes:
    """A manifest with a compiled slice of this name, which is the head's but for the changes."""
    manifest = small()
    record = replace(manifest.slices[head_name("c1")], **({"weights": ()} | changes))
    cut = replace(manifest.cuts[0], accelerators=marks)
    return manifest_to_bytes(replace(manifest, cuts=(cut,), slices=manifest.slices | {edgetpu_name(name): record}))


def test_the_head_of_a_marked_cut_may_be_compiled() -> None:
    name = edgetpu_name(head_name("c1"))
    assert name in manifest_from_bytes(with_compiled(head_name("c1"), ("edgetpu",)), "").slices


@pytest.mark.parametrize(
    ("name", "marks", "changes"),
    [
        (head_name("c1"), (), {}),
        (tail_name("c1"), ("edgetpu",), {}),
        (head_name("c2"), ("edgetpu",), {}),
        (WHOLE, ("edgetpu",), {}),
        ("", ("edgetpu",), {}),
        (head_name("c1"), ("edgetpu",), {"inputs": ()}),
        (head_name("c1"), ("edgetpu",), {"outputs": ("x",)}),
        (head_name("c1"), ("edgetpu",), {"weights": ((0, 16),)}),
    ],
)
def test_nothing_else_is_compiled(name: str, marks: tuple[str, ...], changes: dict[str, Any]) -> None:
    data = with_compiled(name, marks, **changes)
    with pytest.raises(BundleError, match=r"manifest\.json does not read as this part of a bundle"):
        manifest_from_bytes(data, "manifest.json")


def with_coding(name: str, takes: tuple[str, ...], gives: tuple[str, ...]) -> bytes:
    manifest = small()
    record = SliceRecord("coding.onnx", 5, takes, gives)
    return manifest_to_bytes(replace(manifest, slices=manifest.slices | {name: record}))


def test_heads_and_tails_may_code_what_crosses_themselves() -> None:
    assert carrier_names("int8", "y") == ("y.codes", "y.scale", "y.zero")
    head = with_coding("c1.head.int8", ("x",), ("y", "y.codes", "y.scale", "y.zero"))
    tail = with_coding("c1.tail.int8", ("y.codes", "y.scale", "y.zero"), ("y",))
    assert head_name("c1", "int8") in manifest_from_bytes(head, "").slices
    assert tail_name("c1", "int8") in manifest_from_bytes(tail, "").slices


@pytest.mark.parametrize(
    ("name", "takes", "gives"),
    [
        ("c1.head.int8", ("x",), ("y.codes", "y.scale", "y.zero")),
        ("c1.head.int8", ("x",), ("y", "y.codes", "y.scale")),
        ("c1.head.int8", ("x",), ("y", "y.codes", "y.scale", "y.zero", "z")),
        ("c1.head.int8", ("y",), ("y", "y.codes", "y.scale", "y.zero")),
        ("c1.tail.int8", ("y.codes", "y.scale", "y.zero", "y"), ("y",)),
        ("c1.tail.int8", ("y.codes", "y.scale", "y.zero"), ()),
    ],
)
def test_slices_that_code_something_else_are_refused(name: str, takes: tuple[str, ...], gives: tuple[str, ...]) -> None:
    with pytest.raises(BundleError, match=f"slice '{name}' takes or gives other tensors than it should"):
        manifest_from_bytes(with_coding(name, takes, gives), "manifest.json")


@pytest.mark.parametrize(("within", "beside", "pays"), [(0.8, 1.0, True), (0.95, 1.0, False), (2.0, 1.0, False)])
def test_coding_within_a_slice_pays_where_it_is_clearly_quicker(within: float, beside: float, pays: bool) -> None:
    assert CodingCost(within, beside).pays == pays


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("whole_ms",), 0),
        (("whole_ms",), -1.5),
        (("whole_ms",), None),
        (("cuts", "c1"), [-0.1, 1]),
        (("cuts", "c1"), [1, -0.1]),
        (("cuts", "c1"), [1]),
        (("cuts", "c1"), [1, "fast"]),
        (("cuts",), []),
        (("float_ms",), 0),
        (("float_ms",), None),
        (("float_ms",), -1),
        (("coding",), []),
        (("coding",), {"c1.head.int8": [1]}),
        (("coding",), {"c1.head.int8": [-1, 1]}),
        (("coding",), {"c1.head.int8": [1, None]}),
    ],
)
def test_sealed_costs_that_mean_nothing_are_refused(path: tuple[Any, ...], value: Any) -> None:
    data, read = SEALED["costs.json"]
    with pytest.raises(BundleError, match=r"costs\.json does not read as this part of a bundle"):
        read(changed(data, value, *path), "costs.json")


GRAPH = Graph((Layer(0, "a", "Conv", 5, 6, 7), Layer(1, "b", "Relu", 0, 0, 7, static=True)), (Edge(0, 1, 7),))


@pytest.mark.parametrize(
    "change",
    [
        {"edges": [[1, 0, 7]]},
        {"edges": [[0, 0, 7]]},
        {"edges": [[-1, 1, 7]]},
        {"edges": [[0, 2, 7]]},
        {"edges": [[0, 1]]},
        {"edges": [[0, 1, None]]},
        {"macs": [1]},
        {"macs": [1, float("nan")]},
        {"macs": [1, float("inf")]},
        {"macs": [1, "many"]},
        {"weight_bytes": None},
        {"static": [[]]},
        {"static": 5},
    ],
)
def test_a_graph_that_means_nothing_is_refused(change: dict[str, Any]) -> None:
    body = json.loads(graph_to_bytes(GRAPH))
    assert graph_from_bytes(json.dumps(body).encode(), "graph.json") == GRAPH
    with pytest.raises(BundleError, match=r"graph\.json does not read as this part of a bundle"):
        graph_from_bytes(json.dumps(body | change).encode(), "graph.json")


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"7", b"\xff\xfe", b"[" * 100_000, b'{"edges":' * 100_000])
def test_a_damaged_graph_is_refused(data: bytes) -> None:
    with pytest.raises(BundleError, match=r"graph\.json does not read"):
        graph_from_bytes(data, "graph.json")


@pytest.mark.parametrize("read", [manifest_from_bytes, costs_from_bytes, graph_from_bytes])
@settings(deadline=None)
@given(data=st.binary(max_size=60) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda part: st.lists(part, max_size=3) | st.dictionaries(st.sampled_from(["body", "edges", "name"]), part),
    max_leaves=8,
).map(lambda value: json.dumps(value).encode()))  # fmt: skip
def test_anything_else_is_refused(read: Callable[[bytes, str], object], data: bytes) -> None:
    with pytest.raises(BundleError, match=r"^some/file "):
        read(data, "some/file")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("outputs", 0, "name"), "z"),
        (("sample_shapes",), {}),
        (("sample_shapes", "x"), [2, 4]),
        (("slices", WHOLE, "inputs"), [["x"]]),
        (("slices", WHOLE, "inputs"), "x"),
        (("slices", WHOLE, "outputs"), []),
        (("slices", head_name("c1"), "outputs"), []),
        (("slices", tail_name("c1"), "inputs"), ["x"]),
        (("slices", tail_name("c1"), "weights"), [[-8, 8]]),
        (("cuts", 0, "payload_bytes"), -1),
        (("cuts", 0, "head_outputs"), ["x"]),
        (("cuts", 0, "share"), 1.1),
        (("cuts", 0, "share"), -0.1),
        (("cuts", 0, "share"), None),
        (("found",), {}),
        (("found",), {"total": 9, "optimal": 1, "single_tensor": 1, "dominated": 0, "secret": 1}),
        (("found", "total"), 0),
        (("found", "total"), 10**30 + 0.5),
        (("found", "optimal"), 4),
        (("found", "optimal"), -1),
        (("found", "single_tensor"), 10**30),
        (("found", "dominated"), 3),
        (("cuts", 0, "nodes"), [[0, 9_999_999]]),
        (("cuts", 0, "tensors", 0, "shape"), [-2]),
        (("cuts", 0, "tensors", 0, "scale"), "nan"),
        (("fixed",), {"nobody": 1}),
        (("tolerance",), "inf"),
        (("unpacked_bytes",), True),
        (("files", WEIGHTS_FILE, "bytes"), 1.0),
    ],
)
def test_a_manifest_whose_parts_do_not_fit_is_refused(path: tuple[str | int, ...], value: Any) -> None:
    with pytest.raises(BundleError, match="does not read as this part of a bundle"):
        manifest_from_bytes(changed(manifest_to_bytes(small()), value, *path), "manifest.json")


def test_cuts_of_one_id_are_refused() -> None:
    twice = replace(small(), cuts=small().cuts * 2)
    with pytest.raises(BundleError, match="two cuts have one id"):
        manifest_from_bytes(manifest_to_bytes(twice), "manifest.json")
