"""Where a model may be cut, on graphs made by hand and at random, and in which order the cuts are worth keeping."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from midstream.tensors import TensorSpec
from midstream_converters.cuts import Candidate, Cutter, rank_cuts
from midstream_converters.graph import ModelGraph, Node, Value


def made(outputs: str, *layers: str, sizes: Mapping[str, int] | None = None, unsendable: str = "") -> ModelGraph:
    """A model from layers such as ``"a b = x y"``; ``=static=`` and ``=state=`` mark them, each has 10 MACs."""
    nodes = []
    for index, layer in enumerate(layers):
        left, mark, right = layer.partition("=static=") if "=static=" in layer else layer.partition("=state=")
        if not mark:
            left, mark, right = layer.partition("=")
        names, reads = tuple(left.split()), tuple(right.split())
        node = Node(index, f"layer{index}", "Op", reads, names, macs=10)
        nodes.append(replace(node, static=mark == "=static=", stateful=mark == "=state="))
    produced = {value for node in nodes for value in node.outputs}
    inputs = dict.fromkeys(value for node in nodes for value in node.inputs if value not in produced)
    return assembled(nodes, list(inputs), outputs.split(), sizes or {}, unsendable.split())


def assembled(
    nodes: list[Node], inputs: list[str], outputs: list[str], sizes: Mapping[str, int], unsendable: list[str]
) -> ModelGraph:
    values = {}
    for name in [*inputs, *(name for node in nodes for name in node.outputs)]:
        spec = None if name in unsendable else TensorSpec(name, np.dtype(np.float32), (None,))
        values[name] = Value(spec, sizes.get(name, 4))
    return ModelGraph(tuple(nodes), tuple(inputs), tuple(outputs), values)


def cuts_of(graph: ModelGraph) -> list[Candidate]:
    return Cutter(graph).candidates()


def shown(graph: ModelGraph) -> list[tuple[str, tuple[int, ...], tuple[int, ...], tuple[str, ...]]]:
    return [(cut.id, cut.head, cut.tail, cut.crossing) for cut in cuts_of(graph)]


def test_a_chain_can_be_cut_between_any_two_layers() -> None:
    cuts = cuts_of(made("c", "a = x", "b = a", "c = b", sizes={"a": 40, "b": 12}))
    assert cuts == [
        Candidate("c1", head=(0,), tail=(1, 2), crossing=("a",), payload_bytes=40, head_macs=10),
        Candidate("c2", head=(0, 1), tail=(2,), crossing=("b",), payload_bytes=12, head_macs=20),
    ]


@pytest.mark.parametrize("layers", [(), ("a = x",), ("k =static=", "a = x k"), ("k =static=", "a =static= k")])
def test_one_layer_cannot_be_cut(layers: tuple[str, ...]) -> None:
    assert cuts_of(made("a" if layers else "", *layers)) == []


def test_all_values_that_are_needed_later_cross_once() -> None:
    graph = made("e", "a b = x", "c = a", "d = c b a", "e = d b", sizes={"a": 8, "b": 100, "c": 20})
    assert shown(graph) == [
        ("c1", (0,), (1, 2, 3), ("a", "b")),
        ("c2", (0, 1), (2, 3), ("c", "b", "a")),
        ("c3", (0, 1, 2), (3,), ("d", "b")),
    ]
    assert [cut.payload_bytes for cut in cuts_of(graph)] == [108, 128, 104]


def test_an_input_that_is_used_late_crosses_too() -> None:
    graph = made("c", "a = x", "b = a late", "c = b x", sizes={"late": 400})
    assert shown(graph) == [("c1", (0,), (1, 2), ("a", "late", "x")), ("c2", (0, 1), (2,), ("b", "x"))]
    assert cuts_of(graph)[0].payload_bytes == 4 + 400 + 4


def test_where_only_inputs_would_cross_there_is_no_cut() -> None:
    assert shown(made("a b", "a = x", "b = x")) == []
    assert shown(made("b c", "a = x", "b = a", "c = y")) == [("c1", (0,), (1, 2), ("a", "y"))]


def test_an_output_that_is_made_early_does_not_cross() -> None:
    graph = made("a b d", "a = x", "b = a", "c = b", "d = c")
    assert shown(graph) == [
        ("c1", (0,), (1, 2, 3), ("a",)),
        ("c2", (0, 1), (2, 3), ("b",)),
        ("c3", (0, 1, 2), (3,), ("c",)),
    ]


def test_static_layers_run_where_they_are_needed_and_never_cross() -> None:
    graph = made("d", "k =static=", "m =static= k", "a = x k", "n =static=", "b = a", "c = b m", "d = c n k")
    assert shown(graph) == [
        ("c1", (0, 2), (0, 1, 3, 4, 5, 6), ("a",)),
        ("c2", (0, 2, 4), (0, 1, 3, 5, 6), ("b",)),
        ("c3", (0, 1, 2, 4, 5), (0, 3, 6), ("c",)),
    ]


def test_a_static_output_is_made_in_the_tail() -> None:
    graph = made("k c m", "k =static=", "a = x", "b = a", "c = b", "j =static=", "m =static= j")
    assert shown(graph) == [("c1", (1,), (0, 2, 3, 4, 5), ("a",)), ("c2", (1, 2), (0, 3, 4, 5), ("b",))]


def test_layers_with_state_stay_on_the_device() -> None:
    graph = made("d", "a = x", "b =state= a", "c = b", "d = c")
    assert [cut.head for cut in cuts_of(graph)] == [(0, 1), (0, 1, 2)]
    assert cuts_of(made("c", "a = x", "b = a", "c =state= b")) == []
    assert [cut.head for cut in cuts_of(made("a", "b = x", "c =state= b", "a = b"))] == [(0, 1)]


def test_what_a_late_layer_with_state_needs_goes_first() -> None:
    graph = made("d", "a = x", "b = a", "s =state= x", "c = b s", "d = c")
    assert shown(graph) == [
        ("c1", (2,), (0, 1, 3, 4), ("x", "s")),
        ("c2", (0, 2), (1, 3, 4), ("a", "s")),
        ("c3", (0, 1, 2), (3, 4), ("b", "s")),
        ("c4", (0, 1, 2, 3), (4,), ("c",)),
    ]


def test_a_layer_that_reaches_no_output_is_not_in_the_tail() -> None:
    graph = made("d", "a = x", "dead = a", "b = a", "deader = dead", "d = b", "last = d")
    assert shown(graph) == [
        ("c1", (0,), (2, 4), ("a",)),
        ("c2", (0, 1), (2, 4), ("a",)),
        ("c3", (0, 1, 2), (4,), ("b",)),
        ("c4", (0, 1, 2, 3), (4,), ("b",)),
    ]


@pytest.mark.parametrize("unsendable", ["a", "late"])
def test_where_something_crosses_that_cannot_travel_there_is_no_cut(unsendable: str) -> None:
    graph = made("c", "a = x", "b = a late", "c = b", unsendable=unsendable)
    assert [cut.id for cut in cuts_of(graph)] == ["c2"]


@st.composite
def graphs(draw: st.DrawFn) -> ModelGraph:
    rarely = st.sampled_from([False] * 7 + [True])
    nodes: list[Node] = []
    known = ["x", "y"]
    static: set[str] = set()
    for index in range(draw(st.integers(2, 9))):
        recent = st.sampled_from(known[-4:]) | st.sampled_from(known)
        reads = () if draw(rarely) else tuple(draw(st.lists(recent, min_size=1, max_size=3)))
        reads += (draw(st.sampled_from(sorted(static))),) if static and draw(st.booleans()) else ()
        names = tuple(f"v{index}{part}" for part in range(draw(st.integers(1, 2))))
        fixed = static.issuperset(reads)
        nodes.append(Node(index, "", "Op", reads, names, draw(st.integers(0, 9)), 0, fixed, not fixed and draw(rarely)))
        known += names
        static.update(names if fixed else ())
    outputs = draw(st.lists(st.sampled_from(known[-3:]) | st.sampled_from(known), min_size=1, max_size=3, unique=True))
    unsendable = [draw(st.sampled_from(known))] if draw(rarely) else []
    sizes = {value: draw(st.integers(0, 99)) for value in known}
    return assembled(nodes, ["x", "y"], outputs, sizes, unsendable)


def run(graph: ModelGraph, layers: Iterable[int], given: Mapping[str, str]) -> dict[str, str]:
    """Every value as the formula that made it; KeyError where a layer reads what is not there."""
    values = dict(given)
    for index in layers:
        node = graph.nodes[index]
        reads = ",".join(values[value] for value in node.inputs)
        values |= {value: f"{index}.{place}({reads})" for place, value in enumerate(node.outputs)}
    return values


def check(graph: ModelGraph, cut: Candidate) -> None:
    """A downward-closed head and a tail that has what it needs, together as good as the whole."""
    head, tail = set(cut.head), set(cut.tail)
    assert list(cut.head) == sorted(head)
    assert list(cut.tail) == sorted(tail)
    assert all(graph.nodes[index].static for index in head & tail)
    assert {node.index for node in graph.nodes if node.stateful} <= head
    for index in head:
        assert {graph.producer[value] for value in graph.nodes[index].inputs if value in graph.producer} <= head
    outside = {v for index in tail for v in graph.nodes[index].inputs if graph.producer.get(v, -1) not in tail}
    assert set(cut.crossing) == outside
    assert len(cut.crossing) == len(outside)
    made_by = [graph.producer[value] for value in cut.crossing if value in graph.producer]
    assert made_by
    assert not any(graph.nodes[index].static for index in made_by)
    assert all(graph.values[value].spec for value in cut.crossing)
    assert cut.payload_bytes == sum(graph.values[value].bytes for value in cut.crossing)
    assert cut.head_macs == sum(graph.nodes[index].macs for index in head if not graph.nodes[index].static)
    given = {name: name for name in graph.inputs}
    first = run(graph, cut.head, given)
    second = run(graph, cut.tail, {value: first[value] for value in cut.crossing})
    whole = run(graph, range(len(graph.nodes)), given)
    assert {value: (first | second)[value] for value in graph.outputs} == {v: whole[v] for v in graph.outputs}


@settings(deadline=None, max_examples=120)
@given(graphs())
def test_head_and_tail_make_what_the_whole_makes(graph: ModelGraph) -> None:
    cuts = cuts_of(graph)
    assert [len(cut.head) for cut in cuts] == sorted(len(cut.head) for cut in cuts)
    assert len({cut.id for cut in cuts}) == len(cuts)
    for cut in cuts:
        check(graph, cut)


@settings(deadline=None, max_examples=60)
@given(graphs())
def test_a_cut_can_be_moved_before_what_makes_a_value(graph: ModelGraph) -> None:
    cutter = Cutter(graph)
    for cut in cutter.candidates():
        for moved in cutter.moved_before(cut):
            check(graph, moved)
            assert moved.id == cut.id
            assert set(moved.head) < set(cut.head)
            kept = {value for index in moved.head for value in graph.nodes[index].outputs}
            assert not kept.issuperset(value for value in cut.crossing if value in graph.producer)


def test_a_cut_is_moved_by_one_value_at_a_time() -> None:
    graph = made("d", "a = x", "b = a", "c = a", "d = b c")
    cutter = Cutter(graph)
    third = cutter.candidates()[2]
    assert (third.head, third.crossing) == ((0, 1, 2), ("b", "c"))
    assert [(moved.head, moved.crossing) for moved in cutter.moved_before(third)] == [
        ((0, 2), ("a", "c")),
        ((0, 1), ("a", "b")),
    ]
    assert list(cutter.moved_before(cutter.candidates()[0])) == []


@settings(deadline=None, max_examples=100)
@given(graphs())
def test_no_place_is_left_out_without_a_reason(graph: ModelGraph) -> None:
    found = {cut.id for cut in cuts_of(graph)}
    stateful = [node for node in graph.nodes if node.stateful]
    for_state, needed = {v for node in stateful for v in node.outputs}, set(graph.outputs)
    for node in reversed(graph.nodes):
        for_state.update(node.inputs if for_state & set(node.outputs) else ())
        needed.update(node.inputs if (needed | for_state) & set(node.outputs) else ())
    static = {value for node in graph.nodes if node.static for value in node.outputs}
    working = [node for node in graph.nodes if not node.static]
    order = sorted(working, key=lambda node: not for_state & set(node.outputs))
    for place in range(1, len(order)):
        tail = [node for node in order[place:] if (needed | for_state) & set(node.outputs)]
        made_in_tail = {value for node in tail for value in node.outputs}
        crossing = {value for node in tail for value in node.inputs} - made_in_tail - static
        reasons = (
            any(node.stateful for node in tail),
            not crossing - set(graph.inputs),
            any(graph.values[value].spec is None for value in crossing),
        )
        assert (f"c{place}" in found) is not any(reasons)


def candidates(*places: tuple[int, int]) -> list[Candidate]:
    """Cuts of a chain from (work of the head, payload)."""
    return [
        Candidate(f"c{number}", (), (), (), payload_bytes=payload, head_macs=work)
        for number, (work, payload) in enumerate(places, start=1)
    ]


def ranked(*places: tuple[int, int]) -> list[str]:
    return [cut.id for cut in rank_cuts(candidates(*places))]


PLACES = st.lists(st.tuples(st.integers(1, 1000), st.integers(0, 20)), min_size=1, max_size=15).map(
    lambda steps: [(sum(work for work, _ in steps[: end + 1]), steps[end][1]) for end in range(len(steps))]
)


@settings(deadline=None)
@given(PLACES)
def test_ranking_loses_none(places: list[tuple[int, int]]) -> None:
    cuts = candidates(*places)
    found = rank_cuts(cuts)
    assert sorted(cut.id for cut in found) == sorted(cut.id for cut in cuts)
    assert set(found) == set(cuts)


@settings(deadline=None)
@given(PLACES)
def test_cuts_that_no_shorter_head_undercuts_come_first(places: list[tuple[int, int]]) -> None:
    found = rank_cuts(candidates(*places))
    best = {f"c{n}" for n, (_, size) in enumerate(places, start=1) if all(size < s for _, s in places[: n - 1])}
    assert {cut.id for cut in found[: len(best)]} == best


def test_the_best_for_some_link_come_from_the_least_work_to_the_least_to_send() -> None:
    assert ranked((10, 900), (20, 500), (30, 800), (40, 100)) == ["c1", "c2", "c4", "c3"]
    assert ranked((10, 900), (20, 880), (30, 950), (40, 100)) == ["c1", "c4", "c2", "c3"]


def test_after_the_best_come_narrow_places_far_from_them() -> None:
    assert ranked((1, 10), (2, 90), (3, 80), (4, 20)) == ["c1", "c4", "c3", "c2"]
    assert ranked((1, 10), (2, 11), (3, 100), (4, 100)) == ["c1", "c2", "c4", "c3"]
    assert ranked((1, 5), (2, 9), (3, 9), (4, 9), (5, 9))[:3] == ["c1", "c5", "c3"]


@pytest.mark.parametrize("places", [((0, 0),), ((0, 0), (0, 0)), ((0, 7), (0, 7), (0, 7)), ((5, 0), (5, 0))])
def test_cuts_without_work_or_payload_are_ranked_too(places: tuple[tuple[int, int], ...]) -> None:
    assert len(set(ranked(*places))) == len(places)


def test_no_cuts_rank_as_none() -> None:
    assert rank_cuts([]) == []
