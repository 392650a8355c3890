"""Which candidates are proven, in which order, and that none is left out that could be the best."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from midstream.bundle import Bundle
from midstream.manifest import CandidateCounts
from midstream.samples import InputTypes
from midstream_converters.convert import convert
from midstream_converters.cuts import Candidate, Cutter
from midstream_converters.graph import ModelGraph
from midstream_converters.linear import revealing
from midstream_converters.opening import Options
from midstream_converters.selection import Selection, dominating, select

from .layered import graphs, made

MODELS = Path(__file__).resolve().parent.parent / "models"


def cost(graph: ModelGraph, cut: Candidate, device: np.ndarray, gateway: np.ndarray, up: float, down: float) -> float:
    head = [index for index in cut.head if not graph.nodes[index].static]
    tail = [index for index in cut.tail if not graph.nodes[index].static]
    return float(device[head].sum() + gateway[tail].sum() + up * cut.payload_bytes + down * cut.reply_bytes)


@settings(deadline=None, max_examples=200)
@given(graphs(), st.integers(0, 2**32), st.booleans())
def test_no_dominated_cut_is_ever_the_best(graph: ModelGraph, seed: int, slower: bool) -> None:
    random, count = np.random.default_rng(seed), len(graph.nodes)
    cutter = Cutter(graph)
    pool, reveal = cutter.candidates(), revealing(graph)
    for cut in pool:
        others = dominating(cut, pool, reveal)
        for other in pool if others else ():
            if other.id not in others:
                continue
            assert reveal.isdisjoint(other.crossing) or not reveal.isdisjoint(cut.crossing)
            for _ in range(5):
                gateway = random.exponential(1.0, count)
                device = gateway * random.uniform(1, 9, count) ** (-1 if slower else 1)
                up, down = 10 ** random.uniform(-4, 1, 2)
                least = device[cutter.layers].sum() if slower else cost(graph, other, device, gateway, up, down)
                assert least <= cost(graph, cut, device, gateway, up, down) + 1e-9


def dominated_by(graph: ModelGraph) -> dict[str, set[str]]:
    pool = Cutter(graph).candidates()
    return {cut.id: set(dominating(cut, pool, revealing(graph))) for cut in pool}


def test_a_longer_head_that_sends_no_less_is_dominated() -> None:
    graph = made("d", "a = x", "b = a", "c = b", "d = c", sizes={"a": 10, "b": 10, "c": 9})
    assert dominated_by(graph) == {"c1": set(), "c2": {"c1"}, "c3": set()}


def test_a_longer_head_that_gets_less_back_is_not_dominated() -> None:
    graph = made("b d", "a = x", "b = a", "d = b", sizes={"a": 10, "b": 10})
    assert dominated_by(graph) == {"c1": set(), "c2": set()}


def test_what_keeps_the_input_is_not_dominated_by_what_sends_it() -> None:
    sizes = {"x": 1, "a": 1, "b": 10, "c": 10}
    graph = made("d", "a =relu= x", "b = a x", "c =relu= b", "d = c", sizes=sizes)
    assert dominated_by(graph) == {"c1": set(), "c2": {"c1"}, "c3": set()}


def test_dominated_cuts_are_left_out_unless_every_cut_is_wanted() -> None:
    graph = made("d", "a = x", "b = a", "c = b", "d = c", sizes={"a": 10, "b": 10**8, "c": 10})
    some = select(graph, every=False)
    assert {cut.id: others for cut, others in some.dominated.items()} == {"c2": frozenset({"c1"})}
    assert sorted(cut.id for cut in some.chosen) == ["c1", "c3"]
    assert [cut.id for cut in select(graph, every=True).chosen[2:]] == ["c2"]


def test_the_same_graph_gives_the_same_selection() -> None:
    graph = made("f", "a = x", "b = a", "c = a x", "d = b", "e = c", "f = d e", sizes={"x": 9000, "b": 10, "e": 10})
    assert select(graph, every=False) == select(graph, every=False)


@settings(deadline=None, max_examples=12)
@given(graphs())
def test_every_candidate_has_its_place(graph: ModelGraph) -> None:
    some, every = select(graph, every=False), select(graph, every=True)
    assert set(some.all()) == set(every.chosen) == set(every.all())
    assert some.counts == every.counts
    ids = [cut.id for cut in some.all()]
    assert len(set(ids)) == len(ids) == some.counts.total
    assert {cut.id for cut in Cutter(graph).candidates()} == {cut_id for cut_id in ids if cut_id[0] == "c"}
    numbered = {cut_id for cut_id in ids if cut_id[0] == "m"}
    assert numbered == {f"m{number + 1}" for number in range(len(numbered))}
    shares = [cut.share for cut in some.chosen]
    assert shares == sorted(shares, reverse=True)
    assert sum(share > 0 for share in shares) == some.counts.optimal
    assert all(cut.share or len(cut.crossing) == 1 for cut in (*some.chosen, *some.dominated))
    assert all(not cut.share and len(cut.crossing) > 1 for cut in some.others)
    assert len(some.dominated) == some.counts.dominated


def test_parallel_branches_may_stay_on_different_sides() -> None:
    """Two inputs: a large one that one layer makes small, and a small one that has much work before it."""
    graph = made(
        "d", "a = x", "b = y", "c = b", "d = a c", sizes={"x": 10**6, "a": 10, "y": 10, "b": 10**6, "c": 10**6}
    )
    graph = replace(graph, nodes=tuple(replace(node, macs=10**8) for node in graph.nodes))
    first = select(graph, every=False).chosen[0]
    assert (first.head, first.crossing) == ((0,), ("y", "a"))
    turned = made(
        "d", "b = y", "c = b", "a = x", "d = a c", sizes={"x": 10**6, "a": 10, "y": 10, "b": 10**6, "c": 10**6}
    )
    turned = replace(turned, nodes=tuple(replace(node, macs=10**8) for node in turned.nodes))
    first = select(turned, every=False).chosen[0]
    assert (first.id[0], first.head, sorted(first.crossing)) == ("m", (2,), ["a", "y"])


def cut(cut_id: str) -> Candidate:
    return Candidate(cut_id, (), (), (), 0, 0)


def test_a_dominated_cut_counts_again_when_all_that_dominate_it_are_rejected() -> None:
    dominated = {cut("c2"): frozenset({"c1"}), cut("c3"): frozenset({"c1", "c2"}), cut("c9"): frozenset({"c8"})}
    selection = Selection((cut("c1"), cut("c8")), (), dominated, CandidateCounts(5, 0, 5, 3))
    assert selection.freed("c7", {"c7"}) == []
    assert selection.freed("c1", {"c7", "c1"}) == [cut("c2")]
    assert selection.freed("c2", {"c7", "c1", "c2"}) == [cut("c3")]
    assert selection.freed("c8", {"c1", "c8"}) == [cut("c9")]


@pytest.mark.parametrize("name", ["digits_two_halves.onnx", "digits_two_halves.tflite"])
def test_a_cut_through_parallel_branches_runs_like_the_whole(name: str, tmp_path: Path) -> None:
    manifest = convert(MODELS / name, tmp_path / "bundle", Options())
    bundle = Bundle.open(tmp_path / "bundle")
    branched = [cut for cut in bundle.cuts if cut.id[0] == "m"]
    assert branched
    inputs = InputTypes(manifest.free_inputs()).generate(manifest.sample_shapes, seed=3)
    whole = bundle.run(inputs)
    for found in branched:
        assert 0 < found.share < 1
        split = bundle.run_split(inputs, cut=found.id)
        assert all(split[key].tobytes() == value.tobytes() for key, value in whole.items())


def test_where_nothing_else_is_left_cuts_of_several_tensors_are_tried(assets: Path, tmp_path: Path) -> None:
    """All its layers hand several tensors on, and none of them would ever leave the device."""
    model = assets / "models" / "silero_vad_op18_ifless.onnx"
    manifest = convert(model, tmp_path / "bundle", Options(max_cuts=1))
    assert (manifest.found.optimal, manifest.found.single_tensor, len(manifest.cuts)) == (0, 0, 1)
