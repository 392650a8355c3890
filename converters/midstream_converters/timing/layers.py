"""Each layer's time, whichever way the runtime lets it be found."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from midstream.engines import Engine
from midstream.errors import BundleError, InputError
from midstream.tensors import Tensors
from midstream_converters.graph import Source
from midstream_converters.timing.differences import layers_by_differences


def time_layers(
    source: Source,
    engine: Engine,
    weights_path: Path,
    sample: Tensors,
    whole_ms: float,
) -> tuple[float, ...]:
    """Milliseconds of each layer, by index; they add up to ``whole_ms``. Static layers take none.

    A runtime that profiles tells them itself. Else they come from the times of slices.
    """
    try:
        found = source.profile(sample)
    except (BundleError, InputError):
        found = None
    if found is None:
        found = layers_by_differences(source, engine, weights_path, sample)
    for node in source.graph.nodes:
        if node.static:
            found[node.index] = 0.0
    total = float(np.sum(found))
    return tuple(float(ms) * whole_ms / total for ms in found) if total else even(source, whole_ms)


def even(source: Source, whole_ms: float) -> tuple[float, ...]:
    """The same for every layer: what is left where none takes any time that could be seen."""
    working = [not node.static for node in source.graph.nodes]
    working = working if any(working) else [True] * len(working)
    return tuple(whole_ms * works / sum(working) for works in working)
