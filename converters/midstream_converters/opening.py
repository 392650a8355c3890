"""Open a model file: tell its format, read it, and find sizes on which it runs."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from midstream.engines import Program, Session, engine_for
from midstream.errors import BundleError, InputError, ModelError
from midstream.files import regular_file
from midstream.inputs import Semantics, check_semantics
from midstream.manifest import EngineName, SliceRecord
from midstream.samples import InputTypes, archived_shapes
from midstream.tensors import Tensors, TensorSpec
from midstream_converters.graph import Source
from midstream_converters.samples import find_shapes, varied_samples
from midstream_converters.trial import Limits, Trial
from midstream_converters.weights import WeightStore

DEFAULT_MAX_CUTS = 10
MAX_MODEL_BYTES = 2 << 30
_TFLITE_IDENTIFIER = b"TFL3"


@dataclass(frozen=True)
class Options:
    """What a user may say about a conversion; see ``midstream convert --help``. ``max_cuts`` None keeps every cut.

    ``to`` says what a Keras model becomes, None: TFLite. ``quantize`` None leaves numbers as they are.
    ``edgetpu`` compiles for it what maps whole, where its compiler is installed.
    """

    calibration: Path | None = None
    max_cuts: int | None = DEFAULT_MAX_CUTS
    tolerance: float = 0.0
    semantics: Mapping[str, Semantics] = field(default_factory=dict)
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)
    to: Literal["tflite", "onnx"] | None = None
    quantize: Literal["int8"] | None = None
    edgetpu: bool = False


@dataclass(frozen=True)
class ModelFile:
    """A model file's content, read whole; ``bytes`` and ``sha256`` are those of its external data too."""

    path: Path
    data: bytes
    bytes: int
    sha256: str

    @property
    def is_tflite(self) -> bool:
        """Whether it says of itself that it is TFLite."""
        return self.data[4:8] == _TFLITE_IDENTIFIER


@dataclass(frozen=True)
class Opened:
    """A model that was read and found to run, on inputs of ``shapes`` and on ``varied`` ones of other sizes.

    ``inputs`` include those bound to a value; ``types`` do not.
    """

    file: ModelFile
    source: Source
    model_format: Literal["tflite", "onnx"]
    inputs: tuple[TensorSpec, ...]
    types: InputTypes
    shapes: dict[str, tuple[int, ...]]
    varied: list[Tensors]
    original: Session
    fixed: Tensors


def read_model(path: Path) -> ModelFile:
    """Read a model file, and hash its external data. Raises ModelError naming the file, the fault and the remedy."""
    data = _read_file(path)
    digest, size = hashlib.sha256(data), len(data)
    if data[4:8] != _TFLITE_IDENTIFIER:
        from midstream_converters.onnx.read import parse_onnx
        from midstream_converters.onnx.store import external_files

        for place, length in external_files(parse_onnx(data, path), path.parent).items():
            size += length
            with place.open("rb") as content:
                digest.update(hashlib.file_digest(content, "sha256").digest())
    return ModelFile(path, data, size, digest.hexdigest())


def open_model(model: ModelFile, options: Options, weights: WeightStore) -> Opened:
    """Make a source of a model of either format, its weights going to ``weights``. Raises ModelError or InputError."""
    return (_open_tflite if model.is_tflite else _open_onnx)(model, options, weights)


def _open_tflite(file: ModelFile, options: Options, weights: WeightStore) -> Opened:
    from midstream_converters.tflite.check import advice
    from midstream_converters.tflite.read import read_tflite
    from midstream_converters.tflite.slice import TfliteSource

    path = file.path
    if options.values:
        name = next(iter(options.values))
        raise InputError(f"--value {name}: values can be bound in ONNX models only, and {path} is TFLite; leave it out")
    model = read_tflite(file.data, str(path))
    types = _types(model.inputs, options, path)
    program = _program(file, [spec.name for spec in model.inputs], [spec.name for spec in model.outputs])
    with Trial("litert", program, path, Limits.for_model(file.bytes)) as trial:

        def refusal(sample: Tensors) -> str | None:
            problem = trial.refusal(sample)
            if problem and any(words in problem for words in ("custom op", "TensorFlow op")):
                raise ModelError(f"{path} {advice(model.model) or problem}")
            return problem

        shapes = _shapes(types, options, path, refusal)
        varied = varied_samples(types, shapes, refusal)
    original = _load("litert", program, path)
    return Opened(file, TfliteSource(model, weights), "tflite", model.inputs, types, shapes, varied, original, {})


def _open_onnx(file: ModelFile, options: Options, weights: WeightStore) -> Opened:
    from midstream_converters.onnx.read import (
        build_graph,
        declared_inputs,
        declared_names,
        infer_types,
        parse_onnx,
        read_onnx,
    )
    from midstream_converters.onnx.slice import OnnxSource

    path = file.path
    proto = parse_onnx(file.data, path)
    program = _program(file, *declared_names(proto))
    inputs = declared_inputs(proto, options.values, path)
    types = _types(inputs.free, options, path)
    with Trial("onnx", program, path, Limits.for_model(file.bytes)) as trial:

        def refusal(sample: Tensors) -> str | None:
            return trial.refusal(sample | inputs.fixed)

        shapes = _shapes(types, options, path, refusal)
        varied = varied_samples(types, shapes, refusal)
    original = _load("onnx", program, path)
    model = read_onnx(proto, inputs, path, weights)
    inferred = infer_types(model.model)
    source = OnnxSource(model, build_graph(model, inferred, types.generate(shapes, seed=0), path), inferred)
    return Opened(file, source, "onnx", model.all_inputs, types, shapes, varied, original, model.fixed)


def _read_file(path: Path) -> bytes:
    try:
        with regular_file(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size > MAX_MODEL_BYTES:
                raise ModelError(
                    f"{path} has {size} bytes; files of up to {MAX_MODEL_BYTES} are read: "
                    "store the weights of a larger ONNX model as external data"
                )
            data = file.read(size)
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


def _program(file: ModelFile, inputs: Sequence[str], outputs: Sequence[str]) -> Program:
    record = SliceRecord(file.path.name, len(file.data), tuple(inputs), tuple(outputs))
    return Program(record, file.data, file.path.resolve())


def _load(engine: EngineName, program: Program, path: Path) -> Session:
    try:
        return engine_for(engine).load(program)
    except (BundleError, ValueError) as error:
        raise ModelError(f"{path} cannot be run here: {error}") from None
