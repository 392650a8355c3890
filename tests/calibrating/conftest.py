"""Small trained models as bundles, with the inputs to calibrate them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from midstream.bundle import Bundle
from midstream_converters.convert import convert
from midstream_converters.opening import Options

MODELS = Path(__file__).resolve().parent.parent / "models"


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Bundle]:
    """The bundle of a model in tests/models, with at most three cuts."""
    folder = tmp_path_factory.mktemp("calibrated")
    known: dict[str, Bundle] = {}

    def make(name: str) -> Bundle:
        if name not in known:
            convert(MODELS / name, folder / name, Options(max_cuts=3))
            known[name] = Bundle.open(folder / name)
        return known[name]

    return make


@pytest.fixture(scope="session")
def digits(made: Callable[[str], Bundle]) -> Bundle:
    return made("digits_float32.tflite")
