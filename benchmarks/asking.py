"""Many devices that ask a gateway at times set beforehand, each over a connection of its own; for other benchmarks.

Runs as a process: ``python benchmarks/asking.py`` reads one JSON line that says what to ask whom and when, and writes
one line for each request: when it was due, s after the start, when its answer came, the status, the wait and the run
that the gateway states, ms.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from midstream.bundle import Bundle
from midstream.communication import topics
from midstream.communication.chunks import Reassembler, split
from midstream.communication.codecs import encode
from midstream.communication.transport import Message, MqttTransport
from midstream.communication.wire import Request, Status, decode_reply, encode_request
from midstream.errors import WireError

_LAST_S = 15.0


@dataclass(frozen=True)
class Asking:
    """``times_s`` are when requests are due, the first device's first, each in turn; with ``at_once`` above 0 these
    many are always under way instead, until the last time."""

    broker: str
    gateway: str
    bundle: str
    cut: str
    devices: int
    deadline_ms: int
    times_s: Sequence[float]
    at_once: int = 0


@dataclass(frozen=True)
class Answer:
    """``due_s`` and ``came_s`` are after the start; ``came_s`` is None where no answer came."""

    due_s: float
    came_s: float | None
    status: str
    queue_ms: float = 0.0
    compute_ms: float = 0.0

    def within(self, deadline_ms: float) -> bool:
        """Whether it was answered in time."""
        return self.status == "OK" and self.came_s is not None and (self.came_s - self.due_s) * 1e3 <= deadline_ms


class Asker:
    """A process that asks. ``with Asker(asking) as asker: asker.answers()``."""

    def __init__(self, asking: Asking) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__))], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asdict(asking)) + "\n")
        self._process.stdin.flush()

    def __enter__(self) -> Asker:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def answers(self) -> list[Answer]:
        """Wait until it is done."""
        output, _ = self._process.communicate()
        return [Answer(*json.loads(line)) for line in output.splitlines()]


class _Device:
    def __init__(self, place: int, asking: Asking, crowd: _Crowd) -> None:
        self._crowd = crowd
        name = f"dev-{os.getpid()}-{place}"
        self._topic = topics.request_topic(asking.gateway, name)
        self._reassembler = Reassembler()
        self._under_way: dict[bytes, float] = {}
        self.connection = MqttTransport(asking.broker, name, on_message=self._on_message, on_state=lambda _up: None)
        self.connection.subscribe(topics.reply_filter(name))

    def ask(self, due_s: float) -> None:
        request_id = uuid.uuid4().bytes
        self._under_way[request_id] = due_s
        for chunk in split(self._crowd.request(request_id), request_id):
            if not self.connection.publish(self._topic, chunk, correlation=request_id):
                del self._under_way[request_id]
                self._crowd.answered(Answer(due_s, None, "NOT_SENT"))
                return

    def lost(self) -> list[Answer]:
        return [Answer(due_s, None, "LOST") for due_s in self._under_way.values()]

    def _on_message(self, message: Message) -> None:
        came_s = self._crowd.now_s()
        try:
            whole = self._reassembler.add("gateway", message.payload)
            reply = None if whole is None else decode_reply(whole)
        except WireError:
            return
        due_s = None if reply is None else self._under_way.pop(reply.request_id, None)
        if reply is not None and due_s is not None:
            answer = Answer(due_s, came_s, Status(reply.status).name, reply.queue_ms, reply.compute_ms)
            self._crowd.answered(answer, self)


class _Crowd:
    def __init__(self, asking: Asking) -> None:
        bundle = Bundle.open(asking.bundle)
        self._request = _request(bundle, asking.cut, asking.deadline_ms)
        self._asking = asking
        self._lock = threading.Condition()
        self._answers: list[Answer] = []
        self._asked = 0
        self._start = time.monotonic()
        self._devices = [_Device(place, asking, self) for place in range(asking.devices)]

    def now_s(self) -> float:
        return time.monotonic() - self._start

    def request(self, request_id: bytes) -> bytes:
        # A request's id is all that differs.
        return encode_request(Request(request_id, *self._request))

    def answered(self, answer: Answer, device: _Device | None = None) -> None:
        with self._lock:
            self._answers.append(answer)
            self._lock.notify()
        if self._asking.at_once and device is not None and self.now_s() < self._asking.times_s[-1]:
            self._ask(device, self.now_s())

    def run(self) -> list[Answer]:
        for device in self._devices:
            device.connection.start(20.0, required=True)
        self._start = time.monotonic()
        if self._asking.at_once:
            for place in range(self._asking.at_once):
                self._ask(self._devices[place % len(self._devices)], self.now_s())
            time.sleep(self._asking.times_s[-1])
        else:
            for place, due_s in enumerate(self._asking.times_s):
                time.sleep(max(0.0, due_s - self.now_s()))
                self._ask(self._devices[place % len(self._devices)], due_s)
        with self._lock:
            self._lock.wait_for(lambda: len(self._answers) == self._asked, _LAST_S)
        for device in self._devices:
            device.connection.close()
        return self._answers + [answer for device in self._devices for answer in device.lost()]

    def _ask(self, device: _Device, due_s: float) -> None:
        with self._lock:
            self._asked += 1
        device.ask(due_s)


def _request(bundle: Bundle, cut: str, deadline_ms: int) -> tuple[object, ...]:
    """All of a request but its id: what crosses the cut where random numbers come in."""
    shapes, dice = bundle.manifest.sample_shapes, np.random.default_rng(0)
    inputs = {spec.name: dice.random(shapes[spec.name]).astype(spec.dtype) for spec in bundle.manifest.free_inputs()}
    tensors = bundle.run_head(cut, inputs)[0] if cut else inputs
    return (bundle.digest, cut, "raw", deadline_ms, 50.0, (), encode("raw", tensors, {}))


def main() -> None:
    """Ask what the line on stdin says."""
    asking = Asking(**json.loads(sys.stdin.readline()))
    for each in _Crowd(asking).run():
        print(json.dumps([each.due_s, each.came_s, each.status, each.queue_ms, each.compute_ms]))


if __name__ == "__main__":
    main()
