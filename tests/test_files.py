from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from midstream.files import FileIdentity, check_writable, is_part, read_at_most, regular_file, write_whole


def test_a_regular_file_is_read_whole_within_its_limit(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"\r\n\x1a123")
    assert read_at_most(path, 6) == b"\r\n\x1a123"
    with pytest.raises(OSError, match="larger than 5 bytes"):
        read_at_most(path, 5)


@pytest.mark.timeout(10)
def test_nothing_else_is_opened_or_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    for path in (tmp_path / "pipe", tmp_path / "device", tmp_path):
        with pytest.raises(OSError, match="not a regular file"):
            read_at_most(path, 10)
    with pytest.raises(FileNotFoundError):
        read_at_most(tmp_path / "nothing", 10)
    for name in ("a\0b", "\ud800"):
        with pytest.raises(OSError, match="no file can have this name"):
            read_at_most(tmp_path / name, 10)


def test_a_link_is_followed_where_that_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"1")
    (tmp_path / "link").symlink_to("file")
    assert read_at_most(tmp_path / "link", 1) == b"1"
    with pytest.raises(OSError) as caught, regular_file(tmp_path / "link", follow_links=False):
        pass
    assert caught.value.errno == errno.ELOOP


def test_another_file_in_its_place_or_a_change_is_another_identity(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"1")
    before = FileIdentity.of(path.stat())
    os.link(path, tmp_path / "other name")
    assert FileIdentity.of(path.stat()) == before
    (tmp_path / "new").write_bytes(b"1")
    os.utime(tmp_path / "new", ns=(before.modified_ns, before.modified_ns))
    (tmp_path / "new").replace(path)
    replaced = FileIdentity.of(path.stat())
    assert replaced != before
    os.utime(path, ns=(0, before.modified_ns + 1))
    assert FileIdentity.of(path.stat()) not in (before, replaced)


def test_a_file_is_written_whole_or_stays_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    write_whole(path, b"first")
    write_whole(path, b"second")
    assert path.read_bytes() == b"second"

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    def killed(part: Path, *_: object, **__: object) -> None:
        assert is_part(part.name)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", fail)
        patch.setattr(Path, "unlink", killed)
        with pytest.raises(KeyboardInterrupt):
            write_whole(path, b"third")
    (left,) = set(tmp_path.iterdir()) - {path}
    left.unlink()
    assert not is_part(path.name)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", fail)
        with pytest.raises(KeyboardInterrupt):
            write_whole(path, b"third")
    assert path.read_bytes() == b"second"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_is_replaced_and_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(b"theirs")
    (tmp_path / "a").symlink_to(tmp_path / "elsewhere")
    write_whole(tmp_path / "a", b"ours")
    assert (tmp_path / "elsewhere").read_bytes() == b"theirs"
    assert not (tmp_path / "a").is_symlink()


def test_whether_a_file_can_be_written_is_known_without_a_trace(tmp_path: Path) -> None:
    check_writable(tmp_path / "a")
    assert not list(tmp_path.iterdir())
    with pytest.raises(FileNotFoundError):
        check_writable(tmp_path / "nowhere" / "a")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(NotADirectoryError):
        check_writable(tmp_path / "file" / "a")
