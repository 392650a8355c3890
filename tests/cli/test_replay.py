"""``midstream replay``."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from midstream.bundle import Bundle
from midstream.device import Device

from .conftest import Midstream


@pytest.fixture
def log(faces: Path, tmp_path: Path) -> Path:
    """What a device without a gateway logs of three inputs."""
    device = Device(Bundle.open(faces), "mqtt://127.0.0.1:9", decisions=tmp_path / "log.jsonl", analyse=False)
    with device:
        for _ in range(3):
            device.infer({"input": np.zeros((1, 128, 128, 3), np.float32)})
    path = tmp_path / "log.jsonl"
    # The last decision ends it, without what was measured then.
    lines = path.read_bytes().splitlines(keepends=True)
    while not lines[-1].startswith(b'{"decision"'):
        del lines[-1]
    path.write_bytes(b"".join(lines))
    return path


def test_a_log_is_repeated(midstream: Midstream, log: Path) -> None:
    assert midstream("replay", log).out == "3 decisions, all equal\n"
    told = midstream("replay", log, "--json").json
    assert (told["decisions"], told["equal"], told["differences"], told["cut_off"]) == (3, 3, [], False)
    assert (told["header"]["planner"], len(told["header"]["bundle"])) == ("adaptive", 64)


def test_a_difference_is_named_and_ends_with_3(midstream: Midstream, log: Path) -> None:
    lines = log.read_bytes().splitlines(keepends=True)
    last = json.loads(lines[-1])
    lines[-1] = json.dumps(last | {"latency_ms": last["latency_ms"] + 1e-9}).encode() + b"\n"
    log.write_bytes(b"".join(lines))
    ended = midstream("replay", log)
    assert ended.code == 3
    assert repr(last["latency_ms"]) in ended.out
    assert ended.err == f"midstream: {log}: 1 of 3 decisions came out otherwise, the first of them decision 2\n"
    ended = midstream("replay", log, "--json")
    (difference,) = json.loads(ended.out)["differences"]
    assert (ended.code, difference["decision"], difference["repeated_ms"]) == (3, 2, last["latency_ms"])


def test_a_damaged_log_ends_with_2_and_names_the_line(midstream: Midstream, log: Path) -> None:
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join([*lines[:-1], lines[-1].replace(b'"link":null', b'"link":7')]))
    ended = midstream("replay", log, "--json")
    assert ended.code == 2
    assert f"line {len(lines)}: decision.state.link is no object; log the decisions again" in ended.error


def test_a_log_that_is_cut_off_is_said_to_be(midstream: Midstream, log: Path) -> None:
    log.write_bytes(log.read_bytes()[:-5])
    ended = midstream("replay", log)
    assert (ended.code, ended.out) == (0, "2 decisions, all equal\n")
    assert ended.err == f"{log}: the last line is cut off and was left out\n"
    assert midstream("replay", log, "--json").json["cut_off"] is True


def test_what_is_not_there_is_one_line(midstream: Midstream, tmp_path: Path) -> None:
    ended = midstream("replay", tmp_path / "none")
    assert (ended.code, "No such file" in ended.error) == (2, True)
