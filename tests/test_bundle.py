"""A bundle that was opened: what it refuses, what it runs, what it keeps loaded."""

from __future__ import annotations

import hashlib
import io
import json
import lzma
import os
import shutil
import tarfile
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import onnx
import onnx.parser
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from midstream.bundle import Bundle
from midstream.communication.wire import EncodedTensor
from midstream.engines import engine_for
from midstream.errors import BundleError, CodecError, InputError
from midstream.inputs import AudioInput, ImageInput
from midstream.manifest import (
    BUNDLE_FILES,
    COSTS_FILE,
    FORMAT_VERSION,
    GRAPH_MEMBER,
    MANIFEST_FILE,
    SLICES_FILE,
    WEIGHTS_FILE,
    CodingCost,
    FileRecord,
    Graph,
    Manifest,
    head_name,
    tail_name,
)
from midstream.sealed import costs_to_bytes, graph_to_bytes, manifest_to_bytes
from midstream.tensors import Tensors
from midstream_converters.convert import convert
from midstream_converters.opening import Options

FILES = sorted(BUNDLE_FILES)
CODECS = ("raw", "lossless")
PICTURE = ImageInput("NHWC", "RGB", (1 / 127.5,), (127.5,))


@pytest.fixture(scope="module")
def model(assets: Path) -> Path:
    return assets / "models" / "face_detection_short_range.tflite"


@pytest.fixture(scope="module")
def faces(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("bundles") / "faces"
    convert(model, target, Options(max_cuts=3, semantics={"input": PICTURE}))
    return target


@pytest.fixture
def copy(faces: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(faces, tmp_path / "copy"))


@pytest.fixture(scope="module")
def scaled(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """y = tanh(x · by) + 1, with ``by`` bound to 3."""
    parsed = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[1,4] x, int64[1] by) => (float[1,4] y)
        <float[1] one = {1.0}> { f = Cast<to=1>(by)\n a = Mul(x, f)\n b = Tanh(a)\n y = Add(b, one) }"""
    )
    folder = tmp_path_factory.mktemp("scaled")
    onnx.save(parsed, folder / "scaled.onnx")
    convert(
        folder / "scaled.onnx",
        folder / "bundle",
        Options(max_cuts=None, values={"by": [3]}, semantics={"x": AudioInput(8000)}),
    )
    return Bundle.open(folder / "bundle")


@pytest.fixture(scope="module")
def coded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """y = exp(mean(σ(tanh(x)))), with slices that code for the first two cuts."""
    parsed = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[1,16,16,64] x) => (float[1,16,1,64] y)
        { a = Tanh(x)\n b = Sigmoid(a)\n c = ReduceMean<axes=[2]>(b)\n y = Exp(c) }"""
    )
    folder = tmp_path_factory.mktemp("coded")
    onnx.save(parsed, folder / "coded.onnx")
    convert(folder / "coded.onnx", folder / "bundle", Options(max_cuts=None))
    return folder / "bundle"


@pytest.fixture
def coding(coded: Path) -> Bundle:
    """Opened as if all slices that code paid."""
    bundle = Bundle.open(coded)
    assert set(bundle.costs.coding) == {f"{cut}.{end}.int8" for cut in ("c1", "c2") for end in ("head", "tail")}
    return with_coding(bundle, set(bundle.costs.coding))


def with_coding(bundle: Bundle, paying: set[str]) -> Bundle:
    """The same as if these slices were quicker, and no others."""
    times = {name: CodingCost(0.1, 1.0 if name in paying else 0.1) for name in bundle.costs.coding}
    found = Bundle.open(bundle.path)
    found.costs = replace(found.costs, coding=times)
    return found


def noise(seed: int = 0) -> Tensors:
    return {"x": np.random.default_rng(seed).normal(size=(1, 16, 16, 64)).astype(np.float32)}


def frame(seed: int = 0) -> Tensors:
    rng = np.random.default_rng(seed)
    return {"input": rng.uniform(-1, 1, (1, 128, 128, 3)).astype(np.float32)}


