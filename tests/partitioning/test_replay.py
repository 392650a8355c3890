from __future__ import annotations

import json
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from midstream.errors import PlanError
from midstream.partitioning import (
    Candidate,
    Inputs,
    Leg,
    LinkState,
    Objective,
    Power,
    SystemState,
    Table,
    Tariff,
    Tier,
    decide_from,
)
from midstream.partitioning.bandit import Bandit
from midstream.partitioning.records import Question, from_json, table_from_json, table_to_json, to_json
from midstream.partitioning.replay import Replay, encoded, header_record

POWER = Power(idle_w=2.0, busy_w=6.0, radio_uj_per_byte=0.5)
finite = st.floats(allow_nan=False, allow_infinity=False)
times = st.floats(0, 1e4)
links = st.builds(LinkState, st.floats(1, 1e6), st.floats(1, 1e6), st.floats(0, 1e3))
legs = st.builds(
    Leg,
    machine=st.sampled_from(["far", "farther"]),
    cut=st.none() | st.just("c1"),
    nodes=st.lists(st.integers(0, 9), max_size=3).map(tuple),
    work_ms=times,
    codec_ms=times,
    payload_bytes=st.integers(0, 10**7),
    reply_bytes=st.integers(0, 10**5),
)
rows = st.builds(
    Candidate,
    cut=st.none() | st.sampled_from(["c0", "c1", "ü→"]),
    head=st.lists(st.integers(0, 9), max_size=3).map(tuple),
    tail=st.lists(st.integers(0, 9), max_size=3).map(tuple),
    device_ms=times,
    gateway_ms=times,
    payload_bytes=st.integers(0, 10**7),
    reply_bytes=st.integers(0, 10**5),
    encode_ms=times,
    decode_ms=times,
    codec=st.sampled_from(["raw", "jpeg75"]),
    lossless=st.booleans(),
    agreement=st.none() | st.floats(0, 1),
    reveals_input=st.none() | st.booleans(),
    exit=st.none() | st.just("c0"),
    exit_share=st.floats(0, 1),
    rest_ms=times,
    legs=st.just(()) | st.lists(legs, max_size=2).map(tuple),
    device_bytes=st.integers(0, 10**9),
)
states = st.builds(
    SystemState,
    st.none() | links,
    device_load=st.floats(0, 1),
    gateway_load=st.floats(0, 1),
    gateway_wait_ms=times,
    gateway_waits_ms=st.dictionaries(st.none() | st.sampled_from(["c0", "c1"]), times),
    complexity=st.none() | st.floats(0, 100),
    gateway_queue=st.floats(0, 1),
    device_spread=st.floats(0, 1),
    further=st.dictionaries(st.sampled_from(["far", "farther"]), st.builds(Tier, links, st.floats(0, 1), times)),
)
objectives = st.builds(
    Objective,
    st.sampled_from(["latency", "energy", "throughput"]),
    st.none() | st.floats(1, 1e4),
    st.floats(0, 1),
    st.booleans(),
    quantile=st.none() | st.floats(0.5, 0.999),
    energy_budget_mj=st.none() | st.floats(1, 1e6),
) | st.builds(Objective, st.just("cost"), tariff=st.builds(Tariff, st.floats(0.01, 10), st.floats(0, 10)))
tables = st.lists(rows, max_size=15).map(lambda found: Table([Candidate(None, (0, 1), (), 40.0), *found], POWER))


@given(finite)
def test_floats_come_back_exactly(value: float) -> None:
    read = json.loads(encoded({"latency_ms": value}))["latency_ms"]
    assert np.float64(from_json(float, read, "")).tobytes() == np.float64(value).tobytes()


@given(tables)
def test_a_table_comes_back_as_it_was(table: Table) -> None:
    again = table_from_json(json.loads(json.dumps(table_to_json(table))), POWER)
    assert again.candidates == table.candidates
    assert [type(getattr(each, field.name)) for each in again.candidates for field in fields(each)] == [
        type(getattr(each, field.name)) for each in table.candidates for field in fields(each)
    ]


def log_of(planner: Any, table: Table, asked: list[Question]) -> list[bytes]:
    """What a device writes that takes these decisions; each takes 20 ms longer than expected."""
    bandit = Bandit()
    lines = [header_record("0.1.0", "ab", planner, POWER), {"table": 0, "columns": table_to_json(table)}]
    for number, each in enumerate(asked):
        decide = bandit.decide if planner == "bandit" else decide_from
        plan = decide(
            table, each.state, each.objective, each.inputs, *([each.standing] if planner == "adaptive" else [])
        )
        lines.append(each.decided(number, 0, plan.reasons.row, plan.predicted_ms))
        if planner == "bandit" and plan.offloads:
            bandit.learn(plan.reasons.pull, plan.predicted_ms + 20.0)  # type: ignore[attr-defined]
            lines.append({"learned": number, "latency_ms": plan.predicted_ms + 20.0})
    return [encoded(line) for line in lines]


def replayed(lines: list[bytes]) -> Replay:
    replay = Replay()
    for line in lines:
        replay.take(line)
    return replay


