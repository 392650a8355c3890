"""Which values reveal the input: on graphs, on small files of both formats, and against what real models compute."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ai_edge_litert.schema_py_generated as schema
import numpy as np
import onnx
import pytest
from hypothesis import given, settings

from midstream.bundle import Bundle
from midstream.partitioning import LinkState, Objective, Power, SystemState, candidates, decide, times_from_costs
from midstream.tensors import Tensors
from midstream_converters.convert import convert
from midstream_converters.graph import ModelGraph
from midstream_converters.linear import revealing
from midstream_converters.opening import Options, open_model, read_model
from midstream_converters.tflite.read import read_tflite
from midstream_converters.weights import WeightStore

from .layered import graphs, made
from .test_onnx_models import chain, model, residual
from .test_tflite_models import Build, branches, quantised

MODELS = Path(__file__).resolve().parent.parent / "models"


def told(*layers: str) -> set[str]:
    """What reveals an input of the model of these layers, inputs themselves left out."""
    graph = made(layers[-1].partition("=")[0].strip(), *layers)
    return set(revealing(graph)) - set(graph.inputs)


def test_all_before_the_first_non_linear_layer_reveals_the_input() -> None:
    assert told("a =Conv= x", "b =Relu= a", "c =Conv= b") == {"a"}
    assert revealing(made("a", "a =Relu= x y")) == {"x", "y"}


def test_any_linear_path_counts() -> None:
    assert told("a =Conv= x", "b =Relu= a", "c =Add= b x", "d =Concat= b a", "e =Add= b b") == {"a", "c", "d"}


def test_an_operator_that_nobody_knows_is_linear() -> None:
    assert told("a =Whatever= x", "b =com.microsoft::Unheard= a") == {"a", "b"}


@pytest.mark.parametrize("op", ["HardSwish", "HARD_SWISH", "com.microsoft::Gelu", "MaxPool", "MAX_POOL_2D", "GRU"])
def test_an_operator_is_known_however_it_is_spelt(op: str) -> None:
    assert told(f"a ={op}= x") == set()


@pytest.mark.parametrize(
    "op", ["Cast", "DEQUANTIZE", "QuantizeLinear", "Pad", "RESIZE_BILINEAR", "Gather", "AveragePool", "WHILE", "Loop"]
)
def test_what_moves_scales_or_may_hand_through_is_linear(op: str) -> None:
    assert told(f"a ={op}= x") == {"a"}


@pytest.mark.parametrize("op", ["Mul", "DIV", "MatMul", "BATCH_MATMUL"])
def test_a_product_is_linear_where_one_factor_alone_depends_on_an_input(op: str) -> None:
    assert told("k =static=", f"a ={op}= x k") == {"a"}
    assert told("g =Sigmoid= x", f"a ={op}= x g") == set()
    assert told("g =Sigmoid= x", f"a ={op}= y g") == {"a"}
    assert told(f"a ={op}= x y") == {"a"}
    assert told("a =Conv= x", "b =Conv= x", f"c ={op}= a b") == {"a", "b"}


def test_sizes_tell_nothing_and_are_no_factor() -> None:
    assert told("s =Shape= x", "r =Cast= s", "a =Div= x r", "b =Relu= x", "c =Reshape= b s") == {"a"}


def test_numbers_times_their_own_scale_are_what_was_quantised() -> None:
    layers = ("q scale zero =DynamicQuantizeLinear= x", "i =MatMulInteger= q zero", "f =Cast= i", "y =Mul= f scale")
    assert told(*layers) == {"q", "i", "f", "y"}


def test_what_is_remembered_may_be_an_input() -> None:
    assert told("a =Relu= x", "old =state= handle", "b =Concat= a old", "c =Tanh= b") == {"old", "b"}


@settings(deadline=None)
@given(graphs())
def test_what_reveals_the_input_has_a_path_from_it(graph: ModelGraph) -> None:
    found = revealing(graph)
    assert found >= set(graph.inputs)
    for node in graph.nodes:
        if node.op == "Op" and not node.stateful:
            assert found.issuperset(node.outputs) == (not found.isdisjoint(node.inputs))
        elif found.issuperset(node.outputs):
            assert node.stateful or (node.op == "Mul" and not found.isdisjoint(node.inputs))


# Files.


def in_tflite(content: bytes) -> tuple[ModelGraph, set[str]]:
    graph = read_tflite(content, "made").graph
    return graph, set(revealing(graph))


def test_a_tflite_convolution_is_what_its_fused_activation_makes_it() -> None:
    build = Build()
    x = build.tensor("x", [1, 8, 8, 3])
    plain = build.conv(x, 4, name="plain", relu=False)
    padded = build.op("PAD", [plain, build.tensor("p", [4, 2], "int32", content=np.zeros((4, 2), np.int32))],
                      [build.tensor("padded", [1, 8, 8, 4])], schema.PadOptionsT)  # fmt: skip
    active = build.conv(padded, 4, name="active", relu=True)
    graph, found = in_tflite(build.finish([x], [build.concat(active, build.add(active, plain))]))
    assert [node.activated for node in graph.nodes] == [False, False, True, False, False]
    assert found == {"x", "plain", "padded", "add", "cat"}


def test_a_quantised_tflite_model_is_told_apart_likewise() -> None:
    build = quantised()
    x = build.tensor("x", [1, 8, 8, 3], "float32")
    q = build.op("QUANTIZE", [x], [build.tensor("q", [1, 8, 8, 3])], schema.QuantizeOptionsT)
    assert in_tflite(build.finish([x], [branches(build, q)]))[1] == {"x", "q"}


def with_if(*bodies: Callable[[Build, int], int]) -> bytes:
    """``y = IF(condition, x)`` with a body each for true and false."""
    build = Build()
    main = build.graph
    condition, x, y = build.tensor("condition", [], "bool"), build.tensor("x", [1, 4, 4, 2]), build.tensor("y", [])
    options = {"thenSubgraphIndex": 1, "elseSubgraphIndex": 2}
    build.op("IF", [condition, x], [y], schema.IfOptionsT, **options)
    for body in bodies:
        build.graph = schema.SubGraphT()
        build.graph.tensors, build.graph.operators = [], []
        given = build.tensor("given", [1, 4, 4, 2])
        build.graph.inputs, build.graph.outputs = [given], [body(build, given)]
        build.model.subgraphs.append(build.graph)
    build.graph = main
    return build.finish([condition, x], [y])


def largest_so_far(build: Build, x: int) -> int:
    shape = build.graph.tensors[x].shape
    return build.op("MAXIMUM", [x, build.tensor("state", shape, variable=True)], [build.tensor("largest", shape)])


@pytest.mark.parametrize(
    ("other", "reveals"),
    [
        (lambda _, x: x, True),
        (lambda build, x: build.conv(x, 2, relu=False), True),
        (lambda build, x: build.add(build.conv(x, 2), x), True),
        (largest_so_far, True),
        (lambda build, x: build.conv(x, 2), False),
    ],
)
def test_a_tflite_if_reveals_what_one_of_its_branches_does(other: Any, reveals: bool) -> None:
    for bodies in ((other, Build.pool), (Build.pool, other)):
        graph, found = in_tflite(with_if(*bodies))
        assert graph.nodes[0].activated is not reveals
        assert ("y" in found) is reveals


def in_onnx(proto: onnx.ModelProto, folder: Path) -> set[str]:
    onnx.save(proto, folder / "made.onnx")
    with WeightStore(folder / "weights.bin") as weights:
        return set(revealing(open_model(read_model(folder / "made.onnx"), Options(), weights).source.graph))


def test_an_onnx_chain_and_a_residual_one(tmp_path: Path) -> None:
    assert in_onnx(chain(), tmp_path) == {"x", "a"}
    # The sum with the input reveals it, what follows the next activation does not.
    assert in_onnx(residual(), tmp_path) == {"x", "a", "b", "e"}


def test_products_of_an_onnx_model(tmp_path: Path) -> None:
    proto = model(
        """g (float[1,3,8,8] x) => (float[1,4,8,8] y) {
            pads = Constant<value_ints=[0, 0, 1, 1, 0, 0, 1, 1]>()
            a = Pad(x, pads)
            b = Conv(a, w)
            scaled = Mul(b, k)
            gate = Sigmoid(b)
            gated = Mul(scaled, gate)
            y = Conv(gated, v)
        }""",
        {"w": (4, 3, 3, 3), "k": (1, 4, 1, 1), "v": (4, 4, 1, 1)},
    )
    assert in_onnx(proto, tmp_path) == {"x", "a", "b", "scaled"}


@pytest.mark.parametrize(("branch", "reveals"), [("Identity(a)", True), ("Neg(a)", True), ("Tanh(a)", False)])
def test_an_onnx_if_reveals_what_one_of_its_branches_does(branch: str, reveals: bool, tmp_path: Path) -> None:
    proto = model(
        f"""g (float[1,8] x) => (float[1,8] y) {{
            a = MatMul(x, w)
            sum = ReduceSum<keepdims=0>(x)
            large = Greater(sum, zero)
            b = If (large) <
                then_branch = t () => (float[1,8] other) {{ other = {branch} }},
                else_branch = e () => (float[1,8] weighted) {{ h = MatMul(a, w)  weighted = Relu(h) }}
            >
            y = MatMul(b, w)
        }}""",
        {"w": (8, 8), "zero": np.float32(0)},
    )
    assert in_onnx(proto, tmp_path) == {"x", "a", "sum"} | ({"b", "y"} if reveals else set())


def test_an_activation_fused_into_an_onnx_layer(tmp_path: Path) -> None:
    proto = model("g (float[1,3,8,8] x) => (float[1,4,6,6] y) { a = Conv(x, w)\n y = Conv(a, v) }",
                  {"w": (4, 3, 3, 3), "v": (4, 4, 1, 1)})  # fmt: skip
    proto.opset_import.add(domain="com.microsoft", version=1)
    proto.graph.node[0].op_type, proto.graph.node[0].domain = "FusedConv", "com.microsoft"
    assert in_onnx(proto, tmp_path) == {"x", "a", "y"}
    proto.graph.node[0].attribute.add(name="activation", s=b"Relu", type=onnx.AttributeProto.STRING)
    assert in_onnx(proto, tmp_path) == {"x"}


# What real models compute.


def is_affine(run: Callable[[Tensors], Tensors], inputs: Tensors, name: str) -> bool:
    """Whether a tensor that varies is at p + q − r what it is at p, plus at q, minus at r, as affine functions are."""
    rng = np.random.default_rng(3)
    p, q, r = ({key: rng.uniform(0, 1, x.shape).astype(x.dtype) for key, x in inputs.items()} for _ in range(3))
    mixed = {key: p[key] + q[key] - r[key] for key in inputs}
    at_p, at_q, at_r, at_mixed = (run(point)[name].astype(np.float64) for point in (p, q, r, mixed))
    scale = float(np.abs(at_p).max() + np.abs(at_q).max() + np.abs(at_r).max())
    return not np.array_equal(at_p, at_q) and bool(np.abs(at_p + at_q - at_r - at_mixed).max() <= 1e-5 * scale)


@pytest.mark.parametrize(
    "name", ["digits_float32.tflite", "digits_sparse.tflite", "digits_float32.onnx", "digits_no_shapes.onnx"]
)
def test_what_is_said_to_reveal_nothing_is_not_affine(name: str, tmp_path: Path) -> None:
    convert(MODELS / name, tmp_path / "bundle", Options(max_cuts=None))
    bundle = Bundle.open(tmp_path / "bundle")
    shapes = bundle.manifest.sample_shapes
    inputs = {spec.name: np.zeros(shapes[spec.name], spec.dtype) for spec in bundle.inputs}
    for cut in bundle.cuts:
        affine = {
            spec.name: is_affine(lambda x, cut=cut: bundle.run_head(cut.id, x)[0], inputs, spec.name)  # type: ignore[misc]
            for spec in cut.tensors
        }
        assert cut.reveals_input == any(affine.values()), (cut.id, affine)


@pytest.mark.parametrize("name", ["face_detection_short_range.tflite", "ch_ppocr_mobile_v2.0_cls_infer.onnx"])
def test_with_the_input_kept_a_real_model_is_cut_behind_a_non_linear_layer(
    name: str, assets: Path, tmp_path: Path
) -> None:
    convert(assets / "models" / name, tmp_path / "bundle", Options(max_cuts=6))
    bundle = Bundle.open(tmp_path / "bundle")
    assert all(cut.reveals_input is not None for cut in bundle.cuts)
    times = times_from_costs(bundle.costs)
    options = candidates(bundle.manifest, bundle.graph, times_from_costs(bundle.costs, 1000.0), times)
    state = SystemState(LinkState(uplink_kbps=1e5, downlink_kbps=1e5, rtt_ms=1.0))
    power = Power(idle_w=2.0, busy_w=6.0, radio_uj_per_byte=0.5)
    anything = decide(options, state, Objective(), power)
    kept = decide(options, state, Objective(keep_input_local=True), power)
    assert (anything.cut, anything.keeps_input) == (None, False)
    assert kept.cut is not None
    assert kept.keeps_input
    cut = bundle.manifest.cut(kept.cut)
    inputs = {spec.name: np.zeros(bundle.manifest.sample_shapes[spec.name], spec.dtype) for spec in bundle.inputs}
    for spec in cut.tensors:
        assert not is_affine(lambda x: bundle.run_head(cut.id, x)[0], inputs, spec.name)
