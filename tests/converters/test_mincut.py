"""Minimum cuts against every head there is, on random graphs, and against another library's flow."""

from __future__ import annotations

import math
from itertools import pairwise

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from midstream_converters.mincut import Carried, Head, Line, MinCut, Prices, Problem, joined

LOW, HIGH = 1e-4, 10.0


@st.composite
def problems(draw: st.DrawFn, most: int = 8) -> Problem:
    """Layers that read values of earlier ones and of up to two inputs; shared, late, unsendable, output, pinned."""
    count = draw(st.integers(1, most))
    makers = [None, None, *range(count)]
    readers: list[list[int]] = [[] for _ in makers]
    for layer in range(count):
        for value in draw(st.sets(st.integers(0, layer + 1), min_size=1, max_size=3)):
            readers[value].append(layer)
    rarely = st.sampled_from([False] * 9 + [True])
    values = tuple(
        Carried(maker, tuple(read_by), math.inf if draw(rarely) else draw(st.integers(0, 100)))
        for maker, read_by in zip(makers, readers, strict=True)
        if read_by
    )
    replies = tuple(draw(st.integers(1, 50)) if draw(st.booleans()) else 0 for _ in range(count))
    return Problem(replies, values, frozenset(layer for layer in range(count) if draw(rarely)))


def some(least: float, most: float) -> st.SearchStrategy[float]:
    """Costs of very different sizes, but none that another would swallow as a float."""
    return st.floats(least, most).map(lambda value: round(value, 6))


def times(draw: st.DrawFn, count: int) -> np.ndarray:
    return np.array(draw(st.lists(some(0, 50), min_size=count, max_size=count)))


@st.composite
def cases(draw: st.DrawFn) -> tuple[Problem, Prices]:
    problem = draw(problems())
    count = len(problem.reply_bytes)
    prices = Prices(times(draw, count), times(draw, count), draw(some(0, 5)), draw(some(0, 5)))
    return problem, prices


@st.composite
def lines(draw: st.DrawFn) -> tuple[Problem, Line]:
    problem = draw(problems())
    count = len(problem.reply_bytes)
    gateway = times(draw, count)
    device = gateway + times(draw, count) if draw(st.booleans()) else times(draw, count)
    return problem, Line(device, gateway, draw(some(0.1, 3)), draw(some(0, 1)))


def heads(problem: Problem) -> list[Head]:
    """Every set of layers that holds, with a layer, all that it reads from."""
    count = len(problem.reply_bytes)
    edges = [(value.maker, reader) for value in problem.values for reader in value.readers if value.maker is not None]
    sets = (np.array([number >> layer & 1 for layer in range(count)], dtype=np.bool_) for number in range(1 << count))
    return [head for head in sets if all(head[maker] or not head[reader] for maker, reader in edges)]


def cost(problem: Problem, head: Head, prices: Prices) -> float:
    """The cost by its definition."""
    if any(not head[layer] for layer in problem.pinned):
        return math.inf
    total = sum(prices.device[head]) + sum(prices.gateway[~head])
    for value in problem.values:
        if (value.maker is None or head[value.maker]) and not all(head[reader] for reader in value.readers):
            if math.isinf(value.bytes):
                return math.inf
            total += value.bytes * prices.up
    return total + sum(size for size, here in zip(problem.reply_bytes, head, strict=True) if not here) * prices.down


@settings(deadline=None, max_examples=250)
@given(cases())
def test_no_head_costs_less(case: tuple[Problem, Prices]) -> None:
    problem, prices = case
    solver = MinCut(problem)
    found = solver.solve(prices)
    costs = {head.tobytes(): cost(problem, head, prices) for head in heads(problem)}
    assert found.tobytes() in costs, "not closed: something would flow back"
    scale = sum(prices.device)
    assert costs[found.tobytes()] <= min(costs.values()) + 1e-6 * scale
    for head in heads(problem):
        assert solver.cost(head, prices) == pytest.approx(costs[head.tobytes()])


