"""Every way a command can fail: one line on stderr, and the documented exit code."""

from __future__ import annotations

import errno
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

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
        guarded(lambda: app)
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
        guarded(lambda: app)


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


def test_a_second_sigterm_while_it_ends_changes_nothing() -> None:
    code = (
        "import atexit, signal, sys\n"
        "from midstream.cli.guard import guarded\n"
        "atexit.register(lambda: (print('ending', flush=True), sys.stdin.read()))\n"
        "guarded(lambda: lambda standalone_mode: (print('running', flush=True), signal.pause()))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "running\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "ending\n"
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=30)
    assert (process.returncode, said) == (128 + signal.SIGTERM, "")


@pytest.mark.parametrize("module", ["midstream.cli.main", "midstream_converters"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_while_it_starts_is_no_traceback(tmp_path: Path, module: str, number: signal.Signals) -> None:
    """The import of the first package of others is held up until the signal is there."""
    (tmp_path / "typer.py").write_text("import sys\nprint('importing', flush=True)\nsys.stdin.read()\n")
    path = os.pathsep.join((str(tmp_path), *filter(None, sys.path)))
    with subprocess.Popen(
        [sys.executable, "-m", module, "--help"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "importing\n"
        process.send_signal(number)
        _, said = process.communicate(timeout=30)
    assert (process.returncode, said) == (128 + number, "")


def test_help_waits_for_nothing_heavy() -> None:
    program = (
        "import sys\n"
        "import midstream.cli.commands\n"
        "heavy = {'numpy', 'cv2', 'networkx', 'paho', 'onnx', 'onnxruntime', 'ai_edge_litert'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_what_native_libraries_write_is_not_on_stderr_unless_it_is_asked_for() -> None:
    program = (
        "import os, sys\n"
        "import typer\n"
        "from midstream.cli.guard import guarded\n"
        "from midstream.errors import BundleError\n"
        "app = typer.Typer(pretty_exceptions_enable=False)\n"
        "@app.command()\n"
        "def fail(verbose: bool = False) -> None:\n"
        "    os.write(2, b'native\\n')\n"
        "    raise BundleError('ours')\n"
        "guarded(lambda: app)\n"
    )
    for options, said in (([], "midstream: ours\n"), (["--verbose"], "native\nmidstream: ours\n")):
        done = subprocess.run([sys.executable, "-c", program, *options], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (2, said)


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_streams_are_no_mistake(closed: str) -> None:
    command = f"{shlex.quote(sys.executable)} -m midstream.cli.main --version {closed}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "midstream 0.1.0\n" if closed == "2>&-" else "")
    assert done.stderr == ""


def test_what_the_terminal_cannot_show_is_escaped() -> None:
    program = (
        "import typer\n"
        "from midstream.cli.guard import guarded\n"
        "app = typer.Typer()\n"
        "@app.command()\n"
        "def show() -> None:\n"
        "    print('→ \\udcff')\n"
        "guarded(lambda: app)\n"
    )
    for encoding, shown in (("ascii", b"\\u2192 \\udcff\n"), ("utf-8", "→ \\udcff\n".encode())):
        environ = os.environ | {"PYTHONIOENCODING": encoding}
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, env=environ, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, shown, b"")
