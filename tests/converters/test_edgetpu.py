"""The Edge TPU's compiler: its command line and its report, and what becomes of them in a bundle.

The real compiler was not run: it is closed, and not on the machines of these tests. A script of its name on PATH stands
for it, which records its command line, prints a report as the real one does, and leaves the program as it was.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from midstream.bundle import Bundle
from midstream.errors import AcceleratorError, ModelError
from midstream.manifest import BUNDLE_FILES, COSTS_FILE, edge_tpu_name, head_name
from midstream_converters.convert import convert
from midstream_converters.edgetpu import EdgeTpuCompiler, Report, find_compiler, parse_report
from midstream_converters.opening import Options, read_model
from midstream_converters.recipe import recipe_of

MODELS = Path(__file__).resolve().parent.parent / "models"
INT8 = MODELS / "digits_int8.tflite"

WHOLE = """Edge TPU Compiler version 16.0.384591198
Started a compilation timeout timer of 180 seconds.

Model compiled successfully in 12 ms.

Input model: head.tflite
Input size: 21.00KiB
Output model: head_edgetpu.tflite
Output size: 120.00KiB
On-chip memory used for caching model parameters: 26.00KiB
On-chip memory remaining for caching model parameters: 7.88MiB
Off-chip memory used for streaming uncached model parameters: 0.00B
Number of Edge TPU subgraphs: 1
Total number of operations: 22
Operation log: head_edgetpu.log
See the operation log file for individual operation details.
Compilation child process completed within timeout period.
Compilation succeeded!
"""
PARTLY = (
    WHOLE
    + """
Model successfully compiled but not all operations are supported by the Edge TPU.
Number of operations that will run on Edge TPU: 20
Number of operations that will run on CPU: 2
"""
)

Install = Callable[..., Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Puts a compiler on PATH that prints this report; gives the file with its command lines."""

    def install(report: str = WHOLE, then: str = 'cp "$4" "$3/head_edgetpu.tflite"', version: str = "16.0.3") -> Path:
        folder, log = tmp_path / "bin", tmp_path / "command lines"
        folder.mkdir(exist_ok=True)
        (folder / "report").write_text(report)
        script = folder / "edgetpu_compiler"
        script.write_text(
            f"""#!/bin/sh
            if [ "$1" = --version ]; then echo "Edge TPU Compiler version {version}"; exit; fi
            echo "$*" >> '{log}'
            cat '{folder}/report'
            {then}
            """
        )
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        return log

    return install


def compiler() -> EdgeTpuCompiler:
    found = find_compiler()
    assert found is not None
    return found


def test_no_compiler_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_compiler() is None


def test_a_compiler_is_known_by_its_version(install: Install) -> None:
    install(version="16.0.384591198")
    assert compiler().version == "16.0.384591198"


def test_a_program_of_this_name_that_is_no_compiler_is_an_error(install: Install) -> None:
    install(version="")
    with pytest.raises(ModelError, match="does not tell its version: Edge TPU Compiler version; install"):
        find_compiler()


def test_the_report_is_read() -> None:
    assert parse_report(WHOLE) == Report(22, 0)
    assert parse_report(PARTLY) == Report(22, 2)
    assert parse_report("Internal compiler error. Aborting!") is None


def test_the_command_line_is_the_documented_one(install: Install) -> None:
    log = install()
    assert compiler().compile(INT8.read_bytes()) == INT8.read_bytes()
    (line,) = log.read_text().splitlines()
    silent, output, folder, model = line.split()
    assert (silent, output) == ("-s", "-o")
    assert (Path(folder).name, Path(model).name) == ("out", "head.tflite")
    assert not Path(model).parent.exists()


@pytest.mark.parametrize(
    ("report", "then", "what"),
    [
        (PARTLY, "", "leaves 2 of 22 operators to the CPU"),
        ("Total number of operations: 0\n", "", "leaves 0 of 0 operators"),
        ("Invalid model: head.tflite\nModel could not be parsed\n", "exit 1", "exit code 1: Model could not be parsed"),
        ("Internal compiler error. Aborting!\n", "", "printed no number of operations: Internal compiler error"),
        (WHOLE, "", "left no program: No such file"),
        (WHOLE, 'mkfifo "$3/head_edgetpu.tflite"', "left no program: it is not a regular file"),
        (WHOLE, 'echo nothing > "$3/head_edgetpu.tflite"', "not TFLite"),
        (WHOLE, "kill -SEGV $$", "exit code -11"),
    ],
)
def test_what_a_compiler_does_wrong_is_told(install: Install, report: str, then: str, what: str) -> None:
    install(report, then)
    with pytest.raises(ModelError, match=what):
        compiler().compile(INT8.read_bytes())


