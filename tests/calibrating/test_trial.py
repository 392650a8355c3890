"""One codec on what crosses at one place."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import midstream.calibrating.trial as trial_module
from midstream.calibrating.trial import Trial, applies, choose_entropy
from midstream.errors import CodecError
from midstream.inputs import ImageInput
from midstream.ladder import UNCALIBRATED, Settings
from midstream.tensors import Tensors, TensorSpec

SPEC = TensorSpec("t", np.dtype(np.float32), (None, 4), may_be_empty=True)


def tensors(rows: int, seed: int = 0) -> Tensors:
    return {"t": np.random.default_rng(seed).standard_normal((rows, 4)).astype(np.float32)}


def test_a_trial_sums_up_what_it_carried() -> None:
    trial = Trial("step0.25", UNCALIBRATED, [SPEC], {})
    for seed in range(3):
        sent = tensors(100, seed)
        found = trial.carry(sent)
        assert np.abs(found["t"] - sent["t"]).max() < 0.25
        assert not np.array_equal(found["t"], sent["t"])
    trial.lost = 0.3
    rung = trial.rung([])
    assert (rung.codec, rung.lossless, rung.agreement) == ("step0.25", False, pytest.approx(0.9))
    assert rung.payload_bytes == pytest.approx(np.mean(trial.sizes))
    assert rung.spread > 0
    assert rung.encode_ms > 0
    assert rung.decode_ms > 0
    assert rung.size is None
    # A quarter of the least share that was seen to be kept.
    assert rung.kept["t"] == pytest.approx(min(trial.kept.values()) / 4)
    assert 0.15 < rung.kept["t"] < 0.25


def test_a_tensor_unlike_those_that_were_calibrated_travels_exact() -> None:
    trial = Trial("step1", UNCALIBRATED, [SPEC], {})
    trial.carry(tensors(100))
    settings = Settings(kept=trial.rung([]).kept)
    outlier = {"t": np.full((100, 4), 0.01, np.float32)}
    outlier["t"][0, 0] = 1000.0
    assert np.array_equal(Trial("step1", settings, [SPEC], {}).carry(outlier)["t"], outlier["t"])
    assert not np.array_equal(Trial("step1", settings, [SPEC], {}).carry(tensors(100, 5))["t"], tensors(100, 5)["t"])


def test_nothing_at_all_is_carried_too() -> None:
    trial = Trial("int8", UNCALIBRATED, [SPEC], {})
    for rows in (0, 10, 0):
        assert trial.carry(tensors(rows))["t"].shape == (rows, 4)
    raw = Trial("raw", UNCALIBRATED, [SPEC], {})
    for rows in (0, 10, 0):
        raw.carry(tensors(rows))
    assert raw.rung([]).payload_bytes == pytest.approx(160 / 3)
    assert np.isfinite(raw.rung([]).spread)


def test_what_applies() -> None:
    numbers = {"t": np.arange(400).reshape(100, 4)}
    assert applies("raw", numbers, {}, UNCALIBRATED)
    assert applies("lossless", numbers, {}, UNCALIBRATED)
    assert not applies("int8", numbers, {}, UNCALIBRATED)
    assert applies("int8", tensors(10), {}, UNCALIBRATED)
    assert applies("int8", numbers | tensors(10), {}, UNCALIBRATED)
    assert not applies("klt0.25", tensors(10), {}, UNCALIBRATED)
    assert not applies("jpeg90", tensors(10), {}, UNCALIBRATED)
    picture = {"x": np.zeros((1, 8, 8, 3), np.float32)}
    assert applies("jpeg90", picture, {"x": ImageInput("NHWC", "RGB", (1 / 255,), (0.0,))}, UNCALIBRATED)
    with pytest.raises(CodecError):
        applies("gzip", numbers, {}, UNCALIBRATED)


def test_the_entropy_stage_is_that_which_pays() -> None:
    noise = {"t": np.random.default_rng(0).integers(0, 256, (500, 4)).astype(np.uint8)}
    assert choose_entropy("lossless", [noise], {}, UNCALIBRATED).entropy == "none"
    repeated = {"t": np.tile(noise["t"][:25], (40, 1))}
    assert choose_entropy("lossless", [repeated], {}, UNCALIBRATED).entropy in ("zlib", "zstd")
    # Raw and pictures have none to choose.
    for codec in ("raw", "jpeg90"):
        assert choose_entropy(codec, [repeated], {}, UNCALIBRATED) == UNCALIBRATED


def test_where_zstd_is_not_installed_it_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    repeated = {"t": np.tile(np.random.default_rng(0).integers(0, 256, (25, 4)), (40, 1)).astype(np.uint8)}
    monkeypatch.setattr(trial_module, "zstd_available", lambda: False)
    settings = replace(UNCALIBRATED, last_first=frozenset({"t"}))
    assert choose_entropy("lossless", [repeated], {}, settings) == replace(settings, entropy="zlib")
