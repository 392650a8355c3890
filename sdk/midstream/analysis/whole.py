"""The analysis of a model's whole input: of the picture or sound in it, else of its largest tensor."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from midstream.analysis.analyze import Analysis, analyze, analyze_image, analyze_sound, checked_array
from midstream.analysis.image import Colour
from midstream.analysis.sound import ArraySound, Sound
from midstream.inputs import AudioInput, Semantics, to_pixels
from midstream.tensors import Tensor, Tensors


def analyze_inputs(
    tensors: Tensors,
    semantics: Mapping[str, Semantics],
    sample_rate: int | None = None,
    *,
    of_picture: Callable[[Tensor, Colour], Analysis] = analyze_image,
    of_sound: Callable[[Sound], Analysis] = analyze_sound,
) -> Analysis | None:
    """What is in the input; None where it is empty or not finite, and no picture or sound.

    It is analysed as the model gets it, at the model's own size. ``of_picture`` and ``of_sound`` do the work where
    there is a picture or a sound. Raises InputError as `analyze` does.
    """
    for name, meaning in semantics.items():
        if isinstance(meaning, AudioInput):
            samples = checked_array(tensors[name].reshape(-1), "audio")
            return of_sound(ArraySound(samples, sample_rate or meaning.sample_rate))
        if tensors[name].ndim == 4 and len(tensors[name]) == 1:
            return of_picture(to_pixels(tensors[name], meaning), "BGR" if meaning.colour == "BGR" else "RGB")
    largest = max(tensors.values(), key=lambda tensor: tensor.size)
    return analyze(largest, kind="tensor") if largest.size and np.all(np.isfinite(largest)) else None
