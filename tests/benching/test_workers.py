"""Other processes that are asked: their errors are ours, and none outlives the block."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from midstream.benching.workers import Worker
from midstream.errors import BundleError, MidstreamError

DEVICE = "midstream.benching.device_process"


def opened(worker: Worker, bundle: Path) -> int:
    found = worker.ask(do="open", bundle=str(bundle), board="pi4", url="mqtt://127.0.0.1:1", objective={}, inputs=None)
    assert isinstance(found, int)
    return found


def test_what_a_worker_raises_is_raised_here_and_it_goes_on(tmp_path: Path, gratings: object) -> None:
    with Worker("device", DEVICE) as worker:
        pid = worker.pid
        with pytest.raises(BundleError, match="manifest"):
            opened(worker, tmp_path)
        assert opened(worker, Path(gratings.path)) > 1  # type: ignore[attr-defined]
        assert psutil.pid_exists(pid)
    assert not psutil.pid_exists(pid)


def test_a_worker_that_has_ended_says_why() -> None:
    with Worker("device", DEVICE) as worker, pytest.raises(MidstreamError, match=r"device.*has ended.*AttributeError"):
        worker.ask(do="nothing that is known")


def test_a_worker_that_is_busy_ends_as_well() -> None:
    with Worker("device", DEVICE) as worker:
        assert worker._process is not None and worker._process.stdin is not None
        # A run that would begin in an hour: nobody waits for its answer.
        worker._process.stdin.write('{"do": "run", "start_s": 1e9, "arrivals_s": [3600]}\n')
        worker._process.stdin.flush()
        pid = worker.pid
    assert not psutil.pid_exists(pid)
