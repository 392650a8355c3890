"""Training the forecaster, from the workloads to its page: tiny, and long all the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from midstream.allocation.features import FEATURES
from midstream.forecaster import CARD, Network

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]
ROOT = Path(__file__).resolve().parent.parent.parent


def test_a_tiny_training_gives_two_files_that_agree_a_card_and_a_page(tmp_path: Path) -> None:
    pytest.importorskip("tensorflow")
    paths = os.pathsep.join(str(ROOT / part) for part in ("training", "sdk", "converters", "device_profiles"))
    folder, page = tmp_path / "model", tmp_path / "forecast.md"
    command = [sys.executable, "-m", "midstream_training.forecast", "--into", str(folder), "--page", str(page)]
    options = ["--gateways", "1", "--epochs", "1"]
    subprocess.run([*command, *options], check=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": paths})
    networks = [Network(folder, "litert"), Network(folder, "onnx")]
    features = np.random.default_rng(0).uniform(0, 6, (3, len(FEATURES))).astype(np.float32)
    one, other = (network.step(features, np.zeros((3, network.units), np.float32))[0] for network in networks)
    np.testing.assert_allclose(one, other, atol=2e-4)
    errors = json.loads((folder / CARD).read_bytes())["held_out"]["errors"]
    assert {"network", "ewma", "mix without it", "mix with it"} <= errors.keys()
    assert "## What it adds" in page.read_text()