def same_bits(found: Tensors, wanted: Tensors) -> bool:
    return list(found) == list(wanted) and all(found[name].tobytes() == wanted[name].tobytes() for name in wanted)


def rewrite(folder: Path, change: Callable[[Manifest], Manifest]) -> None:
    """Change a manifest as somebody would who seals it again."""
    manifest = Bundle.open(folder).manifest
    (folder / MANIFEST_FILE).write_bytes(manifest_to_bytes(change(manifest)))


def repack(folder: Path, change: Callable[[dict[str, bytes]], dict[str, bytes]]) -> None:
    """Change the members of the archive, and the manifest so that it tells the truth about the file."""
    with tarfile.open(folder / SLICES_FILE) as archive:
        members = {entry.name: archive.extractfile(entry).read() for entry in archive}  # type: ignore[union-attr]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in change(members).items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    manifest = Bundle.open(folder).manifest
    packed = lzma.compress(buffer.getvalue())
    record = FileRecord(len(packed), hashlib.sha256(packed).hexdigest())
    (folder / SLICES_FILE).write_bytes(packed)
    told = replace(manifest, files={**manifest.files, SLICES_FILE: record}, unpacked_bytes=len(buffer.getvalue()))
    (folder / MANIFEST_FILE).write_bytes(manifest_to_bytes(told))


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_anywhere_is_seen(copy: Path, name: str) -> None:
    content = (copy / name).read_bytes()
    places = {0, 1, len(content) - 2, len(content) - 1, *np.linspace(2, len(content) - 3, 40).astype(int)}
    for number, place in enumerate(sorted(places)):
        flipped = bytearray(content)
        flipped[place] ^= 1 << number % 8
        (copy / name).write_bytes(flipped)
        with pytest.raises(BundleError, match=name):
            Bundle.open(copy)
    (copy / name).write_bytes(content)
    Bundle.open(copy)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: data + b"\0", lambda _: b""])
def test_a_file_of_another_length_is_seen(copy: Path, name: str, change: Callable[[bytes], bytes]) -> None:
    (copy / name).write_bytes(change((copy / name).read_bytes()))
    reason = "is damaged" if name in (MANIFEST_FILE, COSTS_FILE) else "bytes where its manifest says"
    with pytest.raises(BundleError, match=f"{name}.*{reason}"):
        Bundle.open(copy)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(BundleError, match=rf"{name} is missing.*convert the model again"):
        Bundle.open(copy)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("what", ["link", "pipe", "folder", "device"])
def test_only_regular_files_are_read(copy: Path, tmp_path: Path, name: str, what: str) -> None:
    (copy / name).rename(tmp_path / "original")
    if what == "link":
        (copy / name).symlink_to(tmp_path / "original")
    elif what == "pipe":
        os.mkfifo(copy / name)
    elif what == "folder":
        (copy / name).mkdir()
    else:
        (copy / name).symlink_to("/dev/zero")
    reason = "it is a link" if what in ("link", "device") else "is not a regular file"
    with pytest.raises(BundleError, match=f"{name}.*{reason}"):
        Bundle.open(copy)


def test_what_is_no_bundle_is_refused(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"manifest\.json is a file; a bundle is a folder"):
        Bundle.open(copy / MANIFEST_FILE)
    with pytest.raises(BundleError, match="nowhere is not a bundle"):
        Bundle.open(tmp_path / "nowhere")


