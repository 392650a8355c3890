"""The log of decisions as a file: what is kept, where it ends, and what is no log."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from midstream.deciding import Deciding
from midstream.decision_log import MAX_LINE_BYTES, DecisionLog, replay_file
from midstream.errors import PlanError
from midstream.partitioning import Candidate, Inputs, LinkState, Objective, Power, SystemState, Table, decide_from
from midstream.partitioning.records import Question
from midstream.partitioning.replay import RECENT

POWER = Power(2.0, 6.0, 0.5)
CUT = Candidate("c0", (0,), (1,), 5.0, 2.0, 4000, 100, 1.0, 1.0, "raw")
STATE = SystemState(LinkState(8000, 8000, 10.0))


def table() -> Table:
    return Table([Candidate(None, (0, 1), (), 40.0), CUT], POWER)


def decided(log: DecisionLog, options: Table, times: int = 1) -> None:
    for _ in range(times):
        log.decided(options, Question(STATE, Objective(), Inputs()), decide_from(options, STATE, Objective()))


def log_to(path: Path, limit_bytes: int = 1 << 20) -> DecisionLog:
    return DecisionLog(path, "ab", "adaptive", POWER, limit_bytes)


@pytest.mark.parametrize("planner", ["adaptive", "bandit"])
def test_what_was_decided_is_repeated(tmp_path: Path, planner: str) -> None:
    deciding, options = Deciding(planner, Objective(), "ab", POWER, tmp_path / "log"), table()  # type: ignore[arg-type]
    for number in range(50):
        plan = deciding.decide(options, STATE, Objective(), Inputs())
        deciding.finished(plan, plan.predicted_ms + number)
    deciding.flush()
    lines = [json.loads(line) for line in (tmp_path / "log").read_bytes().splitlines()]
    assert (lines[0]["planner"], lines[0]["bundle"], lines[0]["midstream_decisions"]) == (planner, "ab", 1)
    assert any("learned" in line for line in lines) == (planner == "bandit")
    found = replay_file(tmp_path / "log")
    assert (found.replay.decisions, found.replay.differences, found.cut_off) == (50, [], False)


def test_a_table_is_written_again_only_after_many_others(tmp_path: Path) -> None:
    log, tables = log_to(tmp_path / "log"), [table() for _ in range(RECENT + 1)]
    for options in (*tables[:RECENT], *tables[:RECENT], tables[RECENT], tables[0]):
        decided(log, options)
    log.flush()
    lines = [json.loads(line) for line in (tmp_path / "log").read_bytes().splitlines()]
    assert [line["table"] for line in lines if "columns" in line] == list(range(RECENT + 2))
    assert [line["table"] for line in lines if "decision" in line] == [
        *range(RECENT),
        *range(RECENT),
        RECENT,
        RECENT + 1,
    ]
    assert replay_file(tmp_path / "log").replay.differences == []


def test_it_ends_at_its_limit_with_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = log_to(tmp_path / "log", 10_000)
    with caplog.at_level(logging.WARNING):
        decided(log, table(), 100)
    log.flush()
    (record,) = caplog.records
    assert record.getMessage() == f"{tmp_path / 'log'}: no further decisions are logged: it has reached its limit"
    assert 9000 < (tmp_path / "log").stat().st_size <= 10_000
    found = replay_file(tmp_path / "log")
    assert 0 < found.replay.decisions < 100
    assert (found.replay.differences, found.cut_off) == ([], False)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no disk that is always full")
def test_a_full_disk_ends_the_log_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    log = log_to(tmp_path / "log")
    with open("/dev/full", "wb") as full:  # noqa: PTH123
        os.dup2(full.fileno(), log._file.fileno())  # type: ignore[union-attr]
    with caplog.at_level(logging.WARNING):
        decided(log, table(), 10)
        log.flush()
        decided(log, table(), 10)
        log.flush()
    (record,) = caplog.records
    assert record.getMessage().endswith("no further decisions are logged: No space left on device")


def test_a_log_is_complete_when_its_process_ends(tmp_path: Path) -> None:
    code = (
        "import sys\nsys.path.insert(0, sys.argv[2])\nfrom test_decision_log import *\n"
        "log = log_to(Path(sys.argv[1]))\ndecided(log, table(), 3)\nassert Path(sys.argv[1]).stat().st_size < 500"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "log"), str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert replay_file(tmp_path / "log").replay.decisions == 3


def test_a_log_that_is_there_is_replaced_and_no_other_file(tmp_path: Path) -> None:
    for _ in range(2):
        log = log_to(tmp_path / "log")
        decided(log, table())
        log.flush()
    assert replay_file(tmp_path / "log").replay.decisions == 1
    (tmp_path / "model.onnx").write_bytes(b"precious")
    with pytest.raises(PlanError, match=r"model.onnx is there, and is no log of decisions"):
        log_to(tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx").read_bytes() == b"precious"
    with pytest.raises(PlanError, match="no/log: the log of decisions cannot be written there: No such file"):
        log_to(tmp_path / "no" / "log")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(PlanError, match="pipe: the log of decisions cannot be written there: it is not a regular file"):
        log_to(tmp_path / "pipe")


def test_a_log_cut_off_in_its_last_line_is_repeated_up_to_there(tmp_path: Path) -> None:
    log = log_to(tmp_path / "log")
    decided(log, table(), 5)
    log.flush()
    (tmp_path / "log").write_bytes((tmp_path / "log").read_bytes()[:-20])
    found = replay_file(tmp_path / "log")
    assert (found.replay.decisions, found.replay.differences, found.cut_off) == (4, [], True)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "line 1: it does not begin a log of decisions"),
        (b"no log", "line 1: it does not begin a log of decisions"),
        (b"no log\n", "line 1: it is no JSON"),
        (b"{}\n", "line 1: it does not begin a log of decisions"),
        (b"[" * (MAX_LINE_BYTES + 1), "line 1: a log has no more than"),
    ],
)
def test_what_is_no_log_is_refused(tmp_path: Path, content: bytes, problem: str) -> None:
    (tmp_path / "log").write_bytes(content)
    with pytest.raises(PlanError, match=problem):
        replay_file(tmp_path / "log")


def test_what_cannot_be_decided_so_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="no planner is called 'oracle'; known are adaptive, bandit"):
        Deciding("oracle", Objective(), "ab", POWER, None)  # type: ignore[arg-type]
    with pytest.raises(PlanError, match="learns latencies"):
        Deciding("bandit", Objective("energy"), "ab", POWER, tmp_path / "log")
    assert list(tmp_path.iterdir()) == []
