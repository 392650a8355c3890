"""Every way a command can fail: one line on stderr, and the documented exit code."""

from __future__ import annotations

import errno

import pytest
import typer

from midstream.cli.guard import guarded
from midstream.errors import BundleError, PeerError, VerificationError

from .conftest import Midstream


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (BundleError("it is\nbroken"), 2, "midstream: it is broken\n"),
        (VerificationError("differs"), 3, "midstream: differs\n"),
        (PeerError("away"), 4, "midstream: away\n"),
        (BundleError("named \x1b]0;\x07é"), 2, "midstream: named ?]0;?é\n"),
        (BundleError("n" * 5000), 2, f"midstream: {'n' * 2000}\n"),
        (
            OSError(errno.ENOSPC, "No space left on device", "big.bin"),
            2,
            "midstream: big.bin: No space left on device\n",
        ),
        (MemoryError(), 2, "midstream: there is not enough memory for this\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_errors(
    error: BaseException, code: int, line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    app = typer.Typer(pretty_exceptions_enable=False)

    @app.command()
    def fail() -> None:
        raise error

    monkeypatch.setattr("sys.argv", ["fail"])
    monkeypatch.setattr("signal.signal", lambda *_: None)
    with pytest.raises(SystemExit) as ended:
        guarded(app)
    assert ended.value.code == code
    assert capsys.readouterr().err == line


def test_a_mistake_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    app = typer.Typer(pretty_exceptions_enable=False)

    @app.command()
    def fail() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("sys.argv", ["fail"])
    monkeypatch.setattr("signal.signal", lambda *_: None)
    with pytest.raises(ZeroDivisionError):
        guarded(app)


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["convert"], "Missing argument"),
        (["nonsense"], "No such command 'nonsense'"),
        (["convert", "a.onnx"], "Missing option '--output'"),
        (["convert", "a.onnx", "-o", "b", "--max-cuts", "many"], "--max-cuts"),
        (["convert", "a.onnx", "-o", "b", "--max-cuts", "0"], "--max-cuts"),
        (["inspect", "a", "--tabel"], "No such option"),
    ],
)
def test_a_wrong_command_line_is_one_line(midstream: Midstream, arguments: list[str], what: str) -> None:
    ended = midstream(*arguments)
    assert ended.code == 2
    assert what in ended.error


def test_help_and_version(midstream: Midstream) -> None:
    assert midstream("--version").out == "midstream 0.1.0\n"
    shown = midstream("--help")
    assert shown.code == 0
    assert all(name in shown.out for name in ("convert", "verify", "inspect", "plan", "analyze", "gateway", "run"))
    nothing = midstream()
    assert nothing.code == 2
    assert "convert" in nothing.error
