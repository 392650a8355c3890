"""The forecaster's workloads: what it is judged by shares nothing with what it has learned from."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(autouse=True)
def training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "training"))


def test_seeds_paces_and_service_times_are_apart() -> None:
    from midstream_training.workloads import RANGES

    for one, other in combinations(RANGES.values(), 2):
        first, second = sorted((one, other), key=lambda each: each.first_seed)
        assert first.first_seed + 100 * first.of_each <= second.first_seed
        for name in ("pace", "service_scale"):
            for low, high in getattr(one, name):
                assert all(high <= least or most <= low for least, most in getattr(other, name)), name


def test_the_same_split_is_the_same_gateways(monkeypatch: pytest.MonkeyPatch) -> None:
    from midstream_training import workloads

    monkeypatch.setattr(workloads, "SECONDS", 20)
    made, again, others = (
        workloads.corpus(list(workloads.gateways(split, 1))) for split in ("test", "test", "validation")
    )
    np.testing.assert_array_equal(made.features, again.features)
    assert made.features.shape[1] == 19
    assert len(set(made.groups.tolist())) == len(workloads.ALL_KINDS)
    assert made.targets.sum() != others.targets.sum()


def test_the_page_says_where_the_network_adds_nothing() -> None:
    from midstream_converters.forecasting.card import Card
    from midstream_converters.forecasting.judging import Figures
    from midstream_training.forecast_page import page

    def figures(network: float, mix: float, mix_with: float) -> Figures:
        errors = {"network": network, "last_value": 0.5, "queue_report": 0.4, "without": mix, "with": mix_with}
        targets = ("arrivals", "cpu_ms", "memory_bytes", "wait_ms")
        return Figures(
            {
                f"mix {name}" if "with" in name else name: dict.fromkeys(targets, value)
                for name, value in errors.items()
            },
            dict.fromkeys(targets, (0.1, 0.5, 0.9)),
            dict.fromkeys(targets, 1000),
        )

    card = Card({"partitions_learned_from": 9}, {"epochs": 2, "epochs_kept": 1}, figures(0.2, 0.3, 0.25))
    by_kind = {"steady": figures(0.3, 0.2, 0.2), "recurring": figures(0.2, 0.4, 0.3)}
    others = ("last_value", "queue_report", "mix without", "mix with")
    text = page(card, by_kind, {"forecast.onnx": 70_000}, others)
    assert "Arrivals: 60.0% less than the best single formula (last value)" in text
    assert "Wait: 50.0% less than the best single formula (queue report)" in text
    assert "16.7% less than without" in text
    assert "arrivals of steady;" in text
    assert "recurring;" not in text
