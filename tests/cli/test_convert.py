"""``midstream convert`` and ``midstream verify``."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from midstream.bundle import Bundle
from midstream_converters.opening import DEFAULT_MAX_CUTS
from midstream_converters.verify import CutProof

from .conftest import Midstream


def test_convert_tells_what_it_made(midstream: Midstream, faces_model: Path, tmp_path: Path) -> None:
    target = tmp_path / "a bundle"
    told = midstream("convert", faces_model, "-o", target, "--max-cuts", "2", "--json").json
    assert len(told["cuts"]) == 2
    assert all(set(cut) == {"id", "nodes", "payload_bytes", "share", "accelerators"} for cut in told["cuts"])
    counts = told["candidates"]
    assert (counts["kept"], counts["rejected"]) == (2, len(told["rejected"]))
    assert counts["untried"] == counts["total"] - 2 - counts["rejected"] > counts["dominated"] > 0
    assert counts["optimal"] >= sum(cut["share"] > 0 for cut in told["cuts"]) > 0
    assert told["model_bytes"] == faces_model.stat().st_size
    assert told["bundle_bytes"] == sum(file.stat().st_size for file in target.iterdir())
    assert [cut["id"] for cut in told["cuts"]] == [cut.id for cut in Bundle.open(target).cuts]


def test_heads_that_fit_the_edge_tpu_are_counted_and_shown(
    midstream: Midstream, faces_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    integers = Path(__file__).parents[1] / "models" / "digits_int8.tflite"
    for model, fitting in ((integers, 2), (faces_model, 0)):
        made = midstream("convert", model, "-o", tmp_path / model.stem, "--max-cuts", "2", "--edgetpu", "--no-cache")
        assert f"heads that fit the Edge TPU: {fitting} of 2, compiled for it: 0\n" in made.err
        assert midstream("inspect", tmp_path / model.stem).out.count("edgetpu") == fitting


def test_convert_without_json_says_so_on_stderr(midstream: Midstream, faces_model: Path, tmp_path: Path) -> None:
    ended = midstream("convert", faces_model, "-o", tmp_path / "b", "--max-cuts", "1")
    assert (ended.code, ended.out) == (0, "")
    assert "1 cuts proven, 0 rejected" in ended.err.replace("\n", " ")


def test_convert_tells_what_quantising_has_changed(midstream: Midstream, tmp_path: Path) -> None:
    models = Path(__file__).resolve().parent.parent / "models"
    command = ["convert", models / "digits_float32.onnx", "-o", tmp_path / "b", "--max-cuts", "1"]
    command += ["--quantize", "int8", "--calibration", models / "digits_calibration.npz"]
    ended = midstream(*command)
    assert (ended.code, ended.out) == (0, "")
    assert "digits_float32 in int8: 100.0% of 48 inputs keep their answer (largest difference" in ended.err
    # What is there already tells it too.
    told = midstream(*command, "--json").json
    quantized = told["quantized"]
    assert (quantized["dtype"], quantized["samples"], quantized["agreement"]) == ("int8", 48, 1.0)
    assert 0 < quantized["mean_difference"] < quantized["max_difference"] < 0.1
    assert quantized["size_ratio"] == told["model_bytes"] / (models / "digits_float32.onnx").stat().st_size
    assert quantized["time_ratio"] == quantized["int8_ms"] / quantized["float_ms"]
    assert [output["kind"] for output in quantized["outputs"]] == ["scores"]


def test_without_the_extra_it_is_named(
    midstream: Midstream, faces_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("midstream_converters.cli.find_spec", lambda package: None if package == "scipy" else object())
    ended = midstream("convert", faces_model, "-o", tmp_path / "bundle")
    assert ended.code == 2
    assert "converting a model needs the package 'scipy'" in ended.error
    assert "pip install 'midstream[convert]'" in ended.error


def test_the_default_number_of_cuts_is_the_one_that_help_tells(midstream: Midstream) -> None:
    assert f"default {DEFAULT_MAX_CUTS}." in " ".join(midstream("convert", "--help").out.replace("│", " ").split())


def test_convert_as_a_module(faces_model: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "midstream_converters", str(faces_model), "-o", str(tmp_path / "b"), "--json"]
    done = subprocess.run([*command, "--max-cuts", "1"], capture_output=True, text=True, check=True)
    assert len(json.loads(done.stdout)["cuts"]) == 1
    assert (tmp_path / "b" / "manifest.json").is_file()


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (["--all-cuts", "--max-cuts", "3"], "exclude each other"),
        (["--tolerance", "nan"], "not a finite number"),
        (["--input", "input"], "has no NAME="),
        (["--input", "nobody=image:NHWC:RGB"], "no such input; it has input"),
        (["--input", "input=image:NCHW:RGB"], "has 3 channels, but the input is input: float32[1, 128, 128, 3]"),
        (["--input", "input=image:NHWC:GREY"], "has 1 channels"),
        (["--shape", "input=1,x"], "not understood"),
        (["--shape", "input=0,2"], "not understood"),
        (["--shape", "input=1,²"], "not understood"),
        (["--shape", "input=1,64,64,3"], "does not fit input input: float32[1, 128, 128, 3]"),
        (["--shape", "nobody=1"], "no such input; it has input"),
        (["--value", "input=1"], "values can be bound in ONNX models only"),
        (["--value", "input=NaN"], "not understood"),
        (["--value", "input=1e999"], "not understood"),
        (["--value", "input=null"], "not understood"),
        (["--calibration", "nowhere"], "calibration data nowhere does not exist"),
        (["--to", "onnx"], "--to onnx is for Keras models and SavedModels"),
        (["--to", "torch"], "'torch' is not one of 'tflite', 'onnx'"),
        (["--quantize", "int8"], "--quantize int8 needs real inputs"),
        (["--quantize", "int4"], "'int4' is not"),
    ],
)
def test_a_wrong_option_is_one_error(
    midstream: Midstream, faces_model: Path, tmp_path: Path, options: list[str], what: str
) -> None:
    ended = midstream("convert", faces_model, "-o", tmp_path / "b", *options, "--json")
    assert ended.code == 2
    assert what in ended.error
    assert list(tmp_path.iterdir()) == []


def test_calibration_data_that_is_no_archive_is_one_error(
    midstream: Midstream, faces_model: Path, tmp_path: Path
) -> None:
    header = b"{'descr': '<f4', (".ljust(117) + b"\n"
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("input.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    ended = midstream("convert", faces_model, "-o", tmp_path / "b", "--calibration", tmp_path / "x.npz")
    assert ended.code == 2
    assert "x.npz is not an .npz archive of plain arrays" in ended.error


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("empty.tflite", b"", "is empty"),
        ("empty.onnx", b"", "is empty"),
        ("text.onnx", b"this is not a model, whatever its name says\n" * 20, "is not a whole ONNX model"),
        ("page.tflite", b"<html>not found</html>", "is not a whole ONNX model"),
        ("head.tflite", b"\x20\x00\x00\x00TFL3", "is not a whole TFLite model"),
        ("zeros.onnx", bytes(4096), "is not"),
    ],
)
def test_what_is_no_model_is_one_error(
    midstream: Midstream, tmp_path: Path, name: str, content: bytes, what: str
) -> None:
    (tmp_path / name).write_bytes(content)
    ended = midstream("convert", tmp_path / name, "-o", tmp_path / "b", "--json")
    assert ended.code == 2
    assert what in ended.error
    assert name in ended.error
    assert [file.name for file in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("model", ["face_detection_short_range.tflite", "ch_ppocr_mobile_v2.0_cls_infer.onnx"])
@pytest.mark.parametrize("share", [0.001, 0.3, 0.9, 0.999])
def test_a_truncated_model_is_one_error(
    midstream: Midstream, assets: Path, tmp_path: Path, model: str, share: float
) -> None:
    content = (assets / "models" / model).read_bytes()
    (tmp_path / model).write_bytes(content[: int(len(content) * share)])
    ended = midstream("convert", tmp_path / model, "-o", tmp_path / "b")
    assert ended.code == 2
    assert "truncated" in ended.error


def test_a_model_that_is_missing_or_a_folder_is_one_error(midstream: Midstream, tmp_path: Path) -> None:
    assert "No such file" in midstream("convert", tmp_path / "no.onnx", "-o", tmp_path / "b").error
    assert "not a regular file" in midstream("convert", tmp_path, "-o", tmp_path / "b").error


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_conversion_leaves_nothing(assets: Path, tmp_path: Path, number: signal.Signals) -> None:
    model = assets / "models" / "ch_ppocr_mobile_v2.0_cls_infer.onnx"
    command = [sys.executable, "-m", "midstream_converters", str(model), "-o", str(tmp_path / "in" / "b"), "--all-cuts"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 30
    while not list(tmp_path.glob(".b.*/new/weights.bin")):
        assert process.poll() is None
        assert time.monotonic() < end
        os.sched_yield()
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_verify_holds_every_cut_against_the_whole(midstream: Midstream, faces: Path) -> None:
    told = midstream("verify", faces, "--json").json
    assert told["verified"] is True
    manifest = Bundle.open(faces).manifest
    assert [cut["id"] for cut in told["cuts"]] == [cut.id for cut in manifest.cuts]
    assert [pair["id"] for pair in told["middles"]] == ["+".join(pair) for pair in manifest.middles()]
    assert all(row["verified"] and row["max_abs_error"] == 0.0 for row in told["cuts"] + told["middles"])
    quiet = midstream("verify", faces)
    assert (quiet.code, quiet.out) == (0, "")


def test_verify_fails_with_its_own_code(midstream: Midstream, faces: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    proofs = [CutProof("c1", 0.0), CutProof("c2", 0.25)]
    monkeypatch.setattr("midstream_converters.verify.verify_bundle", lambda *_: proofs)
    ended = midstream("verify", faces, "--json")
    assert ended.code == 3
    assert [cut["verified"] for cut in json.loads(ended.out)["cuts"]] == [True, False]
    assert "1 of 2 cuts" in ended.err
    assert "c2 by 0.25" in ended.err


@pytest.mark.parametrize("command", ["verify", "inspect"])
def test_a_damaged_bundle_is_one_error(midstream: Midstream, faces: Path, tmp_path: Path, command: str) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(faces, damaged)
    content = bytearray((damaged / "weights.bin").read_bytes())
    content[len(content) // 2] ^= 1
    (damaged / "weights.bin").write_bytes(content)
    ended = midstream(command, damaged, "--json")
    assert ended.code == 2
    assert "does not match its SHA-256" in ended.error
