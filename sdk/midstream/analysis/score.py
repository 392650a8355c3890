"""The complexity score, first version: a fixed weighting of normalised features.

Each feature is brought to 0…1 so that more of it never lowers the score: one with a natural upper limit by
dividing, one without by ``1 - exp(-value / scale)``. The weights of a kind add up to 1; they are plain
judgement, not trained.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from midstream.analysis.histogram import MAX_ENTROPY

Features = Mapping[str, float]


def image_score(features: Features) -> float:
    """0–100 from what `image_features` gives; 0 for a picture of one colour, above 90 for white noise."""
    return _percent(
        0.45 * features["entropy"] / MAX_ENTROPY
        + 0.35 * _saturating(features["edge_density"], 0.10)
        + 0.10 * _saturating(features["gradient_mean"], 10.0)
        + 0.10 * _saturating(features["laplacian_variance"], 500.0)
    )


def audio_score(features: Features) -> float:
    """0–100 from what `audio_features` gives; 0 for silence."""
    return _percent(
        0.65 * features["spectral_entropy"] + 0.35 * _saturating(features["log_mel_std_db"], 15.0),
    )


def tensor_score(features: Features) -> float:
    """0–100 from what `tensor_features` gives; 0 where all elements are 0."""
    return _percent(0.7 * features["entropy"] / MAX_ENTROPY + 0.3 * (1.0 - features["sparsity"]))


def _saturating(value: float, scale: float) -> float:
    return -math.expm1(-value / scale)


def _percent(share: float) -> float:
    return 100.0 * min(1.0, max(0.0, share))
