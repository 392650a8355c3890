"""Inputs to prove cuts on: the user's own where given, otherwise made to dtype, shape and value range."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

from midstream.errors import InputError, ModelError
from midstream.inputs import AudioInput, ImageInput, Semantics
from midstream.samples import InputTypes, calibration_samples
from midstream.tensors import Tensors, TensorSpec, nbytes

GENERATED_SAMPLES = 2
MAX_SAMPLES = 4

_PICTURE_SIZES = ((224, 224), (320, 320), (48, 320), (192, 192), (64, 64), (640, 640))
# Whole multiples of what pyramids of strides and patches usually want.
_STEP = 32
_LENGTHS = (64, 512, 576, 128, 16, 1024, 1, 8, 16000)
MAX_SAMPLE_BYTES = 256 << 20


def find_shapes(
    types: InputTypes, given: Mapping[str, tuple[int, ...]], refusal: Callable[[Tensors], str | None], path: str
) -> dict[str, tuple[int, ...]]:
    """Shapes on which the model runs: the given ones, the declared ones, and for dynamic sizes the first that work.

    ``refusal`` tries an input and says why it does not run, or None. Raises InputError on a given shape that does not
    fit, ModelError where none works.
    """
    specs = {spec.name: spec for spec in types.specs}
    for name, shape in given.items():
        if name not in specs:
            raise InputError(f"--shape {name}: {path} has no such input; it has {', '.join(specs)}")
        text = f"--shape {name}={','.join(map(str, shape))}"
        if not specs[name].accepts(shape):
            raise InputError(f"{text} does not fit input {specs[name]} of {path}")
        if nbytes(specs[name].dtype, shape) > MAX_SAMPLE_BYTES:
            raise InputError(f"{text} is larger than {MAX_SAMPLE_BYTES >> 20} MiB; give a smaller shape")
    problem = None
    for shapes in _proposals(types, given):
        problem = too_large(types.specs, shapes) or refusal(types.generate(shapes, seed=0))
        if problem is None:
            return shapes
    free = [str(spec) for spec in types.specs if spec.name not in given and None in spec.shape]
    if not free:
        raise ModelError(f"{path} does not run on a made input of its own shapes: {problem}")
    raise ModelError(f"no size was found on which {path} runs; give one with --shape NAME=1,… for {'; '.join(free)}")


def shapes_of(sample: Tensors) -> dict[str, tuple[int, ...]]:
    """The shapes of its tensors, by name."""
    return {name: tensor.shape for name, tensor in sample.items()}


def alike(samples: Sequence[Tensors]) -> list[Tensors]:
    """Those whose tensors have the shapes that the first one's have."""
    return [sample for sample in samples if shapes_of(sample) == shapes_of(samples[0])]


def too_large(specs: Sequence[TensorSpec], shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """Why no input of these shapes is made, None where one can be."""
    size = sum(nbytes(spec.dtype, shapes[spec.name]) for spec in specs)
    limit = f"inputs of more than {MAX_SAMPLE_BYTES >> 20} MiB are not made"
    return f"it would take {size} bytes, and {limit}" if size > MAX_SAMPLE_BYTES else None


def varied_samples(
    types: InputTypes, shapes: Mapping[str, tuple[int, ...]], refusal: Callable[[Tensors], str | None]
) -> list[Tensors]:
    """Inputs of other sizes to prove dynamic ones with: the first axis and the others, both at once where that runs.

    Long axes are halved before they are grown: what is proven on less is proven sooner.
    """

    def other(axes: frozenset[bool], change: Callable[[int], int]) -> dict[str, tuple[int, ...]]:
        return {
            spec.name: tuple(
                size if want is not None or (axis == 0) not in axes else size + 1 if axis == 0 else change(size)
                for axis, (want, size) in enumerate(zip(spec.shape, shapes[spec.name], strict=True))
            )
            for spec in types.specs
        }

    def first_that_runs(axes: frozenset[bool]) -> list[Tensors]:
        for change in (_halved, _grown):
            varied = other(axes, change)
            if varied != dict(shapes) and not too_large(types.specs, varied):
                sample = types.generate(varied, GENERATED_SAMPLES)
                if refusal(sample) is None:
                    return [sample]
        return []

    both = first_that_runs(frozenset({True, False}))
    return both or first_that_runs(frozenset({True})) + first_that_runs(frozenset({False}))


def _grown(size: int) -> int:
    return size + _STEP


def _halved(size: int) -> int:
    """To a multiple of the step, where it is at least two of them; else grown."""
    return size // 2 // _STEP * _STEP if size >= 2 * _STEP else size + _STEP


def read_calibration(path: Path, types: InputTypes, shapes: Mapping[str, tuple[int, ...]]) -> list[Tensors]:
    """Inputs from an .npz file, or a folder of .npz files, pictures or sounds; at most ``MAX_SAMPLES`` of them.

    In an .npz file the arrays are named after the inputs; an extra first axis counts samples. Raises InputError naming
    the file.
    """
    chosen = list(islice(calibration_samples(path, types, shapes), MAX_SAMPLES))
    if not chosen:
        raise InputError(f"calibration data {path} holds no samples")
    return chosen


def _proposals(types: InputTypes, given: Mapping[str, tuple[int, ...]]) -> Iterator[dict[str, tuple[int, ...]]]:
    """All free inputs of one size; then only those with the most free sizes, the others being states of length one."""
    free = {spec.name: spec.shape.count(None) for spec in types.specs if spec.name not in given and None in spec.shape}
    large = {name for name, count in free.items() if count == max(free.values())}
    pictures = any(spec.name in free and len(spec.shape) == 4 for spec in types.specs)
    sizes = _PICTURE_SIZES if pictures else tuple((length, length) for length in _LENGTHS)
    for growing in (set(free), large) if large != set(free) else (large,):
        for size in sizes if free else ((1, 1),):
            yield {
                spec.name: given.get(spec.name)
                or _filled(spec, types.semantics.get(spec.name), size if spec.name in growing else (1, 1))
                for spec in types.specs
            }


def _filled(spec: TensorSpec, semantics: Semantics | None, size: tuple[int, int]) -> tuple[int, ...]:
    """The shape with its free sizes set, for a batch of one."""
    height, width = size
    likely: tuple[int, ...] = (1, *[width] * (len(spec.shape) - 1))
    if len(spec.shape) == 4:
        known = semantics if isinstance(semantics, ImageInput) else None
        channels = 3 if known is None else known.channels
        last = spec.shape[3] in (1, 3, 4) if known is None else known.layout == "NHWC"
        likely = (1, height, width, channels) if last else (1, channels, height, width)
    elif len(spec.shape) == 1 and isinstance(semantics, AudioInput):
        likely = (width,)
    return tuple(guess if want is None else want for want, guess in zip(spec.shape, likely, strict=False))