@settings(deadline=None, max_examples=150)
@given(lines(), st.lists(st.floats(0, 1), min_size=3, max_size=3))
def test_the_sweep_has_the_best_head_for_every_link(case: tuple[Problem, Line], places: list[float]) -> None:
    problem, line = case
    found = MinCut(problem).sweep(line, LOW, HIGH)
    assert (found[0].low, found[-1].high) == (LOW, HIGH)
    assert all(before.high == after.low for before, after in pairwise(found))
    possible = heads(problem)
    for byte_ms in [LOW, HIGH, *(LOW * (HIGH / LOW) ** place for place in places)]:
        prices = line.prices(byte_ms)
        there = next(best for best in found if best.low <= byte_ms <= best.high)
        least = min(cost(problem, head, prices) for head in possible)
        assert cost(problem, there.head, prices) <= least + 2e-6 * (least + sum(line.device))


@settings(deadline=None, max_examples=150)
@given(lines())
def test_heads_shrink_as_the_link_gets_faster(case: tuple[Problem, Line]) -> None:
    problem, line = case
    faster = Line(np.maximum(line.device, line.gateway) + 0.01, line.gateway, line.waiting, line.radio)
    found = MinCut(problem).sweep(faster, LOW, HIGH)
    for before, after in pairwise(found):
        assert np.all(after.head | ~before.head)
        assert after.head.sum() > before.head.sum()


@settings(deadline=None, max_examples=200)
@given(problems(), st.data())
def test_joined_layers_are_on_one_side_of_the_smallest_minimum_cut(problem: Problem, data: st.DataObject) -> None:
    whole = st.lists(st.integers(0, 30), min_size=len(problem.reply_bytes), max_size=len(problem.reply_bytes))
    device, gateway = np.array(data.draw(whole), dtype=float), np.array(data.draw(whole), dtype=float)
    prices = Prices(device, gateway, data.draw(st.integers(0, 3)), data.draw(st.integers(0, 3)))
    costs = [(cost(problem, head, prices), head.sum(), head.tolist()) for head in heads(problem)]
    (least, count, head), *others = sorted(costs)
    if math.isfinite(least):
        assert all(other[:2] > (least, count) for other in others)
        for layer, last in enumerate(joined(problem, device >= gateway)):
            assert head[layer] == head[last]


def test_layers_are_joined_where_nothing_is_saved_between_them() -> None:
    """x → 0 → 1 → 2 → 3, and 2 reads what 0 writes too: with it sent, 1 may as well run at the gateway."""
    shrinking = values_of((None, (0,), 90), (0, (1, 2), 40), (1, (2,), 9), (2, (3,), 20))
    problem = Problem((0, 0, 0, 8), shrinking, frozenset())
    assert joined(problem, np.full(4, True)).tolist() == [0, 2, 2, 3]
    assert joined(problem, np.array([True, False, True, True])).tolist() == [0, 1, 2, 3]
    growing = values_of((None, (0,), 5), (0, (1, 2), 40), (1, (2,), 9))
    assert joined(Problem((0, 0, 8), growing, frozenset()), np.full(3, True)).tolist() == [2, 2, 2]
    assert joined(Problem((0, 7, 8), growing, frozenset()), np.full(3, True)).tolist() == [0, 1, 2]
    assert joined(Problem((0, 0, 8), growing, frozenset({1})), np.full(3, True)).tolist() == [0, 1, 2]


def values_of(*values: tuple[int | None, tuple[int, ...], float]) -> tuple[Carried, ...]:
    return tuple(Carried(*value) for value in values)


@settings(deadline=None, max_examples=50)
@given(problems(), st.data())
def test_sweeps_go_together_as_they_go_alone(problem: Problem, data: st.DataObject) -> None:
    count = len(problem.reply_bytes)
    several = [Line(times(data.draw, count), times(data.draw, count)) for _ in range(data.draw(st.integers(0, 4)))]
    alone = [
        [(best.head.tolist(), best.low, best.high) for best in MinCut(problem).sweep(x, LOW, HIGH)] for x in several
    ]
    found = MinCut(problem).sweeps(several, LOW, HIGH)
    assert [[(best.head.tolist(), best.low, best.high) for best in sweep] for sweep in found] == alone


def test_a_value_crosses_once_however_many_read_it() -> None:
    shared = Problem((0,) * 5, (Carried(None, (0,), 1e6), Carried(0, (1, 2, 3, 4), 10)), frozenset())
    device, gateway = np.array([1.0, 5, 5, 5, 5]), np.zeros(5)
    head = MinCut(shared).solve(Prices(device, gateway, up=1.9, down=0))
    assert head.tolist() == [True, False, False, False, False]
    apart = (Carried(None, (0,), 1e6), *(Carried(0, (reader,), 10) for reader in range(1, 5)))
    head = MinCut(Problem((0,) * 5, apart, frozenset())).solve(Prices(device, gateway, up=1.9, down=0))
    assert head.tolist() == [True] * 5


