"""Names and orders that do not depend on where in memory a converter's objects lay.

Requires: a model whose nodes are in an order in which they can run. Ensures: the same model under numbers counted anew,
by use; initializers in the order of their use; inputs and outputs keep their names.
"""

from __future__ import annotations

import re

from midstream_converters.onnx.proto import all_nodes, inner_graphs, onnx

_NUMBER = re.compile(r"__(\d+)")


def renumber(model: onnx.ModelProto) -> None:
    """Do it in place."""
    graph = model.graph
    kept = {value.name for value in (*graph.input, *graph.output)}
    renamed: dict[str, str] = {}
    taken = set(kept)
    numbers: dict[str, int] = {}

    def fresh(name: str) -> str:
        if not name or name in kept:
            return name
        if name not in renamed:
            wanted = _NUMBER.sub(lambda found: f"__{numbers.setdefault(found[1], len(numbers))}", name)
            while wanted in taken:
                wanted += "'"
            taken.add(wanted)
            renamed[name] = wanted
        return renamed[name]

    order: dict[str, int] = {}
    for node in all_nodes(graph):
        node.input[:] = [fresh(name) for name in node.input]
        node.output[:] = [fresh(name) for name in node.output]
        for name in node.input:
            order.setdefault(name, len(order))
    bodies = [graph, *(inner for node in all_nodes(graph) for inner in inner_graphs(node))]
    for body in bodies:
        for values in (body.input, body.output, body.value_info, body.initializer):
            for value in values:
                value.name = fresh(value.name)
    for position, node in enumerate(all_nodes(graph)):
        node.name = f"{node.op_type}_{position}"
    for body in bodies:
        # What no node reads may still be an output.
        body.initializer.sort(key=lambda tensor: (order.get(tensor.name, len(order)), tensor.name))
        body.value_info.sort(key=lambda value: value.name)
