"""The commands' log: for people, as JSON, and in floods."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator

import pytest

from midstream.cli import logs
from midstream.cli.logs import BURST, JsonFormatter, LimitedHandler, TextFormatter

NAME = "midstream.test.flood"
ABOUT = {"request_id": "00ff", "device_id": "camera", "cut": "c5", "unknown": "x", "bundle": None}


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(logs.time, "monotonic", clock)
    return clock


@pytest.fixture
def written() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def log(written: io.StringIO) -> Iterator[logging.Logger]:
    logger = logging.getLogger(NAME)
    handler = LimitedHandler(BURST)
    handler.setStream(written)
    logger.addHandler(handler)
    logger.propagate = False
    logger.setLevel(logging.DEBUG)
    yield logger
    logger.removeHandler(handler)
    handler.close()


def record(message: str, *arguments: object, failed: bool = False, **extra: object) -> logging.LogRecord:
    try:
        raise ValueError("bad\x1b[31m\nnews")
    except ValueError:
        told = sys.exc_info() if failed else None
    made = logging.getLogger(NAME).makeRecord(NAME, logging.WARNING, "", 0, message, arguments, told, extra=extra)
    made.created = 0.25
    return made


def test_a_line_for_people_names_the_request() -> None:
    line = TextFormatter().format(record("ignored %s", "it", **ABOUT))
    assert line.endswith(f"WARNING {NAME}: ignored it request_id=00ff device_id=camera cut=c5")


def test_nobody_writes_lines_of_others_into_the_log() -> None:
    evil = "x\n2026-01-01 ERROR midstream: all is lost\x1b[2J\u202e"
    text = TextFormatter().format(record("ignored %s", evil, failed=True, device_id=evil))
    first, *traceback = text.split("\n")
    assert "all is lost" in first
    assert traceback[0].startswith("Traceback")
    assert text.replace("\n", "").isprintable()
    assert len(JsonFormatter().format(record("ignored %s", evil, device_id=evil)).splitlines()) == 1
    assert len(TextFormatter().format(record("%s", "x" * 100_000))) < 5000
    assert len(JsonFormatter().format(record("%s", "x" * 100_000))) < 5000


def test_a_line_in_json_says_the_same() -> None:
    line = json.loads(JsonFormatter().format(record("ignored %s", "ü", failed=True, **ABOUT)))
    assert line.pop("exception").endswith("ValueError: bad\x1b[31m\nnews")
    assert line == {
        "time": "1970-01-01T00:00:00.250+00:00",
        "level": "warning",
        "logger": NAME,
        "message": "ignored ü",
        "request_id": "00ff",
        "device_id": "camera",
        "cut": "c5",
    }


def test_of_a_flood_a_few_are_written_and_the_others_counted(
    log: logging.Logger, written: io.StringIO, clock: Clock
) -> None:
    def ignore(what: object, level: int = logging.WARNING) -> None:
        log.log(level, "ignored %s", what)

    for number in range(10_000):
        ignore(number)
    log.warning("something else")
    ignore(0, logging.INFO)
    lines = written.getvalue().splitlines()
    assert lines == [*(f"ignored {number}" for number in range(BURST)), "something else", "ignored 0"]
    clock.now_s += 1.0
    ignore("one more")
    assert written.getvalue().splitlines()[-1] == "ignored one more"
    log.handlers[0].close()
    told = f"{10_000 - BURST} more lines like this one were left out: ignored 9999"
    assert written.getvalue().splitlines()[-1] == told
    log.handlers[0].close()
    assert written.getvalue().count("left out") == 1


def test_lines_that_are_put_together_by_their_program_are_one_kind(log: logging.Logger, written: io.StringIO) -> None:
    for number in range(1000):
        log.warning(f"ignored {number}")
    assert written.getvalue().count("\n") == BURST


def test_what_was_left_out_is_told_although_no_more_comes(
    log: logging.Logger, written: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "_TOLD_AFTER_S", 0.01)
    for _ in range(BURST + 5):
        log.warning("ignored")
    handler = log.handlers[0]
    assert isinstance(handler, LimitedHandler)
    timer = handler._timer
    if timer is not None:
        timer.join(20)
    assert "5 more lines like this one were left out: ignored\n" in written.getvalue()


def test_where_all_is_logged_nothing_is_left_out(written: io.StringIO) -> None:
    handler = LimitedHandler(None)
    handler.setStream(written)
    for _ in range(10 * BURST):
        handler.handle(record("ignored"))
    assert written.getvalue().count("ignored\n") == 10 * BURST
    handler.close()


@pytest.mark.parametrize(
    ("arguments", "level"),
    [
        (["gateway"], logging.WARNING),
        (["-v", "gateway"], logging.INFO),
        (["gateway", "--log-format", "json"], logging.INFO),
        (["gateway", "--log-format", "json", "--log-level", "error"], logging.ERROR),
        (["-v", "gateway", "--log-level", "debug"], logging.DEBUG),
        (["run", "--log-level", "debug"], logging.DEBUG),
    ],
)
def test_what_is_logged(arguments: list[str], level: int) -> None:
    code = (
        "import sys, logging\nfrom midstream.cli.main import run\ntry: run()\nfinally: print(logging.getLogger().level)"
    )
    own = ["nowhere", "--input", "nothing"] if "run" in arguments else ["--bundles", "nowhere"]
    command = [sys.executable, "-c", code, *arguments, *own, "--broker", "mqtt://127.0.0.1:9"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout.strip()) == (2, str(level))
    (line,) = ended.stderr.splitlines()
    if "json" in arguments:
        assert json.loads(line).items() >= {"level": "error", "logger": "midstream"}.items()
        assert "nowhere" in json.loads(line)["message"]
    else:
        assert line.startswith("midstream: ")


@pytest.mark.parametrize("option", [["--log-level", "loud"], ["--log-format", "xml"]])
def test_other_levels_and_formats_are_one_error(option: list[str]) -> None:
    command = [sys.executable, "-m", "midstream.cli.main", "gateway", "--bundles", "x", "--broker", "x", *option]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"midstream: Invalid value for '{option[0]}': '{option[1]}' is not one of ")
