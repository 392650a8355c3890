"""``midstream convert`` and ``midstream verify``, registered with the command line by entry point."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from midstream.cli.output import JsonOption, notes, print_json
from midstream.errors import InputError, MissingExtraError, VerificationError

if TYPE_CHECKING:
    from midstream.manifest import Costs, Manifest


class Target(StrEnum):
    """What a Keras model can become."""

    TFLITE = "tflite"
    ONNX = "onnx"


class Quantize(StrEnum):
    """What a float model can be quantised to."""

    INT8 = "int8"


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(convert)
    app.command()(verify)


def convert(
    model: Annotated[Path, typer.Argument(help="A .tflite, .onnx, .keras or .h5 file, or a SavedModel folder.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The bundle's folder; an older bundle is replaced.")],
    calibration: Annotated[
        Path | None,
        typer.Option(help="Real inputs to prove the cuts on, and to quantise with: an .npz file or a folder."),
    ] = None,
    max_cuts: Annotated[int | None, typer.Option(min=1, help="Cuts to keep, most useful first; default 10.")] = None,
    all_cuts: Annotated[bool, typer.Option("--all-cuts", help="Keep every cut that is exact, useful or not.")] = False,
    tolerance: Annotated[float, typer.Option(help="Largest difference a cut may make; 0: the same bits.")] = 0.0,
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input", help="NAME=image:NHWC:RGB:SCALE:MEAN (tensor = (pixel - MEAN) × SCALE) or NAME=audio:RATE."
        ),
    ] = None,
    shapes: Annotated[list[str] | None, typer.Option("--shape", help="NAME=1,576: size of a dynamic input.")] = None,
    values: Annotated[list[str] | None, typer.Option("--value", help="NAME=V: bind an input to one value.")] = None,
    to: Annotated[Target | None, typer.Option(help="What a Keras model or SavedModel becomes; default tflite.")] = None,
    quantize: Annotated[
        Quantize | None, typer.Option(help="Quantise a float model first; needs --calibration. Tells what it changes.")
    ] = None,
    edgetpu: Annotated[
        bool, typer.Option("--edgetpu", help="Compile heads for the Edge TPU, with edgetpu_compiler from PATH.")
    ] = False,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Neither look into the cache nor add to it.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Convert a trained model into a bundle of proven slices."""
    for package in ("scipy", "loky", "platformdirs", "flatbuffers", "onnx"):
        if find_spec(package) is None:
            raise MissingExtraError(package, "convert", "converting a model")
    from midstream.bundle import Bundle
    from midstream.inputs import parse_semantics
    from midstream.manifest import EDGETPU_SUFFIX
    from midstream_converters.convert import convert as convert_model
    from midstream_converters.edgetpu import find_compiler
    from midstream_converters.opening import DEFAULT_MAX_CUTS, Options
    from midstream_converters.recipe import BundleCache

    if all_cuts and max_cuts is not None:
        raise InputError("--all-cuts and --max-cuts exclude each other; give one of them")
    if not 0 <= tolerance < math.inf:
        raise InputError(f"--tolerance {tolerance} is not a finite number of 0 or more")
    options = Options(
        calibration=calibration,
        max_cuts=None if all_cuts else max_cuts or DEFAULT_MAX_CUTS,
        tolerance=tolerance,
        semantics=dict(parse_semantics(text) for text in inputs or []),
        shapes=dict(_parse_shape(text) for text in shapes or []),
        values=dict(_parse_value(text) for text in values or []),
        to=None if to is None else to.value,
        quantize=None if quantize is None else "int8",
        edgetpu=edgetpu,
    )
    if edgetpu and find_compiler() is None:
        notes.print("edgetpu_compiler is not on PATH: heads that fit the Edge TPU are marked, and not compiled")
    with _progress(hidden=as_json) as progress:
        manifest = convert_model(model, output, options, progress, None if no_cache else BundleCache())
    bundle = Bundle.open(output)
    bundle_bytes = bundle.bundle_bytes
    gain = _gain(manifest, bundle.costs)
    if as_json:
        print_json(_summary(output, manifest, bundle_bytes) | ({"quantized": gain} if gain else {}))
        return
    if gain:
        notes.print(_told_gain(manifest, gain))
    if edgetpu:
        marked = sum("edgetpu" in cut.accelerators for cut in manifest.cuts)
        compiled = sum(name.endswith(EDGETPU_SUFFIX) for name in manifest.slices)
        notes.print(f"heads that fit the Edge TPU: {marked} of {len(manifest.cuts)}, compiled for it: {compiled}")
    for spec in manifest.free_inputs():
        if None in spec.shape and spec.name not in options.shapes:
            sizes = ",".join(map(str, manifest.sample_shapes[spec.name]))
            notes.print(f"sizes of {spec.name} are free; it was tried with --shape {spec.name}={sizes}")
    notes.print(
        f"{output}: {len(manifest.cuts)} cuts proven, {len(manifest.rejected)} rejected of "
        f"{manifest.found.total} candidates; {bundle_bytes:,} bytes for a model of {manifest.model_bytes:,}"
    )


