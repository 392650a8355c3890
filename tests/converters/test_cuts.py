"""Where a model may be cut, on graphs made by hand and at random."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import pytest
from hypothesis import given, settings

from midstream_converters.cuts import Candidate, Cutter
from midstream_converters.graph import ModelGraph

from .layered import graphs, made


def cuts_of(graph: ModelGraph) -> list[Candidate]:
    return Cutter(graph).candidates()


def test_what_the_tail_makes_of_the_outputs_comes_back() -> None:
    graph = made("a c d x", "a = x", "b = a", "c = b", "d = c", sizes={"a": 7, "c": 30, "d": 500, "x": 9000})
    assert [cut.reply_bytes for cut in cuts_of(graph)] == [530, 530, 500]


def shown(graph: ModelGraph) -> list[tuple[str, tuple[int, ...], tuple[int, ...], tuple[str, ...]]]:
    return [(cut.id, cut.head, cut.tail, cut.crossing) for cut in cuts_of(graph)]


def test_a_chain_can_be_cut_between_any_two_layers() -> None:
    cuts = cuts_of(made("c", "a = x", "b = a", "c = b", sizes={"a": 40, "b": 12}))
    assert cuts == [
        Candidate("c1", head=(0,), tail=(1, 2), crossing=("a",), payload_bytes=40, reply_bytes=4),
        Candidate("c2", head=(0, 1), tail=(2,), crossing=("b",), payload_bytes=12, reply_bytes=4),
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
    assert cut.reply_bytes == sum(
        graph.values[value].bytes for value in graph.outputs if graph.producer.get(value) in tail
    )
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


def test_a_cut_can_be_moved_some_layers_on() -> None:
    graph = made("d", "a = x", "b = a", "c = a", "d = b c")
    cutter = Cutter(graph)
    first, second, _ = cutter.candidates()
    moved = cutter.moved_after(first, 2)
    assert moved is not None
    assert (moved.head, moved.crossing) == ((0, 1, 2), ("b", "c"))
    moved = cutter.moved_after(replace(second, head=(0, 2)), 1)
    assert moved is not None
    assert (moved.head, moved.crossing) == ((0, 1, 2), ("b", "c"))
    assert cutter.moved_after(second, 2) is None


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