def inputs_for(table: Table, data: st.DataObject) -> Inputs:
    size = len(table.candidates)
    payloads = data.draw(st.none() | st.lists(st.floats(0, 1e6), min_size=size, max_size=size))
    return Inputs(
        None if payloads is None else np.array(payloads),
        data.draw(st.none() | st.floats(0, 1e5)),
        data.draw(st.none() | st.floats(0, 1)),
    )


@given(tables, st.lists(st.tuples(states, objectives), min_size=1, max_size=8), st.data())
def test_decisions_by_the_costs_are_repeated(
    table: Table, asked: list[tuple[SystemState, Objective]], data: st.DataObject
) -> None:
    standing = data.draw(st.none() | st.integers(0, 20))
    questions = [Question(state, objective, inputs_for(table, data), standing) for state, objective in asked]
    replay = replayed(log_of("adaptive", table, questions))
    assert (replay.decisions, replay.differences) == (len(asked), [])


@given(tables, st.lists(states, min_size=1, max_size=20), st.data())
def test_decisions_by_the_bandit_are_repeated_with_what_it_learned(
    table: Table, asked: list[SystemState], data: st.DataObject
) -> None:
    questions = [Question(state, Objective(), inputs_for(table, data)) for state in asked]
    replay = replayed(log_of("bandit", table, questions))
    assert (replay.decisions, replay.differences) == (len(asked), [])


CUT = Candidate("c0", (0,), (1,), 5.0, 2.0, 4000, 100, 1.0, 1.0, "raw")
TABLE = Table([Candidate(None, (0, 1), (), 40.0), CUT], POWER)
QUESTIONS = [Question(SystemState(LinkState(8000, 8000, 10.0)), Objective(), Inputs())] * 6


def test_a_decision_that_comes_out_otherwise_is_named() -> None:
    lines = log_of("adaptive", TABLE, QUESTIONS)
    third = json.loads(lines[4])
    lines[4] = encoded(third | {"row": 0})
    lines[5] = encoded(json.loads(lines[5]) | {"latency_ms": float(np.nextafter(third["latency_ms"], 1e9))})
    first, second = replayed(lines).differences
    assert (first.decision, first.recorded, first.repeated) == (2, "local", "cut c0 as raw")
    assert (second.decision, second.recorded, second.repeated) == (3, "cut c0 as raw", "cut c0 as raw")
    assert second.recorded_ms != second.repeated_ms == third["latency_ms"]


def test_without_what_was_learned_the_bandit_decides_otherwise() -> None:
    lines = log_of("bandit", TABLE, QUESTIONS)
    learned = next(at for at, line in enumerate(lines) if line.startswith(b'{"learned"'))
    assert replayed(lines).differences == []
    assert replayed(lines[:learned] + lines[learned + 1 :]).differences


def change(**changes: Any) -> Any:
    return lambda record: record | changes


def within(*path: str, to: Any) -> Any:
    """Another value somewhere in a record."""

    def changed(record: Any) -> Any:
        first, *rest = path
        value = record[first]
        for key in rest[:-1]:
            value = value[key]
        if not rest:
            return record | {first: to}
        value[rest[-1]] = to
        return record

    return changed


HEADER, COLUMNS, DECISION, LEARNED = 0, 1, 2, 3


