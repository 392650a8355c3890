"""Fine-tuning beside a gateway: what ends well is taken, what does not leaves all as it was, and it ends when told."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from midstream.forecaster import SHIPPED
from midstream.gateway import finetuning
from midstream.gateway.finetuning import FineTuning, training_command


class Told:
    """A child's program in place of the training, and what it was called with."""

    def __init__(self, program: str) -> None:
        self.program = program
        self.started: list[tuple[Path, Path, Path]] = []
        self.twice = threading.Event()

    def __call__(self, history: Path, start: Path, output: Path) -> Sequence[str]:
        self.started.append((history, start, output))
        if len(self.started) > 1:
            self.twice.set()
        return [sys.executable, "-c", self.program, str(output)]


WRITES = "import pathlib, sys; f = pathlib.Path(sys.argv[1]); f.mkdir(exist_ok=True); (f / 'forecast.json').touch()"


@pytest.fixture
def tuning(tmp_path: Path) -> Callable[..., FineTuning]:
    def made(told: Told, taken: Callable[[Path], None]) -> FineTuning:
        return FineTuning(tmp_path / "history", tmp_path / "own", taken, every_s=0.01, command=told)

    return made


def test_what_was_trained_is_taken_and_trained_on_from(tuning: Callable[..., FineTuning], tmp_path: Path) -> None:
    told, taken = Told(WRITES), []
    running = tuning(told, taken.append)
    running.start()
    assert told.twice.wait(30)
    running.stop()
    own = tmp_path / "own"
    assert told.started[:2] == [(tmp_path / "history", SHIPPED, own), (tmp_path / "history", own, own)]
    assert taken[0] == own


@pytest.mark.parametrize(
    ("status", "level", "words"), [(3, logging.INFO, "got no better"), (2, logging.WARNING, "too short")]
)
def test_what_is_no_better_or_fails_is_said_and_not_taken(
    tuning: Callable[..., FineTuning], caplog: pytest.LogCaptureFixture, status: int, level: int, words: str
) -> None:
    told, taken = Told(f"import sys; print('too short', file=sys.stderr); sys.exit({status})"), []
    caplog.set_level(logging.INFO, "midstream.gateway")
    running = tuning(told, taken.append)
    running.start()
    assert told.twice.wait(30)
    running.stop()
    assert not taken
    assert (level, True) in [(record.levelno, words in record.getMessage()) for record in caplog.records]


def test_a_gateway_that_cannot_take_a_model_goes_on(
    tuning: Callable[..., FineTuning], caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(folder: Path) -> None:
        raise RuntimeError(folder)

    told = Told(WRITES)
    running = tuning(told, refuse)
    running.start()
    assert told.twice.wait(30)
    running.stop()
    assert "could not be taken" in caplog.text


def test_it_ends_at_once_though_training_goes_on(tuning: Callable[..., FineTuning], tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    told, taken = Told(f"import pathlib, time; pathlib.Path({str(mark)!r}).touch(); time.sleep(100)"), []
    running = tuning(told, taken.append)
    running.start()
    deadline = threading.Event()
    while not mark.exists():
        deadline.wait(0.05)
    running.stop()
    running.stop()
    assert len(told.started) == 1
    assert not taken


def test_without_tensorflow_it_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, "midstream.gateway")
    monkeypatch.setattr(finetuning, "find_spec", lambda name: None)
    running = FineTuning(tmp_path / "history", tmp_path / "own", lambda folder: None, every_s=0.001)
    running.start()
    running.stop()
    assert [record.getMessage() for record in caplog.records if "TensorFlow is not installed" in record.getMessage()]
    assert "midstream[convert-keras]" in caplog.text


def test_training_gives_way_to_others(tmp_path: Path) -> None:
    command = training_command(tmp_path / "h", tmp_path / "from", tmp_path / "to")
    assert command[1:3] == ["-n", "19"]
    assert command[command.index("--from") + 1] == str(tmp_path / "from")
    assert command[-2:] == ["--output", str(tmp_path / "to")]
