"""A model in a process of its own: what it does there, and that nothing of it is left here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hostile.models import ONNX, TFLITE, onnx_model

from midstream.engines import Program
from midstream.errors import InputError, ModelError
from midstream.manifest import EngineName, SliceRecord
from midstream_converters.trial import Limits, Seen, Trial

PLENTY = Limits(30.0, 768 << 20)


def program(content: bytes, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> Program:
    return Program(SliceRecord("model", len(content), inputs, outputs), content, Path("weights.bin"))


def load(engine: EngineName, loaded: Program, path: Path) -> None:
    with Trial(engine, loaded, path, Limits.for_model(100)):
        pass


def counting() -> Program:
    """A model that runs as many rounds as it is told, each of which makes its second output longer."""
    model = onnx_model(
        """g (int64 n, float[1,4] x) => (float[1,4] y, float[S,1,4] z) {
            y, z = Loop(n, , x) <
                body = b (int64 i, bool before, float[1,4] state) => (bool after, float[1,4] next, float[1,4] seen) {
                    after = Identity(before)
                    next = Sigmoid(state)
                    seen = Identity(next) }>
        }"""
    )
    return program(model.SerializeToString(), ("n", "x"), ("y", "z"))


def rounds(number: int) -> dict[str, Any]:
    return {"n": np.array(number), "x": np.ones((1, 4), np.float32)}


def test_a_run_tells_what_comes_out() -> None:
    with Trial("onnx", counting(), Path("m.onnx"), PLENTY) as trial:
        for number in (2, 5):
            assert trial.run(rounds(number)) == {"y": Seen("<f4", (1, 4)), "z": Seen("<f4", (number, 1, 4))}
        assert trial.refusal(rounds(1)) is None


@pytest.mark.parametrize("engine", ["litert", "onnx"])
def test_inputs_that_the_runtime_refuses_are_an_input_error(engine: EngineName) -> None:
    litert = engine == "litert"
    content = TFLITE["tflite_floats"]() if litert else ONNX["onnx_chain"]().SerializeToString()
    with Trial(engine, program(content, ("x",), ("y",)), Path("model"), PLENTY) as trial:
        wrong = {"x": np.ones((1, 3, 5) if litert else (1, 3, 8), np.float32)}
        right = {"x": np.ones((1, 8, 8, 3) if litert else (1, 3, 8, 8), np.float32)}
        with pytest.raises(InputError, match="refuses these inputs"):
            trial.run(wrong)
        assert trial.refusal(wrong)
        assert trial.refusal(right) is None


def test_state_is_fresh_in_every_run() -> None:
    with Trial("litert", program(TFLITE["tflite_state"](), ("x",), ("y",)), Path("model"), PLENTY) as trial:
        for _ in range(2):
            assert trial.run({"x": np.ones((1, 6), np.float32)}) == {"y": Seen("<f4", (1, 3))}


@pytest.mark.parametrize(
    ("engine", "said"), [("litert", "a TFLite file that LiteRT"), ("onnx", "an ONNX file that onnxr")]
)
def test_what_the_runtime_does_not_load_is_refused(engine: EngineName, said: str) -> None:
    with pytest.raises(ModelError, match=f"^some/model is {said}.* refuses: "):
        load(engine, program(b"\x08\x08 this is no model", ("x",), ("y",)), Path("some/model"))


def test_what_takes_too_long_is_ended() -> None:
    with Trial("onnx", counting(), Path("m.onnx"), Limits(2.0, 16 << 30)) as trial:
        with pytest.raises(ModelError, match=r"^m\.onnx: onnxruntime does not load it or run it once within 2 s"):
            trial.refusal(rounds(1 << 62))
        assert trial._child is None
        assert trial.refusal(rounds(3)) is None


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux limits memory here")
def test_what_takes_too_much_memory_is_ended() -> None:
    with Trial("onnx", counting(), Path("m.onnx"), Limits(30.0, 256 << 20)) as trial:
        assert trial.refusal(rounds(1 << 62))
        assert trial.refusal(rounds(3)) is None


def test_a_refusal_for_want_of_memory_says_how_to_allow_more() -> None:
    model = onnx_model("g (int64[1] n) => (float[K] y) { y = ConstantOfShape(n) }")
    content = program(model.SerializeToString(), ("n",), ("y",))
    with Trial("onnx", content, Path("m.onnx"), Limits(30.0, 512 << 20)) as trial:
        assert trial.refusal({"n": np.array([1 << 20])}) is None
        assert "it has 512 MiB here; MIDSTREAM_TRIAL" in str(trial.refusal({"n": np.array([1 << 40])}))


def crashing() -> bytes:
    model = onnx.ModelProto()
    model.CopyFrom(ONNX["onnx_functions"]())
    model.functions[0].input.append("r")
    return bytes(model.SerializeToString())


def test_what_ends_the_process_is_an_error_that_says_how() -> None:
    with pytest.raises(ModelError, match=r"^m\.onnx: onnxruntime breaks down on it \(.+\); .* MIDSTREAM_TRIAL_MEMORY"):
        load("onnx", program(crashing(), ("x",), ("y",)), Path("m.onnx"))


def test_nothing_is_left_running(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def noted(*arguments: Any, **options: Any) -> Any:
        started.append(popen(*arguments, **options))
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", noted)
    with Trial("onnx", counting(), Path("m.onnx"), PLENTY):
        pass
    with pytest.raises(KeyError), Trial("onnx", counting(), Path("m.onnx"), PLENTY):
        raise KeyError
    with pytest.raises(ModelError):
        load("onnx", program(crashing(), ("x",), ("y",)), Path("m.onnx"))
    assert len(started) == 3
    for child in started:
        assert child.returncode is not None
        assert child.stdin is not None
        assert child.stdin.closed


def test_what_a_runtime_prints_is_not_shown(capfd: pytest.CaptureFixture[str]) -> None:
    with Trial("litert", program(TFLITE["tflite_floats"](), ("x",), ("y",)), Path("model"), PLENTY) as trial:
        assert trial.refusal({"x": np.ones((1, 8, 8, 3), np.float32)}) is None
    assert capfd.readouterr() == ("", "")


def test_modules_of_the_current_folder_are_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("numpy", "json", "onnxruntime"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('taken')")
    monkeypatch.chdir(tmp_path)
    with Trial("onnx", counting(), Path("m.onnx"), PLENTY) as trial:
        assert trial.refusal(rounds(1)) is None


def test_limits_grow_with_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MIDSTREAM_TRIAL_MEMORY_MB", raising=False)
    small, large = Limits.for_model(0), Limits.for_model(1 << 30)
    assert small.seconds < large.seconds < 120
    assert large.memory_bytes >= small.memory_bytes + (3 << 30)
    monkeypatch.setenv("MIDSTREAM_TRIAL_MEMORY_MB", "5000")
    assert Limits.for_model(0).memory_bytes == 5000 << 20
