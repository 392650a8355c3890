"""How many workers: the fewest that do nearly as much as any number does."""

from __future__ import annotations

import pytest

from midstream.allocation.scaling import candidates, choose


@pytest.mark.parametrize(
    ("cores", "tried"),
    [(1, (1,)), (2, (1, 2)), (3, (1, 2, 3)), (4, (1, 2, 4)), (6, (1, 2, 4, 6)), (16, (1, 2, 4, 8, 16))],
)
def test_numbers_that_are_tried_double_up_to_all(cores: int, tried: tuple[int, ...]) -> None:
    assert candidates(cores) == tried


def test_as_many_as_add_something() -> None:
    assert choose({(1, False): 100.0, (2, False): 190.0, (4, False): 191.0}).workers == 2
    assert choose({(1, False): 100.0, (2, False): 101.0}).workers == 1


def test_pinned_only_where_that_is_better() -> None:
    assert not choose({(1, False): 100.0, (1, True): 102.0}).pinned
    found = choose({(1, False): 50.0, (1, True): 60.0, (2, False): 90.0, (2, True): 120.0})
    assert (found.workers, found.pinned) == (2, True)
    assert not choose({(4, False): 10.0}).pinned
