"""Which values of an ONNX graph have sizes that follow from what the inputs hold, and not from how large they are."""

from __future__ import annotations

from midstream_converters.onnx.proto import Graph, Node, inner_graphs, reads

_SIZED_BY_ALL = frozenset({
    "Compress", "ConstantOfShape", "Loop", "NonMaxSuppression", "NonZero", "Range", "Scan", "StringSplit", "Unique",
    "SequenceAt", "ConcatFromSequence", "BlackmanWindow", "HammingWindow", "HannWindow", "MelWeightMatrix",
})  # fmt: skip
_SIZED_BY_LATER_INPUTS = frozenset({
    "AffineGrid", "CenterCropPad", "Col2Im", "DFT", "Expand", "OneHot", "Pad", "Reshape", "Resize", "STFT", "Slice",
    "Split", "SplitToSequence", "Squeeze", "Tile", "TopK", "Unsqueeze", "Upsample", "MaxUnpool",
})  # fmt: skip
_READS_SIZES_ONLY = frozenset(("Shape", "Size"))


def sized_by_content(graph: Graph) -> set[str]:
    """The values whose shape may change from input to input of the same shapes."""
    varying = {value.name for value in graph.input}
    resized: set[str] = set()
    for node in graph.node:
        read = set(reads(node))
        if _sizes_follow(node, varying) or not resized.isdisjoint(read):
            resized.update(node.output)
        if not (resized if node.op_type in _READS_SIZES_ONLY else varying | resized).isdisjoint(read):
            varying.update(node.output)
    return resized


def _sizes_follow(node: Node, varying: set[str]) -> bool:
    if node.op_type in _SIZED_BY_ALL or any(True for _ in inner_graphs(node)):
        return not varying.isdisjoint(reads(node))
    if node.op_type in _SIZED_BY_LATER_INPUTS or node.op_type.startswith("Reduce"):
        return not varying.isdisjoint(node.input[1:])
    return False
