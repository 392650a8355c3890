"""How a cut is kept exact where the runtime optimises across it: what to try, and why it may fail all the same.

onnxruntime computes some layers together (a convolution and its activation, the steps of a layer normalisation) and so
gives other last bits than one by one. Where a slice does what the whole model does not, the optimisation is switched
off for it; where a cut parts what the whole model computes as one, the boundary moves before it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

# The optimisations of onnxruntime that make an operator; by the names under which they can be switched off.
_MADE_BY = {
    "Attention": ("AttentionFusion",),
    "BiasGelu": ("BiasGeluFusion",),
    "BiasSoftmax": ("BiasSoftmaxFusion",),
    "DynamicQuantizeMatMul": ("DynamicQuantizeMatMulFusion",),
    "FastGelu": ("FastGeluFusion",),
    "FusedConv": ("ConvActivationFusion", "ConvAddActivationFusion"),
    "FusedGemm": ("GemmActivationFusion",),
    "FusedMatMul": ("MatMulScaleFusion", "MatmulTransposeFusion"),
    "Gelu": ("GeluFusion", "GeluFusionL1", "GeluFusionL2"),
    "Gemm": ("MatMulAddFusion",),
    "LayerNormalization": ("LayerNormFusion", "LayerNormFusionL1", "LayerNormFusionL2"),
    "MatMulIntegerToFloat": ("MatMulIntegerToFloatFusion",),
    "QuickGelu": ("QuickGeluFusion",),
    "SimplifiedLayerNormalization": ("SimplifiedLayerNormFusion",),
    "SkipLayerNormalization": ("SkipLayerNormFusion",),
    "Transpose": ("TransposeOptimizer",),
}
# What carries data from one layer to another and computes nothing.
_CARRIERS = frozenset({"Cast", "Identity", "Reshape", "Shape", "Squeeze", "Transpose", "Unsqueeze"})


@dataclass(frozen=True, slots=True)
class Trace:
    """The operators that the runtime makes of the whole model, of a cut's head and of its tail."""

    whole: Counter[str]
    head: Counter[str]
    tail: Counter[str]

    @property
    def parted(self) -> list[str]:
        """Operators of the whole model that neither side has: the cut runs through the middle of them."""
        return sorted((self.whole - self.head - self.tail).keys() - _CARRIERS)

    @property
    def left_over(self) -> list[str]:
        """Operators that the two sides have and the whole model has not, or fewer of."""
        return sorted((self.head + self.tail - self.whole).keys())


def switched_off(trace: Trace) -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
    """What is worth switching off, in head and tail: whatever makes more of an operator than the whole model has."""
    for operator in trace.left_over:
        off = _MADE_BY.get(operator, ())
        if off and trace.tail[operator]:
            yield (), off
        if off and trace.head[operator]:
            yield off, ()
        if off and trace.head[operator] and trace.tail[operator]:
            yield off, off


def cause(trace: Trace, engine: str) -> str:
    """Why a cut cannot be kept, in words."""
    if trace.parted or trace.left_over:
        return f"{engine} computes layers on both sides of it as one ({', '.join(trace.parted or trace.left_over)})"
    return f"{engine} computes the two sides in other steps or layouts than the whole model"
