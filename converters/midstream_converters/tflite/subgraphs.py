"""What an operator calls: the subgraphs of IF, WHILE, CALL_ONCE and others, and what of them keeps a state."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from midstream_converters.tflite.names import operator_name, tensor_numbers

# A table that CALL_ONCE fills, or a variable: what they hold lives in the interpreter, not in a tensor.
_KEEPS_STATE = frozenset({
    "ASSIGN_VARIABLE", "CALL_ONCE", "HASHTABLE", "HASHTABLE_FIND", "HASHTABLE_IMPORT", "HASHTABLE_SIZE",
    "READ_VARIABLE", "VAR_HANDLE",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Call:
    """A field of an operator's options (``options`` of the operator, ``field`` of those) that names a subgraph."""

    options: str
    field: str
    subgraph: int


def calls(operator: Any) -> Iterator[Call]:
    """The subgraphs an operator calls, in the order of its options' fields; those left out are -1 in the file."""
    for options in ("builtinOptions", "builtinOptions2"):
        for field, value in vars(getattr(operator, options, None) or object).items():
            names_one = field.endswith("SubgraphIndex") or field == "subgraph"
            if names_one and isinstance(value, int) and value >= 0:
                yield Call(options, field, value)


def reached(model: Any, start: int = 0) -> list[int]:
    """The subgraphs that a subgraph needs, itself first, each once."""
    found = [start]
    for index in found:
        for operator in model.subgraphs[index].operators or []:
            found.extend(call.subgraph for call in calls(operator) if call.subgraph not in found)
    return found


def keeps_state(model: Any, subgraph: Any, operator: Any) -> bool:
    """Whether a run of this operator, or of what it calls, may depend on the run before."""
    if operator_name(model, operator) in _KEEPS_STATE or _reads_variable(subgraph, operator):
        return True
    called = {index for call in calls(operator) for index in reached(model, call.subgraph)}
    return any(
        operator_name(model, inner) in _KEEPS_STATE or _reads_variable(model.subgraphs[index], inner)
        for index in called
        for inner in model.subgraphs[index].operators or []
    )


def _reads_variable(subgraph: Any, operator: Any) -> bool:
    return any(subgraph.tensors[number].isVariable for number in tensor_numbers(operator.inputs) if number >= 0)
