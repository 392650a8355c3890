"""``midstream plan``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from midstream.bundle import Bundle
from midstream.profiles import load_profile, profile_to_toml

from .conftest import Midstream

LINK = ["--uplink-kbps", "50000", "--rtt-ms", "2"]


def test_plan_as_json(midstream: Midstream, faces: Path) -> None:
    link = ["--uplink-kbps", "200000", "--rtt-ms", "2"]
    told = midstream("plan", faces, "--device", "pi-zero-2w", "--gateway", "x86-mini", *link, "--json").json
    assert set(told) == {"stages", "cut", "codec", "predicted_ms", "energy_mj", "payload_bytes", "why"}
    assert told["stages"][-1]["machine"] == "gateway"
    layers = len(Bundle.open(faces).graph.layers)
    assert sorted(node for stage in told["stages"] for node in stage["nodes"]) == list(range(layers))


def test_without_a_link_the_device_does_it_all(midstream: Midstream, faces: Path) -> None:
    arguments = ["--device", "pi4", "--gateway", "x86-mini", "--uplink-kbps", "0", "--rtt-ms", "1", "--json"]
    told = midstream("plan", faces, *arguments).json
    assert (told["cut"], told["codec"], told["payload_bytes"]) == (None, "none", 0)
    assert [stage["machine"] for stage in told["stages"]] == ["device"]


def test_a_board_without_the_bundles_engine_is_told(midstream: Midstream, faces: Path, tmp_path: Path) -> None:
    board = replace(load_profile("pi4"), title="A board", engines=("onnx",))
    (tmp_path / "board.toml").write_text(profile_to_toml(board), encoding="utf-8")
    told = midstream("plan", faces, "--device", tmp_path / "board.toml", "--gateway", "x86-mini", *LINK, "--json")
    assert told.json["stages"]
    assert told.err.startswith("A board runs onnx as its profile says, and this bundle is for litert")
    assert midstream("plan", faces, "--device", "pi4", "--gateway", "x86-mini", *LINK, "--json").err == ""


def test_plan_as_a_table(midstream: Midstream, faces: Path) -> None:
    shown = midstream("plan", faces, "--device", "pi4", "--gateway", "x86-mini", *LINK, "--keep-input-local")
    assert shown.code == 0
    assert "plan for face_detection_short_range" in " ".join(shown.out.split())


@pytest.mark.parametrize(
    "arguments",
    [
        ["--device", "pi9", "--gateway", "x86-mini", *LINK],
        ["--device", "pi4", "--gateway", "x86-mini", "--uplink-kbps", "nan", "--rtt-ms", "2"],
        ["--device", "pi4", "--gateway", "x86-mini", "--uplink-kbps", "-1", "--rtt-ms", "2"],
        ["--device", "pi4", "--gateway", "x86-mini", "--uplink-kbps", "1", "--rtt-ms", "inf"],
        ["--device", "pi4", "--gateway", "x86-mini", *LINK, "--load", "nan"],
        ["--device", "pi4", "--gateway", "x86-mini", *LINK, "--deadline-ms", "nan"],
        ["--device", "pi4", "--gateway", "x86-mini", *LINK, "--deadline-ms", "-5"],
        ["--device", "pi4", "--gateway", "x86-mini", *LINK, "--complexity", "nan"],
        ["--device", "pi4", "--gateway", "x86-mini", *LINK, "--objective", "speed"],
        ["--device", "pi4", "--gateway", "x86-mini", *LINK, "--objective", "cost"],
        ["--device", "pi4", "--gateway", "x86-mini", *LINK, "--objective", "cost", "--tariff", "1,2"],
        ["--device", "pi4", "--gateway", "x86-mini", *LINK, "--objective", "cost", "--tariff", "0,0,0"],
        ["--device", "pi4", "--gateway", "x86-mini", *LINK, "--energy-budget-mj", "-1"],
        ["--device", "pi4", "--gateway", "x86-mini", *LINK, "--max-device-memory-mb", "0"],
        ["--device", "pi4", "--gateway", "x86-mini", *LINK, "--tier", "cloud"],
        ["--device", "pi4", "--gateway", "x86-mini", *LINK, "--tier", "gateway=x86-mini,1000,1"],
        ["--device", "pi4", "--gateway", "x86-mini", *LINK, "--tier", "cloud=x86-mini,nan,1"],
        ["--device", "pi4", "--gateway", "x86-mini", *LINK, "--tier", "cloud=nobody,1000,1"],
    ],
)
def test_a_wrong_figure_is_one_error(midstream: Midstream, faces: Path, arguments: list[str]) -> None:
    ended = midstream("plan", faces, *arguments, "--json")
    assert ended.code == 2
    assert ended.error


def test_explain_shows_every_option(midstream: Midstream, faces: Path) -> None:
    arguments = ("plan", faces, "--device", "pi4", "--gateway", "x86-laptop", "--uplink-kbps", "8000", "--rtt-ms", "5")
    told = midstream(*arguments, "--explain", "--json").json["explain"]
    assert told[0]["chosen"]
    assert sum(each["chosen"] for each in told) == 1
    assert {each["cut"] for each in told} == {None, *(cut.id for cut in Bundle.open(faces).cuts)}
    assert "explain" not in midstream(*arguments, "--json").json
    shown = midstream(*arguments, "--explain")
    assert shown.code == 0
    assert "every option, the best first" in shown.out


def test_further_machines_take_stages(midstream: Midstream, faces: Path) -> None:
    board = ["--device", "pi-zero-2w", "--gateway", "pi4", "--uplink-kbps", "200000", "--rtt-ms", "1", "--json"]
    far = ["--tier", "cloud=x86-laptop,1000000,1"]
    alone = midstream("plan", faces, *board).json
    assert "cloud" not in {stage["machine"] for stage in alone["stages"]}
    told = midstream("plan", faces, *board, *far).json
    assert told["stages"][-1]["machine"] == "cloud"
    assert told["predicted_ms"] < alone["predicted_ms"]
    layers = len(Bundle.open(faces).graph.layers)
    assert sorted(node for stage in told["stages"] for node in stage["nodes"]) == list(range(layers))


def test_memory_energy_and_cost(midstream: Midstream, faces: Path) -> None:
    board = [
        "--device",
        "pi4",
        "--gateway",
        "x86-mini",
        "--uplink-kbps",
        "100",
        "--rtt-ms",
        "50",
        "--json",
        "--explain",
    ]
    assert midstream("plan", faces, *board).json["codec"] == "none"
    small = midstream("plan", faces, *board, "--max-device-memory-mb", "0.3").json
    assert small["codec"] != "none"
    refused = {each["refusal"] for each in small["explain"]}
    assert "the device's layers take more than 0.3 MB" in refused
    kept = midstream("plan", faces, *board, "--energy-budget-mj", "0.001").json
    assert kept["why"].startswith("nothing keeps to the energy budget of 0.001 mJ")
    dear = midstream("plan", faces, *board, "--objective", "cost", "--tariff", "0,0,0.3").json
    assert all(each["cost"] is not None for each in dear["explain"])
    shown = midstream("plan", faces, *board[:-2], "--energy-budget-mj", "500", "--explain")
    assert "draws too" in " ".join(shown.out.split())
