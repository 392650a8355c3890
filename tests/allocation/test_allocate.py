"""What is made ready: slices that are likely to be asked for and slow to load, in as many workers as there is room."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from midstream.allocation.allocate import Allocation, Need, allocate
from midstream.allocation.usage import Partition

MB = 1e6


def need(
    name: str,
    arrivals: float = 1.0,
    work_s: float = 0.1,
    size: float = 10 * MB,
    load_s: float = 0.1,
    *,
    loaded: bool = False,
) -> Need:
    return Need(Partition(name, "c1"), work_s, work_s, arrivals, size, load_s, loaded)


def warm(allocation: Allocation) -> list[str]:
    return [partition.bundle for partition in allocation.warm]


def test_without_requests_nothing_is_loaded() -> None:
    assert allocate([], 4) == Allocation(4, (), False)
    assert warm(allocate([need("a", arrivals=0.0)], 4)) == []


def test_with_memory_for_all_every_worker_has_all() -> None:
    found = allocate([need("a"), need("b")], 4, budget_bytes=80 * MB)
    assert (found.workers, sorted(warm(found))) == (4, ["a", "b"])


def test_with_less_memory_fewer_workers_have_all() -> None:
    found = allocate([need("a"), need("b")], 4, budget_bytes=45 * MB)
    assert (found.workers, sorted(warm(found))) == (2, ["a", "b"])


def test_as_many_workers_as_the_forecast_work_needs_and_what_then_fits() -> None:
    found = allocate([need("a", work_s=1.5), need("b", arrivals=0.01)], 4, budget_bytes=45 * MB)
    assert (found.workers, warm(found)) == (3, ["a"])


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        (need("a", arrivals=2.0), need("b", arrivals=0.1)),
        (need("a", load_s=0.2), need("b", load_s=0.1)),
        (need("a", size=5 * MB), need("b", size=10 * MB)),
        (need("a", loaded=True), need("b", load_s=0.11)),
        (need("a", arrivals=30.0), need("b", arrivals=1.5, loaded=True)),
    ],
)
def test_what_saves_more_for_its_size_stays(better: Need, worse: Need) -> None:
    assert warm(allocate([worse, better], 1, budget_bytes=10 * MB)) == ["a"]


def test_what_is_worth_much_more_takes_the_place_of_what_is_loaded() -> None:
    assert warm(allocate([need("a", load_s=0.2), need("b", loaded=True)], 1, budget_bytes=10 * MB)) == ["a"]


def test_it_says_when_more_comes_than_can_be_run_one_at_a_time() -> None:
    assert not allocate([need("a", work_s=0.7)], 1).behind
    assert allocate([need("a", work_s=0.9)], 1).behind
    assert not allocate([need("a", work_s=0.9)], 2).behind
    assert allocate([need("a", work_s=0.7)], 1, waiting_s=0.2).behind


NEEDS = st.lists(
    st.builds(
        need,
        st.text("abcdefgh", min_size=1, max_size=3),
        st.floats(0, 100),
        st.floats(0, 8),
        st.floats(0, 1e9),
        st.floats(0, 10),
        loaded=st.booleans(),
    ),
    max_size=12,
    unique_by=lambda each: each.partition,
)


@given(NEEDS, st.integers(1, 16), st.floats(0, 4e9) | st.just(math.inf))
def test_no_more_memory_is_taken_than_there_is(needs: list[Need], workers: int, budget_bytes: float) -> None:
    found = allocate(needs, workers, budget_bytes)
    sizes = {each.partition: each.memory_bytes for each in needs}
    assert 1 <= found.workers <= workers
    assert sum(sizes[partition] for partition in found.warm) * found.workers <= budget_bytes * (1 + 1e-9)
    assert len(set(found.warm)) == len(found.warm)
