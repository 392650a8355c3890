from __future__ import annotations

from dataclasses import replace

import pytest

from midstream.measuring import Comparison, compare
from midstream.profiles import EngineFamilies, Families, FamilyRates, load_profile

PI4, PI5 = load_profile("pi4"), load_profile("pi5")


def test_ratios_and_what_they_mean() -> None:
    assert Comparison("arithmetic", "GMAC/s", 8.0, 10.0, "more").ratio == 0.8
    assert Comparison("arithmetic", "GMAC/s", 8.0, 10.0, "more").verdict == "worse"
    assert Comparison("idle", "W", 8.0, 10.0, "less").verdict == "better"
    assert Comparison("idle", "W", 10.4, 10.0, "less").verdict == "alike"


def test_every_figure_of_two_boards() -> None:
    rows = {row.figure: row for row in compare(PI5, PI4)}
    first = rows["arithmetic, float32, one thread"]
    assert (first.here, first.there, first.unit, first.verdict) == (67.5, 11.0, "GMAC/s", "better")
    assert rows["busy"].verdict == "worse"
    assert rows["cores"].verdict == rows["radio"].verdict == "alike"
    assert {row.verdict for row in compare(PI4, PI4)} == {"alike"}


def test_families_where_both_have_them() -> None:
    def board(gmacs: float) -> EngineFamilies:
        rates = FamilyRates(gmacs, 1, 1, 1, 1)
        families = Families(1, 1, rates, rates)
        return EngineFamilies(families, families)

    here = replace(PI4, families={"onnx": board(4.0), "litert": board(1.0)})
    there = replace(PI4, families={"onnx": board(5.0)})
    rows = {row.figure: row for row in compare(here, there)}
    assert rows["onnx: convolutions, arithmetic, float32, one thread"].ratio == pytest.approx(0.8)
    assert not any(name.startswith("litert") for name in rows)
