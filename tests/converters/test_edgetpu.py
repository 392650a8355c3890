"""Which heads fit the Edge TPU, and what its compiler is asked.

A script stands where the compiler would be: neither the real one nor the hardware was run here.
"""

from __future__ import annotations

import os
import re
import select
import subprocess
from pathlib import Path

import numpy as np
import pytest

from midstream.bundle import Bundle
from midstream.engines import Program, engine_for
from midstream.errors import ModelError
from midstream.manifest import EDGETPU_SUFFIX, WEIGHTS_FILE, edgetpu_name, head_name
from midstream_converters.convert import convert
from midstream_converters.edgetpu import find_compiler
from midstream_converters.opening import Options
from midstream_converters.recipe import BundleCache
from midstream_converters.tflite.schema import schema

MODELS = Path(__file__).parents[1] / "models"
# Says what the real one says (version 16.0), and "compiles" by marking the file; a slice with a softmax is split. Files
# beside it say what else it does: which slices it fails on, whether it starts a process and waits for it.
COMPILER = """#!/bin/sh
here=$(dirname "$0")
echo "$@" >> "$here/calls"
[ "$1" = --version ] && { echo "Edge TPU Compiler version 16.0.384591198"; exit 0; }
[ -e "$here/fails" ] && grep -q -f "$here/fails" "$4" && { echo "Internal compiler error. Aborting!" >&2; exit 1; }
[ -e "$here/open" ] && { (echo started; exec sleep 60) > "$here/open" & wait; }
left=$(cat "$here/left" 2>/dev/null || echo 0)
echo "Model compiled successfully in 12 ms."
echo "Number of Edge TPU subgraphs: 1"
echo "Total number of operations: 3"
if [ "$left" != 0 ]; then
    echo "Model successfully compiled but not all operations are supported by the Edge TPU."
    echo "Number of operations that will run on Edge TPU: 2"
    echo "Number of operations that will run on CPU: $left"
fi
[ -e "$here/other" ] && { cat "$here/other" > "$3/slice_edgetpu.tflite"; exit; }
{ cat "$4"; printf compiled; } > "$3/slice_edgetpu.tflite"
"""


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "a place for programs"
    folder.mkdir()
    script = folder / "edgetpu_compiler"
    script.write_text(COMPILER)
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


@pytest.mark.parametrize(
    ("model", "some"), [("digits_int8.tflite", True), ("digits_float32.tflite", False), ("digits_qdq.onnx", False)]
)
def test_heads_of_8_bit_operators_are_marked(model: str, some: bool, tmp_path: Path) -> None:
    manifest = convert(MODELS / model, tmp_path / "bundle", Options(max_cuts=None))
    marked = [cut.id for cut in manifest.cuts if cut.accelerators]
    assert bool(marked) == some
    assert all(cut.accelerators in ((), ("edgetpu",)) for cut in manifest.cuts)
    assert Bundle.open(tmp_path / "bundle").manifest.cuts == manifest.cuts


def test_a_head_that_begins_with_a_float_does_not_fit(tmp_path: Path) -> None:
    manifest = convert(MODELS / "digits_int8_float_io.tflite", tmp_path / "bundle", Options(max_cuts=None))
    assert not any(cut.accelerators for cut in manifest.cuts)


