"""Whether a slice answers several inputs at once, stacked along the first axis, as it answers each alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from midstream.errors import InputError
from midstream.manifest import BATCH_SIZES
from midstream.tensors import Tensors, TensorSpec
from midstream_converters.difference import max_abs_error
from midstream_converters.samples import alike

Run = Callable[[Tensors], Tensors]

# Longer than this the runs of one slice are not to take; larger batches are then left unproven.
_MOST_S = 1.0
# How many times as large a neighbour is.
_STRANGE = (1e4, -1e4, 0.0, float("nan"))


def free_axis(specs: Sequence[TensorSpec], samples: Sequence[Tensors]) -> bool:
    """Whether the first axis of all these tensors may have any size, and is 1 in all samples."""
    return bool(specs) and all(
        spec.shape[:1] == (None,) and all(sample[spec.name].shape[:1] == (1,) for sample in samples) for spec in specs
    )


def proven_sizes(run: Run, specs: Sequence[TensorSpec], samples: Sequence[Tensors], tolerance: float) -> list[int]:
    """How many inputs the slice answers at once, of `BATCH_SIZES`, as far as that is proven within the tolerance.

    ``samples`` are what the slice takes, one input each; no size is proven by one input alone.
    """
    proving = alike(samples)
    if len(proving) < 2 or not free_axis(specs, proving):
        return []
    began = time.perf_counter()
    answers = [run(sample) for sample in proving]
    alone_s = (time.perf_counter() - began) / len(proving)
    sizes: list[int] = []
    for size in BATCH_SIZES:
        if (size + sum(sizes)) * alone_s > _MOST_S or batch_error(run, proving, answers, size) > tolerance:
            break
        sizes.append(size)
    return sizes


def batch_error(run: Run, samples: Sequence[Tensors], answers: Sequence[Tensors], size: int) -> float:
    """How far the answers to so many inputs at once are from those to each alone; infinite where they are no rows.

    Of two at once, one is also put beside what no sample is like: what is common to a batch, as the scale of a dynamic
    quantisation, or is mixed only now and then, may be none of two samples' business.
    """
    order = [place % len(samples) for place in range(size)]
    rows = _rows(run, [samples[place] for place in order])
    if rows is None:
        return float("inf")
    worst = max(max_abs_error(answers[place], row) for place, row in zip(order, rows, strict=True))
    if size > 2:
        return worst
    for place, factor in enumerate(_STRANGE):
        first = place % 2
        pair = [_strange(samples[0], factor), _strange(samples[0], factor)]
        pair[first] = samples[0]
        # What is too strange to be run at all is not run beside others either.
        if (rows := _rows(run, pair)) is not None:
            worst = max(worst, max_abs_error(answers[0], rows[first]))
    return worst


def _rows(run: Run, inputs: Sequence[Tensors]) -> list[Tensors] | None:
    """The answers to these at once; None where there is not one for each."""
    try:
        got = run({name: np.concatenate([each[name] for each in inputs]) for name in inputs[0]})
    except InputError:
        return None
    if any(value.shape[:1] != (len(inputs),) for value in got.values()):
        return None
    return [{name: value[row : row + 1] for name, value in got.items()} for row in range(len(inputs))]


def _strange(sample: Tensors, factor: float) -> Tensors:
    """So many times the sample, and so much beside; of what is no float, only the order is another."""
    with np.errstate(over="ignore", invalid="ignore"):
        return {
            name: np.add(np.multiply(value, factor), factor).astype(value.dtype)
            if np.issubdtype(value.dtype, np.floating)
            else np.flip(value)
            for name, value in sample.items()
        }