def test_a_compiler_that_hangs_is_ended_with_its_children(install: Install, tmp_path: Path) -> None:
    install("", f"mkfifo '{tmp_path}/fifo'; cat > '{tmp_path}/fifo' < /dev/zero & wait")
    start = time.monotonic()
    with pytest.raises(ModelError, match="took longer than 0.5 s"):
        compiler().compile(INT8.read_bytes(), timeout_s=0.5)
    assert time.monotonic() - start < 60


def test_heads_are_compiled_into_the_bundle(install: Install, tmp_path: Path) -> None:
    log = install()
    bundle = Bundle.open(made(tmp_path / "bundle", compiler()))
    assert bundle.manifest.compiled_heads() == tuple(cut.id for cut in bundle.cuts)
    assert all(cut.maps_whole == ("edgetpu",) for cut in bundle.cuts)
    assert len(log.read_text().splitlines()) == len(bundle.cuts)
    record = bundle.manifest.slices[edge_tpu_name(head_name("c1"))]
    assert record.member == "c1.head.edgetpu.tflite"
    assert record.weights == ()


def test_a_plain_head_gives_what_the_head_gives(install: Install, tmp_path: Path) -> None:
    """The stand-in leaves the plain file as it is, so the CPU can run it."""
    from midstream.engines import Program, engine_for

    install()
    bundle = Bundle.open(made(tmp_path / "bundle", compiler()))
    image = np.random.default_rng(0).integers(-128, 128, (1, 8, 8, 1), np.int8)
    for cut in bundle.cuts:
        crossing, _ = bundle.run_head(cut.id, {"image": image})
        record = bundle.manifest.slices[edge_tpu_name(head_name(cut.id))]
        program = Program(record, bundle._archive.read(record.member, record.bytes), bundle.path)
        plain = engine_for("litert").load(program).run({"image": image})
        assert all(np.array_equal(plain[name], value) for name, value in crossing.items())


def test_a_head_that_is_not_compiled_is_told_and_left_out(
    install: Install, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    install(PARTLY)
    bundle = Bundle.open(made(tmp_path / "bundle", compiler()))
    assert bundle.manifest.compiled_heads() == ()
    assert all(cut.maps_whole == ("edgetpu",) for cut in bundle.cuts)
    expected = [f"the head of cut {cut.id} is not compiled for the Edge TPU" for cut in bundle.cuts]
    assert [message.partition(":")[0] for message in caplog.messages] == expected
    with pytest.raises(AcceleratorError, match=r"has no head that is compiled .*map whole: c\d+, c.*--edgetpu"):
        Bundle.open(bundle.path, accelerator="edgetpu")


def test_a_program_of_other_tensors_is_not_taken(
    install: Install, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    install(then=f"cp '{MODELS / 'digits_float32.tflite'}' \"$3/head_edgetpu.tflite\"")
    assert Bundle.open(made(tmp_path / "bundle", compiler())).manifest.compiled_heads() == ()
    assert "takes and gives [[('float32', (1, 8, 8, 1))]" in caplog.messages[0]


@pytest.mark.parametrize("model", ["digits_float32.tflite", "digits_float32.onnx", "digits_int8_float_io.tflite"])
def test_a_model_that_the_edge_tpu_does_not_take_has_no_marks(install: Install, tmp_path: Path, model: str) -> None:
    log = install()
    convert(MODELS / model, tmp_path / "bundle", Options(max_cuts=2, edgetpu=compiler()))
    bundle = Bundle.open(tmp_path / "bundle")
    assert not any(cut.maps_whole for cut in bundle.cuts)
    assert not log.exists()


def test_the_compilers_version_is_part_of_the_recipe(install: Install) -> None:
    model = read_model(INT8)
    recipes = {recipe_of(model, Options())}
    for version in ("16.0.1", "16.0.2"):
        install(version=version)
        recipes.add(recipe_of(model, Options(edgetpu=compiler())))
    assert len(recipes) == 3


def test_the_same_compiler_gives_the_same_bytes(install: Install, tmp_path: Path) -> None:
    install()
    first, second = made(tmp_path / "a", compiler()), made(tmp_path / "b", compiler())
    for name in BUNDLE_FILES - {COSTS_FILE}:
        assert (first / name).read_bytes() == (second / name).read_bytes()


def made(target: Path, edgetpu: EdgeTpuCompiler | None = None) -> Path:
    convert(INT8, target, Options(max_cuts=2, edgetpu=edgetpu))
    return target
