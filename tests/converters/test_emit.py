"""A bundle is written whole or not at all, over nothing that is not one, and always as the same bytes."""

from __future__ import annotations

import io
import json
import lzma
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest

from midstream.archive import Archive
from midstream.bundle import Bundle
from midstream.errors import BundleError
from midstream.exits import EXITS_FILE
from midstream.ladder import LADDER_FILE
from midstream.manifest import (
    BUNDLE_FILES,
    COSTS_FILE,
    GRAPH_MEMBER,
    MANIFEST_FILE,
    SLICES_FILE,
    WEIGHTS_FILE,
    WHOLE,
    Costs,
    Edge,
    Graph,
    Layer,
    Manifest,
    SliceRecord,
)
from midstream.sealed import manifest_from_bytes, manifest_to_bytes
from midstream.tensors import TensorSpec
from midstream_converters.emit import check_target, staging, write_bundle

X = TensorSpec("x", np.dtype(np.float32), (1, 2))
GRAPH = Graph((Layer(0, "a", "Relu", 1, 0, 8), Layer(1, "b", "Tanh", 1, 0, 8)), (Edge(0, 1, 8),))
PROGRAMS = {"whole.onnx": b"a program" * 50, "other.onnx": b"another"}
MANIFEST = Manifest(
    name="small",
    model_format="onnx",
    model_bytes=9,
    model_sha256="00",
    engine="onnx",
    inputs=(X,),
    outputs=(X,),
    sample_shapes={"x": (1, 2)},
    cuts=(),
    slices={WHOLE: SliceRecord("whole.onnx", len(PROGRAMS["whole.onnx"]), ("x",), ("x",))},
    files={},
)
COSTS = Costs("here", 1.5, {}, ())


def write(folder: Path) -> Manifest:
    (folder / WEIGHTS_FILE).write_bytes(b"weights")
    return write_bundle(folder, MANIFEST, GRAPH, PROGRAMS, COSTS)


def old_bundle(place: Path) -> dict[str, bytes]:
    place.mkdir()
    for name in BUNDLE_FILES:
        (place / name).write_text(f"the old {name}")
    (place / MANIFEST_FILE).write_bytes(manifest_to_bytes(MANIFEST))
    return contents(place)


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def names(folder: Path) -> list[str]:
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*"))


def test_what_was_staged_becomes_the_target(tmp_path: Path) -> None:
    with staging(tmp_path / "b") as folder:
        assert folder.is_dir()
        assert not (tmp_path / "b").exists()
        (folder / "a").write_text("new")
    assert names(tmp_path) == ["b", "b/a"]
    assert not folder.exists()


def test_the_folder_is_as_open_to_others_as_any(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    with staging(tmp_path / "b"):
        pass
    assert (tmp_path / "b").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, MemoryError, BundleError])
@pytest.mark.parametrize("there", [False, True])
def test_an_error_leaves_nothing_new_and_takes_nothing_old(
    tmp_path: Path, error: type[BaseException], there: bool
) -> None:
    before = old_bundle(tmp_path / "b") if there else {}
    with pytest.raises(error), staging(tmp_path / "b") as folder:
        write(folder)
        raise error("in the middle")
    assert names(tmp_path) == (["b", *sorted(f"b/{name}" for name in before)] if there else [])
    assert not there or contents(tmp_path / "b") == before


def test_an_older_bundle_is_replaced_whole(tmp_path: Path) -> None:
    before = old_bundle(tmp_path / "b")
    with staging(tmp_path / "b") as folder:
        (folder / MANIFEST_FILE).write_text("new")
        assert contents(tmp_path / "b") == before
    assert contents(tmp_path / "b") == {MANIFEST_FILE: b"new"}
    assert names(tmp_path) == ["b", f"b/{MANIFEST_FILE}"]


def test_an_older_bundle_comes_back_where_it_cannot_be_replaced(tmp_path: Path) -> None:
    before = old_bundle(tmp_path / "b")
    with pytest.raises(BundleError, match=r"cannot write bundle .*b: No such file"), staging(tmp_path / "b") as folder:
        shutil.rmtree(folder)
    assert contents(tmp_path / "b") == before
    assert names(tmp_path) == ["b", *sorted(f"b/{name}" for name in before)]


def test_a_link_to_a_bundle_stays_a_link(tmp_path: Path) -> None:
    old_bundle(tmp_path / "real")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with staging(tmp_path / "link") as folder:
        (folder / MANIFEST_FILE).write_text("new")
    assert (tmp_path / "link").is_symlink()
    assert contents(tmp_path / "real") == {MANIFEST_FILE: b"new"}


