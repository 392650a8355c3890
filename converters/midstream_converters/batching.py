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
    """How far the answers to so many inputs at once are from those to each alone; infinite where they are no rows."""
    order = [place % len(samples) for place in range(size)]
    stacked = {name: np.concatenate([samples[place][name] for place in order]) for name in samples[0]}
    try:
        got = run(stacked)
    except InputError:
        return float("inf")
    if any(value.shape[:1] != (size,) for value in got.values()):
        return float("inf")
    rows = ({name: value[row : row + 1] for name, value in got.items()} for row in range(size))
    return max(max_abs_error(answers[place], row) for place, row in zip(order, rows, strict=True))