def test_a_manifest_without_end_is_not_read(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = (copy / MANIFEST_FILE).stat().st_size
    monkeypatch.setattr("midstream.bundle_files.MAX_MANIFEST_BYTES", size)
    Bundle.open(copy)
    monkeypatch.setattr("midstream.bundle_files.MAX_MANIFEST_BYTES", size - 1)
    with pytest.raises(BundleError, match=rf"manifest\.json is larger than {size - 1} bytes"):
        Bundle.open(copy)


@pytest.mark.parametrize("version", [0, FORMAT_VERSION + 1, 99])
@pytest.mark.parametrize("name", [MANIFEST_FILE, COSTS_FILE])
def test_an_unknown_format_version_is_named(copy: Path, name: str, version: int) -> None:
    body = json.loads((copy / name).read_bytes())["body"] | {"format": version}
    plain = json.dumps(body, sort_keys=True, separators=(",", ":"))
    sealed = {"body": body, "sha256": hashlib.sha256(plain.encode()).hexdigest()}
    (copy / name).write_text(json.dumps(sealed, sort_keys=True, separators=(",", ":")) + "\n")
    with pytest.raises(BundleError, match=rf"{name} has bundle format version {version}; .* reads version"):
        Bundle.open(copy)


def test_costs_of_another_bundle_are_refused(copy: Path, model: Path, tmp_path: Path) -> None:
    convert(model, tmp_path / "other", Options(max_cuts=1))
    shutil.copy(tmp_path / "other" / COSTS_FILE, copy)
    with pytest.raises(BundleError, match=r"costs\.json belongs to another bundle"):
        Bundle.open(copy)


@pytest.mark.parametrize("slice_of", [head_name, tail_name, lambda _: "whole"])
def test_a_slice_that_the_manifest_lacks_is_missed_at_once(copy: Path, slice_of: Callable[[str], str]) -> None:
    name = slice_of(Bundle.open(copy).cuts[0].id)
    rewrite(copy, lambda old: replace(old, slices={key: old.slices[key] for key in old.slices if key != name}))
    with pytest.raises(BundleError, match=f"no slice '{name}'"):
        Bundle.open(copy)


def test_a_slice_that_the_archive_lacks_is_missed_when_it_is_needed(copy: Path) -> None:
    cut = Bundle.open(copy).cuts[0].id
    member = Bundle.open(copy).manifest.slices[tail_name(cut)].member
    repack(copy, lambda members: {name: members[name] for name in members if name != member})
    bundle = Bundle.open(copy)
    bundle.run(frame())
    with pytest.raises(BundleError, match=f"lacks the slice '{member}'"):
        bundle.run_split(frame(), cut=cut)


def test_a_graph_that_is_not_the_cuts_is_refused(copy: Path) -> None:
    repack(copy, lambda members: {**members, GRAPH_MEMBER: graph_to_bytes(Graph((), ()))})
    bundle = Bundle.open(copy)
    bundle.run(frame())
    with pytest.raises(BundleError, match=r"graph\.json has 0 layers, and a cut of the bundle more"):
        bundle.graph  # noqa: B018


def test_a_slice_larger_than_announced_is_refused(copy: Path) -> None:
    record = Bundle.open(copy).manifest.slices["whole"]
    repack(copy, lambda members: {**members, record.member: members[record.member] + b"\0"})
    with pytest.raises(BundleError, match=record.member):
        Bundle.open(copy).run(frame())


def test_a_slice_that_is_no_program_is_refused(copy: Path) -> None:
    record = Bundle.open(copy).manifest.slices["whole"]
    repack(copy, lambda members: {**members, record.member: b"no model".ljust(record.bytes)})
    with pytest.raises(BundleError, match=f"LiteRT cannot load slice '{record.member}'"):
        Bundle.open(copy).run(frame())


def test_a_slice_may_not_read_outside_the_weights(copy: Path) -> None:
    end = (copy / WEIGHTS_FILE).stat().st_size

    def stretch(old: Manifest) -> Manifest:
        return replace(old, slices={**old.slices, "whole": replace(old.slices["whole"], weights=((end - 16, 17),))})

    rewrite(copy, stretch)
    with pytest.raises(BundleError, match="reads outside the weights"):
        Bundle.open(copy)


def test_a_bundle_says_what_it_is(faces: Path) -> None:
    bundle = Bundle.open(str(faces))
    assert (bundle.name, bundle.path) == ("face_detection_short_range", faces)
    assert [(spec.name, spec.dtype, spec.shape) for spec in bundle.inputs] == [("input", np.float32, (1, 128, 128, 3))]
    assert [spec.name for spec in bundle.outputs] == ["regressors", "classificators"]
    assert bundle.bundle_bytes == sum((faces / name).stat().st_size for name in FILES)
    assert bundle.digest == hashlib.sha256((faces / MANIFEST_FILE).read_bytes()).digest()
    assert bundle.image_inputs == {"input": PICTURE}
    assert bundle.input_bytes == 128 * 128 * 3 * 4
    assert bundle.crossing_specs(None) == bundle.inputs
    assert bundle.measure_whole_ms(1) > 0


def test_only_pictures_are_picture_inputs_and_only_files_have_a_size(scaled: Bundle, copy: Path) -> None:
    assert scaled.image_inputs == {}
    size = Bundle.open(copy).bundle_bytes
    (copy / "folder").mkdir()
    assert Bundle.open(copy).bundle_bytes == size


def test_cuts_come_shortest_head_first(faces: Path) -> None:
    bundle = Bundle.open(faces)
    assert [len(cut.nodes) for cut in bundle.cuts] == sorted(len(cut.nodes) for cut in bundle.cuts)
    for cut in bundle.cuts:
        crossing, _ = bundle.run_head(cut.id, frame())
        assert cut.payload_bytes == sum(tensor.nbytes for tensor in crossing.values())
        assert [spec.name for spec in bundle.crossing_specs(cut.id)] == list(crossing)
        assert all(spec.accepts(crossing[spec.name].shape) for spec in cut.tensors)


def test_the_resource_map_holds_every_layer(faces: Path) -> None:
    bundle = Bundle.open(faces)
    resources = bundle.resource_map
    assert nx.is_directed_acyclic_graph(resources)
    assert set(resources) == {layer.index for layer in bundle.graph.layers}
    assert {node for cut in bundle.cuts for node in cut.nodes} < set(resources)
    assert sum(cpu_ms for _, cpu_ms in resources.nodes(data="cpu_ms")) == pytest.approx(bundle.costs.whole_ms)
    assert min(size for *_, size in resources.edges(data="bytes")) > 0


@pytest.mark.parametrize("codec", CODECS)
def test_every_cut_gives_the_bits_of_the_whole(faces: Path, codec: str) -> None:
    bundle = Bundle.open(faces)
    wanted = bundle.run(frame())
    assert list(wanted) == ["regressors", "classificators"]
    assert not same_bits(wanted, bundle.run(frame(seed=1)))
    for cut in bundle.cuts:
        assert same_bits(bundle.run_split(frame(), cut=cut.id, codec=codec), wanted)


@pytest.mark.parametrize("codec", CODECS)
def test_several_cuts_give_the_bits_of_the_whole_too(faces: Path, codec: str) -> None:
    bundle = Bundle.open(faces)
    assert bundle.manifest.middles()
    for pair in bundle.manifest.middles():
        assert same_bits(bundle.run_split(frame(), cut=pair, codec=codec), bundle.run(frame()))
        with pytest.raises(BundleError, match="has no slice from cut"):
            bundle.run_split(frame(), cut=[*reversed(pair)])
    with pytest.raises(BundleError, match="needs at least one cut"):
        bundle.run_split(frame(), cut=[])


def test_inputs_need_not_be_contiguous(faces: Path) -> None:
    bundle = Bundle.open(faces)
    turned = {"input": np.asfortranarray(frame()["input"])}
    assert same_bits(bundle.run(turned), bundle.run(frame()))
    assert same_bits(bundle.run_split(turned, cut=bundle.cuts[0].id), bundle.run(frame()))


@pytest.mark.parametrize(
    ("inputs", "reason"),
    [
        ({}, "input 'input' of bundle 'face_detection_short_range' is missing; it takes input: float32"),
        (frame() | {"other": np.zeros(1)}, "has no input named 'other'; it takes input"),
        ({"input": np.zeros((1, 128, 128, 3))}, "has dtype float64, needed float32"),
        ({"input": np.zeros((1, 128, 128), np.float32)}, r"has shape \[1, 128, 128\], needed \[1, 128, 128, 3\]"),
        ({"input": np.zeros((2, 128, 128, 3), np.float32)}, r"has shape \[2, 128, 128, 3\]"),
        ({"input": [[1.0]]}, "is a list, not a numpy array"),
    ],
)
def test_wrong_inputs_are_named(faces: Path, inputs: Any, reason: str) -> None:
    bundle = Bundle.open(faces)
    with pytest.raises(InputError, match=reason):
        bundle.run(inputs)
    with pytest.raises(InputError, match=reason):
        bundle.run_split(inputs, cut=bundle.cuts[0].id)


def test_unknown_cuts_and_codecs_are_named(faces: Path) -> None:
    bundle = Bundle.open(faces)
    known = ", ".join(cut.id for cut in bundle.cuts)
    with pytest.raises(BundleError, match=f"has no cut 'c999'; it has {known}"):
        bundle.run_split(frame(), cut="c999")
    with pytest.raises(BundleError, match="has no cut ''"):
        bundle.crossing_specs("")
    with pytest.raises(CodecError, match="codec 'zip' is unknown"):
        bundle.run_split(frame(), cut=bundle.cuts[0].id, codec="zip")


def test_a_bound_input_may_be_left_out_or_given_as_it_was_bound(scaled: Bundle) -> None:
    x = np.array([[0.0, 0.1, -0.2, 5.0]], np.float32)
    assert [spec.name for spec in scaled.inputs] == ["x", "by"]
    left_out = scaled.run({"x": x})["y"]
    assert np.allclose(left_out, np.tanh(3 * x) + 1, atol=1e-6)
    assert np.array_equal(scaled.run({"x": x, "by": np.array([3])})["y"], left_out)
    assert scaled.cuts
    for cut in scaled.cuts:
        assert np.array_equal(scaled.run_split({"x": x}, cut=cut.id)["y"], left_out)
        assert np.array_equal(scaled.run_split({"x": x, "by": np.array([3])}, cut=cut.id)["y"], left_out)


def test_a_bound_input_takes_no_other_value(scaled: Bundle) -> None:
    x = np.zeros((1, 4), np.float32)
    with pytest.raises(InputError, match=r"'by' .* was bound to \[3\] at conversion, \[4\] was given; .*--value by="):
        scaled.run({"x": x, "by": np.array([4])})
    with pytest.raises(InputError, match="was bound"):
        scaled.run_split({"x": x, "by": np.array([3, 3])}, cut=scaled.cuts[0].id)
    with pytest.raises(InputError, match=r"input 'x' .* is missing; it takes x"):
        scaled.run({"by": np.array([3])})


def test_what_was_prepared_needs_the_files_no_more(copy: Path) -> None:
    bundle = Bundle.open(copy)
    cut, other = bundle.cuts[0].id, bundle.cuts[1].id
    wanted = bundle.run(frame())
    bundle.unload(other)
    bundle.prepare(cut)
    (copy / WEIGHTS_FILE).unlink()
    assert same_bits(bundle.run_split(frame(), cut=cut), wanted)
    assert same_bits(bundle.run(frame()), wanted)
    with pytest.raises(BundleError, match=r"cannot read .*weights\.bin"):
        bundle.run_split(frame(), cut=other)
    bundle.unload(cut)
    with pytest.raises(BundleError, match=r"cannot read .*weights\.bin"):
        bundle.run_split(frame(), cut=cut)


def test_what_was_unloaded_is_loaded_again(faces: Path) -> None:
    bundle = Bundle.open(faces)
    wanted = bundle.run(frame())
    for cut in bundle.cuts:
        for _ in range(2):
            assert same_bits(bundle.run_split(frame(), cut=cut.id), wanted)
            bundle.unload(cut.id)


def test_what_lies_between_two_cuts_is_unloaded_with_either(copy: Path) -> None:
    bundle = Bundle.open(copy)
    (first, second), *_ = bundle.manifest.middles()
    (other,) = {cut.id for cut in bundle.cuts} - {first, second}
    crossing, _ = bundle.run_head(first, frame())
    wanted, _ = bundle.run_middle(first, second, crossing)
    for cut in (first, second):
        weights = (copy / WEIGHTS_FILE).read_bytes()
        bundle = Bundle.open(copy)
        bundle.run_middle(first, second, crossing)
        (copy / WEIGHTS_FILE).unlink()
        bundle.unload(other)
        assert same_bits(bundle.run_middle(first, second, crossing)[0], wanted)
        bundle.unload(cut)
        with pytest.raises(BundleError, match=r"cannot read .*weights\.bin"):
            bundle.run_middle(first, second, crossing)
        (copy / WEIGHTS_FILE).write_bytes(weights)


def test_any_thread_may_run_any_part_at_once(faces: Path) -> None:
    bundle = Bundle.open(faces)
    wanted = [Bundle.open(faces).run(frame(seed)) for seed in range(4)]
    cuts = [None, *(cut.id for cut in bundle.cuts)]
    start = threading.Barrier(8)

    def work(number: int) -> bool:
        start.wait(timeout=30)
        good = True
        for turn in range(8):
            seed, cut = (number + turn) % 4, cuts[turn % len(cuts)]
            found = bundle.run(frame(seed)) if cut is None else bundle.run_split(frame(seed), cut=cut)
            good &= same_bits(found, wanted[seed])
        return good

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))


