"""What users may rely on: names, errors and their exit codes, and what has to be installed for which part."""

from __future__ import annotations

import inspect
import json
import pkgutil
import re
import subprocess
import sys
from importlib.metadata import metadata
from pathlib import Path

import onnx
import onnx.parser
import pytest

import midstream
from midstream import errors
from midstream_converters.convert import convert
from midstream_converters.opening import Options

OPTIONAL = (
    "tensorflow", "onnx", "onnxruntime", "ai_edge_litert", "tflite_runtime", "flatbuffers", "librosa", "soundfile",
    "soxr", "numba", "scipy", "iotcore", "torch", "platformdirs", "keras", "tf2onnx", "ai_edge_quantizer",
    "pyarrow",
)  # fmt: skip
ENGINES = ("midstream.engines.litert", "midstream.engines.onnx")
# Stands in for an environment in which these packages are not installed.
HIDE = """
import sys
from importlib.machinery import PathFinder

class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in {hidden!r} else super().find_spec(name, path, target)

assert PathFinder in sys.meta_path
sys.meta_path[:] = [Without if finder is PathFinder else finder for finder in sys.meta_path]
"""


def python(code: str, *arguments: object, hidden: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", HIDE.format(hidden=set(hidden)) + code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def printed(code: str, *arguments: object, hidden: tuple[str, ...] = ()) -> list[str]:
    """The lines that the code prints."""
    done = python(code, *arguments, hidden=hidden)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def error_classes() -> dict[str, type[errors.MidstreamError]]:
    return {
        name: value
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, BaseException) and value.__module__ == errors.__name__
    }


def test_the_public_names_are_these() -> None:
    assert midstream.__all__ == [
        "AcceleratorError",
        "Analysis",
        "Bundle",
        "BundleError",
        "CodecError",
        "Cut",
        "Device",
        "Gateway",
        "InputError",
        "MidstreamError",
        "MissingExtraError",
        "ModelError",
        "PeerError",
        "Plan",
        "PlanError",
        "ProfileError",
        "Result",
        "TensorSpec",
        "VerificationError",
        "WireError",
        "WireVersionError",
        "analyze",
    ]


@pytest.mark.parametrize("name", midstream.__all__)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    value = getattr(midstream, name)
    assert value.__name__ == name
    assert value.__module__.startswith("midstream.")
    assert inspect.getdoc(value)


def test_any_other_name_is_not() -> None:
    with pytest.raises(AttributeError, match="module 'midstream' has no attribute 'Bundel'"):
        _ = midstream.Bundel
    assert not hasattr(midstream, "__path_of_nothing__")


def test_the_methods_of_the_contract_are_there() -> None:
    bundle = midstream.Bundle
    assert all(isinstance(getattr(bundle, name), property) for name in ("inputs", "outputs", "cuts", "resource_map"))
    assert list(inspect.signature(bundle.run).parameters) == ["self", "inputs"]
    split = inspect.signature(bundle.run_split).parameters
    assert list(split) == ["self", "inputs", "cut", "codec"]
    assert split["codec"].default == "raw"
    assert list(midstream.TensorSpec.__dataclass_fields__)[:3] == ["name", "dtype", "shape"]
    assert {"id", "tensors", "payload_bytes", "nodes"} <= set(midstream.Cut.__dataclass_fields__)
    assert {"outputs", "plan", "timings_ms", "analysis", "ran_on"} <= set(midstream.Result.__dataclass_fields__)
    assert set(midstream.Analysis.__dataclass_fields__) >= {"score", "features"}
    assert list(inspect.signature(midstream.analyze).parameters)[:3] == ["array", "kind", "sample_rate"]


def test_every_error_is_public_and_a_midstream_error() -> None:
    assert set(error_classes()) == {name for name in midstream.__all__ if name.endswith("Error")}
    for name, error in error_classes().items():
        assert issubclass(error, errors.MidstreamError)
        assert getattr(midstream, name) is error


def test_the_table_of_errors_is_complete_and_true() -> None:
    rows = re.findall(r"^(\w+Error) +(\d+) +(\S.*)$", errors.__doc__ or "", re.MULTILINE)
    assert {name: int(code) for name, code, _ in rows} == {n: e.exit_code for n, e in error_classes().items()}
    assert len(rows) == len(error_classes())
    assert {error.exit_code for error in error_classes().values()} == {2, 3, 4}


def test_midstream_itself_imports_next_to_nothing() -> None:
    code = "before = set(sys.modules)\nimport midstream\nprint(*sorted(set(sys.modules) - before), sep='\\n')"
    loaded = {name.partition(".")[0] for name in printed(code)}
    assert "midstream" in loaded
    assert not loaded & {*OPTIONAL, "numpy", "cv2", "paho", "networkx", "typer", "rich"}


def test_everything_but_the_engines_can_be_imported_without_any_extra() -> None:
    names = [module.name for module in pkgutil.walk_packages(midstream.__path__, "midstream.")]
    assert len(names) > 40
    assert set(ENGINES) < set(names)
    base = [name for name in names if name not in ENGINES]
    code = (
        "from importlib import import_module\nfor name in sys.argv[2:]: import_module(name)\n"
        "import midstream\nfor name in midstream.__all__: getattr(midstream, name)\n"
        "print(sorted(set(sys.argv[1].split(',')) & {name.partition('.')[0] for name in sys.modules}))"
    )
    for hidden in (OPTIONAL, ()):
        assert printed(code, ",".join(OPTIONAL), *base, hidden=hidden) == ["[]"]


