"""``midstream calibrate`` and ``midstream bench codecs``, and what the other commands make of a calibrated bundle."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from midstream.bundle import Bundle
from midstream.communication.codecs import SLOW
from midstream.ladder import LADDER_FILE
from midstream_converters.convert import convert
from midstream_converters.opening import Options

from .conftest import Midstream

MODELS = Path(__file__).resolve().parent.parent / "models"
DIGITS = MODELS / "digits_calibration.npz"


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("digits") / "digits"
    convert(MODELS / "digits_float32.tflite", target, Options(max_cuts=3))
    return target


@pytest.fixture
def digits(converted: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(converted, tmp_path / "digits"))


@pytest.fixture
def calibrated(midstream: Midstream, digits: Path) -> Path:
    assert midstream("calibrate", digits, "--calibration", DIGITS, "--samples", 16).code == 0
    return digits


def test_calibrate_as_json(midstream: Midstream, digits: Path) -> None:
    ended = midstream("calibrate", digits, "--calibration", DIGITS, "--min-agreement", "0.97", "--json")
    told = ended.json
    assert told["file"] == str(digits / LADDER_FILE)
    assert (told["metric"], told["samples"], told["held_out"], told["min_agreement"]) == ("auto", 24, True, 0.97)
    bundle = Bundle.open(digits)
    assert bundle.ladder is not None
    assert [place["cut"] for place in told["places"]] == [None, *(cut.id for cut in bundle.cuts)]
    for place in told["places"]:
        assert {rung["codec"] for rung in place["rungs"]} >= {"raw", "lossless"}
        assert all(rung["agreement"] >= 0.97 for rung in place["rungs"])
    assert "measuring the whole input" in ended.err


def test_calibrate_as_tables_says_what_to_do_next(midstream: Midstream, digits: Path) -> None:
    cut = Bundle.open(digits).cuts[0].id
    options = ("--cuts", f" {cut},{cut},", "--codecs", "int8", "--samples", "4", "--metric", "max_error:limit=0.5")
    shown = midstream("calibrate", digits, "--calibration", DIGITS, *options)
    assert shown.code == 0
    assert "max_error:limit=0.5 agreement on 4 inputs (the same that set the rungs up" in shown.out
    assert f"cut {cut}: " in shown.out
    assert "copy it to the gateway's bundle too" in shown.out
    ladder = Bundle.open(digits).ladder
    assert ladder is not None
    assert [place.cut for place in ladder.places] == [None, cut]
    codecs = {rung.codec.removesuffix(SLOW) for place in ladder.places for rung in place.rungs}
    assert codecs <= {"raw", "lossless", "int8"}


def test_a_damaged_calibration_is_told_and_mended_by_the_next(midstream: Midstream, calibrated: Path) -> None:
    (calibrated / LADDER_FILE).write_bytes(b"damaged")
    for command in (["inspect", calibrated], ["verify", calibrated], ["bench", "codecs", calibrated]):
        ended = midstream(*command, "--json")
        assert ended.code == 2
        assert "codecs.json is damaged" in ended.error
        assert "calibrate the bundle again" in ended.error
    assert midstream("calibrate", calibrated, "--calibration", DIGITS, "--samples", 2).code == 0
    assert midstream("inspect", calibrated, "--json").code == 0


def test_other_commands_take_a_calibrated_bundle(midstream: Midstream, calibrated: Path) -> None:
    bundle = Bundle.open(calibrated)
    told = midstream("inspect", calibrated, "--json").json
    assert told["digest"] == bundle.digest.hex()
    assert told["bundle_bytes"] == bundle.bundle_bytes
    assert midstream("verify", calibrated, "--json").code == 0
    (calibrated / LADDER_FILE).unlink()
    assert Bundle.open(calibrated).digest == bundle.digest


def test_converting_again_leaves_a_calibrated_bundle_or_makes_one_that_is_not(
    midstream: Midstream, calibrated: Path
) -> None:
    model = MODELS / "digits_float32.tflite"
    assert midstream("convert", model, "-o", calibrated, "--max-cuts", "3").code == 0
    assert Bundle.open(calibrated).ladder is not None
    assert midstream("convert", model, "-o", calibrated, "--max-cuts", "1").code == 0
    assert not (calibrated / LADDER_FILE).exists()
    assert Bundle.open(calibrated).ladder is None


def test_bench_shows_what_the_bundle_has_and_changes_nothing(midstream: Midstream, calibrated: Path) -> None:
    before = (calibrated / LADDER_FILE).read_bytes()
    told = midstream("bench", "codecs", calibrated, "--json").json
    assert told["plot"] is None
    assert all(rung["best"] for place in told["places"] for rung in place["rungs"])
    shown = midstream("bench", "codecs", calibrated)
    assert "the whole input: 256 bytes" in shown.out
    assert (calibrated / LADDER_FILE).read_bytes() == before


def test_bench_measures_every_codec_and_draws_it(midstream: Midstream, digits: Path, tmp_path: Path) -> None:
    cut = Bundle.open(digits).cuts[0].id
    plot = tmp_path / "chart.png"
    options = ("--samples", 8, "--cuts", cut, "--codecs", "f16,int8,step4")
    told = midstream("bench", "codecs", digits, "--calibration", DIGITS, *options, "--plot", plot, "--json").json
    assert told["plot"] == str(plot)
    assert plot.read_bytes().startswith(b"\x89PNG")
    for place in told["places"]:
        # What agrees with nothing is shown too.
        assert {rung["codec"] for rung in place["rungs"]} >= {"raw", "lossless", "f16", "int8", "step4"}
    assert not (digits / LADDER_FILE).exists()


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (["--metric", "boxes@"], "has no output ''"),
        (["--metric", "text:blank=x"], "blank is 'x'"),
        (["--metric", "os:getcwd"], "metric 'os:getcwd' failed"),
        (["--metric", "nosuch:f"], "cannot import 'nosuch'"),
        (["--cuts", "c999"], "has no cut 'c999'"),
        (["--codecs", "gzip"], "codec 'gzip' is unknown"),
        (["--codecs", "jpeg101"], "codec 'jpeg101' is unknown"),
        (["--samples", "0"], "--samples"),
        (["--min-agreement", "1.5"], "--min-agreement"),
        (["--min-agreement", "nan"], "min"),
        (["--calibration", "nowhere.npz"], "nowhere.npz does not exist"),
        (["--calibration", str(MODELS / "keyword_calibration.npz")], "frames"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    midstream: Midstream, digits: Path, options: list[str], what: str
) -> None:
    ended = midstream("calibrate", digits, "--calibration", DIGITS, *options, "--json")
    assert ended.code == 2
    assert ended.out == ""
    assert "Traceback" not in ended.err
    # The lines before it say what was measured.
    assert ended.err.splitlines()[-1].startswith("midstream: ")
    assert what in ended.err.splitlines()[-1]
    assert not (digits / LADDER_FILE).exists()
    assert not list(digits.glob(".*"))


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ([], "is not calibrated; give inputs with --calibration"),
        (["--cuts", "c1"], "say what to measure; give inputs with --calibration"),
        (["--metric", "exact"], "say what to measure"),
        (["--plot", "chart.pdf"], "ends in neither"),
    ],
)
def test_bench_says_what_it_lacks(midstream: Midstream, digits: Path, options: list[str], what: str) -> None:
    ended = midstream("bench", "codecs", digits, *options)
    assert ended.code == 2
    assert what in ended.error


def test_where_it_cannot_be_written_nothing_is_measured(midstream: Midstream, digits: Path) -> None:
    (digits / LADDER_FILE).mkdir()
    ended = midstream("calibrate", digits, "--calibration", DIGITS)
    assert ended.code == 2
    assert "cannot write" in ended.error


def test_one_that_is_interrupted_leaves_the_bundle_as_it_was(calibrated: Path, tmp_path: Path) -> None:
    before = {file.name: file.read_bytes() for file in calibrated.iterdir()}
    metric = "def slow(want, got):\n    import os, signal\n    os.kill(os.getpid(), signal.SIGINT)\n    return 1.0\n"
    (tmp_path / "slow_metric.py").write_text(metric)
    command = [
        sys.executable,
        "-c",
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from midstream.cli.main import run; run()",
        "calibrate",
        str(calibrated),
    ]
    command += ["--calibration", str(DIGITS), "--metric", "slow_metric:slow", "--json"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 130
    assert ended.stdout == ""
    assert "Traceback" not in ended.stderr
    assert {file.name: file.read_bytes() for file in calibrated.iterdir()} == before


def test_stdout_is_one_json_value_in_a_process_of_its_own(digits: Path) -> None:
    command = [sys.executable, "-m", "midstream.cli.main", "calibrate", str(digits), "--calibration", str(DIGITS)]
    ended = subprocess.run(
        [*command, "--samples", "2", "--json"], capture_output=True, text=True, timeout=60, check=True
    )
    assert len(ended.stdout.splitlines()) == 1
    assert json.loads(ended.stdout)["samples"] == 2


def test_inputs_of_other_sizes_are_told(midstream: Midstream, digits: Path, tmp_path: Path) -> None:
    (spec,) = Bundle.open(digits).inputs
    np.savez(tmp_path / "a.npz", **{spec.name: np.zeros((1, 9, 9, 1), np.float32)})
    ended = midstream("calibrate", digits, "--calibration", tmp_path / "a.npz")
    assert ended.code == 2
    assert "a.npz" in ended.error


def test_inspect_says_what_tells_sizes_beforehand(midstream: Midstream, calibrated: Path) -> None:
    ladder = Bundle.open(calibrated).ladder
    assert ladder is not None
    told = midstream("inspect", calibrated, "--json").json["predictors"]
    rungs = [(place.cut, rung) for place in ladder.places for rung in place.rungs]
    assert [(each["cut"], each["codec"]) for each in told["payload_bytes"]] == [
        (cut, rung.codec) for cut, rung in rungs
    ]
    assert [each["by"] == "features" for each in told["payload_bytes"]] == [rung.size is not None for _, rung in rungs]
    assert told["reply_bytes"] == {"by": "mean", "error": 0.0}
    shown = " ".join(midstream("inspect", calibrated).out.split())
    assert f"of {len(rungs)} rungs" in shown


def test_a_bundle_that_was_not_calibrated_predicts_nothing(midstream: Midstream, digits: Path) -> None:
    assert midstream("inspect", digits, "--json").json["predictors"] == {}
    assert "sizes of payloads" not in midstream("inspect", digits).out
