"""Whether a parsed ONNX model is no larger, deeper or more entangled than a runtime and a converter can take.

Requires: a message that `wire.check_wire` let through. Ensures: graphs in running order, nested and calling each other
to a bounded depth, a bounded number of nodes once all functions are written out, every tensor with the content that its
shape and type need, and external data wholly in files of the model's folder.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from midstream.errors import ModelError
from midstream_converters.onnx.content import MAX_RANK, content_bytes, content_problem, is_external, short_name
from midstream_converters.onnx.external import resolve_external
from midstream_converters.onnx.proto import Graph, Node, onnx

MAX_NODES = 200_000
MAX_NESTING = 12
"""Levels of If, Loop and Scan; onnxruntime takes twice as long for each further one."""
MAX_CALLS = 50
"""Levels of functions that call functions."""
MAX_SHARING = 2
"""How often, on the average, a byte of an external data file is used."""
MAX_SPARSITY = 64
"""How many times as large as what is stored of it a sparse tensor is; small ones may be more."""
_SMALL_BYTES = 1 << 20
_SMALL_SPARSE_BYTES = 64 << 20
_SPARSE_ITEM_BYTES = 4
_MAX_NAME = 100


def check_bounds(model: onnx.ModelProto, path: Path) -> None:
    """Raise ModelError naming the first part of a model that is out of bounds, and the remedy."""
    problem = _nesting_problem(model) or _size_problem(model) or _order_problem(model)
    stored = _Stored() if problem else _Stored.of(model)
    problem = problem or _content_problem(stored) or _sparse_problem(stored)
    if problem:
        raise ModelError(f"{path} is not a sound ONNX model: {problem}; export it again")
    try:
        _check_external(stored, path)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from None


def _bodies(model: onnx.ModelProto) -> Iterator[Sequence[Node]]:
    yield model.graph.node
    for function in model.functions:
        yield function.node


def _inner(node: Node) -> Iterator[Graph]:
    """Graphs in attributes, whatever type the attribute says it is of."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _all_nodes(nodes: Sequence[Node]) -> Iterator[Node]:
    for node in nodes:
        yield node
        for graph in _inner(node):
            yield from _all_nodes(graph.node)


def _nesting_problem(model: onnx.ModelProto) -> str | None:
    pending = [(0, nodes) for nodes in _bodies(model)]
    while pending:
        depth, nodes = pending.pop()
        if depth > MAX_NESTING:
            return f"its graphs are nested more than {MAX_NESTING} levels deep"
        pending.extend((depth + 1, graph.node) for node in nodes for graph in _inner(node))
    return None


def _size_problem(model: onnx.ModelProto) -> str | None:
    """Whether it has too many nodes, also once every function is written out where it is called."""
    plain = sum(1 for nodes in _bodies(model) for _ in _all_nodes(nodes))
    if plain > MAX_NODES:
        return f"it has {plain} nodes, more than {MAX_NODES}"
    bodies = {(f.domain, f.name, getattr(f, "overload", "")): f.node for f in model.functions}
    if len(bodies) < len(model.functions):
        return "several of its functions have the same name"
    calls = {key: [callee for callee in _callees(nodes) if callee in bodies] for key, nodes in bodies.items()}
    try:
        order = list(TopologicalSorter(calls).static_order())
    except CycleError as error:
        return f"its function {error.args[1][0][1][:_MAX_NAME]!r} calls itself"
    sizes: dict[tuple[str, str, str], int] = {}
    depths: dict[tuple[str, str, str], int] = {}
    for key in order:
        sizes[key] = sum(1 for _ in _all_nodes(bodies[key])) + sum(sizes[callee] for callee in calls[key])
        depths[key] = 1 + max((depths[callee] for callee in calls[key]), default=0)
        if depths[key] > MAX_CALLS:
            return f"its functions call each other more than {MAX_CALLS} levels deep"
    total = plain + sum(sizes.get(callee, 0) for callee in _callees(model.graph.node))
    if total > MAX_NODES:
        return f"it has {total} nodes once its functions are written out, more than {MAX_NODES}"
    return None


def _callees(nodes: Sequence[Node]) -> Iterator[tuple[str, str, str]]:
    return ((node.domain, node.op_type, getattr(node, "overload", "")) for node in _all_nodes(nodes))


