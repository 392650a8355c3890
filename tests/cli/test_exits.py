"""``midstream exits``, and what the other commands make of a bundle with an early exit."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from gratings import pictures

from midstream.bundle import Bundle
from midstream.exits import EXITS_FILE

from .conftest import Midstream

MODELS = Path(__file__).resolve().parent.parent / "models"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "pictures.npz"
    np.savez(path, picture=pictures(600, 5)[0])
    return path


@pytest.fixture
def bundle(gratings: Bundle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(gratings.path, tmp_path / "bundle"))


def test_exits_as_json_then_planned_and_inspected(midstream: Midstream, bundle: Path, inputs: Path) -> None:
    told = midstream("exits", bundle, "--calibration", inputs, "--agreement", "0.95", "--json").json
    assert told["file"] == str(bundle / EXITS_FILE)
    assert told["reason"] is None
    found = told["exit"]
    assert (found["samples"], found["held_out"], found["target"]) == (450, 150, 0.95)
    assert (found["head_ms"] + found["exit_ms"]) / found["whole_ms"] <= 0.5
    assert 0 < found["answered_share"] <= 1
    assert found["assured"] == min(0.95, found["agreement"])
    assert midstream("inspect", bundle, "--json").json["exit"] == found
    where = ("--device", "pi4", "--gateway", "x86-laptop", "--uplink-kbps", "0", "--rtt-ms", "5", "--json")
    plan = midstream("plan", bundle, *where, "--min-agreement", f"{found['assured']}").json
    assert plan["exit"] == {"cut": found["cut"], "answered_share": found["answered_share"]}
    assert "exit" not in midstream("plan", bundle, *where).json


def test_exits_for_a_person(midstream: Midstream, bundle: Path, inputs: Path) -> None:
    ended = midstream("exits", bundle, "--calibration", inputs, "--agreement", "0.95")
    assert ended.code == 0
    assert "chosen" in ended.out
    assert "held-out inputs are answered" in " ".join(ended.out.split())
    assert "too long" in ended.out


def test_where_no_exit_helps_the_old_one_goes(midstream: Midstream, bundle: Path, inputs: Path) -> None:
    assert midstream("exits", bundle, "--calibration", inputs, "--agreement", "0.95").code == 0
    last = Bundle.open(bundle).cuts[-1].id
    ended = midstream("exits", bundle, "--calibration", inputs, "--agreement", "0.95", "--cuts", last)
    assert ended.code == 0
    assert "no early exit: no cut has an exit that saves the device time" in " ".join(ended.out.split())
    assert not (bundle / EXITS_FILE).exists()


def test_too_few_inputs_are_one_line(midstream: Midstream, bundle: Path, inputs: Path) -> None:
    ended = midstream("exits", bundle, "--calibration", inputs, "--samples", "40")
    assert ended.code == 2
    assert "40 inputs cannot show an agreement of 0.99" in ended.error.replace("\n", " ")


def test_a_list_of_no_cuts_deletes_nothing(midstream: Midstream, bundle: Path, inputs: Path) -> None:
    (bundle / EXITS_FILE).write_text("{}")
    ended = midstream("exits", bundle, "--calibration", inputs, "--agreement", "0.95", "--cuts", " ,")
    assert ended.code == 2
    assert "--cuts ' ,' names no cut" in ended.error
    assert (bundle / EXITS_FILE).exists()


def test_a_damaged_exit_is_told_and_can_be_learned_again(midstream: Midstream, bundle: Path, inputs: Path) -> None:
    (bundle / EXITS_FILE).write_text("{}")
    assert "is damaged" in midstream("inspect", bundle).error
    assert midstream("exits", bundle, "--calibration", inputs, "--agreement", "0.95").code == 0
    assert midstream("inspect", bundle).code == 0
