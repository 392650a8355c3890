"""``midstream inspect``."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from midstream.bundle import Bundle
from midstream.cli.inspect import revealing_words
from midstream.manifest import Cut

from .conftest import Midstream


def test_inspect_as_json(midstream: Midstream, faces: Path, faces_model: Path) -> None:
    told = midstream("inspect", faces, "--json").json
    bundle = Bundle.open(faces)
    assert told["model_bytes"] == faces_model.stat().st_size
    assert told["bundle_bytes"] == bundle.bundle_bytes
    assert told["inputs"] == [{"name": "input", "dtype": "float32", "shape": [1, 128, 128, 3]}]
    assert [output["name"] for output in told["outputs"]] == ["regressors", "classificators"]
    assert [(cut["id"], tuple(cut["nodes"]), cut["payload_bytes"]) for cut in told["cuts"]] == [
        (cut.id, cut.nodes, cut.payload_bytes) for cut in bundle.cuts
    ]
    nodes, edges = told["resource_map"]["nodes"], told["resource_map"]["edges"]
    assert [node["index"] for node in nodes] == list(range(len(nodes)))
    assert all({"op", "cpu_ms", "memory_bytes", "energy_mj"} <= set(node) for node in nodes)
    assert all(edge["bytes"] > 0 for edge in edges)
    assert told["digest"] == bundle.digest.hex()
    assert told["stateful"] is False
    assert {node["critical"] for node in nodes} == {True, False}
    counts = told["candidates"]
    assert set(counts) == {"total", "optimal", "single_tensor", "dominated", "kept", "rejected", "untried"}
    assert counts["kept"] == len(told["cuts"])
    assert counts["untried"] > 0
    assert [cut["share"] for cut in told["cuts"]] == [cut.share for cut in bundle.cuts]
    assert [cut["reveals_input"] for cut in told["cuts"]] == [cut.reveals_input for cut in bundle.cuts]
    assert None not in {cut.reveals_input for cut in bundle.cuts}


def test_inspect_as_tables(midstream: Midstream, faces: Path) -> None:
    shown = midstream("inspect", faces)
    assert shown.code == 0
    assert "cuts (0 candidates rejected)" in shown.out
    assert "DEPTHWISE_CONV_2D" in shown.out
    assert "an input, or what is linear in one, crosses at: " in shown.out
    assert "89 candidate cuts: " in shown.out
    assert "critical path (*): " in shown.out


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ((True, False, True), "an input, or what is linear in one, crosses at: c0, c2"),
        ((False, False), "an input, or what is linear in one, crosses at: no cut"),
        ((True, None), "this bundle does not say at which cuts the input is revealed; convert the model again"),
    ],
)
def test_cuts_that_reveal_the_input_are_named(told: tuple[bool | None, ...], words: str) -> None:
    assert revealing_words(Cut(f"c{n}", (), 0, (), reveals_input=each) for n, each in enumerate(told)) == words


def test_a_name_that_looks_like_markup_is_a_name(midstream: Midstream, faces_model: Path, tmp_path: Path) -> None:
    model, bundle = tmp_path / "m[red].tflite", tmp_path / "q[" / "x]"
    shutil.copy(faces_model, model)
    made = midstream("convert", model, "-o", bundle, "--max-cuts", "1")
    assert made.code == 0
    assert made.err.startswith(f"{bundle}: 1 cuts proven")
    assert midstream("inspect", bundle).out.startswith("m[red] (tflite, engine litert)")
    assert f"{tmp_path}/[/]" in midstream("inspect", tmp_path / "[/]").error


def test_a_name_cannot_make_the_terminal_do_things(midstream: Midstream, faces_model: Path, tmp_path: Path) -> None:
    model, bundle = tmp_path / "m\x1b[2Jm.tflite", tmp_path / "b\x1b]0;x\x07"
    shutil.copy(faces_model, model)
    made = midstream("convert", model, "-o", bundle, "--max-cuts", "1")
    shown = midstream("inspect", bundle)
    planned = midstream(
        "plan", bundle, "--device", "pi4", "--gateway", "x86-mini", "--uplink-kbps", "9", "--rtt-ms", "9"
    )
    assert (made.code, shown.code, planned.code) == (0, 0, 0)
    assert shown.out.startswith("m?[2Jm (tflite")
    assert "plan for m?[2Jm on" in planned.out
    assert "\x1b" not in made.err + shown.out + planned.out


def test_what_is_no_bundle_is_one_error(midstream: Midstream, tmp_path: Path, faces_model: Path) -> None:
    assert "is missing" in midstream("inspect", tmp_path).error
    assert "is missing" in midstream("inspect", tmp_path / "nowhere").error
    assert "is a file" in midstream("inspect", faces_model).error


def test_a_picture_beside_the_tables_or_the_json(midstream: Midstream, faces: Path, tmp_path: Path) -> None:
    drawn = midstream("inspect", faces, "--graph", tmp_path / "faces.PNG")
    assert drawn.code == 0
    assert "cuts (0 candidates rejected)" in drawn.out
    assert (tmp_path / "faces.PNG").read_bytes().startswith(b"\x89PNG")
    (tmp_path / "faces.svg").write_text("another")
    assert midstream("inspect", faces, "--graph", tmp_path / "faces.svg", "--json").json["cuts"]
    assert "CONV_2D" in (tmp_path / "faces.svg").read_text()


def test_a_picture_that_cannot_be_is_one_error(midstream: Midstream, faces: Path, tmp_path: Path) -> None:
    assert ".svg or .png" in midstream("inspect", faces, "--graph", tmp_path / "faces.pdf").error
    assert ".svg or .png" in midstream("inspect", faces, "--graph", tmp_path / "faces").error
    assert "no folder" in midstream("inspect", faces, "--graph", tmp_path / "nowhere" / "faces.svg").error
    (tmp_path / "folder.svg").mkdir()
    assert "it is a folder" in midstream("inspect", faces, "--graph", tmp_path / "folder.svg").error
    assert "cannot be written" in midstream("inspect", faces, "--graph", "/proc/faces.svg").error
    assert [path.name for path in tmp_path.iterdir()] == ["folder.svg"]


def test_layers_as_on_a_board(midstream: Midstream, faces: Path) -> None:
    told = [midstream("inspect", faces, *options, "--json").json for options in ((), ("--device", "pi-zero-2w"))]
    own, other = (each["resource_map"] for each in told)
    assert own["machine"] == told[0]["machine"] == told[1]["machine"]
    assert own["whole_ms"] == pytest.approx(told[0]["whole_ms"])
    assert (told[1]["whole_ms"], other["machine"]) == (told[0]["whole_ms"], "Raspberry Pi Zero 2 W")
    here, slow = own["nodes"], other["nodes"]
    assert other["whole_ms"] == pytest.approx(sum(layer["cpu_ms"] for layer in slow))
    for layer, other in zip(here, slow, strict=True):
        assert layer | {"cpu_ms": 0, "energy_mj": 0, "critical": 0} == other | {
            "cpu_ms": 0,
            "energy_mj": 0,
            "critical": 0,
        }
    plan = midstream(
        "plan", faces, "--device", "pi-zero-2w", "--gateway", "x86-mini", "--uplink-kbps", 0, "--rtt-ms", 1, "--json"
    )
    assert sum(layer["cpu_ms"] for layer in slow) == pytest.approx(plan.json["predicted_ms"])
    assert sum(layer["energy_mj"] for layer in slow) == pytest.approx(plan.json["energy_mj"])
    assert "Raspberry Pi Zero 2 W, 43." in midstream("inspect", faces, "--device", "pi-zero-2w").out
    assert "is named 'pi44'; nearest is " in midstream("inspect", faces, "--device", "pi44").error