def test_outputs_come_back_from_the_gateway_alone() -> None:
    problem = Problem((0, 100), (Carried(None, (0,), 50), Carried(0, (1,), 1)), frozenset())
    costly = Prices(np.array([2.0, 2.0]), np.array([0.0, 0.0]), up=1.0, down=1.0)
    assert MinCut(problem).solve(costly).tolist() == [True, True]
    free = Prices(costly.device, costly.gateway, up=1.0, down=0.0)
    assert MinCut(problem).solve(free).tolist() == [True, False]


def test_what_cannot_travel_keeps_both_ends_together() -> None:
    problem = Problem((0, 0), (Carried(None, (0,), 1), Carried(0, (1,), math.inf)), frozenset({0}))
    prices = Prices(np.array([1.0, 1e9]), np.array([0.0, 0.0]), up=1.0, down=0.0)
    assert MinCut(problem).solve(prices).tolist() == [True, True]


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e12])
def test_the_unit_of_cost_does_not_matter(scale: float) -> None:
    problem = Problem((0, 0, 5), (Carried(None, (0,), 900), Carried(0, (1,), 90), Carried(1, (2,), 300)), frozenset())
    device, gateway = np.array([4.0, 4.0, 4.0]) * scale, np.array([1.0, 1.0, 1.0]) * scale
    assert MinCut(problem).solve(Prices(device, gateway, 0.01 * scale, 0.01 * scale)).tolist() == [True, False, False]


def large(layers: int, seed: int) -> tuple[Problem, np.ndarray]:
    """A DAG of layers that read some of the last ones, shared values included, and device times."""
    random = np.random.default_rng(seed)
    readers: list[list[int]] = [[] for _ in range(layers + 1)]
    for layer in range(layers):
        for back in set(random.integers(0, 6, size=random.integers(1, 4)).tolist()):
            readers[max(0, layer - back)].append(layer)
    sizes = 10 ** random.uniform(3, 6, layers + 1)
    values = tuple(
        Carried(place - 1 if place else None, tuple(read_by), float(int(sizes[place])))
        for place, read_by in enumerate(readers)
        if read_by
    )
    return Problem((0,) * (layers - 1) + (4000,), values, frozenset()), 10 ** random.uniform(-2, 1, layers)


@pytest.mark.parametrize("faster", [3.0, None])
def test_a_thousand_layers(faster: float | None) -> None:
    problem, device = large(1000, seed=1)
    mixed = device * 10 ** np.random.default_rng(2).uniform(-1.5, 0.7, 1000)
    line = Line(device, mixed if faster is None else device / faster)
    solver = MinCut(problem)
    found = solver.sweep(line, 8e-6, 0.5)
    for best in found:
        middle = line.prices(math.sqrt(best.low * best.high))
        assert solver.cost(best.head, middle) <= solver.cost(solver.solve(middle), middle) * (1 + 1e-6)
    assert len(found) > (1 if faster else 10)


@pytest.mark.parametrize("seed", [3, 4, 5])
def test_another_library_finds_no_better_head(seed: int) -> None:
    problem, device = large(60, seed)
    gateway = device * 10 ** np.random.default_rng(seed).uniform(-1.5, 0.7, 60)
    prices = Prices(device, gateway, up=1e-5, down=1e-5)
    network = nx.DiGraph()
    for layer, reply in enumerate(problem.reply_bytes):
        network.add_edge("s", layer, capacity=gateway[layer] + prices.down * reply)
        network.add_edge(layer, "t", capacity=device[layer])
    for number, value in enumerate(problem.values):
        maker = "s" if value.maker is None else value.maker
        network.add_edge(maker, ("value", number), capacity=prices.up * value.bytes)
        for reader in value.readers:
            network.add_edge(("value", number), reader)
            if value.maker is not None:
                network.add_edge(reader, value.maker)
    solver = MinCut(problem)
    assert solver.cost(solver.solve(prices), prices) == pytest.approx(nx.minimum_cut_value(network, "s", "t"), rel=1e-6)
