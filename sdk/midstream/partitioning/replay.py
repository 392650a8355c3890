"""A log of decisions, repeated by the code that made them: the same table, state, objective and input again.

The log is JSON lines. The first is the header: ``midstream_decisions`` (the format's version), ``midstream`` (whose
decisions they are), ``bundle`` (its digest), ``planner`` and ``power``. Each further one is a table (``table``, a
number, and ``columns``), a decision (``decision``, its number, ``table``, ``state``, ``objective``, ``inputs``,
``standing``, ``course``, ``row``, ``latency_ms``), what came of one (``learned``, its number, and ``latency_ms``), or
what an exploration was told (``measured``, a cut and whether it was sent on, and ``course``, its number).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn, get_args

import numpy as np

from midstream.partitioning.bandit import Bandit, Pull, Pulled
from midstream.partitioning.exploration import Exploration, Place
from midstream.partitioning.planner import decide_from
from midstream.partitioning.reasons import name
from midstream.partitioning.records import Json, from_json, question_from_json, table_from_json, to_json
from midstream.partitioning.table import Table
from midstream.profiles import Power

LOG_VERSION = 1
PlannerName = Literal["adaptive", "bandit"]
PLANNERS: tuple[PlannerName, ...] = get_args(PlannerName)
# A log names again what is not among its last tables, and tells of the last courses; a device keeps fewer of both.
RECENT = 32
# What an exploration may be told of.
_MAX_PLACES = 10_000
# So many decisions of the bandit may wait for what comes of them.
_MAX_PULLS = 10_000
# Letters of a candidate that is told, whatever names a log gives.
_MAX_WORDS = 200
_ENCODER = json.JSONEncoder(allow_nan=False, check_circular=False, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class Header:
    """What a log begins with."""

    midstream_decisions: int
    midstream: str
    bundle: str
    planner: PlannerName
    power: Power


@dataclass(frozen=True, slots=True)
class Difference:
    """A decision that came out otherwise: the candidates in words, with their predicted latencies in ms."""

    decision: int
    recorded: str
    recorded_ms: float
    repeated: str
    repeated_ms: float


@dataclass(slots=True)
class Replay:
    """Repeats a log, line after line; `take` raises ValueError or PlanError on one that no log has."""

    header: Header | None = None
    decisions: int = 0
    differences: list[Difference] = field(default_factory=list)
    _tables: dict[int, Table] = field(default_factory=dict)
    _bandit: Bandit = field(default_factory=Bandit)
    _pulls: dict[int, Pull] = field(default_factory=dict)
    _courses: dict[int, Exploration] = field(default_factory=dict)
    _places: set[Place] = field(default_factory=set)

    def take(self, line: bytes) -> None:
        """Read a line, and repeat it if it is a decision."""
        record = _record(line)
        if self.header is None:
            self.header = _header(record)
            return
        takers: dict[str, Callable[[Json, Header], None]] = {
            "decision": self._decide,
            "learned": self._learn,
            "measured": self._measure,
            "columns": self._keep,
        }
        for key, take in takers.items():
            if key in record:
                # What an odd figure overflows to is still compared.
                with np.errstate(all="ignore"):
                    take(record, self.header)
                return
        raise ValueError("it is no table, no decision and nothing learned")

    def _keep(self, record: Json, header: Header) -> None:
        _only(record, {"table", "columns"})
        number = _number(record["table"], "table")
        if number in self._tables:
            raise ValueError(f"table {number} is there already")
        self._tables[number] = table_from_json(record["columns"], header.power)
        if len(self._tables) > RECENT:
            del self._tables[next(iter(self._tables))]

    def _decide(self, record: Json, header: Header) -> None:
        if (number := _number(record["decision"], "decision")) != self.decisions:
            raise ValueError(f"it is decision {number}, and {self.decisions} was due")
        table = self._tables.get(number := _number(record.get("table"), "table"))
        if table is None:
            raise ValueError(f"table {number} is none of the last {RECENT}")
        row = _number(record.get("row"), "row")
        if row >= len(table.candidates):
            raise ValueError(f"row {row} is none of the {len(table.candidates)} of its table")
        recorded_ms: float = from_json(float, record.get("latency_ms"), "latency_ms")
        asked = question_from_json(record, table)
        if header.planner == "bandit":
            plan = self._bandit.decide(table, asked.state, asked.objective, asked.inputs)
        else:
            course = None if asked.course is None else self._course(asked.course)
            plan = decide_from(table, asked.state, asked.objective, asked.inputs, asked.standing, course)
        if isinstance(plan.reasons, Pulled):
            self._pulls[self.decisions] = plan.reasons.pull
            if len(self._pulls) > _MAX_PULLS:
                del self._pulls[next(iter(self._pulls))]
        found = plan.reasons.row
        if (found, plan.predicted_ms) != (row, recorded_ms):
            self.differences.append(
                Difference(self.decisions, _words(table, row), recorded_ms, _words(table, found), plan.predicted_ms)
            )
        self.decisions += 1

    def _measure(self, record: Json, header: Header) -> None:
        _only(record, {"measured", "course"})
        place: Place = from_json(Place, record["measured"], "measured")
        self._places.add(place)
        if header.planner != "adaptive" or len(self._places) > _MAX_PLACES:
            raise ValueError(
                f"{str(place)[:_MAX_WORDS]} cannot be told to an exploration, or is one of too many places"
            )
        self._course(_number(record["course"], "course")).measured(place)

    def _course(self, number: int) -> Exploration:
        found = self._courses.get(number)
        if found is None:
            found = self._courses[number] = Exploration()
            if len(self._courses) > RECENT:
                del self._courses[next(iter(self._courses))]
        return found

    def _learn(self, record: Json, header: Header) -> None:
        _only(record, {"learned", "latency_ms"})
        pull = self._pulls.pop(_number(record["learned"], "learned"), None)
        if header.planner != "bandit" or pull is None:
            raise ValueError(f"nothing can be learned of decision {record['learned']}")
        self._bandit.learn(pull, from_json(float, record["latency_ms"], "latency_ms"))


def _words(table: Table, row: int) -> str:
    return name(table, row)[:_MAX_WORDS]


def encoded(record: Json) -> bytes:
    """A line of a log; raises ValueError on what is no finite number."""
    return _ENCODER.encode(record).encode() + b"\n"


def header_record(version: str, bundle: str, planner: PlannerName, power: Power) -> Json:
    """The first record of a log."""
    header: Json = to_json(Header(LOG_VERSION, version, bundle, planner, power))
    return header


def _record(line: bytes) -> Json:
    try:
        record = json.loads(line, parse_constant=_no_number)
    except (ValueError, RecursionError):
        raise ValueError("it is no JSON") from None
    if not isinstance(record, dict):
        raise ValueError("it is no JSON object")
    return record


def _no_number(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number")


def _header(record: Json) -> Header:
    version: Any = record.get("midstream_decisions")
    if type(version) is int and version > LOG_VERSION:
        raise ValueError(f"its format is {version}, and this midstream reads {LOG_VERSION}: update it")
    if type(version) is not int or version != LOG_VERSION:
        raise ValueError("it does not begin a log of decisions")
    header: Header = from_json(Header, record, "header")
    return header


def _only(record: Json, keys: set[str]) -> None:
    if record.keys() != keys:
        raise ValueError(f"its keys are {', '.join(sorted(record))[:200]}, needed {', '.join(sorted(keys))}")


def _number(value: Any, what: str) -> int:
    number: int = from_json(int, value, what)
    if number < 0:
        raise ValueError(f"{what} is {number}")
    return number