@pytest.mark.parametrize(
    ("line", "damage", "problem"),
    [
        (HEADER, change(midstream_decisions=2), "its format is 2, and this midstream reads 1: update it"),
        (HEADER, change(midstream_decisions=True), "does not begin a log of decisions"),
        (HEADER, change(planner="oracle"), "header.planner is 'oracle', needed one of adaptive, bandit"),
        (HEADER, within("power", to={}), "header.power has not the keys that it should: busy_w"),
        (HEADER, within("power", "idle_w", to=[]), "header.power.idle_w is '.*', needed a number"),
        (COLUMNS, within("columns", to=[]), "columns is no object"),
        (COLUMNS, change(table=-1), "table is -1"),
        (COLUMNS, change(more=1), "its keys are"),
        (COLUMNS, within("columns", "codec", to=None), "codec is no object"),
        (COLUMNS, within("columns", "spam", to={}), "columns has not the keys that it should: .*spam"),
        (COLUMNS, within("columns", "codec", "rows", to=[0, 7]), "codec.rows are not up to 10000 places in its 2"),
        (COLUMNS, within("columns", "codec", "rows", to=[0, True]), "codec.rows are not up to"),
        (COLUMNS, within("columns", "codec", "rows", to=[0]), "columns are of .1, 2. rows"),
        (COLUMNS, within("columns", "codec", "rows", to=[0] * 10_001), "codec.rows are not up to 10000 places"),
        (COLUMNS, within("columns", "device_ms", "values", to=[1.0, 10**400]), "device_ms is '.*', needed a finite"),
        (
            COLUMNS,
            within("columns", "payload_bytes", "values", to=[0, 10**400]),
            "payload_bytes is '.*', needed an int",
        ),
        (COLUMNS, within("columns", "head", "values", to=[[0.5], []]), "head is '0.5', needed int"),
        (DECISION, change(decision=4), "it is decision 4, and 0 was due"),
        (DECISION, change(decision=False), "decision is 'False', needed int"),
        (DECISION, change(table=3), "table 3 is none of the last 32"),
        (DECISION, change(row=2), "row 2 is none of the 2 of its table"),
        (DECISION, change(latency_ms="1"), "latency_ms is '1', needed a number"),
        (DECISION, change(spam=1), "decision has not the keys that it should: spam"),
        (DECISION, within("state", "link", "rtt_ms", to=-1), "the state's link.rtt_ms is -1.0, needed a finite"),
        (
            DECISION,
            within("state", "gateway_waits_ms", to={}),
            "decision.state.gateway_waits_ms is '{}', needed a list",
        ),
        (DECISION, within("state", "gateway_waits_ms", to=[[1]]), "gateway_waits_ms is no list of pairs"),
        (
            DECISION,
            within("objective", "kind", to="speed"),
            "decision.objective.kind is 'speed', needed one of latency",
        ),
        (DECISION, within("objective", "deadline_ms", to=0), "deadline_ms is 0.0, needed a finite number above 0"),
        (DECISION, within("inputs", "payload_bytes", to=[1.0]), "payload_bytes are 1 sizes for 2 candidates"),
        (DECISION, change(standing=1.5), "decision.standing is '1.5', needed int"),
        (LEARNED, lambda _: {"measured": [None, True], "course": 0}, "cannot be told to an exploration"),
        (LEARNED, lambda _: {"measured": [None], "course": 0}, "measured is '.*', needed 2 values"),
        (LEARNED, lambda _: {"measured": [None, 1], "course": 0}, "measured is '1', needed bool"),
        (LEARNED, change(learned=5), "nothing can be learned of decision 5"),
        (LEARNED, change(latency_ms=None), "latency_ms is 'None', needed a number"),
    ],
)
def test_what_no_log_has_is_refused(line: int, damage: Any, problem: str) -> None:
    lines = log_of("bandit", TABLE, QUESTIONS)
    lines[line] = encoded(damage(json.loads(lines[line])))
    with pytest.raises((ValueError, PlanError), match=problem):
        replayed(lines)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"\n", "it is no JSON"),
        (b"\xff\n", "it is no JSON"),
        (b"[" * 100_000, "it is no JSON"),
        (b'{"learned": 0, "latency_ms": NaN}\n', "it is no JSON"),
        (b"1" * 5000, "it is no JSON"),
        (b"[]\n", "it is no JSON object"),
        (b"{}\n", "it is no table, no decision and nothing learned"),
    ],
)
def test_lines_that_are_no_records_are_refused(line: bytes, problem: str) -> None:
    lines = log_of("bandit", TABLE, QUESTIONS)
    with pytest.raises(ValueError, match=problem):
        replayed([*lines, line])


def test_more_machines_than_there_are_are_refused() -> None:
    lines = log_of("adaptive", TABLE, QUESTIONS)
    leg = {"cut": None, "nodes": [], "work_ms": 1, "codec_ms": 1, "payload_bytes": 1}
    record = json.loads(lines[1])
    record["columns"]["legs"] = {"values": [[], [leg | {"machine": str(n)} for n in range(65)]], "rows": [0, 1]}
    with pytest.raises(ValueError, match="more than 64 further machines"):
        replayed([lines[0], encoded(record)])


def test_what_is_kept_and_told_of_a_log_is_bounded() -> None:
    long = Table([Candidate(None, (0, 1), (), 40.0), replace(CUT, cut="c" * 10_000)], POWER)
    asked = [Question(QUESTIONS[0].state, Objective(min_agreement=n / 100), Inputs()) for n in range(100)]
    lines = log_of("adaptive", long, asked)
    lines[2] = encoded(json.loads(lines[2]) | {"row": 0})
    replay = replayed(lines)
    assert [len(each.repeated) for each in replay.differences] == [200]
    (kept,) = replay._tables.values()
    assert len(kept._allowed) <= 8


def test_a_table_of_the_same_number_is_refused() -> None:
    lines = log_of("adaptive", TABLE, QUESTIONS)
    with pytest.raises(ValueError, match="table 0 is there already"):
        replayed([*lines, lines[1]])


@given(st.data())
def test_damaged_logs_are_refused_or_repeated(data: st.DataObject) -> None:
    lines = log_of("bandit", TABLE, QUESTIONS)
    at = data.draw(st.integers(0, len(lines) - 1))
    line = bytearray(lines[at])
    for _ in range(data.draw(st.integers(1, 3))):
        line[data.draw(st.integers(0, len(line) - 1))] = data.draw(st.sampled_from(b'0123456789eE.-"[]{},:ntfaul'))
    lines[at] = bytes(line)
    try:
        replay = replayed(lines)
    except (ValueError, PlanError):
        return
    assert replay.decisions == len(QUESTIONS)


def test_a_field_of_a_type_unknown_to_the_log_is_no_silent_loss() -> None:
    assert to_json(QUESTIONS[0]).keys() == {"state", "objective", "inputs", "standing", "course"}
    with pytest.raises(TypeError):
        encoded({"state": object()})
