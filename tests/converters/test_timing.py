"""What each layer takes: how it is told from slices, from the profiler's nodes, and on real models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from midstream.bundle import Bundle
from midstream.tensors import TensorSpec
from midstream_converters.convert import convert
from midstream_converters.graph import ModelGraph, Node, Value
from midstream_converters.onnx.profile import anchored, layer_times
from midstream_converters.opening import Options
from midstream_converters.timing.differences import Segment, prefixes, segments, share_out, spread_by_work
from midstream_converters.timing.layers import even

MODELS = Path(__file__).parents[1] / "models"


def chain(*layers: tuple[str, int, int], static: frozenset[int] = frozenset()) -> ModelGraph:
    """Layers one behind the other, each with its operator, multiply-accumulates and bytes written."""
    values = {"x": Value(TensorSpec("x", np.dtype(np.float32), (1,)), 4)}
    nodes = []
    for index, (op, macs, size) in enumerate(layers):
        reads = () if index in static else (f"v{index - 1}" if index else "x",)
        values[f"v{index}"] = Value(TensorSpec(f"v{index}", np.dtype(np.float32), (size // 4,)), size)
        nodes.append(Node(index, f"n{index}", op, reads, (f"v{index}",), macs, static=index in static))
    return ModelGraph(tuple(nodes), ("x",), (f"v{len(layers) - 1}",), values)


def test_prefixes_come_back_from_what_heads_and_tails_take() -> None:
    truth, start, copying = np.array([1.0, 2.5, 4.0]), 0.1, 2e-6
    payload = np.array([400_000.0, 100_000.0, 200_000.0])
    own = start + copying * payload / 2
    found = prefixes(truth + own, 6.0 - truth + own, 6.0 + start, payload)
    assert found == pytest.approx([*truth, 6.0])


def test_prefixes_grow_however_loud_the_machine_was() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        heads, tails = rng.uniform(0, 10, 6), rng.uniform(0, 10, 6)
        found = prefixes(heads, tails, 8.0, rng.uniform(0, 1e6, 6))
        assert np.all(np.diff(found) >= 0)
        assert found[0] >= 0


def test_without_a_cut_there_is_one_prefix() -> None:
    assert prefixes(np.array([]), np.array([]), 3.0, np.array([])).tolist() == [3.0]


def test_segments_hold_every_working_layer_once() -> None:
    graph = chain(*[("CONV_2D", 1000 * (1 + index % 3), 4000) for index in range(40)])
    cuts = spread_by_work(graph)
    assert len(cuts) == 12
    parts = segments(graph, cuts, np.linspace(1, 13, 13))
    assert sorted(layer for part in parts for layer in part.layers) == list(range(40))
    assert [part.ms for part in parts] == pytest.approx([1.0] * 13)


def test_a_segment_is_shared_out_by_what_all_of_them_show() -> None:
    # One millisecond for 10⁶ multiply-accumulates of a convolution, four for those of a depthwise one.
    layers = [("CONV_2D", 1_000_000, 40), ("DEPTHWISE_CONV_2D", 500_000, 40)] * 6 + [("CONV_2D", 3_000_000, 40)]
    graph = chain(*layers)
    want = np.array([1.0, 2.0] * 6 + [3.0])
    parts = [Segment((0,), 1.0), Segment((1, 2, 3, 4), 6.0), *(Segment((i, i + 1), 3.0) for i in (5, 7, 9))]
    parts.append(Segment((11, 12), 5.0))
    # The ridge of the fit keeps it from the very numbers.
    assert share_out(graph, parts) == pytest.approx(want, rel=0.15)
    for part in parts:
        assert share_out(graph, parts)[list(part.layers)].sum() == pytest.approx(part.ms)


def test_layers_that_do_nothing_that_is_known_share_alike() -> None:
    graph = chain(("A", 0, 0), ("B", 0, 0), ("C", 0, 0))
    assert share_out(graph, [Segment((0, 1, 2), 3.0)]) == pytest.approx([1.0, 1.0, 1.0])


def node(name: str, reads: list[str], writes: list[str]) -> onnx.NodeProto:
    return onnx.helper.make_node("Any", reads, writes, name=name)


def test_nodes_that_were_several_layers_share_their_time_among_these() -> None:
    graph = chain(("Conv", 3000, 1000), ("Relu", 0, 1000), ("MaxPool", 0, 250), ("Conv", 900, 100))
    made = [node("fused", ["x"], ["v1"]), node("pool", ["v1"], ["v2"]), node("last", ["v2"], ["v3"])]
    found = layer_times(graph, made, {"fused": 5.0, "pool": 0.5, "last": 2.0, "of a body": 9.0})
    assert found[:2].sum() == pytest.approx(5.0)
    assert found[0] == pytest.approx(5.0 * 4001 / 5002)
    assert found[2:] == pytest.approx([0.5, 2.0])


def test_nodes_that_only_change_a_layout_count_for_what_follows() -> None:
    graph = chain(("Conv", 10, 40), ("Relu", 0, 40), ("Conv", 10, 40))
    made = [
        node("ReorderInput", ["x"], ["token_0"]),
        node("v0_nchwc", ["token_0"], ["token_1"]),
        node("v1", ["token_1"], ["token_2"]),
        node("ReorderOutput", ["token_2"], ["v2"]),
        node("late", ["v2"], ["token_3"]),
    ]
    ms = {"ReorderInput": 0.25, "v0_nchwc": 1.0, "v1": 2.0, "ReorderOutput": 4.0, "late": 8.0}
    assert anchored(graph, made, ms) == {"v0": 1.25, "v1": 2.0, "v2": 12.0}


def test_where_nothing_can_be_seen_all_working_layers_take_the_same() -> None:
    graph = chain(("A", 0, 0), ("B", 0, 0), ("C", 0, 0), static=frozenset({0}))

    class Model:
        def __init__(self) -> None:
            self.graph = graph

    assert even(Model(), 4.0) == (0.0, 2.0, 2.0)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "model",
    ["digits_float32.onnx", "digits_float16.tflite", "digits_if.onnx", "digits_loop.onnx", "keyword_gru.tflite"],
)
def test_the_layers_of_a_real_model_add_up_to_it(model: str, tmp_path: Path) -> None:
    convert(MODELS / model, tmp_path / "bundle", Options(max_cuts=2))
    bundle = Bundle.open(tmp_path / "bundle")
    layers = bundle.resource_map.nodes(data=True)
    assert sum(layer["cpu_ms"] for _, layer in layers) == pytest.approx(bundle.costs.whole_ms)
    assert all(layer["cpu_ms"] >= 0 for _, layer in layers)
    assert not any(layer["cpu_ms"] for _, layer in layers if layer["static"])
    heavy = max(layers, key=lambda item: item[1]["macs"])[1]
    assert heavy["flops"] == 2 * heavy["macs"]
    if "float" in model:
        assert heavy["cpu_ms"] > bundle.costs.whole_ms / len(layers)


def test_where_the_profiler_fails_the_slices_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("midstream_converters.onnx.slice.OnnxSource.profile", lambda _self, _sample: None)
    convert(MODELS / "digits_float32.onnx", tmp_path / "bundle", Options(max_cuts=2))
    bundle = Bundle.open(tmp_path / "bundle")
    assert sum(bundle.costs.layers_ms) == pytest.approx(bundle.costs.whole_ms)
    assert sum(ms > 0 for ms in bundle.costs.layers_ms) > 10
