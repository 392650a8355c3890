"""The gateway of a bench, a process of its own: ``python -m midstream.benching.gateway_process``."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from midstream.benching.workers import answer_stdin
from midstream.bundle import Bundle
from midstream.errors import PeerError
from midstream.gateway import Gateway

_CONNECT_S = 10.0
_ROUNDS = 10


class _Serving:
    """Starts when it is told how."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack

    def answer(self, message: Mapping[str, Any]) -> dict[str, float]:
        """Open, slow down to ``wanted_ms`` for the whole model where that is given, and serve."""
        slowdown = 1.0
        if message["wanted_ms"] is not None:
            bundle = Bundle.open(message["bundle"])
            slowdown = max(1.0, message["wanted_ms"] / min(bundle.measure_whole_ms() for _ in range(_ROUNDS)))
        gateway = self._stack.enter_context(
            Gateway(
                [message["bundle"]],
                message["broker"],
                gateway_id=message["id"],
                workers=message["workers"],
                slowdown=slowdown,
            )
        )
        if not gateway.wait_connected(_CONNECT_S):
            raise PeerError(gateway.last_error or "the bench's broker cannot be reached")
        thread = threading.Thread(target=gateway.serve)
        thread.start()
        self._stack.callback(thread.join)
        self._stack.callback(gateway.stop)
        return {"slowdown": slowdown}


def main() -> None:
    """Serve until stdin ends."""
    with ExitStack() as stack:
        answer_stdin(_Serving(stack).answer)


if __name__ == "__main__":
    main()
