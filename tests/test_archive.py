"""The packed slices: what is read of them, and that nothing in them can take more than was announced."""

from __future__ import annotations

import io
import lzma
import tarfile
import threading
import tracemalloc
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from midstream.archive import Archive
from midstream.errors import BundleError

MEMBERS = {"whole.onnx": b"a program" * 100, "empty": b"", "graph.json": b"{}", "long/" + "n" * 90: bytes(3000)}


def tar(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def packed(folder: Path, content: bytes, announced: int | None = None) -> Archive:
    path = folder / "slices.tar.xz"
    path.write_bytes(lzma.compress(content, preset=1))
    return Archive(path, len(content) if announced is None else announced)


def test_members_are_read_in_any_order(tmp_path: Path) -> None:
    archive = packed(tmp_path, tar(MEMBERS))
    for name in [*reversed(MEMBERS), *MEMBERS]:
        assert archive.read(name, len(MEMBERS[name])) == MEMBERS[name]


@settings(deadline=None, max_examples=40)
@given(st.dictionaries(st.text("abc.", min_size=1, max_size=8).map("m/{}".format), st.binary(max_size=2000)))
def test_every_member_survives(tmp_path_factory: pytest.TempPathFactory, members: dict[str, bytes]) -> None:
    archive = packed(tmp_path_factory.getbasetemp(), tar(members))
    for name, content in members.items():
        assert archive.read(name, len(content)) == content


def test_it_is_unpacked_once_and_only_when_it_is_needed(tmp_path: Path) -> None:
    archive = Archive(tmp_path / "slices.tar.xz", len(tar(MEMBERS)))
    packed(tmp_path, tar(MEMBERS))
    assert archive.read("empty", 0) == b""
    (tmp_path / "slices.tar.xz").unlink()
    assert archive.read("graph.json", 2) == b"{}"


def test_what_is_large_is_read_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("midstream.archive._IN_MEMORY_BYTES", 100)
    monkeypatch.setattr("midstream.archive._STEP_BYTES", 70)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    archive = packed(tmp_path, tar(MEMBERS))
    assert [archive.read(name, len(content)) for name, content in MEMBERS.items()] == list(MEMBERS.values())
    assert [file.name for file in tmp_path.iterdir()] == ["slices.tar.xz"]


def test_a_missing_member_is_named(tmp_path: Path) -> None:
    for archive in (packed(tmp_path, tar(MEMBERS)), packed(tmp_path, tar({}))):
        for name in ("nobody", "", "whole", "../slices.tar.xz"):
            with pytest.raises(BundleError, match=f"lacks the slice '{name}'; convert the model again"):
                archive.read(name, 1 << 30)


def test_a_member_larger_than_its_limit_is_refused(tmp_path: Path) -> None:
    archive = packed(tmp_path, tar(MEMBERS))
    assert archive.read("whole.onnx", 900) == MEMBERS["whole.onnx"]
    for limit in (899, 0, -1):
        with pytest.raises(BundleError, match=r"whole\.onnx"):
            archive.read("whole.onnx", limit)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_only_files_are_members(tmp_path: Path, kind: bytes) -> None:
    (tmp_path / "secret").write_text("secret")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        entry = tarfile.TarInfo("a")
        entry.type, entry.linkname = kind, str(tmp_path / "secret")
        archive.addfile(entry)
    with pytest.raises(BundleError, match="'a' is not a plain file"):
        packed(tmp_path, buffer.getvalue()).read("a", 1000)


@pytest.mark.parametrize("size", [-512, -1, -(1 << 20)])
def test_a_size_that_leads_back_is_refused(tmp_path: Path, size: int) -> None:
    entry = tarfile.TarInfo("a")
    entry.size = 512
    header = bytearray(entry.tobuf(tarfile.GNU_FORMAT))
    header[124:136] = tarfile.itn(size, 12, tarfile.GNU_FORMAT)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    with pytest.raises(BundleError, match="cannot be unpacked"):
        packed(tmp_path, bytes(header) + bytes(2048)).read("a", 1000)


def test_a_bomb_is_stopped_at_what_was_announced(tmp_path: Path) -> None:
    content = tar({"a": bytes(24 << 20)})
    archive = packed(tmp_path, content, announced=1 << 20)
    assert (tmp_path / "slices.tar.xz").stat().st_size < 1 << 14
    tracemalloc.start()
    try:
        with pytest.raises(
            BundleError, match=r"slices\.tar\.xz cannot be unpacked: it holds more than the 1048576 bytes"
        ):
            archive.read("a", 1 << 30)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 << 20


def test_one_byte_more_than_announced_is_too_much(tmp_path: Path) -> None:
    content = tar(MEMBERS)
    assert packed(tmp_path, content, announced=len(content) + 1).read("empty", 0) == b""
    with pytest.raises(BundleError, match="holds more than"):
        packed(tmp_path, content, announced=len(content) - 1).read("empty", 0)
    with pytest.raises(BundleError, match="holds more than the -5 bytes"):
        packed(tmp_path, content, announced=-5).read("empty", 0)


def test_a_decoder_that_wants_gigabytes_is_refused(tmp_path: Path) -> None:
    """The filter's one byte of properties announces a dictionary of 4 GiB."""
    content = tar(MEMBERS)
    data = bytearray(lzma.compress(content))
    start, end = 12, 12 + 4 * (data[12] + 1)
    place = data.index(b"\x21\x01", start, end) + 2
    data[place] = 40
    data[end - 4 : end] = zlib.crc32(data[start : end - 4]).to_bytes(4, "little")
    path = tmp_path / "slices.tar.xz"
    path.write_bytes(data)
    with pytest.raises(BundleError, match="Memory usage limit"):
        Archive(path, len(content)).read("empty", 0)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data[: len(data) // 2],
        lambda data: data[:20],
        lambda data: data[:1],
        lambda _: b"",
        lambda data: b"!" + data[1:],
        lambda data: data[: len(data) // 2] + b"!!!!" + data[len(data) // 2 + 4 :],
        lambda _: b"this is not packed at all" * 100,
        lambda data: zlib.compress(lzma.decompress(data)),
        lambda data: lzma.compress(lzma.decompress(data), lzma.FORMAT_ALONE),
    ],
)
def test_what_cannot_be_unpacked_is_refused(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    archive = packed(tmp_path, tar(MEMBERS))
    path = tmp_path / "slices.tar.xz"
    path.write_bytes(damage(path.read_bytes()))
    for _ in range(2):
        with pytest.raises(BundleError, match=r"slices\.tar\.xz cannot be unpacked: .*convert the model again"):
            archive.read("whole.onnx", 900)


@pytest.mark.parametrize(
    "content",
    [b"", b"neither a tar archive nor anything else " * 100, tar(MEMBERS)[:700], tar(MEMBERS)[: 512 + 300]],
)
def test_what_is_no_whole_tar_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(BundleError, match=r"slices\.tar\.xz cannot be unpacked"):
        packed(tmp_path, content).read("whole.onnx", 900)


def test_a_missing_file_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"none\.tar\.xz cannot be unpacked: .*No such file"):
        Archive(tmp_path / "none.tar.xz", 100).read("a", 1)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 511), st.integers(0, 255)), min_size=1, max_size=5))
def test_a_damaged_header_gives_the_member_or_one_error(
    tmp_path_factory: pytest.TempPathFactory, edits: list[tuple[int, int]]
) -> None:
    content = bytearray(tar(MEMBERS))
    for place, value in edits:
        content[place] = value
    try:
        found = packed(tmp_path_factory.getbasetemp(), bytes(content)).read("whole.onnx", 900)
    except BundleError as error:
        assert "slices.tar.xz" in str(error)
    else:
        assert found == MEMBERS["whole.onnx"]


def test_any_thread_may_be_the_first_to_read(tmp_path: Path) -> None:
    archive = packed(tmp_path, tar({f"m{n}": bytes([n]) * 5000 for n in range(8)}))
    start = threading.Barrier(8)

    def work(number: int) -> bool:
        start.wait(timeout=30)
        return all(archive.read(f"m{n}", 5000) == bytes([n]) * 5000 for n in [*range(number, 8), *range(number)] * 20)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))
