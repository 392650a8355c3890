"""Pictures of policies: what is in them, and that the same figures give the same bytes."""

from __future__ import annotations

from xml.etree import ElementTree

import numpy as np
import pytest

from midstream.drawing.policies import Bar, Course, Link, render, stretches

LINK = Link(np.arange(60.0), np.linspace(0, 20_000, 60), 60.0)
BARS = [Bar("local", 70.0, 75.0), Bar("adaptive", 40.0, 80.0, 0.012), Bar("raw", 55.0, 190.0)]


def course(name: str, count: int = 120) -> Course:
    return Course(name, np.linspace(0, 59, count), np.linspace(30, 60, count))


def texts(content: bytes) -> list[str]:
    return ["".join(each.itertext()) for each in ElementTree.fromstring(content).iter() if each.tag.endswith("}text")]


def test_policies_are_sorted_by_their_means_with_figures_beside() -> None:
    found = texts(render(BARS, [course("adaptive"), course("local")], LINK, "svg", title="faces on a board"))
    names = [each for each in found if each in {"local", "adaptive", "raw"}]
    assert names[:3] == ["adaptive", "raw", "local"]
    assert {"40.0, 1.2% missed", "70.0", "55.0", "faces on a board", "uplink, Mbit/s", "seconds"} <= set(found)


@pytest.mark.parametrize("kind", ["svg", "png"])
def test_the_same_figures_give_the_same_bytes(kind: str) -> None:
    first, again = (render(BARS, [course("adaptive")], LINK, kind, title="t", deadline_ms=100.0) for _ in range(2))
    assert first == again
    assert first != render(BARS, [course("adaptive")], LINK, kind, title="t")


def test_policies_far_apart_are_drawn_to_a_logarithmic_scale() -> None:
    far = [*BARS, Bar("jpeg75", 5_000.0, 9_000.0)]
    assert any("logarithmic" in each for each in texts(render(far, [], LINK, "svg", title="t")))
    assert not any("logarithmic" in each for each in texts(render(BARS, [], LINK, "svg", title="t")))


def test_names_are_no_formulas_and_nothing_is_enough_for_a_picture() -> None:
    assert "$x$ & <y>" in texts(render(BARS, [], LINK, "svg", title="$x$ & <y>"))
    nothing = Course("adaptive", np.zeros(0), np.zeros(0))
    assert render([], [nothing], Link(np.zeros(1), np.zeros(1), 1.0), "svg", title="t")


def test_stretches_are_medians_of_what_came_in_them() -> None:
    at_s, median_ms = stretches(Course("a", np.array([0.0, 1.0, 2.0, 9.0, 9.1, 9.2]), np.array([1, 5, 3, 7, 9, 8])), 10)
    assert (at_s.tolist(), median_ms.tolist()) == ([2.5, 7.5], [3.0, 8.0])
    at_s, median_ms = stretches(course("a", 10_000), 60.0)
    assert len(at_s) <= 150
    assert (np.diff(median_ms) >= 0).all()
