"""Training the complexity score's networks, from the measurement to both files: tiny, and long all the same."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from midstream.engines import Program, engine_for
from midstream.manifest import SliceRecord

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]
ROOT = Path(__file__).resolve().parent.parent.parent
SHAPES = {
    "image": {"features": (1, 10), "picture": (1, 128, 128, 1)},
    "audio": {"features": (1, 22), "frames": (1, 31, 40)},
}


@pytest.mark.parametrize("kind", ["image", "audio"])
def test_a_tiny_training_gives_two_files_that_agree(kind: str, tmp_path: Path, assets: Path) -> None:
    pytest.importorskip("tensorflow")
    paths = os.pathsep.join(str(ROOT / part) for part in ("training", "sdk", "converters", "device_profiles"))
    command = [sys.executable, "-m", "midstream_training.train", "--kind", kind, "--into", str(tmp_path)]
    subprocess.run([*command, "--inputs", "50"], check=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": paths})
    rng = np.random.default_rng(0)
    inputs = {name: rng.random(shape, dtype=np.float32) for name, shape in SHAPES[kind].items()}
    answers = []
    for engine, suffix in (("litert", "tflite"), ("onnx", "onnx")):
        path = tmp_path / f"complexity_{kind}.{suffix}"
        content = path.read_bytes()
        record = SliceRecord(path.name, len(content), tuple(inputs), ("score",))
        answers.append(engine_for(engine).load(Program(record, content, path)).run(inputs)["score"])
    assert answers[0] == pytest.approx(answers[1], abs=1e-3)
