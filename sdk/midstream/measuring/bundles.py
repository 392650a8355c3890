"""How long a bundle's whole model, heads and tails take on this machine."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial

import numpy as np

from midstream.bundle import Bundle
from midstream.engines import engine_for
from midstream.manifest import Cut
from midstream.measuring.rates import rounded
from midstream.measuring.timing import Run, measure
from midstream.profiles import ModelTimes, Origin
from midstream.tensors import Tensor, Tensors, TensorSpec

_WHOLE_SHARE = 0.4


def measure_bundle(bundle: Bundle, cores: int, budget_s: float) -> tuple[ModelTimes, list[str]]:
    """The whole model with one thread and with ``cores``, then heads and tails with one, while the time lasts.

    Cuts from the middle of the model outwards; a note says how many were left out. Raises BundleError where a slice
    cannot be loaded, InputError where the runtime refuses values it has not seen.
    """
    end = time.perf_counter() + budget_s
    inputs = sample_inputs(bundle)
    every = bundle if cores == 1 else Bundle.open(bundle.path, threads=cores)
    wholes: dict[str, Run] = {
        "one": partial(bundle.run_tail, None, inputs),
        "all": partial(every.run_tail, None, inputs),
    }
    whole = measure(wholes, budget_s * _WHOLE_SHARE)
    order = spread_out(bundle.cuts)
    cuts_ms: dict[str, tuple[float, float]] = {}
    for done, cut in enumerate(order):
        left_s = end - time.perf_counter()
        if left_s <= 0:
            break
        crossing, _ = bundle.run_head(cut.id, inputs)
        runs: dict[str, Run] = {
            "head": partial(bundle.run_head, cut.id, inputs),
            "tail": partial(bundle.run_tail, cut.id, crossing),
        }
        parts = measure(runs, left_s / (len(order) - done))
        cuts_ms[cut.id] = (rounded(parts["head"].ms), rounded(parts["tail"].ms))
        bundle.unload(cut.id)
    missing = len(order) - len(cuts_ms)
    notes = [f"{missing} of {len(order)} cuts were left out: there was no time; they are predicted"] if missing else []
    source = (
        f"midstream profile, {datetime.now(UTC):%Y-%m-%d}, {engine_for(bundle.manifest.engine).version()}: medians of "
        f"{whole['one'].rounds} interleaved rounds, heads and tails with one thread"
    )
    measured = {cut.id: cuts_ms[cut.id] for cut in bundle.cuts if cut.id in cuts_ms}
    one_ms, all_ms = rounded(whole["one"].ms), rounded(whole["all"].ms)
    return ModelTimes(bundle.digest.hex(), one_ms, all_ms, measured, Origin(source)), notes


def sample_inputs(bundle: Bundle) -> Tensors:
    """Numbers from 0 to 1 for float inputs, zeros for others, at the shapes that the bundle was verified with."""
    random = np.random.default_rng(0)
    shapes = bundle.manifest.sample_shapes

    def value(spec: TensorSpec) -> Tensor:
        shape = shapes[spec.name]
        return random.random(shape).astype(spec.dtype) if spec.dtype.kind == "f" else np.zeros(shape, spec.dtype)

    return {spec.name: value(spec) for spec in bundle.manifest.free_inputs()}


def spread_out(cuts: Sequence[Cut]) -> list[Cut]:
    """The middle one, those in the middle of both halves, and so on: the first few are far from each other."""
    ordered: list[Cut] = []
    waiting = [tuple(cuts)] if cuts else []
    while waiting:
        part = waiting.pop(0)
        middle = len(part) // 2
        ordered.append(part[middle])
        waiting += [half for half in (part[:middle], part[middle + 1 :]) if half]
    return ordered
