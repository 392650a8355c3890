from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from midstream.analysis import ImageStream, analyze
from midstream.analysis.catalogue import AUDIO, IMAGE, TENSOR, Feature
from midstream.communication.wire import MAX_FEATURES, MAX_NAME_BYTES

PAGE = Path(__file__).resolve().parents[2] / "docs" / "analysis.md"
RNG = np.random.default_rng(0)
PICTURE = RNG.integers(0, 256, (40, 50, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("catalogue", "features"),
    [
        (IMAGE, ImageStream().analyze(PICTURE).features),
        (AUDIO, analyze(RNG.normal(size=9000), "audio", 16_000).features),
        (TENSOR, analyze(RNG.normal(size=(4, 5)), "tensor").features),
    ],
)
def test_every_feature_is_listed_and_travels(catalogue: dict[str, Feature], features: dict[str, float]) -> None:
    assert set(catalogue) == set(features)
    assert len(features) <= MAX_FEATURES
    for name, value in features.items():
        assert name.isascii() and len(name) <= MAX_NAME_BYTES
        known = catalogue[name]
        assert not known.bounded or known.low <= value <= known.high, (name, value)


def test_the_page_tells_every_feature_with_its_unit() -> None:
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    told = {name: row.split("|")[2].strip() for row in rows for name in row.split("|")[1].replace("`", "").split(",")}
    told = {name.strip(): unit for name, unit in told.items()}
    for name, feature in (IMAGE | AUDIO | TENSOR).items():
        assert told[name] == (feature.unit or "–"), name
