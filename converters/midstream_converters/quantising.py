"""Quantise a float model to int8 on the user's inputs, and tell what that changes.

Requires: a model that is in float32. Ensures: a model of the same format with the same inputs and outputs, in float32,
and the agreement of its answers with those before.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from statistics import median

import numpy as np

from midstream.engines import Program, Session, engine_for
from midstream.errors import BundleError, InputError, MissingExtraError, ModelError
from midstream.manifest import WEIGHTS_FILE, Quantisation, SliceRecord
from midstream.samples import MAX_CALIBRATION_BYTES, calibration_samples
from midstream.tensors import Tensors
from midstream_converters.agreement import Comparison
from midstream_converters.apart import run_apart
from midstream_converters.narrow import NarrowNumbers
from midstream_converters.opening import ModelFile, Opened, Options, open_model
from midstream_converters.stored import StoredSamples
from midstream_converters.trial import Limits, Trial
from midstream_converters.weights import WeightStore

MAX_SAMPLES = 512
_TIMED_RUNS = 9
# Where a runtime lacks good kernels, int8 takes this many times as long as float32.
_SLOWER = 20

Make = Callable[[StoredSamples], bytes]


@dataclass(frozen=True)
class Quantised:
    """The model in int8, what has changed, and the float model's time for one input with one thread."""

    model: ModelFile
    change: Quantisation
    float_ms: float


def check_calibrated(options: Options) -> Path:
    """The calibration data; raises InputError where there is none."""
    if options.calibration is None:
        raise InputError(
            "--quantize int8 needs real inputs to take ranges from: give --calibration with an .npz file or a folder; "
            "made-up inputs would spoil the model"
        )
    return options.calibration


def quantise(model: ModelFile, options: Options, folder: Path, make: Make | None = None) -> Quantised:
    """Quantise a model, working in ``folder``; ``make`` does it where not the quantiser of the model's format does.

    Raises InputError without calibration data or on wrong data, ModelError where the model cannot be quantised or is
    already, MissingExtraError.
    """
    calibration = check_calibrated(options)
    _check_float(model)
    with WeightStore(folder / WEIGHTS_FILE) as weights:
        opened = open_model(model, options, weights)
        with closing(opened.original) as before:
            names = tuple(spec.name for spec in opened.inputs)
            samples = StoredSamples(folder / "samples", names)
            if not samples.store(_real_inputs(opened, calibration)):
                raise InputError(f"calibration data {calibration} holds no samples")
            data = (make or _maker(model, opened, folder))(samples)
            if not _narrow_numbers(model, data).quantised:
                raise ModelError(
                    f"{model.path} has no layers with weights that can be quantised, or all are in branches and loops; "
                    "leave --quantize out"
                )
            with closing(_load(opened, data, next(iter(samples)))) as after:
                comparison, float_ms = _compare(before, after, samples)
    change = Quantisation(
        dtype="int8",
        model_bytes=model.bytes,
        model_sha256=model.sha256,
        samples=comparison.samples,
        agreement=comparison.agreement(),
        outputs=comparison.changes(),
    )
    return Quantised(ModelFile(model.path, data, len(data), sha256(data).hexdigest()), change, float_ms)


def _narrow_numbers(model: ModelFile, data: bytes) -> NarrowNumbers:
    if model.is_tflite:
        from midstream_converters.tflite.numbers import narrow_numbers
    else:
        from midstream_converters.onnx.numbers import narrow_numbers
    return narrow_numbers(data, model.path)


def _check_float(model: ModelFile) -> None:
    narrow = _narrow_numbers(model, model.data)
    if narrow.quantised:
        raise ModelError(
            f"{model.path} is quantised already ({narrow.quantised}); convert it without --quantize, or give the float "
            "model that it was made of"
        )
    if narrow.half:
        raise ModelError(
            f"{model.path} is in half precision ({narrow.half}), which cannot be quantised further; give the float32 "
            "model that it was made of, or convert it without --quantize"
        )


def _real_inputs(opened: Opened, calibration: Path) -> Iterator[Tensors]:
    """The user's inputs, as many as are used."""
    size = 0
    for count, sample in enumerate(calibration_samples(calibration, opened.types, opened.shapes)):
        size += sum(value.nbytes for value in sample.values())
        if count == MAX_SAMPLES or (count and size > MAX_CALIBRATION_BYTES):
            return
        for name, value in sample.items():
            if value.dtype.kind == "f" and not np.isfinite(value).all():
                raise InputError(
                    f"calibration data {calibration}: sample {count + 1} of input {name!r} has values that are not "
                    "finite, and no range can be taken from them; leave it out"
                )
        yield sample | opened.fixed


def _maker(model: ModelFile, opened: Opened, folder: Path) -> Make:
    """The quantiser of the model's format."""
    if model.is_tflite and not find_spec("ai_edge_quantizer"):
        raise MissingExtraError("ai-edge-quantizer", "quantize", "quantising a TFLite model")
    external = model.bytes != len(model.data)
    path = model.path.resolve() if external else folder / "float"
    if not external:
        path.write_bytes(model.data)
    request = {
        "name": str(model.path),
        "model": str(path),
        "bytes": model.bytes,
        "inputs": [spec.name for spec in opened.inputs],
        "outputs": [spec.name for spec in opened.source.outputs],
    }
    worker = f"midstream_converters.{opened.model_format}.quantise"

    def make(_samples: StoredSamples) -> bytes:
        run_apart(worker, folder, request, f"{model.path}: quantising to int8", "leave --quantize out")
        return (folder / "made").read_bytes()

    return make


def _load(opened: Opened, data: bytes, sample: Tensors) -> Session:
    """The model in int8, once it has run elsewhere: ranges too wide for a scale make a runtime break."""
    path = opened.file.path
    inputs, outputs = (tuple(spec.name for spec in specs) for specs in (opened.inputs, opened.source.outputs))
    record = SliceRecord(path.name, len(data), inputs, outputs)
    program = Program(record, data, path.resolve())
    limits = Limits.for_model(opened.file.bytes + len(data))
    limits = replace(limits, seconds=_SLOWER * limits.seconds)
    try:
        with Trial(opened.source.engine, program, path, limits) as trial:
            trial.run(sample)
        return engine_for(opened.source.engine).load(program)
    except (BundleError, InputError, ModelError, ValueError) as error:
        raise ModelError(
            f"{path} cannot be run any more after quantising; see whether all calibration data are inputs as the model "
            f"gets them: {error}"
        ) from None


def _compare(before: Session, after: Session, samples: StoredSamples) -> tuple[Comparison, float]:
    """Hold the answers of both against each other; and the first one's milliseconds for the first input."""
    comparison = Comparison()
    first: Tensors = {}
    for sample in samples:
        first = first or sample
        answers = []
        for session in (before, after):
            session.reset()
            answers.append({name: value.copy() for name, value in session.run(sample).items()})
        comparison.add(*answers)
    return comparison, median(_run_ms(before, first) for _ in range(_TIMED_RUNS))


def _run_ms(session: Session, sample: Tensors) -> float:
    session.reset()
    start = time.perf_counter()
    session.run(sample)
    return (time.perf_counter() - start) * 1000
