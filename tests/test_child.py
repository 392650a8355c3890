from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from midstream.child import Child
from midstream.errors import MidstreamError

WAIT_S = 10.0
SLEEPER = "import sys, threading; print('up', flush=True); threading.Event().wait()"


def wait_for(condition: Callable[[], bool]) -> None:
    """Poll until it holds."""
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end
        os.sched_yield()


def has_ended(pid: int) -> bool:
    """Whoever adopts it may leave it a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def python(code: str, **options: object) -> Child:
    return Child([sys.executable, "-c", code], **options)  # type: ignore[arg-type]


def test_it_runs_until_it_is_stopped_and_leaves_nothing() -> None:
    threads, files = set(threading.enumerate()), len(list(Path("/proc/self/fd").iterdir()))
    child = python(SLEEPER)
    assert child.pid is None
    child.start()
    pid = child.pid
    assert pid is not None
    wait_for(lambda: child.last_words() == "up")
    child.stop()
    child.stop()
    assert child.pid is None
    assert child.returncode == -signal.SIGTERM
    assert not Path(f"/proc/{pid}").exists()
    assert set(threading.enumerate()) == threads
    assert len(list(Path("/proc/self/fd").iterdir())) == files


def test_one_that_ends_by_itself_leaves_its_code_and_its_last_words() -> None:
    child = python("import os, sys; print('a' * 999); print(os.environ['WORD']); sys.exit(5)", environ={"WORD": "b"})
    child.start()
    assert child.wait(WAIT_S)
    assert (child.pid, child.returncode) == (None, 5)
    assert child.last_words().endswith("aaa; b")
    assert len(child.last_words()) <= 500
    child.stop()


def test_one_that_does_not_listen_is_killed() -> None:
    child = python(f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEPER}", stop_s=0.0)
    child.start()
    wait_for(lambda: child.last_words() == "up")
    child.stop()
    assert child.returncode == -signal.SIGKILL


def test_what_cannot_be_started_is_named() -> None:
    child = Child(["/no/such/program"])
    with pytest.raises(MidstreamError, match="/no/such/program cannot be started"):
        child.start()
    child.stop()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_it_ends_with_its_parent(number: signal.Signals) -> None:
    program = (
        "import sys\n"
        "from midstream.child import Child\n"
        f"child = Child([sys.executable, '-c', {SLEEPER!r}])\n"
        "child.start()\n"
        "print(child.pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert Path(f"/proc/{pid}").exists()
        parent.send_signal(number)
    wait_for(lambda: has_ended(pid))