def verify(
    bundle: Annotated[Path, typer.Argument(help="A bundle's folder.")],
    as_json: JsonOption = False,
) -> None:
    """Check every byte of a bundle, and every cut against the whole model, here and now."""
    from midstream.bundle import Bundle
    from midstream.samples import InputTypes
    from midstream_converters.samples import GENERATED_SAMPLES
    from midstream_converters.verify import verify_bundle

    opened = Bundle.open(bundle)
    manifest = opened.manifest
    types = InputTypes(manifest.free_inputs(), manifest.semantics)
    samples = [types.generate(manifest.sample_shapes, seed) for seed in range(GENERATED_SAMPLES)]
    with _progress(hidden=as_json) as progress:
        proofs = verify_bundle(opened, samples, lambda done, total: progress("verifying", done, total))
    failed = [proof for proof in proofs if not proof.passes(manifest.tolerance)]
    if as_json:
        rows = [
            {"id": p.id, "max_abs_error": p.max_abs_error, "verified": p.passes(manifest.tolerance)} for p in proofs
        ]
        alone = len(manifest.cuts)
        middles = alone + len(manifest.middles())
        print_json(
            {"verified": not failed, "cuts": rows[:alone], "middles": rows[alone:middles], "coding": rows[middles:]}
        )
    if failed:
        worst = max(failed, key=lambda proof: proof.max_abs_error)
        raise VerificationError(
            f"{bundle}: {len(failed)} of {len(proofs)} cuts do not give what the whole model gives here, worst cut "
            f"{worst.id} by {worst.max_abs_error:.3g}; convert the model again on this machine"
        )
    coding = len(proofs) - len(manifest.cuts) - len(manifest.middles())
    if not as_json:
        notes.print(
            f"{bundle}: all files intact, {len(manifest.cuts)} cuts and {len(manifest.middles())} pairs of cuts give "
            "what the whole model gives"
            + (f"; {coding} that code what crosses give what the codec gives" if coding else ""),
        )


@contextmanager
def _progress(hidden: bool) -> Iterator[Callable[[str, int, int], None]]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=notes, transient=True, disable=hidden or not notes.is_terminal) as bar:
        task = bar.add_task("", total=None)
        yield lambda what, done, total: bar.update(task, description=what, completed=done, total=total)


def _summary(output: Path, manifest: Manifest, bundle_bytes: int) -> dict[str, Any]:
    return {
        "bundle": str(output),
        "name": manifest.name,
        "format": manifest.model_format,
        "cuts": [
            {
                "id": cut.id,
                "nodes": list(cut.nodes),
                "payload_bytes": cut.payload_bytes,
                "share": cut.share,
                "accelerators": list(cut.accelerators),
            }
            for cut in manifest.cuts
        ],
        "candidates": manifest.candidates_json(),
        "rejected": [
            {"id": cut.id, "reason": cut.reason, "max_abs_error": cut.max_abs_error} for cut in manifest.rejected
        ],
        "middles": [list(pair) for pair in manifest.middles()],
        "sample_shapes": {name: list(shape) for name, shape in manifest.sample_shapes.items()},
        "bundle_bytes": bundle_bytes,
        "model_bytes": manifest.model_bytes,
    }


def _gain(manifest: Manifest, costs: Costs) -> dict[str, Any]:
    """What quantising has cost and gained; empty where nothing was quantised. Ratios are int8 to float."""
    change = manifest.quantisation
    if change is None or costs.float_ms is None:
        return {}
    return {
        **asdict(change),
        "max_difference": _worst(output.max_difference for output in change.outputs),
        "mean_difference": _worst(output.mean_difference for output in change.outputs),
        "size_ratio": manifest.model_bytes / change.model_bytes,
        "time_ratio": costs.whole_ms / costs.float_ms,
        "float_ms": costs.float_ms,
        "int8_ms": costs.whole_ms,
    }


def _worst(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _told_gain(manifest: Manifest, gain: dict[str, Any]) -> str:
    largest, mean = (
        "unknown" if value is None else f"{value:.2%}" for value in (gain["max_difference"], gain["mean_difference"])
    )
    return (
        f"{manifest.name} in int8: {gain['agreement']:.1%} of {gain['samples']} inputs keep their answer (largest "
        f"difference {largest} of an output's range, mean {mean}); {gain['size_ratio']:.2f} × the size, "
        f"{gain['time_ratio']:.2f} × the time here"
    )


def _parse_shape(text: str) -> tuple[str, tuple[int, ...]]:
    name, equals, sizes = text.rpartition("=")
    if not equals or not name or not re.fullmatch("([1-9][0-9]{0,8}(,[1-9][0-9]{0,8})*)?", sizes):
        raise InputError(f"--shape {text!r} is not understood; expected NAME=1,576, every size 1 or more")
    return name, tuple(int(size) for size in sizes.split(",") if size)


def _parse_value(text: str) -> tuple[str, Any]:
    name, equals, value = text.rpartition("=")
    try:
        parsed = json.loads(value, parse_constant=float)
        plain = bool(equals and name) and _is_plain(parsed)
    except (ValueError, RecursionError):
        plain = False
    if not plain:
        raise InputError(f"--value {text!r} is not understood; expected NAME=16000, NAME=0.5, NAME=true or NAME=[1,2]")
    return name, parsed


def _is_plain(value: Any) -> bool:
    """Whether this is a finite number, a truth value, or nested lists of them."""
    if isinstance(value, list):
        return all(_is_plain(item) for item in value)
    return isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))
