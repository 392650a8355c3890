"""Which heads fit the Edge TPU, and what its compiler is asked.

A script stands where the compiler would be: neither the real one nor the hardware was run here.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from midstream.bundle import Bundle
from midstream.engines import Program, engine_for
from midstream.errors import ModelError
from midstream.manifest import EDGETPU_SUFFIX, WEIGHTS_FILE, edgetpu_name, head_name
from midstream_converters import edgetpu
from midstream_converters.convert import convert
from midstream_converters.edgetpu import find_compiler
from midstream_converters.opening import Options
from midstream_converters.tflite.schema import schema

MODELS = Path(__file__).parents[1] / "models"
# Says what the real one says (version 16.0), and "compiles" by marking the file; a slice with a softmax is split.
COMPILER = """#!/bin/sh
echo "$@" >> "$(dirname "$0")/calls"
[ "$1" = --version ] && { echo "Edge TPU Compiler version 16.0.384591198"; exit 0; }
[ -e "$(dirname "$0")/fails" ] && { echo "Internal compiler error. Aborting!" >&2; exit 1; }
left=$(cat "$(dirname "$0")/left" 2>/dev/null || echo 0)
echo "Model compiled successfully in 12 ms."
echo "Number of Edge TPU subgraphs: 1"
echo "Total number of operations: 3"
if [ "$left" != 0 ]; then
    echo "Model successfully compiled but not all operations are supported by the Edge TPU."
    echo "Number of operations that will run on Edge TPU: 2"
    echo "Number of operations that will run on CPU: $left"
fi
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


def test_a_compiler_that_fails_is_one_clear_error(compiler: Path, tmp_path: Path) -> None:
    (compiler / "fails").touch()
    with pytest.raises(ModelError, match=r"fails with exit code 1: Internal compiler error. Aborting!; .*--edgetpu"):
        convert(MODELS / "digits_int8.tflite", tmp_path / "bundle", Options(max_cuts=2, edgetpu=True))
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ('head -c 300 /dev/zero > "$out"', "makes no TFLite model of .* that takes and gives the same tensors"),
        (': > "$out"', "makes no TFLite model of"),
        ('cp "$(dirname "$0")/other" "$out"', "makes no TFLite model of"),
        ('ln -s /etc/hostname "$out"', "what it wrote cannot be read"),
        ('mkdir "$out"', "what it wrote cannot be read: it is not a regular file"),
        (":", "what it wrote cannot be read: No such file"),
    ],
)
def test_rubbish_that_a_compiler_calls_compiled_is_an_error(
    compiler: Path, tmp_path: Path, written: str, message: str
) -> None:
    shutil.copyfile(MODELS / "digits_float32.tflite", compiler / "other")
    last = COMPILER.splitlines()[-1]
    changed = COMPILER.replace(last, f'out="$3/slice_edgetpu.tflite"; {written}')
    (compiler / "edgetpu_compiler").write_text(changed)
    with pytest.raises(ModelError, match=f"edgetpu_compiler .*{message}"):
        convert(MODELS / "digits_int8.tflite", tmp_path / "bundle", Options(max_cuts=1, edgetpu=True))
    assert not (tmp_path / "bundle").exists()


@pytest.mark.timeout(60)
def test_a_compiler_that_hangs_is_ended_with_all_that_it_started(
    compiler: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (compiler / "edgetpu_compiler").write_text('#!/bin/sh\nsleep 300 & echo $! > "$0.pid"\nwait\n')
    monkeypatch.setattr(edgetpu, "_SECONDS", 0.5)
    with pytest.raises(ModelError, match=r"edgetpu_compiler has not ended after 0\.5 s and was stopped; .*--edgetpu"):
        find_compiler()
    started = int((compiler / "edgetpu_compiler.pid").read_text())
    status = Path(f"/proc/{started}/stat")
    while status.exists() and status.read_text().rsplit(")", 1)[1].split()[0] != "Z":
        pass


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
