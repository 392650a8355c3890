"""The file of a history: bounded, whole, its owner's alone, and nobody else's."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest
from usages import numbers, usage

from midstream.errors import InputError
from midstream.history import History
from midstream.history.placing import create
from midstream.history.schema import APPLICATION_ID, VERSION, connect
from midstream.history.store import MIN_BYTES, MOST_NAMES, Store


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a history?.db"


def kept(path: Path) -> list[int]:
    with History.open(path) as history:
        return numbers(list(history))


def names(folder: Path) -> set[str]:
    return {each.name for each in folder.iterdir()}


def integrity(path: Path) -> list[tuple[str, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("PRAGMA integrity_check").fetchall()


def test_what_is_added_is_read_also_by_a_second_run(path: Path) -> None:
    for first in (0, 3):
        store = Store(path, MIN_BYTES)
        assert store.append([usage(number) for number in range(first, first + 3)]) == 0
        assert kept(path) == list(range(first + 3))
        store.close()
    with History.open(path) as history:
        assert list(history) == [usage(number) for number in range(6)]
    # Nothing is left beside it, by its readers either.
    assert names(path.parent) == {path.name}
    assert path.stat().st_mode & 0o777 == 0o600


def test_its_files_are_its_owners_alone_while_it_is_written(path: Path) -> None:
    store = Store(path, MIN_BYTES)
    store.append([usage()])
    assert {each.name.removeprefix(path.name): each.stat().st_mode & 0o777 for each in path.parent.iterdir()} == {
        "": 0o600, "-wal": 0o600, "-shm": 0o600,
    }  # fmt: skip
    store.close()


def test_a_day_of_rows_stays_within_its_bytes_and_the_oldest_go(path: Path) -> None:
    limit = 2 << 20
    store = Store(path, limit)
    largest = {"": 0, "-wal": 0}
    for first in range(0, 24_000, 500):
        # In the middle rows are ten times as large for a while.
        reason = "r" * (400 if 8000 <= first < 12_000 else 0)
        store.append([usage(number, reason=reason) for number in range(first, first + 500)])
        for ending, size in largest.items():
            largest[ending] = max(size, path.with_name(path.name + ending).stat().st_size)
        found = kept(path)
        assert found == list(range(found[0], first + 500))
    assert largest[""] <= limit
    assert largest["-wal"] <= 4 << 20
    # Most of the file is used.
    assert len(found) * 150 > 0.5 * limit
    store.close()
    assert integrity(path) == [("ok",)]


def test_a_smaller_limit_makes_the_file_smaller(path: Path) -> None:
    store = Store(path, 8 << 20)
    store.append([usage(number) for number in range(20_000)])
    store.close()
    assert path.stat().st_size > 3 << 20
    store = Store(path, MIN_BYTES)
    store.append([usage(20_000)])
    store.close()
    assert path.stat().st_size <= MIN_BYTES
    found = kept(path)
    assert found == list(range(found[0], 20_001))
    assert integrity(path) == [("ok",)]


def test_a_clock_that_goes_back_loses_nothing(path: Path) -> None:
    store = Store(path, MIN_BYTES)
    times = [100.0, 101.0, 50.0, 51.0, 100.0, -5.0]
    store.append([usage(number, time_s=time_s) for number, time_s in enumerate(times)])
    assert kept(path) == [5, 2, 3, 0, 4, 1]
    with History.open(path) as history:
        assert numbers(list(history.between(51.0, 101.0))) == [3, 0, 4]
        assert numbers(list(history.between(since_s=100.5))) == [1]
    store.close()


def test_equal_times_over_several_pages_are_all_read(path: Path) -> None:
    store = Store(path, MIN_BYTES)
    store.append([usage(number, time_s=1.0, machine=("gateway", "device")[number % 2]) for number in range(2500)])
    assert kept(path) == list(range(2500))
    with History.open(path) as history:
        assert numbers(list(history.between(machine="device"))) == list(range(1, 2500, 2))
        assert list(history.between(2.0)) == []
    store.close()


def test_what_is_no_usage_does_not_take_others_with_it(path: Path) -> None:
    store = Store(path, MIN_BYTES)
    wrong = [
        usage(1, time_s=float("nan")),
        usage(1, sent_bytes=-1 << 80),
        usage(1, features={"a": None}),
        usage(1, cut=7),
    ]
    assert store.append([usage(0), *wrong, usage(2)]) == len(wrong)
    assert kept(path) == [0, 2]
    store.close()


def test_made_up_names_do_not_fill_it(path: Path) -> None:
    store = Store(path, 32 << 20)
    count = MOST_NAMES + 50
    made_up = [usage(number, features={f"name {number}": 1.5}) for number in range(count)]
    store.append(made_up)
    store.append([usage(count)])
    with History.open(path) as history:
        assert list(history) == [*made_up, usage(count)]
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM names").fetchone() == (MOST_NAMES,)
    store.close()


def test_made_up_names_leave_room_for_rows_in_a_small_file(path: Path) -> None:
    store = Store(path, MIN_BYTES)
    for first in range(0, 500, 50):
        made_up = [
            {f"{number} {place} ".ljust(64, "\u2603"): 1.0 for place in range(64)}
            for number in range(first, first + 50)
        ]
        store.append([usage(number, features=each) for number, each in enumerate(made_up, first)])
    store.append([usage(number) for number in range(500, 1000)])
    assert kept(path)[-500:] == list(range(500, 1000))
    store.close()
    assert path.stat().st_size <= MIN_BYTES


def test_many_rows_after_few_take_the_place_of_none(path: Path) -> None:
    store = Store(path, MIN_BYTES)
    for first, after in ((0, 1), (1, 3), (3, 1000), (1000, 2000)):
        store.append([usage(number) for number in range(first, after)])
    assert kept(path) == list(range(2000))
    store.close()


def test_the_view_is_for_other_programs(path: Path) -> None:
    store = Store(path, MIN_BYTES)
    store.append([usage(0), usage(1, features={"odd": float("inf"), "none": float("nan")}), usage(2, features={})])
    store.close()
    with closing(sqlite3.connect(path)) as connection:
        query = "SELECT request_id, bundle, features, timings_ms ->> 'queue' FROM requests ORDER BY id"
        found = connection.execute(query).fetchall()
    assert found[0] == ("0" * 32, usage().bundle, '{"entropy":5.25,"motion":0.125}', 0.75)
    assert found[1][2] == '{"odd":null,"none":null}'
    assert found[2][2] == "{}"


def test_two_writers_share_one_file(path: Path) -> None:
    """Beginning it at the same moment, with names of their own."""
    begin, failed = threading.Barrier(2), []

    def write(writer: int) -> None:
        store = Store(path, MIN_BYTES)
        begin.wait(20)
        try:
            for number in range(40):
                changed = {"features": {f"of {writer}": 1.0, "shared": 2.0}, "device_id": f"{writer}"}
                store.append([usage(2 * number + writer, **changed), usage(1000 + writer)])
        except Exception as error:  # noqa: BLE001
            failed.append(error)
        finally:
            store.close()

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert [number for number in kept(path) if number < 1000] == list(range(80))
    with History.open(path) as history:
        assert all(f"of {each.device_id}" in each.features for each in history if each.device_id != "porch")
    assert names(path.parent) == {path.name}


def test_the_first_writer_of_a_new_file_waits_for_nobody(path: Path) -> None:
    """Another one has just made it, and looks into it: the log was switched on before."""
    create(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN")
        assert other.execute("SELECT count(*) FROM usage").fetchone() == (0,)
        store = Store(path, MIN_BYTES)
        store.append([usage(0)])
        store.close()
    assert kept(path) == [0]


def test_a_file_system_without_shared_memory_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As SQLite is with another way to lock files."""
    monkeypatch.setattr("midstream.history.store.connect", lambda path, mode: connect(path, f"{mode}&vfs=unix-dotfile"))
    with pytest.raises(OSError, match="or the file system no shared memory") as caught:
        Store(path, MIN_BYTES).append([usage()])
    assert caught.value.errno == errno.ENOTSUP


