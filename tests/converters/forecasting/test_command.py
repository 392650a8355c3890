"""midstream train-forecast as it is called."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from midstream.allocation.usage import Outcome, Usage
from midstream.child import module_path
from midstream.forecaster import CARD
from midstream.history.store import Store

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(find_spec("tensorflow") is None, reason="needs TensorFlow"),
    pytest.mark.timeout(600),
]


def history(path: Path, seconds: int) -> Path:
    """Of one partition that is asked for about eight times a second, by turns more and less."""
    rng = np.random.default_rng(0)
    times_s = [np.sort(rng.random(rng.poisson(8 + 6 * (at // 10 % 2)))) + at for at in range(seconds)]
    usages = [
        Usage(
            time_s=1_700_000_000.0 + at_s, request_id=b"r", machine="gateway", device_id="d", bundle="ab" * 32,
            cut="c1", codec="raw", outcome=Outcome.OK, score=50.0, cpu_ms={"run": 9.0},
            timings_ms={"queue": 1.0, "run": 10.0}, latency_ms=12.0,
        )
        for at_s in np.concatenate(times_s).tolist()
    ]  # fmt: skip
    store = Store(path, 64 << 20)
    store.append(usages)
    store.close()
    return path


def call(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "midstream_converters.forecasting", *map(str, arguments)]
    return subprocess.run(
        command, env=os.environ | {"PYTHONPATH": module_path()}, capture_output=True, text=True, check=False
    )


def test_a_history_becomes_a_model(tmp_path: Path) -> None:
    target = tmp_path / "model"
    ended = call(history(tmp_path / "h.sqlite", 2000), "-o", target, "--json")
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout)
    assert told["model"] == str(target)
    assert told["held_out"]["errors"] == json.loads((target / CARD).read_bytes())["held_out"]["errors"]
    assert told["held_out"]["intervals"]["memory_bytes"] == 0


def test_a_short_history_and_none_are_one_line_on_stderr(tmp_path: Path) -> None:
    ended = call(history(tmp_path / "h.sqlite", 100), "-o", tmp_path / "model")
    assert ended.returncode == 2
    assert "too short to learn from" in ended.stderr.splitlines()[-1]
    ended = call(tmp_path / "none", "-o", tmp_path / "model")
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "model").exists()