def test_marked_heads_are_compiled_and_kept_beside_the_plain_ones(compiler: Path, tmp_path: Path) -> None:
    options = Options(max_cuts=3, edgetpu=True)
    manifest = convert(MODELS / "digits_int8.tflite", tmp_path / "bundle", options)
    marked = [head_name(cut.id) for cut in manifest.cuts if cut.accelerators]
    assert marked
    assert {edgetpu_name(name) for name in marked} == {n for n in manifest.slices if n.endswith(EDGETPU_SUFFIX)}
    calls = (compiler / "calls").read_text().splitlines()
    assert [call for call in calls if call != "--version"] == [
        call for call in calls if call.startswith("--show_operations --out_dir ") and call.endswith("/slice.tflite")
    ]
    bundle = Bundle.open(tmp_path / "bundle")
    compiled = manifest.slices[edgetpu_name(marked[0])]
    content = bundle._archive.read(compiled.member, compiled.bytes)
    assert content.endswith(b"compiled")
    # What the compiler was given holds its weights itself, within the flatbuffer.
    plain = manifest.slices[marked[-1]]
    compiled = manifest.slices[edgetpu_name(marked[-1])]
    content = bundle._archive.read(compiled.member, compiled.bytes).removesuffix(b"compiled")
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    assert all(buffer.offset == 0 for buffer in model.buffers)
    within = b"".join(bytes(buffer.data) for buffer in model.buffers if buffer.data is not None)
    assert len(within) > 64 * len(plain.weights)
    image = np.random.default_rng(0).integers(-128, 128, (1, 8, 8, 1), np.int8)
    program = Program(compiled, content, bundle.path / WEIGHTS_FILE)
    given = engine_for("litert").load(program).run({"image": image})
    crossing, _ = bundle.run_head(marked[-1].removesuffix(".head"), {"image": image})
    assert all(np.array_equal(given[name], value) for name, value in crossing.items())
    again = convert(MODELS / "digits_int8.tflite", tmp_path / "again", options)
    assert again == manifest


def test_what_would_stay_on_the_processor_is_not_kept(compiler: Path, tmp_path: Path) -> None:
    (compiler / "left").write_text("1")
    manifest = convert(MODELS / "digits_int8.tflite", tmp_path / "bundle", Options(max_cuts=2, edgetpu=True))
    assert any(cut.accelerators for cut in manifest.cuts)
    assert not any(name.endswith(EDGETPU_SUFFIX) for name in manifest.slices)


def test_a_head_on_which_the_compiler_fails_is_named_and_left_plain(
    compiler: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (compiler / "fails").write_text("concat")
    manifest = convert(MODELS / "digits_int8.tflite", tmp_path / "bundle", Options(max_cuts=3, edgetpu=True))
    assert [cut.id for cut in manifest.cuts if cut.accelerators] == ["c1", "c12", "c19"]
    assert [n for n in manifest.slices if n.endswith(EDGETPU_SUFFIX)] == ["c1.head.edgetpu", "c12.head.edgetpu"]
    (record,) = (record for record in caplog.records if record.name == "midstream.converters")
    assert record.levelname == "WARNING"
    assert re.fullmatch(
        r"c19\.head\.tflite is not compiled for the Edge TPU and stays on the processor: .*edgetpu_compiler fails with "
        r"exit code 1: Internal compiler error. Aborting!",
        record.getMessage(),
    )


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (b"TFL3", r"what edgetpu_compiler makes of c1.head.tflite is not a whole TFLite model: it has 4 bytes"),
        (
            "digits_float32.tflite",
            r"c1.head.tflite has float32\[1, 8, 8, 1\] as input 0, and the head has int8\[.* of scale",
        ),
        ("digits_two_halves.tflite", r"c1.head.tflite has 2 inputs, and the head has 1$"),
        (
            "digits_int8.tflite",
            r"c1.head.tflite has int8\[1, 10\] of scale .* as output 0, and the head has int8\[1, 8, 8, 10\]",
        ),
    ],
)
def test_a_compiled_head_takes_and_gives_what_the_head_does(
    compiler: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, other: str | bytes, said: str
) -> None:
    content = other if isinstance(other, bytes) else (MODELS / other).read_bytes()
    (compiler / "other").write_bytes(content)
    manifest = convert(MODELS / "digits_int8.tflite", tmp_path / "bundle", Options(max_cuts=2, edgetpu=True))
    assert re.search(said, caplog.messages[0])
    assert not any(name.endswith(EDGETPU_SUFFIX) for name in manifest.slices)


