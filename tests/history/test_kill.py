"""A process that records and is killed at any moment: what it has committed is there."""

from __future__ import annotations

import random
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from usages import numbers

from midstream.history import History

# Writes rows from the last one on, and tells through the pipe how far it is committed.
CHILD = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from usages import usage
from midstream.history.store import Store
store, number, rows = Store(Path(sys.argv[2]), int(sys.argv[3])), int(sys.argv[4]), 7
while True:
    store.append([usage(each, features={f"name {each // 50}": 1.0}) for each in range(number, number + rows)])
    number += rows
    os.write(1, b"%d\\n" % number)
"""


def killed_after(s: float, path: Path, limit_bytes: int, first: int) -> int:
    """Have a child write, and kill it so long after it has begun; returns the number of the first row not committed.

    ``first`` where it was killed before its first.
    """
    command = [sys.executable, "-c", CHILD, str(Path(__file__).parent.parent), str(path), str(limit_bytes), str(first)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        told = b""
        if s > 0:
            told = child.stdout.readline()
            time.sleep(s)
        else:
            # At its very beginning, somewhere around when the file is made.
            end = time.monotonic() - s
            while time.monotonic() < end and not path.exists():
                pass
        child.send_signal(signal.SIGKILL)
        told += child.stdout.read()
        assert child.wait() == -signal.SIGKILL
    return int(told.split()[-1]) if told else first


def check(path: Path, committed: int, bounded: bool) -> int:
    """What is there begins anywhere if it is bounded, has no gap, and all that was committed; returns what is next."""
    with History.open(path) as history:
        found = numbers(list(history))
    assert found == list(range(found[0], found[-1] + 1))
    assert bounded or found[0] == 0
    # One more may have been committed and not told of yet.
    assert committed <= found[-1] + 1 <= committed + 7
    return found[-1] + 1


@pytest.mark.parametrize("limit_bytes", [64 << 20, 1 << 20])
@pytest.mark.parametrize("kills", [8, pytest.param(150, marks=[pytest.mark.long, pytest.mark.timeout(600)])])
def test_no_committed_row_is_lost(tmp_path: Path, kills: int, limit_bytes: int) -> None:
    path, rng, following = tmp_path / "h", random.Random(kills), 0
    for _ in range(kills):
        committed = killed_after(rng.uniform(0.001, 0.25), path, limit_bytes, following)
        following = check(path, committed, limit_bytes <= 1 << 20)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert {each.name for each in tmp_path.iterdir()} == {"h"}


@pytest.mark.parametrize("kills", [5, pytest.param(60, marks=[pytest.mark.long, pytest.mark.timeout(600)])])
def test_one_that_is_killed_while_it_makes_the_file_leaves_a_whole_one_or_none(tmp_path: Path, kills: int) -> None:
    rng = random.Random(kills)
    for kill in range(kills):
        path = tmp_path / f"{kill}"
        path.mkdir()
        killed_after(-rng.uniform(0.05, 0.4), path / "h", 1 << 20, 0)
        if (path / "h").exists():
            assert (path / "h").stat().st_mode & 0o777 == 0o600
            with History.open(path / "h") as history:
                found = numbers(list(history))
            assert found == list(range(len(found)))
