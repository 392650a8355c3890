"""Decisions as JSON values and back: by the fields of their dataclasses, so that a new field travels by itself.

What comes back is checked against the fields' types; finite floats come back exactly, as JSON writes their ``repr``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np

from midstream.partitioning.columns import Inputs
from midstream.partitioning.costs import Candidate
from midstream.partitioning.state import Objective, SystemState
from midstream.partitioning.table import Table
from midstream.profiles import Power

MAX_CANDIDATES = 10_000
MAX_MACHINES = 64
_MOST_INT = (1 << 63) - 1
# Of a decision's record, what is no part of the question.
_ANSWER = ("decision", "table", "row", "latency_ms")
_SCALARS = frozenset((float, int, bool, str, NoneType))
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Question:
    """What a decision is made of, besides the table; a new argument of decisions becomes a field here.

    ``standing`` is the row of the plan before, ``course`` the number of the exploration that was told, if any.
    """

    state: SystemState
    objective: Objective
    inputs: Inputs
    standing: int | None = None
    course: int | None = None

    def decided(self, number: int, table: int, row: int, latency_ms: float) -> Json:
        """The record of the decision with this number, of a table, with the chosen row and its predicted latency."""
        return {"decision": number, "table": table, **to_json(self), "row": row, "latency_ms": latency_ms}


def table_to_json(table: Table) -> Json:
    """The candidates by columns: the different values of each field, and for every row which of them it has."""
    columns = {}
    for field in fields(Candidate):
        column = [getattr(each, field.name) for each in table.candidates]
        places = {value: place for place, value in enumerate(dict.fromkeys(column))}
        columns[field.name] = {"values": [to_json(value) for value in places], "rows": [places[v] for v in column]}
    return columns


def table_from_json(columns: Any, power: Power) -> Table:
    """The reverse of `table_to_json`; raises ValueError."""
    hints = _hints(Candidate)
    given = _object(columns, "columns", set(hints), _needed(Candidate))
    read = {name: _column(hints[name], column, name) for name, column in given.items()}
    sizes = {len(column) for column in read.values()}
    if len(sizes) != 1 or not 0 < min(sizes) <= MAX_CANDIDATES:
        raise ValueError(f"columns are of {sorted(sizes)} rows, needed 1 to {MAX_CANDIDATES}, and all alike")
    rows = zip(*read.values(), strict=True)
    candidates = [Candidate(**dict(zip(read, row, strict=True))) for row in rows]
    if len({leg.machine for each in candidates for leg in each.legs}) > MAX_MACHINES:
        raise ValueError(f"its candidates have more than {MAX_MACHINES} further machines")
    return Table(candidates, power)


def question_from_json(record: Json, table: Table) -> Question:
    """What `Question.decided` wrote of it, for this table; raises ValueError, and PlanError on an impossible state."""
    asked = {name: value for name, value in record.items() if name not in _ANSWER}
    question: Question = from_json(Question, asked, "decision")
    question.state.check()
    sizes = question.inputs.payload_bytes
    if sizes is not None and len(sizes) != len(table.candidates):
        raise ValueError(f"payload_bytes are {len(sizes)} sizes for {len(table.candidates)} candidates")
    return question


def to_json(value: Any) -> Any:
    """A JSON value of a dataclass, an array, a tuple, a mapping (as pairs, for its keys may be None) or a scalar."""
    kind = type(value)
    if kind in _SCALARS:
        return value
    if is_dataclass(kind):
        return {name: to_json(getattr(value, name)) for name in _names(kind)}
    if kind is np.ndarray:
        return value.tolist()
    if isinstance(value, Mapping):
        return [[to_json(key), to_json(each)] for key, each in value.items()]
    if isinstance(value, tuple):
        return [to_json(each) for each in value]
    return value


def from_json(kind: Any, value: Any, what: str) -> Any:
    """The reverse of `to_json` for a type; raises ValueError naming ``what`` is of another one."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        if value is None and NoneType in parts:
            return None
        (kind,) = (part for part in parts if part is not NoneType)
        return from_json(kind, value, what)
    if origin is Literal:
        return _checked(value, isinstance(value, str) and value in parts, what, f"one of {', '.join(parts)}")
    if is_dataclass(kind):
        return _dataclass_from_json(kind, value, what)
    if kind is float:
        return _float(value, what)
    if kind is int:
        # What fits no column of floats would overflow there.
        _checked(value, type(value) is int, what, "int")
        return _checked(value, -_MOST_INT <= value <= _MOST_INT, what, "an int of 64 bits")
    if kind in (bool, str):
        return _checked(value, type(value) is kind, what, kind.__name__)
    _checked(value, isinstance(value, list), what, "a list")
    if origin is tuple:
        if parts[-1] is Ellipsis:
            return tuple(from_json(parts[0], each, what) for each in value)
        _checked(value, len(value) == len(parts), what, f"{len(parts)} values")
        return tuple(from_json(part, each, what) for part, each in zip(parts, value, strict=True))
    if origin is np.ndarray:
        return np.array([_float(each, what) for each in value], float)
    if not all(isinstance(pair, list) and len(pair) == 2 for pair in value):
        raise ValueError(f"{what} is no list of pairs")
    return {from_json(parts[0], key, what): from_json(parts[1], each, what) for key, each in value}


def _dataclass_from_json(kind: Any, value: Any, what: str) -> Any:
    hints = _hints(kind)
    given = _object(value, what, set(hints), _needed(kind))
    return kind(**{name: from_json(hints[name], each, f"{what}.{name}") for name, each in given.items()})


def _column(kind: Any, column: Any, what: str) -> list[Any]:
    wanted = {"values", "rows"}
    given = _object(column, what, wanted, wanted)
    for key in wanted:
        _checked(given[key], isinstance(given[key], list), f"{what}.{key}", "a list")
    values, rows = [from_json(kind, value, what) for value in given["values"]], given["rows"]
    if len(rows) > MAX_CANDIDATES or not all(type(row) is int and 0 <= row < len(values) for row in rows):
        raise ValueError(f"{what}.rows are not up to {MAX_CANDIDATES} places in its {len(values)} values")
    return [values[row] for row in rows]


def _object(value: Any, what: str, known: set[str], needed: set[str]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{what} is no object")
    if wrong := (value.keys() - known) | (needed - value.keys()):
        raise ValueError(f"{what} has not the keys that it should: {', '.join(sorted(wrong))[:200]}")
    return value


def _float(value: Any, what: str) -> float:
    try:
        number = float(_checked(value, type(value) in (int, float), what, "a number"))
    except OverflowError:
        number = math.inf
    _checked(number, math.isfinite(number), what, "a finite number")
    return number


def _checked(value: Any, fine: bool, what: str, wanted: str) -> Any:
    if not fine:
        raise ValueError(f"{what} is {str(value)[:100]!r}, needed {wanted}")
    return value


@cache
def _names(kind: Any) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind))


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


@cache
def _needed(kind: Any) -> set[str]:
    """The fields that have no default: one that a later version adds may be missing."""
    return {each.name for each in fields(kind) if each.default is MISSING and each.default_factory is MISSING}
