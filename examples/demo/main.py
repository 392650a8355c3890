"""The demo: four trained models on a paced device and a gateway, real pictures and sounds through them, and what won.

This process is the device. The broker and the gateway are processes of their own; with --uplink-kbps or --rtt-ms there
is an emulated link between device and broker.
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import NoReturn

EXAMPLES = Path(__file__).resolve().parent.parent
OUTPUT = EXAMPLES.parent / "demo-output"
FAILED = 3


def main() -> int:
    """Run the demo; gives the exit code. Its other processes end with it, whatever ends it."""
    signal.signal(signal.SIGTERM, end)
    options = parser().parse_args()
    try:
        # Finding faces is the Raspberry Pi example's; the path has to be there before its modules are asked for.
        sys.path.insert(0, str(EXAMPLES / "raspberry_pi"))
        from run import run

        from midstream import MidstreamError

        try:
            options.output.mkdir(parents=True, exist_ok=True)
            return FAILED if run(options) else 0
        except MidstreamError as error:
            print(f"demo: {error}", file=sys.stderr)
            return error.exit_code
        except OSError as error:
            print(f"demo: {error.filename or 'the system'}: {error.strerror or error}", file=sys.stderr)
            return 2
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def end(number: int, _frame: FrameType | None) -> NoReturn:
    """End on a signal, through every ``with`` block."""
    raise SystemExit(128 + number)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="scripts/demo", description="Four models, a device, a broker, a gateway.")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout; the rest goes to stderr")
    parser.add_argument("--device", default="pi-zero-2w", metavar="PROFILE", help="the board to pace to (pi-zero-2w)")
    parser.add_argument("--uplink-kbps", type=positive, metavar="F", help="emulate a link of this speed each way")
    parser.add_argument("--rtt-ms", type=positive, metavar="F", help="emulate a link with this round trip")
    parser.add_argument("--output", type=Path, default=OUTPUT, metavar="DIR", help="for the pictures")
    return parser


def positive(value: str) -> float:
    """A number above 0; argparse turns ValueError into its own message."""
    number = float(value)
    if not 0 < number < float("inf"):
        raise ValueError
    return number


if __name__ == "__main__":
    raise SystemExit(main())
