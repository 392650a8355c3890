"""The other processes of the demo: the gateway, and knowing when it is there."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from midstream import PeerError, WireError
from midstream.child import Child
from midstream.communication import topics
from midstream.communication.presence import decode_presence
from midstream.communication.transport import Message, MqttTransport

READY_S = 60.0
STOP_S = 10.0


@contextmanager
def gateway_process(bundles: Path, broker: str, digests: set[bytes]) -> Iterator[int]:
    """``midstream gateway`` in a process of its own, once it has announced these bundles; gives its process id.

    It ends with this process, however that ends. Raises PeerError with the process's own last words where it ends or is
    not ready in a minute.
    """
    command = [sys.executable, "-m", "midstream.cli.main", "gateway", "--bundles", str(bundles), "--broker", broker]
    child = Child(command, stop_s=STOP_S)
    try:
        child.start()
        _wait_until_announced(child, broker, digests)
        yield child.pid or 0
    except PeerError as error:
        raise PeerError(f"{error}; its last words: {child.last_words()}") from None
    finally:
        child.stop()


def _wait_until_announced(child: Child, broker: str, digests: set[bytes]) -> None:
    announced = threading.Event()

    def on_message(message: Message) -> None:
        try:
            presence = decode_presence(message.payload)
        except WireError:
            return
        if presence is not None and digests <= set(presence.bundles):
            announced.set()

    transport = MqttTransport(broker, "midstream-demo", on_message=on_message, on_state=lambda _connected: None)
    transport.subscribe(topics.presence_filter())
    transport.start()
    try:
        deadline = time.monotonic() + READY_S
        while not announced.wait(0.1):
            if child.pid is None:
                raise PeerError(f"the gateway's process ended with code {child.returncode} before it was ready")
            if time.monotonic() > deadline:
                raise PeerError(f"the gateway was not ready in {READY_S:g} s")
    finally:
        transport.close()
