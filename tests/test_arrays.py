from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from midstream.arrays import read_arrays
from midstream.errors import InputError

X = np.random.default_rng(0).random((3, 4)).astype(np.float32)
MAGIC = b"\x93NUMPY\x01\x00"


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def npz(method: int = zipfile.ZIP_STORED, **members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def with_header(header: str) -> bytes:
    line = header.encode().ljust(117) + b"\n"
    return MAGIC + len(line).to_bytes(2, "little") + line


def encrypted() -> bytes:
    content = bytearray(npz(x=npy(X)))
    content[content.find(b"PK\x01\x02") + 8] |= 1
    content[content.find(b"PK\x03\x04") + 6] |= 1
    return bytes(content)


def damaged(method: int) -> bytes:
    content = bytearray(npz(method, x=npy(np.zeros(10_000))))
    content[40:60] = b"\x55" * 20
    return bytes(content)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_come_by_their_names(tmp_path: Path, save) -> None:  # type: ignore[no-untyped-def]
    save(tmp_path / "a.npz", x=X, y=np.asfortranarray(X), empty=X[:0], scalar=np.int64(3))
    found = read_arrays(tmp_path / "a.npz")
    assert list(found) == ["x", "y", "empty", "scalar"]
    assert np.array_equal(found["x"], X)
    assert np.array_equal(found["y"], X)
    assert found["empty"].shape == (0, 4)
    assert found["scalar"] == 3


BAD = {
    "one array renamed": npy(X),
    "no archive": b"nothing" * 50,
    "empty file": b"",
    "cut short": npz(x=npy(X))[:-30],
    "text within": npz(readme=b"hello"),
    "pickled": npz(x=npy(np.array([{}], object))),
    "encrypted": encrypted(),
    "damaged, deflated": damaged(zipfile.ZIP_DEFLATED),
    "damaged, lzma": damaged(zipfile.ZIP_LZMA),
    "damaged, bzip2": damaged(zipfile.ZIP_BZIP2),
    "no Python in its header": npz(x=with_header("{'descr': '<f4', (")),
    "an endless header": npz(x=MAGIC + (60_000).to_bytes(2, "little") + b"(" * 60_000),
    "a huge shape": npz(x=with_header("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,), }")),
    "a negative shape": npz(x=with_header("{'descr': '<f4', 'fortran_order': False, 'shape': (-4,), }")),
}


@pytest.mark.parametrize("what", BAD)
def test_what_is_none_is_named(tmp_path: Path, what: str) -> None:
    (tmp_path / "bad.npz").write_bytes(BAD[what])
    with pytest.raises(InputError, match=r"bad\.npz is not an \.npz archive of plain arrays"):
        read_arrays(tmp_path / "bad.npz")


def test_more_than_is_allowed_is_not_unpacked(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "large.npz", x=np.zeros(300_000))
    with pytest.raises(InputError, match=r"large\.npz holds 2400\d\d\d bytes; at most 1 MiB are read"):
        read_arrays(tmp_path / "large.npz", 1 << 20)


@pytest.mark.timeout(10)
def test_a_pipe_or_nothing_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.npz")
    for name in ("pipe.npz", "nowhere.npz"):
        with pytest.raises(InputError, match=rf"{name} cannot be read"):
            read_arrays(tmp_path / name)


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_any_damage_is_an_input_error_or_none(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    method = data.draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA]))
    content = bytearray(npz(method, x=npy(X), y=npy(X[0])))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "fuzzed.npz"
    path.write_bytes(content)
    try:
        read_arrays(path)
    except InputError as error:
        assert "fuzzed.npz" in str(error)
