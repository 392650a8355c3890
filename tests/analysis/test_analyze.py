from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import midstream.analysis
from midstream.analysis import Analysis, analyze, catalogue
from midstream.errors import InputError
from midstream.tensors import Tensor

CATALOGUES = {"image": catalogue.IMAGE, "audio": catalogue.AUDIO, "tensor": catalogue.TENSOR}
FLOATS = [np.float16, np.float32, np.float64]


def finite(dtype: Any) -> st.SearchStrategy[Any]:
    return hnp.from_dtype(np.dtype(dtype), allow_nan=False, allow_infinity=False)


def arrays(dtypes: list[Any], shapes: st.SearchStrategy[tuple[int, ...]]) -> st.SearchStrategy[Tensor]:
    return st.sampled_from(dtypes).flatmap(lambda dtype: hnp.arrays(dtype, shapes, elements=finite(dtype)))


SIDES = st.integers(1, 24)
PICTURES = st.tuples(SIDES, SIDES).flatmap(
    lambda hw: st.sampled_from([hw, (1, *hw), (*hw, 1), (*hw, 3), (*hw, 4), (3, *hw), (1, *hw, 3), (1, 4, *hw)])
)
SOUNDS = st.tuples(st.integers(1, 700), st.integers(1, 4)).flatmap(
    lambda nc: st.sampled_from([nc[:1], nc, (nc[1], nc[0])])
)


def check(found: Analysis) -> None:
    assert type(found.score) is float and 0.0 <= found.score <= 100.0
    for name, value in found.features.items():
        assert type(value) is float and math.isfinite(value), (name, value)
        known = CATALOGUES[found.kind][name]
        assert not known.bounded or known.low <= value <= known.high, (name, value)


@settings(deadline=None)
@given(arrays([np.uint8, *FLOATS], PICTURES))
def test_any_picture_gives_finite_features(picture: Tensor) -> None:
    check(analyze(picture, kind="image"))


@settings(deadline=None)
@given(arrays([np.int16, *FLOATS], SOUNDS), st.sampled_from([1000, 8000, 16_000, 44_100]))
def test_any_sound_gives_finite_features(sound: Tensor, rate: int) -> None:
    check(analyze(sound, kind="audio", sample_rate=rate))


@settings(deadline=None)
@given(arrays([np.bool_, np.int8, np.uint64, np.int64, *FLOATS], hnp.array_shapes(min_dims=0, max_side=6)))
def test_any_tensor_gives_finite_features(tensor: Tensor) -> None:
    check(analyze(tensor, kind="tensor"))


@pytest.mark.parametrize(
    ("array", "kind", "rate", "reason"),
    [
        (np.zeros((0, 5), np.uint8), "image", None, r"image to analyze is empty.*\[0, 5\]"),
        (np.zeros(5, np.uint8), "image", None, r"shape \[5\]"),
        (np.zeros((5, 5, 2), np.uint8), "image", None, r"shape \[5, 5, 2\]"),
        (np.zeros((2, 5, 5, 3), np.uint8), "image", None, r"shape \[2, 5, 5, 3\]"),
        (np.zeros((5, 5), np.int32), "image", None, "dtype int32"),
        (np.full((5, 5), np.nan), "image", None, "NaN"),
        (np.array([[0.0, np.inf]]), "image", None, "NaN or infinite"),
        (np.zeros(0, np.int16), "audio", 16_000, "audio to analyze is empty"),
        (np.zeros(50, np.int16), "audio", None, "sample_rate in Hz"),
        (np.zeros(50, np.int16), "audio", 0, "sample_rate 0 "),
        (np.zeros(50, np.int16), "audio", 8000.5, r"sample_rate 8000\.5 "),
        (np.zeros(50, np.int16), "audio", math.nan, "sample_rate nan "),
        (np.zeros((4, 4, 4), np.int16), "audio", 16_000, r"shape \[4, 4, 4\]"),
        (np.zeros((100, 100), np.int16), "audio", 16_000, "at most 64 channels"),
        (np.zeros(50, np.uint8), "audio", 16_000, "dtype uint8"),
        (np.array([0.0, np.nan]), "audio", 16_000, "NaN"),
        (np.array([0.0, -np.inf]), "audio", 16_000, "NaN or infinite"),
        (np.array(["a"]), "tensor", None, "dtype <U1"),
        (np.array([1j]), "tensor", None, "dtype complex128"),
        (np.array([np.nan]), "tensor", None, "NaN"),
        (np.zeros(5), "video", None, "'video' is not known"),
        ([1, 2], "tensor", None, "is a list"),
    ],
)
def test_what_cannot_be_analyzed_is_refused(array: Any, kind: Any, rate: Any, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        analyze(array, kind=kind, sample_rate=rate)


def test_the_public_names() -> None:
    assert midstream.analysis.__all__ == [
        "Analysis",
        "ImageStream",
        "Kind",
        "analyze",
        "analyze_image",
        "analyze_inputs",
        "analyze_sound",
    ]


def test_librosa_is_never_imported() -> None:
    code = (
        "import sys, numpy as np\nfrom midstream.analysis import analyze\n"
        "analyze(np.ones(9000, np.int16), 'audio', 16000)\nanalyze(np.ones((9, 9), np.uint8), 'image')\n"
        "print(sorted({'librosa', 'scipy', 'soundfile', 'soxr'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"