NOT_HISTORIES = {
    "text": b"midstream,history\n" * 100,
    "zeros": bytes(8192),
    "a beginning": b"SQLite format 3\x00",
}


@pytest.mark.parametrize("kind", [*NOT_HISTORIES, "another database", "newer", "older"])
def test_another_file_is_refused_and_not_touched(path: Path, kind: str) -> None:
    if kind in NOT_HISTORIES:
        path.write_bytes(NOT_HISTORIES[kind])
    else:
        with closing(sqlite3.connect(path)) as other:
            other.execute("CREATE TABLE usage (id)")
            if kind != "another database":
                other.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                other.execute(f"PRAGMA user_version = {VERSION + (1 if kind == 'newer' else -1)}")
            other.commit()
    before, status = path.read_bytes(), path.stat()
    wanted = "knows version 1: update midstream" if kind in ("newer", "older") else "is there, and is no history"
    for attempt in (lambda: Store(path, MIN_BYTES).append([usage()]), lambda: History.open(path)):
        with pytest.raises(InputError, match=wanted):
            attempt()
    assert path.read_bytes() == before
    assert (path.stat().st_mtime_ns, names(path.parent)) == (status.st_mtime_ns, {path.name})


def test_what_can_be_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for wrong in (tmp_path, tmp_path / "pipe", tmp_path / "none" / "h.db", tmp_path / ("n" * 300), tmp_path / "loop"):
        with pytest.raises(InputError):
            Store(wrong, MIN_BYTES).append([usage()])
        with pytest.raises(InputError):
            History.open(wrong)
    with pytest.raises(InputError, match="there is no history"):
        History.open(tmp_path / "not there")
    assert names(tmp_path) == {"pipe", "loop"}


