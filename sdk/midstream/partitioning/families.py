"""Which family of operators a layer belongs to, and what layers take at a board's rates for each family.

A family is bound by the same thing on every board: convolutions by arithmetic and by what they write, convolutions that
take every channel by itself and products of a matrix with one vector by reading their operands, everything else by
writing its result. Layers that a runtime computes within the layer before them cost nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from midstream.manifest import Graph, Layer
from midstream.profiles import FamilyRates

Family = Literal["conv", "depthwise", "dense", "other", "free"]

_DEPTHWISE = {"DEPTHWISE_CONV_2D"}
_CONV = {
    "CONV_2D", "CONV_3D", "TRANSPOSE_CONV", "Convolution2DTransposeBias", "Conv", "ConvTranspose", "ConvInteger",
    "QLinearConv", "com.microsoft::FusedConv",
}  # fmt: skip
_MATRIX = {
    "FULLY_CONNECTED", "BATCH_MATMUL", "MatMul", "Gemm", "Einsum", "MatMulInteger", "QLinearMatMul",
    "com.microsoft::QGemm", "com.microsoft::FusedMatMul",
}  # fmt: skip
_RECURRENT = {"LSTM", "GRU", "RNN"}
_VIEWS = {"RESHAPE", "SQUEEZE", "EXPAND_DIMS", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Dropout"}
_FUSED_BEHIND = {
    "RELU", "RELU6", "RELU_N1_TO_1", "Relu", "Clip", "LeakyRelu", "BatchNormalization", "QuantizeLinear",
}  # fmt: skip
_FUSED_BEFORE = {"DequantizeLinear"}
# A kernel of 3 × 3, 5 × 5 or 7 × 7 over one channel: ONNX does not say it by the operator's name.
_ONE_CHANNEL_TAPS = (9, 25, 49)
_MANY_ROWS = 4
_FLOAT_OPS = {"Conv", "ConvTranspose", "ConvInteger", "MatMul", "Gemm", "MatMulInteger"}


@dataclass(frozen=True, slots=True)
class Work:
    """What layers do, added up by family: multiply-accumulates, bytes written, and how many layers there are."""

    conv_macs: int = 0
    conv_bytes: int = 0
    depthwise_macs: int = 0
    dense_macs: int = 0
    other_bytes: int = 0
    layers: int = 0

    def ms(self, rates: FamilyRates, layer_overhead_us: float, run_overhead_us: float) -> float:
        """Milliseconds of one run: each part by its own rate, and what every layer and every run costs besides."""
        return (
            self.conv_macs / (rates.conv_gmacs * 1e6)
            + self.conv_bytes / (rates.conv_gbytes * 1e6)
            + self.depthwise_macs / (rates.depthwise_gmacs * 1e6)
            + self.dense_macs / (rates.dense_gmacs * 1e6)
            + self.other_bytes / (rates.other_gbytes * 1e6)
            + (self.layers * layer_overhead_us + run_overhead_us) / 1e3
        )


def families(graph: Graph, int8: bool) -> dict[int, Family]:
    """The family of every layer by index; static layers are free."""
    layers = {layer.index: layer for layer in graph.layers}
    sources: dict[int, list[Layer]] = {}
    targets: dict[int, list[Layer]] = {}
    for edge in graph.edges:
        if not layers[edge.source].static:
            sources.setdefault(edge.target, []).append(layers[edge.source])
            targets.setdefault(edge.source, []).append(layers[edge.target])
    found: dict[int, Family] = {}

    def ends_a_product(source: Layer) -> bool:
        return source.macs > 0 or (source.op in _FUSED_BEHIND and found.get(source.index) == "free")

    for layer in graph.layers:
        before, behind = sources.get(layer.index, []), targets.get(layer.index, [])
        fused = (
            (layer.op in _FUSED_BEHIND and len(before) == 1 and ends_a_product(before[0]))
            or (layer.op in _FUSED_BEFORE and bool(behind) and all(target.macs for target in behind))
            or layer.op in _VIEWS
        )
        found[layer.index] = "free" if fused or layer.static else family(layer, int8)
    return found


def family(layer: Layer, int8: bool) -> Family:
    """The family of a layer by itself. ``int8``: the model is quantised."""
    if layer.op in _DEPTHWISE:
        return "depthwise"
    if layer.op in _CONV:
        numbers = layer.output_bytes / _itemsize(layer, int8)
        return "depthwise" if numbers and layer.macs / numbers in _ONE_CHANNEL_TAPS else "conv"
    if layer.op in _MATRIX:
        rows = layer.macs * (1 if int8 else 4) / layer.weight_bytes if layer.weight_bytes else 0
        return "conv" if rows > _MANY_ROWS else "dense"
    return "dense" if layer.op in _RECURRENT and layer.macs else "other"


def work(layers: Iterable[Layer], known: Mapping[int, Family], int8: bool) -> Work:
    """What these layers do, of families that `families` found."""
    conv_macs = conv_bytes = depthwise_macs = dense_macs = other_bytes = count = 0
    for layer in layers:
        kind = known[layer.index]
        if kind == "conv":
            conv_macs += layer.macs
            conv_bytes += layer.output_bytes // (_itemsize(layer, int8) if int8 else 1)
        elif kind == "depthwise":
            depthwise_macs += layer.macs
        elif kind == "dense":
            dense_macs += layer.macs
        elif kind == "other":
            other_bytes += layer.output_bytes
        count += kind != "free"
    return Work(conv_macs, conv_bytes, depthwise_macs, dense_macs, other_bytes, count)


def _itemsize(layer: Layer, int8: bool) -> int:
    """Bytes of a number that the layer writes as the graph has it: quantised ONNX graphs keep the float operators."""
    return 4 if not int8 or layer.op in _FLOAT_OPS else 1
