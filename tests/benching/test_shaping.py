"""A link that follows a trace."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from midstream.benching.shaping import changes, first_up, shape, unshape
from midstream.traces import Trace


class Told:
    """A link that remembers what it is told."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []

    def __getattr__(self, name: str) -> Any:
        return lambda **given: self.calls.append((name, given))


def made(uplink: list[float], downlink: list[float]) -> Trace:
    count = len(uplink)
    return Trace("made", np.arange(count), np.array(uplink), np.array(downlink), np.full(count, 30.0), float(count))


def test_rows_begin_at_their_times_and_anew_after_the_last() -> None:
    trace = made([1.0, 2.0], [1.0, 2.0])
    assert list(itertools.islice(changes(trace), 5)) == [(0.0, 0), (1.0, 1), (2.0, 0), (3.0, 1), (4.0, 0)]


def test_the_first_row_in_which_both_directions_are_up() -> None:
    assert first_up(made([0.0, 5.0, 5.0], [5.0, 0.0, 5.0])) == 2
    assert first_up(made([0.0, 5.0], [5.0, 0.0])) is None


def test_a_row_is_set_before_the_link_is_up_again_and_a_rate_of_none_cuts_it() -> None:
    link: Any = Told()
    trace = made([800.0, 0.0, 700.0], [900.0, 900.0, 0.0])
    for row in range(3):
        shape(link, trace, row)
    wanted = {"uplink_kbps": 800.0, "downlink_kbps": 900.0, "rtt_ms": 30.0}
    assert link.calls == [("set", wanted), ("restore", {}), ("cut", {}), ("cut", {})]
    link.calls.clear()
    unshape(link)
    assert [name for name, _ in link.calls] == ["set", "restore"]
    assert link.calls[0][1]["uplink_kbps"] is None
