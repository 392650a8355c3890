"""Bytes against agreement as a file."""

from __future__ import annotations

import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

import pytest

from midstream.drawing import canvas
from midstream.drawing.chart import Series, render, write_chart
from midstream.errors import InputError, MissingExtraError

CUT = Series("cut c3", [("raw", 4000.0, 1.0), ("int8", 900.0, 0.99), ("step1", 200.0, 0.95), ("bf16", 1900.0, 0.98)])
INPUT = Series("whole input", [("raw", 9000.0, 1.0), ("jpeg90", 700.0, 0.97)], whole_input=True)


@pytest.fixture(autouse=True)
def strict() -> Iterator[None]:
    """What matplotlib warns of is a mistake of ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def words(svg: bytes) -> list[str]:
    root = ElementTree.fromstring(svg)
    return [text for element in root.iter("{http://www.w3.org/2000/svg}text") if (text := "".join(element.itertext()))]


def drawn(*series: Series) -> list[str]:
    return words(render(series, "svg", title="faces: bytes against agreement", metric="auto"))


def test_it_says_what_is_drawn() -> None:
    found = drawn(CUT, INPUT)
    assert {"cut c3", "whole input", "faces: bytes against agreement", "0.99", "1"} <= set(found)
    assert "agreement with the whole model (auto)" in found
    assert "bytes an input (mean, logarithmic)" in found


def test_the_best_rungs_are_named_and_beaten_ones_are_not() -> None:
    found = drawn(CUT)
    assert {"raw", "int8", "step1"} <= set(found)
    assert "bf16" not in found


@pytest.mark.parametrize("kind", ["svg", "png"])
def test_the_same_series_give_the_same_bytes(kind: str) -> None:
    first, second = (render([CUT, INPUT], kind, title="t", metric="m") for _ in range(2))
    assert first == second
    assert first.startswith(b"\x89PNG" if kind == "png" else b"<?xml")
    assert render([CUT], kind, title="t", metric="m") != first


@pytest.mark.parametrize(
    "series",
    [
        [],
        [Series("empty tensors", [("raw", 0.0, 1.0)])],
        [Series("far apart", [("raw", 1e12, 1.0), ("int8", 1.0, 0.0), ("none", 0.0, 1.0)]), INPUT],
        [Series(f"cut {n}", [("raw", 100.0, 0.3)]) for n in range(26)],
    ],
)
def test_odd_series_are_drawn_too(series: list[Series]) -> None:
    assert "agreement with the whole model (auto)" in drawn(*series)


def test_what_takes_no_bytes_is_left_out() -> None:
    assert "step4" not in drawn(Series("cut", [("step4", 0.0, 1.0), ("raw", 10.0, 1.0)]))


def test_names_are_shown_as_they_are() -> None:
    odd = "a <b> & $x_{"
    assert {odd, f"agreement with the whole model ({odd})"} <= set(words(render([CUT], "svg", title=odd, metric=odd)))


def test_a_file_is_written_over_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "c.SVG"
    path.write_text("before")
    write_chart(path, [CUT], title="t", metric="m")
    assert "cut c3" in words(path.read_bytes())
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("name", "what"),
    [("c.pdf", "ends in neither"), ("nowhere/c.svg", "there is no folder"), ("folder.svg", "it is a folder")],
)
def test_where_nothing_can_be_drawn_that_is_said(tmp_path: Path, name: str, what: str) -> None:
    (tmp_path / "folder.svg").mkdir()
    with pytest.raises(InputError, match=what):
        write_chart(tmp_path / name, [CUT], title="t", metric="m")


def test_without_matplotlib_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canvas, "find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"midstream\[draw\]"):
        write_chart(tmp_path / "c.svg", [CUT], title="t", metric="m")