def test_a_compiler_that_does_not_end_is_stopped_with_what_it_started(
    compiler: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("midstream_converters.edgetpu._SECONDS", 1.0)
    os.mkfifo(compiler / "open")
    reader = os.open(compiler / "open", os.O_RDONLY | os.O_NONBLOCK)
    try:
        manifest = convert(MODELS / "digits_int8.tflite", tmp_path / "bundle", Options(max_cuts=1, edgetpu=True))
        assert os.read(reader, 100) == b"started\n"
        assert select.select([reader], [], [], 20)[0], "what the compiler has started goes on"
        assert os.read(reader, 100) == b""
    finally:
        os.close(reader)
    assert not any(name.endswith(EDGETPU_SUFFIX) for name in manifest.slices)
    assert "edgetpu_compiler does not end within 1 s and was stopped" in caplog.text


def test_an_interrupted_compiler_is_stopped(compiler: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = []

    def interrupted(process: subprocess.Popen[bytes], timeout: float | None = None) -> int:
        if timeout is None:
            return wait(process)
        started.append(process)
        raise KeyboardInterrupt

    wait = subprocess.Popen.wait
    monkeypatch.setattr(subprocess.Popen, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        find_compiler()
    assert started[0].returncode is not None


def test_a_bundle_without_a_failed_head_is_not_taken_for_finished(compiler: Path, tmp_path: Path) -> None:
    options, cache = Options(max_cuts=1, edgetpu=True), BundleCache(tmp_path / "cache")
    (compiler / "fails").write_text("TFL3")
    first = convert(MODELS / "digits_int8.tflite", tmp_path / "bundle", options, cache=cache)
    assert not any(name.endswith(EDGETPU_SUFFIX) for name in first.slices)
    (compiler / "fails").unlink()
    second = convert(MODELS / "digits_int8.tflite", tmp_path / "bundle", options, cache=cache)
    assert [name for name in second.slices if name.endswith(EDGETPU_SUFFIX)] == ["c19.head.edgetpu"]
    assert not first.recipe
    assert Bundle.open(tmp_path / "bundle").manifest == second


def test_a_compiler_that_does_not_answer_is_one_clear_error(compiler: Path, tmp_path: Path) -> None:
    (compiler / "edgetpu_compiler").write_text("#!/bin/sh\necho Exec format error; exit 1\n")
    with pytest.raises(ModelError, match=r"fails with exit code 1: Exec format error; convert without --edgetpu"):
        convert(MODELS / "digits_int8.tflite", tmp_path / "bundle", Options(max_cuts=1, edgetpu=True))
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ('head -c 300 /dev/zero > "$out"', "what edgetpu_compiler makes of"),
        (': > "$out"', "is not a whole TFLite model"),
        ('ln -s /etc/hostname "$out"', "what it wrote cannot be read"),
        ('mkdir "$out"', "what it wrote cannot be read: it is not a regular file"),
        (":", "what it wrote cannot be read: No such file"),
    ],
)
def test_rubbish_that_a_compiler_calls_compiled_is_not_kept(
    compiler: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, written: str, message: str
) -> None:
    last = COMPILER.splitlines()[-1]
    changed = COMPILER.replace(last, f'out="$3/slice_edgetpu.tflite"; {written}')
    (compiler / "edgetpu_compiler").write_text(changed)
    manifest = convert(MODELS / "digits_int8.tflite", tmp_path / "bundle", Options(max_cuts=1, edgetpu=True))
    assert message in caplog.text
    assert not any(name.endswith(EDGETPU_SUFFIX) for name in manifest.slices)


def test_another_compiler_is_another_recipe(compiler: Path, tmp_path: Path) -> None:
    options = Options(max_cuts=1, edgetpu=True)
    first = convert(MODELS / "digits_int8.tflite", tmp_path / "first", options)
    script = compiler / "edgetpu_compiler"
    script.write_text(COMPILER.replace("16.0", "17.0"))
    assert convert(MODELS / "digits_int8.tflite", tmp_path / "second", options).recipe != first.recipe


def test_without_a_compiler_heads_are_only_marked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_compiler() is None
    manifest = convert(MODELS / "digits_int8.tflite", tmp_path / "bundle", Options(max_cuts=2, edgetpu=True))
    assert any(cut.accelerators for cut in manifest.cuts)
    assert not any(name.endswith(EDGETPU_SUFFIX) for name in manifest.slices)
