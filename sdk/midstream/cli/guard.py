"""What a user sees when a command fails: one line on stderr and an exit code, never a traceback.

It imports nothing that takes time: until it stands, a Ctrl-C would be a traceback.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
from collections.abc import Callable
from io import TextIOWrapper
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from midstream.errors import MidstreamError, printable

_MAX_LINE = 2000

if TYPE_CHECKING:
    import typer

_VERBOSE = {"-v", "--verbose"}
_as_line: Callable[[str], str] = "midstream: {}".format


def tell_errors_by(as_line: Callable[[str], str]) -> None:
    """Make the line that a failure is told by with this, from now on."""
    global _as_line
    _as_line = as_line


def guarded(load: Callable[[], typer.Typer]) -> NoReturn:
    """Load a command of ours and run it with errors shown as one line; exits with the error's own code.

    A command that SIGTERM ends still leaves its ``with`` blocks in order; one that has ended is not told again.
    """
    signal.signal(signal.SIGTERM, _end)
    try:
        _run(load)
    finally:
        # The interpreter takes tens of milliseconds more, and gives up handlers before it is done.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _run(load: Callable[[], typer.Typer]) -> NoReturn:
    try:
        _open_streams()
        if not _VERBOSE & set(sys.argv):
            _take_stderr()
        status = load()(standalone_mode=False)
        sys.stdout.flush()
    except MidstreamError as error:
        _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        raise SystemExit(128 + signal.SIGINT) from None
    except BrokenPipeError:
        # Nobody reads stdout any more; the interpreter must not try again at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None
    except OSError as error:
        _fail(f"{error.filename or 'the system'}: {error.strerror or error}", 2)
    except MemoryError:
        _fail("there is not enough memory for this", 2)
    except Exception as error:
        _explain(error)
        raise
    raise SystemExit(status if isinstance(status, int) else 0)


def _open_streams() -> None:
    """Where stdout or stderr was closed, what is printed there goes nowhere; what its encoding lacks is escaped."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))
    if isinstance(sys.stdout, TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


def _take_stderr() -> None:
    """Keep stderr for our own words: the runtimes and codecs write theirs to the descriptor, and know no switch.

    A crash of theirs is still told, by Python's fault handler.
    """
    shared = sys.stderr
    if shared is not sys.__stderr__ or shared is None:
        return
    shared.flush()
    own = os.dup(shared.fileno())
    sys.stderr = os.fdopen(own, "w", buffering=1, encoding=shared.encoding, errors="backslashreplace")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, shared.fileno())
    os.close(nowhere)
    faulthandler.enable(sys.stderr)


def _explain(error: Exception) -> None:
    """Exit where the command line is wrong; anything else is a mistake of ours, and keeps its traceback."""
    import typer

    # The root of what a wrong command line raises; typer exports only this class of it.
    usage_error: Any = typer.BadParameter.__base__
    if isinstance(error, usage_error):
        # What checks choices says first of which kind its error is.
        told = error.format_message().rstrip(".").replace("Value error, ", "")
        _fail(f"{told}; see --help", 2)
    if isinstance(error, typer.Abort):
        raise SystemExit(128 + signal.SIGINT) from None


def _fail(message: str, status: int) -> NoReturn:
    """Names out of a file may be in a message: none of them makes the terminal do things, or fills it."""
    sys.stderr.write(_as_line(printable(" ".join(message.split()), _MAX_LINE)) + "\n")
    raise SystemExit(status)


def _end(number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)
