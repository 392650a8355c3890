"""Which values of a model reveal its input: an input itself, and all that is linear in one.

What was linearly made of an input, convolutions with an affine normalisation included, is undone by linear algebra, or
shows the input as it is. So a value reveals an input where any path leads to it without a non-linear layer. What counts
as one is named here; any other layer is taken for linear, which is the careful side: then more reveals. Casts,
quantisation, sizes that change and look-ups count as linear. Being non-linear makes no value private
(docs/planner.md, "The input stays").
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from midstream_converters.graph import ModelGraph, Node


def revealing(graph: ModelGraph) -> frozenset[str]:
    """The values that reveal an input of the model, the inputs among them."""
    return revealed(graph.nodes, graph.inputs)


def revealed(nodes: Iterable[Node], inputs: Sequence[str]) -> frozenset[str]:
    """The values that reveal one of ``inputs``, those among them; the nodes are in running order."""
    known = {name: _Traces(1 << place, 1 << place) for place, name in enumerate(inputs)}
    every = (1 << len(inputs)) - 1
    for node in nodes:
        reads = [known[value] for value in node.inputs if value in known]
        # What is remembered may be any input of an earlier run, and no value of the graph says which.
        made = _made(node, [*reads, _Traces(every, every)] if node.stateful else reads)
        known |= dict.fromkeys(node.outputs, made)
        if _operator(node) == _QUANTISES:
            known |= dict.fromkeys(node.outputs[1:], _NONE)
    return frozenset(value for value, traces in known.items() if traces.linear)


@dataclass(frozen=True, slots=True)
class _Traces:
    """Inputs as bits: those that a value follows from linearly, by some path, and all that it depends on."""

    linear: int
    all: int


_NONE = _Traces(0, 0)


def _made(node: Node, reads: Sequence[_Traces]) -> _Traces:
    operator = _operator(node)
    if operator in _SIZES:
        return _NONE
    linear = depends = shared = 0
    for traces in reads:
        linear |= traces.linear
        shared |= depends & traces.all
        depends |= traces.all
    if node.activated or operator in _NON_LINEAR:
        return _Traces(0, depends)
    # A product is linear in an input that only one factor depends on: the other one scales it.
    return _Traces(linear & ~shared if operator in _PRODUCTS else linear, depends)


def _operator(node: Node) -> str:
    """The operator without its domain, as both formats may spell it: HardSwish and HARD_SWISH are one."""
    return node.op.rpartition("::")[2].replace("_", "").lower()


# What they make follows from sizes alone, which says nothing of the content.
_SIZES = frozenset({"shape", "size", "rank", "zeroslike", "eyelike"})

# It gives a scale and a zero point beside its numbers: a product with those undoes it, and is no product of two values.
_QUANTISES = "dynamicquantizelinear"

# Those alone whose factors are all that they read: a bias that depends on the input would look like a factor.
_PRODUCTS = frozenset({
    "batchmatmul", "div", "einsum", "floordiv", "fusedmatmul", "matmul", "mul", "stablehlodivide", "stablehlomultiply",
})  # fmt: skip

_NON_LINEAR = frozenset({
    # Activations.
    "biasgelu", "biassplitgelu", "celu", "clip", "elu", "fastgelu", "gelu", "hardmax", "hardsigmoid", "hardswish",
    "leakyrelu", "logistic", "logsoftmax", "mish", "prelu", "qlinearleakyrelu", "qlinearsigmoid", "qlinearsoftmax",
    "quickgelu", "relu", "relu0to1", "relu6", "relun1to1", "selu", "shrink", "sigmoid", "sign", "softmax", "softplus",
    "softsign", "swish", "tanh", "thresholdedrelu",
    # Functions of each number.
    "abs", "acos", "acosh", "asin", "asinh", "atan", "atan2", "atanh", "complexabs", "cos", "cosh", "erf", "exp",
    "log", "pow", "reciprocal", "rsqrt", "sin", "sinh", "sqrt", "square", "squareddifference", "tan",
    "stablehloabs", "stablehloclamp", "stablehlocosine", "stablehloexponential", "stablehlolog", "stablehlologistic",
    "stablehlopower", "stablehlorsqrt", "stablehlosine", "stablehlotanh",
    # The larger and the smaller, comparisons and ranks.
    "argmax", "argmin", "equal", "globalmaxpool", "greater", "greaterequal", "greaterorequal", "less", "lessequal",
    "lessorequal", "max", "maximum", "maxpool", "maxpool2d", "min", "minimum", "nonmaxsuppression",
    "nonmaxsuppressionv4", "nonmaxsuppressionv5", "notequal", "reducemax", "reducemin", "stablehlocompare",
    "stablehlomaximum", "stablehlominimum", "tflitedetectionpostprocess", "topk", "topkv2",
    # Norms, and what divides by the input's own.
    "globallppool", "groupnorm", "groupnormalization", "instancenormalization", "l2normalization", "l2pool2d",
    "layernormalization", "localresponsenormalization", "lpnormalization", "lppool", "lrn",
    "meanvariancenormalization", "reducel1", "reducel2", "reducelogsum", "reducelogsumexp", "reducesumsquare",
    "rmsnormalization", "simplifiedlayernormalization", "skipgroupnorm", "skiplayernormalization",
    "skipsimplifiedlayernormalization",
    # Attention and recurrent layers.
    "attention", "bidirectionalsequencelstm", "bidirectionalsequencernn", "dynamicquantizelstm",
    "groupqueryattention", "gru", "lstm", "multiheadattention", "qattention", "rnn", "unidirectionalsequencelstm",
    "unidirectionalsequencernn",
})  # fmt: skip