def test_what_a_run_gave_stays_as_it_was(faces: Path) -> None:
    bundle = Bundle.open(faces)
    first = bundle.run(frame())
    kept = {name: value.copy() for name, value in first.items()}
    bundle.run(frame(seed=1))
    assert same_bits(first, kept)


def test_the_same_model_gives_the_same_bundle(faces: Path, model: Path, tmp_path: Path) -> None:
    convert(model, tmp_path / "again", Options(max_cuts=3, semantics={"input": PICTURE}))
    for name in FILES:
        assert name == COSTS_FILE or (tmp_path / "again" / name).read_bytes() == (faces / name).read_bytes(), name
    assert Bundle.open(tmp_path / "again").digest == Bundle.open(faces).digest


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_a_sealed_manifest_with_anything_in_it_opens_or_is_refused(
    faces: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.getbasetemp() / "anything"
    shutil.copytree(faces, folder, dirs_exist_ok=True)
    body = json.loads((folder / MANIFEST_FILE).read_bytes())["body"]
    place: Any = body
    key: Any = data.draw(st.sampled_from(sorted(body)))
    while isinstance(place[key], dict | list) and place[key] and data.draw(st.integers(0, 5)):
        place = place[key]
        key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
    leaf = st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(max_size=4) | st.floats(-1e300, 1e300)
    place[key] = data.draw(st.recursive(leaf, lambda part: st.lists(part, max_size=3), max_leaves=5))
    plain = json.dumps(body, sort_keys=True, separators=(",", ":"))
    sealed = {"body": body, "sha256": hashlib.sha256(plain.encode()).hexdigest()}
    (folder / MANIFEST_FILE).write_text(json.dumps(sealed, sort_keys=True, separators=(",", ":")) + "\n")
    try:
        bundle = Bundle.open(folder)
    except BundleError as error:
        assert str(folder) in str(error)
    else:
        assert bundle.path == folder


def test_a_slice_may_be_unloaded_while_others_run_it(faces: Path) -> None:
    bundle = Bundle.open(faces)
    cut = bundle.cuts[0].id
    want = bundle.run(frame())
    stop = threading.Event()

    def unload() -> None:
        while not stop.is_set():
            bundle.unload(cut)

    unloading = threading.Thread(target=unload)
    unloading.start()
    try:
        for _ in range(100):
            got = bundle.run_split(frame(), cut=cut)
            assert all(np.array_equal(want[name], got[name]) for name in want)
    finally:
        stop.set()
        unloading.join()


def test_a_cut_that_is_not_there_is_one_error_everywhere(faces: Path) -> None:
    bundle = Bundle.open(faces)
    for call in (bundle.prepare, bundle.unload, lambda cut: bundle.run_tail(cut, {})):
        with pytest.raises(BundleError, match="c999"):
            call("c999")


def head_encoded(
    bundle: Bundle, cut: str, codec: str, inputs: Tensors
) -> tuple[Sequence[EncodedTensor], Tensors, Tensors]:
    crossing, outputs, codes = bundle.run_head_for(cut, codec, inputs)
    return bundle.encode(cut, codec, crossing, made=codes), crossing, outputs


def tail_encoded(
    bundle: Bundle, cut: str | None, codec: str, encoded: Sequence[EncodedTensor], max_bytes: int
) -> Tensors:
    return bundle.run_tail_on(bundle.decode_for_tail(cut, codec, encoded, max_bytes))


def loaded(bundle: Bundle) -> set[str]:
    return set(bundle._sessions)


@pytest.mark.parametrize("ends", [("head", "tail"), ("head",), ("tail",), ()])
def test_an_end_codes_in_its_slice_or_beside_it_as_pays_there_alone(coding: Bundle, ends: tuple[str, ...]) -> None:
    bundle = with_coding(coding, {f"c1.{end}.int8" for end in ends})
    encoded, crossing, outputs = head_encoded(bundle, "c1", "int8", noise())
    found = tail_encoded(bundle, "c1", "int8", encoded, 1 << 20)
    assert loaded(bundle) == {f"c1.{end}" + (".int8" if end in ends else "") for end in ("head", "tail")}
    assert outputs == {}
    plain, _ = coding.run_head("c1", noise())
    assert same_bits(crossing, plain)
    # Whoever made the codes, anybody reads them, and to the same values.
    decoded = coding.decode("c1", "int8", encoded, 1 << 20)
    assert same_bits(found, coding.run_tail("c1", decoded))
    wanted = coding.decode("c1", "int8", coding.encode("c1", "int8", plain), 1 << 20)
    step = float(plain["a"].max() - plain["a"].min()) / 255
    assert np.abs(decoded["a"] - plain["a"]).max() <= 0.501 * step
    assert np.abs(decoded["a"] - wanted["a"]).max() <= 1.001 * step


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_head_that_codes_leaves_exact_what_is_not_finite(tmp_path: Path, bad: float) -> None:
    parsed = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[1,16,16,64] x) => (float[1,16,16,64] y) { a = Neg(x)\n y = Relu(a) }"""
    )
    onnx.save(parsed, tmp_path / "neg.onnx")
    convert(tmp_path / "neg.onnx", tmp_path / "bundle", Options(max_cuts=None))
    bundle = Bundle.open(tmp_path / "bundle")
    bundle = with_coding(bundle, set(bundle.costs.coding))
    inputs = noise()
    inputs["x"][0, 3, 2, 1] = bad
    encoded, crossing, _ = head_encoded(bundle, "c1", "int8", inputs)
    assert "c1.head.int8" in loaded(bundle)
    assert same_bits(bundle.decode("c1", "int8", encoded, 1 << 20), crossing)
    assert same_bits(tail_encoded(bundle, "c1", "int8", encoded, 1 << 20), bundle.run(inputs))
    outlier = noise()
    outlier["x"][0, 0, 0, 0] = 1e6
    encoded, crossing, _ = head_encoded(bundle, "c1", "int8", outlier)
    assert same_bits(bundle.decode("c1", "int8", encoded, 1 << 20), crossing)


def test_a_tail_can_still_run_where_the_head_that_coded_has_run(coding: Bundle) -> None:
    _, crossing, outputs = head_encoded(coding, "c1", "int8", noise())
    assert same_bits(outputs | coding.run_tail("c1", crossing), coding.run(noise()))


@pytest.mark.parametrize("codec", ["raw", "lossless", "f16", "step0.25"])
def test_other_codecs_run_the_plain_slices(coding: Bundle, codec: str) -> None:
    encoded, crossing, _ = head_encoded(coding, "c1", codec, noise())
    found = tail_encoded(coding, "c1", codec, encoded, 1 << 20)
    assert loaded(coding) == {"c1.head", "c1.tail"}
    assert list(encoded) == list(coding.encode("c1", codec, crossing))
    assert same_bits(found, coding.run_tail("c1", coding.decode("c1", codec, encoded, 1 << 20)))


def test_a_whole_input_and_a_cut_without_such_slices_are_coded_beside(coding: Bundle) -> None:
    encoded = coding.encode(None, "int8", noise())
    whole = coding.run_tail(None, coding.decode(None, "int8", encoded, 1 << 20))
    assert same_bits(tail_encoded(coding, None, "int8", encoded, 1 << 20), whole)
    encoded, _, _ = head_encoded(coding, "c3", "int8", noise())
    tail_encoded(coding, "c3", "int8", encoded, 1 << 20)
    assert loaded(coding) == {"whole", "c3.head", "c3.tail"}
    with pytest.raises(BundleError, match="has no cut 'c9'"):
        head_encoded(coding, "c9", "int8", noise())
    with pytest.raises(BundleError, match="has no cut 'c9'"):
        tail_encoded(coding, "c9", "int8", encoded, 1 << 20)
    with pytest.raises(CodecError, match="codec 'int9' is unknown"):
        head_encoded(coding, "c1", "int9", noise())


def test_what_comes_is_checked_before_a_tail_that_codes_runs(coding: Bundle) -> None:
    encoded, _, _ = head_encoded(coding, "c1", "int8", noise())
    with pytest.raises(CodecError, match="100 are allowed"):
        tail_encoded(coding, "c1", "int8", encoded, 100)
    with pytest.raises(CodecError, match="0 tensors came, needed 1: a"):
        tail_encoded(coding, "c1", "int8", [], 1 << 20)


def test_slices_that_code_are_prepared_and_unloaded_with_their_cut(coding: Bundle) -> None:
    coding.prepare("c1", "int8")
    assert loaded(coding) == {"c1.head.int8", "c1.tail.int8"}
    coding.prepare("c1")
    coding.prepare("c2", "int8")
    coding.unload("c1")
    assert loaded(coding) == {"c2.head.int8", "c2.tail.int8"}


def test_times_of_slices_that_are_not_there_are_refused(copy: Path) -> None:
    costs = replace(Bundle.open(copy).costs, coding={"c1.head.int8": CodingCost(0.1, 0.2)})
    (copy / COSTS_FILE).write_bytes(costs_to_bytes(costs))
    with pytest.raises(
        BundleError, match=r"costs\.json has times of slices that are not there; convert the model again"
    ):
        Bundle.open(copy)


def test_what_is_loaded_runs_while_something_else_is_being_loaded(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = Bundle.open(copy)
    shapes = bundle.manifest.sample_shapes
    inputs = {spec.name: np.zeros(shapes[spec.name], spec.dtype) for spec in bundle.inputs}
    bundle.run(inputs)
    loads, may_load, engine = threading.Event(), threading.Event(), engine_for(bundle.manifest.engine)

    class Slow:
        def load(self, *arguments: Any) -> Any:
            loads.set()
            may_load.wait(60.0)
            return engine.load(*arguments)

    monkeypatch.setattr("midstream.bundle.engine_for", lambda _name: Slow())
    with ThreadPoolExecutor(2) as pool:
        loading = pool.submit(bundle.prepare, bundle.cuts[0].id)
        assert loads.wait(60.0)
        running = pool.submit(bundle.run, inputs)
        done, _ = wait([running], 20.0)
        may_load.set()
        loading.result(60.0)
    assert done
