"""The analysis of a model's whole input: of the picture or sound in it, else of its largest tensor."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from midstream.analysis.analyze import Analysis, analyze, analyze_image
from midstream.inputs import AudioInput, Semantics, to_pixels
from midstream.tensors import Tensors


def analyze_inputs(
    tensors: Tensors,
    semantics: Mapping[str, Semantics],
    source: np.ndarray | None = None,
    sample_rate: int | None = None,
) -> Analysis | None:
    """What is in the input; None where it is empty or not finite, and no picture or sound.

    ``source`` is the camera frame or sound that it was made of, where that is at hand. Raises InputError as
    `analyze` does.
    """
    for name, meaning in semantics.items():
        if isinstance(meaning, AudioInput):
            return analyze(tensors[name].reshape(-1), kind="audio", sample_rate=sample_rate or meaning.sample_rate)
        if source is not None:
            return analyze(np.asarray(source), kind="image")
        if tensors[name].ndim == 4 and len(tensors[name]) == 1:
            return analyze_image(to_pixels(tensors[name], meaning), colour="BGR" if meaning.colour == "BGR" else "RGB")
    largest = max(tensors.values(), key=lambda tensor: tensor.size)
    return analyze(largest, kind="tensor") if largest.size and np.all(np.isfinite(largest)) else None