def _order_problem(model: onnx.ModelProto) -> str | None:
    problem = _late_value(model.graph.node, _given(model.graph), (), [])
    for function in model.functions:
        problem = problem or _late_value(function.node, function.input, (), [])
    return problem and f"a node reads {problem[:_MAX_NAME]!r} before another makes it, or makes it from itself"


def _given(graph: Graph) -> Iterator[str]:
    yield from (value.name for value in graph.input)
    yield from (tensor.name for tensor in graph.initializer)
    yield from (tensor.values.name for tensor in graph.sparse_initializer)


def _late_value(
    nodes: Sequence[Node], given: Iterable[str], results: Iterable[str], outside: list[tuple[set[str], set[str]]]
) -> str | None:
    """The first value that is read before it is made; ``outside`` has what each enclosing graph knows and makes."""
    known, made = set(given), {name for node in nodes for name in node.output}
    scopes = [*outside, (known, made)]

    def late(name: str) -> bool:
        for there, coming in reversed(scopes):
            if name in there:
                return False
            if name in coming:
                return True
        return False

    for node in nodes:
        for name in node.input:
            if name and late(name):
                return str(name)
        for graph in _inner(node):
            problem = _late_value(graph.node, _given(graph), (value.name for value in graph.output), scopes)
            if problem:
                return problem
        known.update(node.output)
    return next((name for name in results if name and late(name)), None)


@dataclass(frozen=True)
class _Stored:
    """Every stored tensor: initializers and those in attributes, of inner graphs too."""

    dense: list[onnx.TensorProto] = field(default_factory=list)
    sparse: list[onnx.SparseTensorProto] = field(default_factory=list)

    @classmethod
    def of(cls, model: onnx.ModelProto) -> _Stored:
        """Those of a model whose graphs are not nested too deep."""
        stored = cls()
        stored._add_graph(model.graph)
        for function in model.functions:
            stored._add_nodes(function.node)
        return stored

    def _add_graph(self, graph: Graph) -> None:
        self.dense.extend(graph.initializer)
        self.sparse.extend(graph.sparse_initializer)
        self._add_nodes(graph.node)

    def _add_nodes(self, nodes: Sequence[Node]) -> None:
        for node in nodes:
            for attribute in node.attribute:
                for filled, _ in attribute.ListFields():
                    if filled.name == "t":
                        self.dense.append(attribute.t)
                    elif filled.name == "tensors":
                        self.dense.extend(attribute.tensors)
                    elif filled.name == "sparse_tensor":
                        self.sparse.append(attribute.sparse_tensor)
                    elif filled.name == "sparse_tensors":
                        self.sparse.extend(attribute.sparse_tensors)
            for graph in _inner(node):
                self._add_graph(graph)

    def all(self) -> Iterator[onnx.TensorProto]:
        """The dense ones, and the two parts of each sparse one."""
        yield from self.dense
        for tensor in self.sparse:
            yield from (tensor.values, tensor.indices)


def _content_problem(stored: _Stored) -> str | None:
    problems = ((short_name(tensor), content_problem(tensor)) for tensor in stored.all())
    return next((f"tensor {name} {problem}" for name, problem in problems if problem), None)


def _sparse_problem(stored: _Stored) -> str | None:
    """Whether its sparse tensors would be of another order than the file when they are filled in."""
    filled = held = 0
    for tensor in stored.sparse:
        if any(size < 0 for size in tensor.dims):
            return f"a sparse tensor has the shape {list(tensor.dims[:MAX_RANK])}"
        filled += math.prod(tensor.dims) * _SPARSE_ITEM_BYTES
        held += content_bytes(tensor.values)
    if filled > MAX_SPARSITY * held + _SMALL_SPARSE_BYTES:
        return f"its sparse tensors of {held} bytes would take {filled} bytes when they are filled in"
    return None


def _check_external(stored: _Stored, path: Path) -> None:
    """Raise ModelError where external data is not there, or is used so often that it would grow in memory."""
    used, files = 0, set()
    for tensor in stored.all():
        if is_external(tensor):
            file, _, length = resolve_external(tensor, path.parent)
            used += length
            files.add(file)
    there = sum(file.stat().st_size for file in files)
    if used > MAX_SHARING * there + _SMALL_BYTES:
        raise ModelError(
            f"its tensors take {used} bytes from files of {there} bytes, so they use the same data many times over; "
            "export it again"
        )
