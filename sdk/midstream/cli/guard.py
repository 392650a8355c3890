"""What a user sees when a command fails: one line on stderr and an exit code, never a traceback."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import Any, NoReturn

import typer

from midstream.errors import MidstreamError, printable

_MAX_LINE = 2000

# The root of what a wrong command line raises; typer exports only this class of it.
_UsageError: Any = typer.BadParameter.__base__


def guarded(command: typer.Typer) -> NoReturn:
    """Run a command of ours with errors shown as one line; exits with the error's own code.

    A command that SIGTERM ends still leaves its ``with`` blocks in order.
    """
    signal.signal(signal.SIGTERM, _end)
    try:
        status = command(standalone_mode=False)
        sys.stdout.flush()
    except MidstreamError as error:
        _fail(str(error), error.exit_code)
    except _UsageError as error:
        _fail(f"{error.format_message().rstrip('.')}; see --help", 2)
    except (KeyboardInterrupt, typer.Abort):
        raise SystemExit(128 + signal.SIGINT) from None
    except BrokenPipeError:
        # Nobody reads stdout any more; the interpreter must not try again at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None
    except OSError as error:
        _fail(f"{error.filename or 'the system'}: {error.strerror or error}", 2)
    except MemoryError:
        _fail("there is not enough memory for this", 2)
    raise SystemExit(status if isinstance(status, int) else 0)


def _fail(message: str, status: int) -> NoReturn:
    """Names out of a file may be in a message: none of them makes the terminal do things, or fills it."""
    sys.stderr.write(f"midstream: {printable(' '.join(message.split()), _MAX_LINE)}\n")
    raise SystemExit(status)


def _end(number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)
