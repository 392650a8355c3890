"""``midstream bench adaptive``: a short run on real processes, and what cannot be done."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from midstream.bundle import Bundle
from midstream.child import module_path
from midstream.trace_making import make_trace

from .conftest import Midstream

FIGURES = (
    "mean_ms", "p50_ms", "p95_ms", "p99_ms", "missed_share", "energy_mj", "split_share", "payload_bytes"
)  # fmt: skip


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "link.csv"
    path.write_bytes(make_trace("wifi", 10, 1).to_csv())
    return path


@pytest.mark.long
def test_policies_on_real_processes_beside_the_simulation(midstream: Midstream, gratings: Bundle, trace: Path) -> None:
    given = ["--bundle", gratings.path, "--device", "pi4", "--trace", trace, "--rate", "5", "--seconds", "2"]
    before = set(psutil.Process().children(recursive=True))
    told = midstream("bench", "adaptive", *given, "--policies", "adaptive,local,mincut_ewma", "--json")
    assert set(psutil.Process().children(recursive=True)) <= before
    found = told.json
    assert list(found["policies"]) == ["local", "mincut_ewma", "adaptive"]
    for name, figures in found["policies"].items():
        assert set(FIGURES) <= set(figures)
        assert figures["requests"] == 10
        assert 0 < figures["p50_ms"] <= figures["p99_ms"]
        assert found["simulated"][name]["real_over_simulated"] > 0
    assert found["policies"]["local"]["local_share"] == 1.0
    assert found["policies"]["local"]["payload_bytes"] == 0
    assert found["slowing"]["method"] == "pacing"
    assert found["notes"]["inputs"] == "8 made up, in turn"
    assert "this takes about" in told.err


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (("--policies", "local,best"), "no policy is called 'best'"),
        (("--device", "pi99"), "pi99"),
        (("--objective", "throughput"), "latency or energy"),
        (("--rate", "0"), "the rate is 0"),
        (("--input", "nowhere.png"), "nowhere.png"),
    ],
)
def test_what_cannot_be_is_one_line(
    midstream: Midstream, gratings: Bundle, trace: Path, changed: tuple[str, str], words: str
) -> None:
    given = {"--bundle": gratings.path, "--device": "pi4", "--trace": trace} | dict([changed])
    refused = midstream("bench", "adaptive", *(part for pair in given.items() for part in pair))
    assert refused.code == 2
    assert words in refused.err
    assert "Traceback" not in refused.err


def test_a_link_that_is_never_up_is_refused(midstream: Midstream, gratings: Bundle, tmp_path: Path) -> None:
    down = tmp_path / "down.csv"
    down.write_text("t_s,uplink_kbps,rtt_ms\n0,0,20\n")
    refused = midstream("bench", "adaptive", "--bundle", gratings.path, "--device", "pi4", "--trace", down)
    assert refused.code == 2
    assert "down all the time" in refused.err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_every_process_ends_with_the_command(gratings: Bundle, trace: Path, number: signal.Signals) -> None:
    given = ["--bundle", gratings.path, "--device", "pi4", "--trace", trace, "--policies", "local"]
    command = [sys.executable, "-m", "midstream.cli.main", "bench", "adaptive", *map(str, given)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=_environ()) as running:
        assert running.stderr is not None
        while "measuring" not in (line := running.stderr.readline()):
            assert line
        others = psutil.Process(running.pid).children(recursive=True)
        assert len(others) == 3
        running.send_signal(number)
        code = running.wait(20)
        assert code == (-number if number == signal.SIGKILL else 128 + number)
        assert "Traceback" not in running.stderr.read()
    _, left = psutil.wait_procs(others, 10)
    assert not left


def _environ() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": module_path()}
