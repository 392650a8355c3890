"""Open a model file: tell its format, read it, and find sizes on which it runs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from midstream.engines import Program, Session, engine_for
from midstream.errors import BundleError, InputError, ModelError
from midstream.inputs import Semantics, check_semantics
from midstream.manifest import EngineName, SliceRecord
from midstream.tensors import Tensors, TensorSpec
from midstream_converters.graph import MAX_MODEL_BYTES, Source
from midstream_converters.samples import InputTypes, archived_shapes, find_shapes
from midstream_converters.trial import Limits, Trial

DEFAULT_MAX_CUTS = 10
_TFLITE_IDENTIFIER = b"TFL3"


@dataclass(frozen=True)
class Options:
    """What a user may say about a conversion; see ``midstream convert --help``. ``max_cuts`` None keeps every cut."""

    calibration: Path | None = None
    max_cuts: int | None = DEFAULT_MAX_CUTS
    tolerance: float = 0.0
    semantics: Mapping[str, Semantics] = field(default_factory=dict)
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Opened:
    """A model that was read and found to run. ``inputs`` include those bound to a value; ``types`` do not."""

    source: Source
    model_format: Literal["tflite", "onnx"]
    model_bytes: int
    model_sha256: str
    inputs: tuple[TensorSpec, ...]
    types: InputTypes
    shapes: dict[str, tuple[int, ...]]
    original: Session
    fixed: Tensors

    def refusal(self, sample: Tensors) -> str | None:
        """Why the original model does not take this input, None where it does."""
        return _refusal(self.original, sample | self.fixed)


def open_model(path: Path, options: Options) -> Opened:
    """Read a model of either format. Raises ModelError or InputError naming the file, the fault and the remedy."""
    data = _read_file(path)
    is_tflite = data[4:8] == _TFLITE_IDENTIFIER
    return (_open_tflite if is_tflite else _open_onnx)(data, path, options)


def _open_tflite(data: bytes, path: Path, options: Options) -> Opened:
    from midstream_converters.tflite.read import read_tflite
    from midstream_converters.tflite.slice import TfliteSource

    if options.values:
        name = next(iter(options.values))
        raise InputError(f"--value {name}: values can be bound in ONNX models only, and {path} is TFLite; leave it out")
    model = read_tflite(data, str(path))
    program = _program(data, path, [spec.name for spec in model.inputs], [spec.name for spec in model.outputs])
    types = _types(model.inputs, options, path)
    with Trial("litert", program, path, Limits.for_model(len(data))) as trial:
        shapes = _shapes(types, options, path, trial.refusal)
    original = _load("litert", program, path)
    return Opened(TfliteSource(model), "tflite", len(data), _sha256(data), model.inputs, types, shapes, original, {})


def _open_onnx(data: bytes, path: Path, options: Options) -> Opened:
    from midstream_converters.onnx.read import build_graph, declared_names, load_external, parse_onnx, read_onnx
    from midstream_converters.onnx.slice import OnnxSource

    proto = parse_onnx(data, path)
    size = len(data) + load_external(proto, path)
    program = _program(data, path, *declared_names(proto))
    with Trial("onnx", program, path, Limits.for_model(size)) as trial:
        model = read_onnx(proto, options.values, path)
        types = _types(model.inputs, options, path)
        shapes = _shapes(types, options, path, lambda sample: trial.refusal(sample | model.fixed))
    original = _load("onnx", program, path)
    source = OnnxSource(model, build_graph(model, types.generate(shapes, seed=0), path))
    return Opened(source, "onnx", size, _sha256(data), model.all_inputs, types, shapes, original, model.fixed)


def _read_file(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > MAX_MODEL_BYTES:
            raise ModelError(f"{path} has {size} bytes; models of up to {MAX_MODEL_BYTES} bytes are read")
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"cannot read model {path}: {error.strerror}") from None
    if not data:
        raise ModelError(f"{path} is empty; it is not a model")
    return data


def _types(specs: tuple[TensorSpec, ...], options: Options, path: Path) -> InputTypes:
    inputs = {spec.name: spec for spec in specs}
    for name, semantics in options.semantics.items():
        if name not in inputs:
            raise InputError(f"--input {name}: {path} has no such input; it has {', '.join(sorted(inputs))}")
        check_semantics(inputs[name], semantics)
    return InputTypes(specs, options.semantics)


def _shapes(
    types: InputTypes, options: Options, path: Path, refusal: Callable[[Tensors], str | None]
) -> dict[str, tuple[int, ...]]:
    given = {} if options.calibration is None else archived_shapes(options.calibration, types)
    return find_shapes(types, given | dict(options.shapes), refusal, str(path))


def _program(data: bytes, path: Path, inputs: Sequence[str], outputs: Sequence[str]) -> Program:
    return Program(SliceRecord(path.name, len(data), tuple(inputs), tuple(outputs)), data, path.resolve())


def _load(engine: EngineName, program: Program, path: Path) -> Session:
    try:
        return engine_for(engine).load(program)
    except (BundleError, ValueError) as error:
        raise ModelError(f"{path} cannot be run here: {error}") from None


def _refusal(session: Session, sample: Tensors) -> str | None:
    try:
        session.run(sample)
    except InputError as error:
        return str(error)
    return None


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
