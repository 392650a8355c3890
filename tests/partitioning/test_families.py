from __future__ import annotations

import pytest

from midstream.manifest import Edge, Graph, Layer
from midstream.partitioning.families import Family, Work, families, family, work
from midstream.profiles import FamilyRates


def layer(op: str, macs: int = 0, written: int = 400, weights: int = 0, index: int = 0, static: bool = False) -> Layer:
    return Layer(index, op, op, macs, weights, written, static)


@pytest.mark.parametrize(
    ("op", "macs", "weights", "found"),
    [
        ("CONV_2D", 6400, 0, "conv"),
        ("DEPTHWISE_CONV_2D", 900, 0, "depthwise"),
        # 100 numbers are written, each from 3 × 3 others: ONNX calls both kinds Conv.
        ("Conv", 900, 0, "depthwise"),
        ("Conv", 2500, 0, "depthwise"),
        ("Conv", 2700, 0, "conv"),
        ("ConvTranspose", 6400, 0, "conv"),
        ("Gemm", 6400, 25600, "dense"),
        # Every weight used 16 times: a product of two matrices, as in a convolution of 1 × 1.
        ("MatMul", 6400, 1600, "conv"),
        ("FULLY_CONNECTED", 6400, 0, "dense"),
        ("LSTM", 6400, 1600, "dense"),
        ("LSTM", 0, 1600, "other"),
        ("Add", 0, 0, "other"),
        ("something new", 0, 0, "other"),
    ],
)
def test_a_layer_by_itself(op: str, macs: int, weights: int, found: Family) -> None:
    assert family(layer(op, macs, weights=weights), int8=False) == found


def test_numbers_of_quantised_graphs() -> None:
    # A QDQ graph keeps the float Conv; QLinearConv and TFLite write bytes.
    assert family(layer("Conv", 900), int8=True) == "depthwise"
    assert family(layer("QLinearConv", 3600), int8=True) == "depthwise"
    known: dict[int, Family] = {0: "conv"}
    assert work([layer("Conv", 6400)], known, int8=True).conv_bytes == 100
    assert work([layer("CONV_2D", 6400)], known, int8=True).conv_bytes == 400
    assert work([layer("Conv", 6400)], known, int8=False).conv_bytes == 400


def chain(*ops: tuple[str, int]) -> Graph:
    layers = tuple(layer(op, macs, index=index) for index, (op, macs) in enumerate(ops))
    return Graph(layers, tuple(Edge(index, index + 1, 400) for index in range(len(ops) - 1)))


def kinds(graph: Graph, int8: bool = False) -> list[Family]:
    return list(families(graph, int8).values())


def test_what_a_runtime_fuses_is_free() -> None:
    assert kinds(chain(("Conv", 6400), ("BatchNormalization", 0), ("Relu", 0), ("Add", 0), ("Relu", 0))) == [
        "conv", "free", "free", "other", "other",
    ]  # fmt: skip
    assert kinds(chain(("RESHAPE", 0), ("FULLY_CONNECTED", 10))) == ["free", "dense"]


def test_quantised_ends_are_fused_into_what_they_stand_beside() -> None:
    graph = chain(("QuantizeLinear", 0), ("DequantizeLinear", 0), ("Conv", 6400), ("QuantizeLinear", 0))
    assert kinds(graph, int8=True) == ["other", "free", "conv", "free"]
    assert kinds(chain(("DequantizeLinear", 0), ("Add", 0)), int8=True) == ["other", "other"]


def test_an_activation_of_two_values_is_no_activation() -> None:
    layers = (layer("Conv", 6400), layer("Conv", 6400, index=1), layer("Clip", index=2))
    assert kinds(Graph(layers, (Edge(0, 2, 400), Edge(1, 2, 400)))) == ["conv", "conv", "other"]


def test_static_layers_are_free_and_no_source() -> None:
    layers = (layer("Conv", 6400, static=True), layer("Relu", index=1))
    assert kinds(Graph(layers, (Edge(0, 1, 400),))) == ["free", "other"]


def test_work_and_its_time_by_hand() -> None:
    layers = (
        layer("Conv", 6_000_000, 2_000_000),
        layer("Relu", 0, 2_000_000, index=1),
        layer("DEPTHWISE_CONV_2D", 3_000_000, index=2),
        layer("Gemm", 1_000_000, weights=4_000_000, index=3),
        layer("Add", 0, 5_000_000, index=4),
    )
    graph = Graph(layers, tuple(Edge(index, index + 1, 1) for index in range(4)))
    does = work(graph.layers, families(graph, int8=False), int8=False)
    assert does == Work(6_000_000, 2_000_000, 3_000_000, 1_000_000, 5_000_000, 4)
    rates = FamilyRates(conv_gmacs=2, conv_gbytes=1, depthwise_gmacs=1, dense_gmacs=0.5, other_gbytes=10)
    # 3 + 2 ms of convolution, 3 depthwise, 2 dense, 0.5 of others; four layers of 100 µs; a run of 1 ms.
    assert does.ms(rates, layer_overhead_us=100, run_overhead_us=1000) == pytest.approx(3 + 2 + 3 + 2 + 0.5 + 0.4 + 1)