def test_missing_parents_are_made_only_once_there_is_a_bundle(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b" / "c"
    with pytest.raises(ValueError, match="no"), staging(target):
        raise ValueError("no")
    assert names(tmp_path) == []
    with staging(target):
        assert not (tmp_path / "a").exists()
    assert names(tmp_path) == ["a", "a/b", "a/b/c"]


@pytest.mark.parametrize("foreign", ["notes.txt", ".hidden", "folder", "manifest.json.bak"])
def test_a_folder_with_anything_else_in_it_is_left_alone(tmp_path: Path, foreign: str) -> None:
    before = old_bundle(tmp_path / "b")
    (tmp_path / "b" / foreign).mkdir()
    with (
        pytest.raises(BundleError, match=rf"is not a bundle alone, it has '{foreign}'; .*nothing was written"),
        staging(tmp_path / "b"),
    ):
        pytest.fail("staging began")
    assert names(tmp_path) == ["b", *sorted(f"b/{name}" for name in (foreign, *before))]


def test_a_file_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "b").write_text("mine")
    with pytest.raises(BundleError, match="it has 'b'; choose another -o"), staging(tmp_path / "b"):
        pytest.fail("staging began")
    assert (tmp_path / "b").read_text() == "mine"


@pytest.mark.parametrize("target", [".", "..", "", "../..", "../here", "{}", "{}/.."])
def test_the_folder_one_is_in_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(BundleError, match=r"is the folder you are in, or one around it; .*nothing was written"):
        check_target(Path(target.format(tmp_path / "here")))


@pytest.mark.parametrize("name", sorted(BUNDLE_FILES))
def test_a_folder_of_a_bundles_names_without_its_manifest_is_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / name).write_text("precious")
    with pytest.raises(BundleError, match=rf"is not a bundle alone, it has '{name}'"), staging(tmp_path / "b"):
        pytest.fail("staging began")
    assert (tmp_path / "b" / name).read_text() == "precious"


def test_a_calibrated_bundle_is_replaced_with_its_ladder(tmp_path: Path) -> None:
    target = tmp_path / "b"
    with staging(target) as folder:
        write(folder)
    for name in (LADDER_FILE, EXITS_FILE):
        (target / name).write_bytes(b"of the bundle before")
    # What a calibration that was killed has left.
    (target / ".midstream-0123456789abcdef.part").write_bytes(b"half")
    with staging(target) as folder:
        write(folder)
    assert sorted(file.name for file in target.iterdir()) == sorted(BUNDLE_FILES)
    # A ladder alone is no bundle.
    for name in BUNDLE_FILES:
        (target / name).unlink()
    (target / LADDER_FILE).write_bytes(b"of a bundle that is gone")
    with pytest.raises(BundleError, match=r"is not a bundle alone, it has 'codecs\.json'"):
        check_target(target)


def test_an_empty_folder_and_a_partial_bundle_may_be_taken(tmp_path: Path) -> None:
    check_target(tmp_path / "nowhere" / "yet")
    (tmp_path / "b").mkdir()
    check_target(tmp_path / "b")
    (tmp_path / "b" / MANIFEST_FILE).write_bytes(manifest_to_bytes(MANIFEST)[:100])
    check_target(tmp_path / "b")
    with staging(tmp_path / "b"):
        pass
    assert names(tmp_path) == ["b"]


def test_a_parent_that_is_a_file_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for target in (tmp_path / "file" / "b", tmp_path / "file" / "deeper" / "b"):
        with pytest.raises(BundleError, match=r"cannot write bundle .*b: Not a directory"), staging(target):
            pytest.fail("staging began")
    assert names(tmp_path) == ["file"]


def test_a_full_disk_is_one_error(tmp_path: Path) -> None:
    with (
        pytest.raises(BundleError, match=r"cannot write bundle .*b: No space left on device"),
        staging(tmp_path / "b"),
        Path("/dev/full").open("wb", buffering=0) as full,
    ):
        full.write(b"weights")
    assert names(tmp_path) == []


def test_what_was_written_is_a_bundle(tmp_path: Path) -> None:
    written = write(tmp_path)
    assert set(contents(tmp_path)) == BUNDLE_FILES
    bundle = Bundle.open(tmp_path)
    assert (bundle.manifest, bundle.graph, bundle.costs) == (written, GRAPH, COSTS)
    assert manifest_from_bytes((tmp_path / MANIFEST_FILE).read_bytes(), "") == written
    archive = Archive(tmp_path / SLICES_FILE, written.unpacked_bytes)
    assert {name: archive.read(name, 1000) for name in PROGRAMS} == PROGRAMS
    assert json.loads(archive.read(GRAPH_MEMBER, 1000))["op"] == ["Relu", "Tanh"]


def test_what_is_announced_is_what_is_there(tmp_path: Path) -> None:
    written = write(tmp_path)
    assert {name: record.bytes for name, record in written.files.items()} == {
        name: (tmp_path / name).stat().st_size for name in (WEIGHTS_FILE, SLICES_FILE)
    }
    assert written.unpacked_bytes == len(lzma.decompress((tmp_path / SLICES_FILE).read_bytes()))


def test_the_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert set(contents(tmp_path / "a")) >= {SLICES_FILE, COSTS_FILE}


def test_members_tell_nothing_of_who_packed_them(tmp_path: Path) -> None:
    write(tmp_path)
    content = lzma.decompress((tmp_path / SLICES_FILE).read_bytes())
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        entries = archive.getmembers()
    assert {entry.name for entry in entries} == {GRAPH_MEMBER, *PROGRAMS}
    for entry in entries:
        assert (entry.mtime, entry.uid, entry.gid, entry.uname, entry.gname) == (0, 0, 0, "", "")
