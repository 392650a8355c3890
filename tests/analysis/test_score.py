from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise

import pytest

from midstream.analysis.score import audio_score, image_score, tensor_score

IMAGE = {"entropy": 6.0, "edge_density": 0.05, "gradient_mean": 5.0, "laplacian_variance": 300.0}
AUDIO = {"spectral_entropy": 0.5, "log_mel_std_db": 10.0}
TENSOR = {"entropy": 4.0, "sparsity": 0.5}


@pytest.mark.parametrize(
    ("score", "features", "name", "values"),
    [
        (image_score, IMAGE, "entropy", (0.0, 3.0, 7.9, 8.0)),
        (image_score, IMAGE, "edge_density", (0.0, 0.01, 0.2, 0.5)),
        (audio_score, AUDIO, "spectral_entropy", (0.0, 0.3, 0.9, 1.0)),
        (audio_score, AUDIO, "log_mel_std_db", (0.0, 5.0, 20.0, 60.0)),
        (tensor_score, TENSOR, "entropy", (0.0, 4.0, 8.0)),
        (tensor_score, TENSOR, "sparsity", (1.0, 0.5, 0.0)),
    ],
)
def test_more_of_a_feature_is_a_higher_score(
    score: Callable[[Mapping[str, float]], float], features: dict[str, float], name: str, values: tuple[float, ...]
) -> None:
    scores = [score(features | {name: value}) for value in values]
    assert all(low < high for low, high in pairwise(scores))


def test_the_ends_of_the_scale() -> None:
    assert image_score(dict.fromkeys(IMAGE, 0.0)) == 0.0
    assert audio_score(dict.fromkeys(AUDIO, 0.0)) == 0.0
    most = {"entropy": 8.0, "edge_density": 1.0, "gradient_mean": 400.0, "laplacian_variance": 1e6}
    assert image_score(most) == pytest.approx(100.0, abs=0.01)