def test_the_command_line_needs_no_extra() -> None:
    code = "from midstream.cli.main import run\nrun()"
    shown = printed(code, "--help", hidden=OPTIONAL)
    assert all(any(command in line for line in shown) for command in ("convert", "verify", "plan", "gateway", "run"))


@pytest.fixture(scope="module")
def models(assets: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model and a bundle of each format."""
    folder = tmp_path_factory.mktemp("models")
    parsed = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[1,4] x) => (float[1,4] y) { a = Tanh(x)\n y = Relu(a) }'
    )
    onnx.save(parsed, folder / "tanh.onnx")
    paths = {"onnx": folder / "tanh.onnx", "tflite": assets / "models" / "face_detection_short_range.tflite"}
    for kind, path in list(paths.items()):
        paths[f"{kind} bundle"] = folder / kind
        convert(path, folder / kind, Options(max_cuts=1))
    return paths


OPEN_AND_RUN = """
import json
import numpy as np
import midstream
bundle = midstream.Bundle.open(sys.argv[1])
bundle.graph, bundle.resource_map, bundle.cuts
try:
    bundle.run({spec.name: np.zeros(spec.shape, spec.dtype) for spec in bundle.inputs})
except midstream.MissingExtraError as error:
    print(json.dumps([error.extra, error.package, str(error)]))
else:
    print(json.dumps("ran"))
"""


@pytest.mark.parametrize(
    ("bundle", "hidden", "extra", "package"),
    [
        ("tflite bundle", ("ai_edge_litert", "tflite_runtime"), "tflite", "ai-edge-litert"),
        ("onnx bundle", ("onnxruntime",), "onnx", "onnxruntime"),
    ],
)
def test_without_an_engine_a_bundle_opens_and_running_it_names_the_extra(
    models: dict[str, Path], bundle: str, hidden: tuple[str, ...], extra: str, package: str
) -> None:
    (line,) = printed(OPEN_AND_RUN, models[bundle], hidden=hidden)
    found_extra, found_package, message = json.loads(line)
    assert (found_extra, found_package) == (extra, package)
    assert f"needs the package {package!r}, which is not installed" in message
    assert message.endswith(f"pip install 'midstream[{extra}]'")


@pytest.mark.parametrize("bundle", ["tflite bundle", "onnx bundle"])
def test_a_board_runs_a_bundle_with_its_one_engine(models: dict[str, Path], bundle: str) -> None:
    needed = {"tflite bundle": ("ai_edge_litert", "flatbuffers"), "onnx bundle": ("onnxruntime", "flatbuffers")}[bundle]
    hidden = tuple(name for name in OPTIONAL if name not in needed)
    assert printed(OPEN_AND_RUN, models[bundle], hidden=hidden)[-1] == '"ran"'


@pytest.mark.parametrize(
    ("model", "hidden", "extra", "package"),
    [
        ("tflite", ("ai_edge_litert", "tflite_runtime"), "convert", "ai-edge-litert"),
        ("tflite", ("flatbuffers",), "convert", "flatbuffers"),
        ("onnx", ("onnx",), "convert", "onnx"),
        ("onnx", ("onnxruntime",), "onnx", "onnxruntime"),
    ],
)
def test_without_what_converts_it_a_model_is_one_error(
    models: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    model: str,
    hidden: tuple[str, ...],
    extra: str,
    package: str,
) -> None:
    monkeypatch.setenv("MIDSTREAM_CACHE", str(tmp_path / "cache"))
    code = "from midstream.cli.main import run\nrun()"
    ended = python(code, "convert", models[model], "-o", tmp_path / "b", "--json", hidden=hidden)
    assert (ended.returncode, ended.stdout) == (2, "")
    (line,) = ended.stderr.splitlines()
    assert line.startswith("midstream: ")
    assert package in line
    assert line.endswith(f"Install the extra [{extra}]: pip install 'midstream[{extra}]'")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_extra_is_one_error_that_says_what_to_do() -> None:
    error = errors.MissingExtraError("soxr", "audio", "resampling")
    assert str(error) == (
        "resampling needs the package 'soxr', which is not installed. "
        "Install the extra [audio]: pip install 'midstream[audio]'"
    )
    assert (error.package, error.extra, error.exit_code) == ("soxr", "audio", 2)


def test_every_extra_that_an_error_can_name_exists() -> None:
    extras = set(metadata("midstream").get_all("Provides-Extra") or [])
    assert {"tflite", "onnx", "audio", "broker", "convert", "quantize", "convert-keras"} <= extras
    sources = [Path(midstream.__file__).parent, Path(sys.modules[convert.__module__].__file__ or "").parent]
    text = "".join(path.read_text() for folder in sources for path in folder.rglob("*.py"))
    named = re.findall(r'MissingExtraError\(\s*(?:"[\w-]+"|\w+),\s*"([\w-]+)"', text)
    assert named
    assert set(named) <= extras