def test_an_empty_file_is_begun(path: Path) -> None:
    path.touch(mode=0o644)
    store = Store(path, MIN_BYTES)
    store.append([usage(1)])
    store.close()
    assert kept(path) == [1]
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_link_leads_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    link, target = tmp_path / "link.db", tmp_path / "there" / "h.db"
    link.symlink_to(target)
    for number in range(2):
        store = Store(link, MIN_BYTES)
        store.append([usage(number)])
        assert names(tmp_path) == {"link.db", "there"}
        store.close()
    assert kept(link) == kept(target) == [0, 1]


@pytest.mark.parametrize("moved", [False, True])
def test_a_file_that_is_deleted_or_moved_is_begun_again(path: Path, moved: bool) -> None:
    store = Store(path, MIN_BYTES)
    store.append([usage(0)])
    if moved:
        path.rename(path.with_name("yesterday.db"))
    else:
        path.unlink()
    store.append([usage(1)])
    assert kept(path) == [1]
    store.close()
    assert kept(path) == [1]
    if moved:
        assert kept(path.with_name("yesterday.db")) == [0]


def damage(path: Path, start: int, size: int) -> None:
    with path.open("r+b") as file:
        file.seek(start)
        file.write(os.urandom(size))


@pytest.mark.parametrize("opened", [False, True])
@pytest.mark.parametrize("what", ["pages", "cut short", "tables"])
def test_a_damaged_file_is_set_aside(path: Path, what: str, opened: bool, caplog: pytest.LogCaptureFixture) -> None:
    store = Store(path, MIN_BYTES)
    store.append([usage(number) for number in range(2000)])
    if not opened:
        store.close()
    if what == "pages":
        if opened:
            with closing(sqlite3.connect(path)) as other:
                other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        damage(path, 4096, path.stat().st_size - 4096)
    elif what == "cut short":
        if opened:
            with closing(sqlite3.connect(path)) as other:
                other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        os.truncate(path, 8192)
    else:
        with closing(sqlite3.connect(path)) as other:
            other.execute("DROP VIEW requests")
            other.execute("ALTER TABLE usage DROP COLUMN codec")
    with caplog.at_level(logging.WARNING):
        store.append([usage(7)])
    assert kept(path) == [7]
    (warning,) = caplog.messages
    assert "is damaged" in warning
    assert f"it was renamed {path.name}.damaged, and another one is begun" in warning
    assert path.with_name(f"{path.name}.damaged").stat().st_size > 4096
    store.close()


