"""The evaluation's models are made once, and anew where they are no longer what their recipe says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# In a process of its own: the benchmarks' modules are named like the examples'.
PROGRAM = """
import json, sys
from dataclasses import replace
from pathlib import Path
import numpy as np
import evaluated
from midstream.calibrating import pareto
from midstream.communication.codecs import find_codec
from midstream_converters.opening import Options

model, data, folder = map(Path, sys.argv[1:])
samples = np.load(data)

def inputs(bundle, kind, count):
    (spec,) = bundle.inputs
    values = samples[spec.name][:count]
    return [{spec.name: value} for value in values]

recipe = evaluated.Recipe("some digits", "classifier", model, "digits", "argmax", Options(max_cuts=3), inputs, 48, ())
asked = [recipe]

def made():
    (found,) = evaluated.evaluated(asked, folder)
    return found, (folder / "some-digits.json").stat().st_mtime_ns

first, at_first = made()
again, at_again = made()
ladder = again.open().ladder
told = {
    "kept": at_first == at_again and first == again,
    "best": all(pareto(place.rungs) == place.rungs for place in ladder.places),
    "bases": all(
        place.bases for place in ladder.places for rung in place.rungs if find_codec(rung.codec).family == "klt"
    ),
    "smallest": [evaluated.smallest(ladder, floor, cuts=True)[1].payload_bytes for floor in evaluated.FLOORS],
    "lossless": evaluated.smallest(ladder, 1.0, cuts=True)[1].lossless,
    "jpeg": [rung.codec for rung in again.jpeg],
}
(first.folder / "codecs.json").write_bytes(b"{}")
_, at_damage = made()
told["after damage"] = at_damage != at_again
asked = [replace(recipe, metric="cosine")]
changed, at_change = made()
told["after a change"] = at_change != at_damage and changed.open().ladder.metric == "cosine"
print(json.dumps(told))
"""


def test_bundles_are_kept_while_they_are_what_was_asked_for(tmp_path: Path) -> None:
    models = ROOT / "tests" / "models"
    given = [models / "digits_float32.tflite", models / "digits_calibration.npz", tmp_path]
    path = os.pathsep.join([str(ROOT / "benchmarks"), *sys.path])
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, given)],
        capture_output=True,
        env={**os.environ, "PYTHONPATH": path},
        check=False,
    )
    assert ended.returncode == 0, ended.stderr.decode()
    told = json.loads(ended.stdout)
    lossless, higher, lower = told.pop("smallest")
    assert lossless > higher >= lower
    assert told == {
        "kept": True, "best": True, "bases": True, "lossless": True, "jpeg": [], "after damage": True,
        "after a change": True,
    }  # fmt: skip