def test_damage_again_and_again_does_not_fill_the_disk(path: Path) -> None:
    for _ in range(6):
        store = Store(path, MIN_BYTES)
        store.append([usage(number) for number in range(500)])
        store.close()
        damage(path, 4096, 40_000)
    store.append([usage(1)])
    store.close()
    assert names(path.parent) == {path.name, *(f"{path.name}.damaged{ending}" for ending in ("", "-2", "-3"))}


def test_a_damaged_file_is_an_error_to_who_reads(path: Path) -> None:
    store = Store(path, MIN_BYTES)
    store.append([usage(number) for number in range(3000)])
    store.close()
    damage(path, 8192, path.stat().st_size - 8192)
    with pytest.raises((InputError, OSError)) as raised, History.open(path) as history:
        list(history)
    assert path.name in str(raised.value)
    store.append([usage(1)])
    with closing(sqlite3.connect(path)) as other:
        other.execute("UPDATE usage SET outcome = 'something newer'")
        other.commit()
    with pytest.raises(InputError, match=r"row 1 is damaged, or of a newer midstream: .*something newer"):
        kept(path)
    store.close()


def test_who_reads_for_long_does_not_make_the_log_grow(path: Path) -> None:
    store = Store(path, MIN_BYTES)
    store.append([usage()])
    with closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM usage").fetchone()
        with pytest.raises(OSError, match="reading it for too long") as raised:
            for first in range(0, 100_000, 500):
                store.append([usage(number) for number in range(first, first + 500)])
        assert raised.value.errno == errno.EBUSY
        assert path.with_name(f"{path.name}-wal").stat().st_size <= 4 << 20
    store.append([usage(first)])
    assert kept(path)[-1] == first
    store.close()


def test_an_iteration_keeps_nobody_from_writing(path: Path) -> None:
    store = Store(path, MIN_BYTES)
    store.append([usage(number) for number in range(1500)])
    with History.open(path) as history:
        reading = iter(history)
        next(reading)
        for first in range(1500, 40_000, 500):
            store.append([usage(number) for number in range(first, first + 500)])
        assert path.with_name(f"{path.name}-wal").stat().st_size <= 2 << 20
        # What was not read yet has gone meanwhile; what has come is read.
        assert numbers(list(reading))[-1] == 39_999
    store.close()


FULL = """
import resource, signal, sys, errno, sqlite3
from pathlib import Path
from midstream.history.store import Store
sys.path.insert(0, sys.argv[2])
from usages import usage
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store = Store(Path(sys.argv[1]), 8 << 20)
store.append([usage(number) for number in range(1000)])
resource.setrlimit(resource.RLIMIT_FSIZE, (700_000, 10**9))
first, failed = 1000, 0
for first in range(1000, 20_000, 1000):
    try:
        store.append([usage(number) for number in range(first, first + 1000)])
    except (OSError, sqlite3.OperationalError) as error:
        failed += 1
        print(first, type(error).__name__, error, file=sys.stderr)
assert failed >= 10, failed
resource.setrlimit(resource.RLIMIT_FSIZE, (10**9, 10**9))
store.append([usage(77_777)])
store.close()
"""


def test_a_full_disk_loses_nothing_that_was_committed(path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(path), str(Path(__file__).parent.parent)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = kept(path)
    assert found[:1000] == list(range(1000))
    assert found[-1] == 77_777
    assert integrity(path) == [("ok",)]
    assert not list(path.parent.glob("*.damaged*"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes anywhere")
def test_a_folder_that_cannot_be_written_is_an_error_of_the_system(path: Path) -> None:
    store = Store(path, MIN_BYTES)
    store.append([usage(1)])
    store.close()
    path.parent.chmod(0o500)
    try:
        with pytest.raises((OSError, sqlite3.OperationalError)):
            Store(path.with_name("other.db"), MIN_BYTES).append([usage()])
        assert kept(path) == [1]
    finally:
        path.parent.chmod(0o700)


def test_a_copy_with_its_log_is_read_where_nothing_can_be_written(path: Path, tmp_path: Path) -> None:
    store = Store(path, MIN_BYTES)
    store.append([usage(1)])
    folder = tmp_path / "copy"
    folder.mkdir()
    for ending in ("", "-wal"):
        shutil.copy(path.with_name(path.name + ending), folder / f"h.db{ending}")
    store.close()
    assert kept(folder / "h.db") == [1]
