"""Parity chunks against asking again, over a link that loses 1, 5 and 20 % of its messages: which is quicker when.

Run it with ``python benchmarks/loss.py``; it writes docs/benchmarks/loss.md. A message goes through real mosquitto from
one `Mail` to another, over an emulated link whose proxy drops PUBLISH packets each way with QoS 0, as a radio link
would. A message of one chunk is sent again after two round trips and 100 ms, which is what a device does; chunks of
larger ones are asked for again by the receiver. All variants take turns in one run.
"""

from __future__ import annotations

import math
import queue
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import mean

from models import machine, table, write_page

from midstream.broker import Broker
from midstream.communication.chunks import Reassembler, chunk_count, split
from midstream.communication.mail import Mail
from midstream.communication.redundancy import Way, parity_chunks, redundancy
from midstream.communication.transport import Message, MqttTransport
from midstream.errors import WireError
from midstream.faults import FaultMix
from midstream.faulty_link import FaultyLink

LOSSES = (0.01, 0.05, 0.2)
RTTS_MS = (10.0, 100.0)
# Message, chunk, rate: a small one, one of many chunks on a fast link, and the same where bytes are dear.
CASES = ((1_000, 64 << 10, 20_000.0), (200_000, 8 << 10, 20_000.0), (200_000, 8 << 10, 2_000.0))
ROUNDS = {1_000: 120, 200_000: 20}
CHANGED_MS = 5.0
GIVE_UP_S = 10.0
DATA, CONTROL = "bench/data", "bench/control"


@dataclass
class Ends:
    """A sender and a receiver on both sides of the link."""

    sender: MqttTransport
    receiver: MqttTransport
    link: FaultyLink
    sending: Mail
    came: queue.Queue[bytes] = field(default_factory=queue.Queue)


@contextmanager
def ends(kbps: float) -> Iterator[Ends]:
    """Both connected, the sender over the link."""
    with Broker() as broker, FaultyLink(("127.0.0.1", broker.port), uplink_kbps=kbps, downlink_kbps=kbps) as link:
        found: Ends

        def arrived(message: Message) -> None:
            try:
                whole = receiving.add("sender", message.payload)
            except WireError:
                return
            if whole is not None:
                found.came.put(whole)

        sender = MqttTransport(
            link.url,
            "sender",
            on_message=lambda message: void(found.sending.control("receiver", message.payload)),
            on_state=lambda _up: None,
        )
        receiver = MqttTransport(broker.url, "receiver", on_message=arrived, on_state=lambda _up: None)

        def publish(_peer: str, _message_id: bytes, chunks: list[bytes]) -> None:
            for chunk in chunks:
                sender.publish(DATA, chunk, qos=0)

        receiving = Mail(
            Reassembler(),
            lambda _peer, _id, _chunks: None,
            lambda _peer, control: void(receiver.publish(CONTROL, control, qos=0)),
            answers=True,
        )
        found = Ends(sender, receiver, link, Mail(Reassembler(), publish, lambda _peer, _c: None, answers=False))
        with sender, receiver:
            receiver.subscribe(DATA)
            sender.subscribe(CONTROL)
            sender.start(10.0, required=True)
            receiver.start(10.0, required=True)
            while found.came.empty():  # until the subscriptions hold
                send(found, split(bytes(64), uuid.uuid4().bytes))
                time.sleep(0.05)
            yield found
        receiving.close()
        found.sending.close()


def void(_value: object) -> None:
    """Nothing."""


def send(on: Ends, chunks: list[bytes]) -> None:
    for chunk in chunks:
        on.sender.publish(DATA, chunk, qos=0)


def measure(on: Ends, message: bytes, chunk_bytes: int, parity: int, rtt_ms: float) -> float:
    """Milliseconds from the message's first chunk to the whole of it at the receiver."""
    while not on.came.empty():
        on.came.get()
    message_id = uuid.uuid4().bytes
    chunks = split(message, message_id, chunk_bytes, parity)
    on.sending.forget("receiver", message_id)
    on.sending.keep("receiver", message_id, message, chunks, GIVE_UP_S)
    began = time.perf_counter()
    wait_s = 2 * rtt_ms / 1e3 + 0.1
    while time.perf_counter() - began < GIVE_UP_S:
        send(on, chunks)
        end = time.perf_counter() + (wait_s if len(chunks) - parity == 1 else GIVE_UP_S)
        while (left_s := end - time.perf_counter()) > 0:
            try:
                if on.came.get(timeout=left_s) == message:
                    return (time.perf_counter() - began) * 1e3
            except queue.Empty:
                break
        wait_s *= 2
    return GIVE_UP_S * 1e3


def main() -> None:
    """Measure every case and write the page."""
    rows, agreed = [], 0
    for size, chunk_bytes, kbps in CASES:
        message = bytes(range(256)) * (size // 256 + 1)
        message = message[:size]
        parts = chunk_count(size, chunk_bytes)
        with ends(kbps) as on:
            for rtt_ms in RTTS_MS:
                for loss in LOSSES:
                    on.link.set(up=FaultMix(), down=FaultMix(), rtt_ms=rtt_ms)
                    # The receiver learns how chunks follow each other, as it does from the first message of a peer.
                    measure(on, message, chunk_bytes, 0, rtt_ms)
                    on.link.set(up=FaultMix(drop=loss), down=FaultMix(drop=loss))
                    full, ruled = redundancy(loss, parts), parity_chunks(loss, parts, size, Way(rtt_ms, kbps))
                    times: dict[int, list[float]] = {0: [], full: []}
                    for _ in range(ROUNDS[size]):
                        for parity, series in times.items():
                            series.append(measure(on, message, chunk_bytes, parity, rtt_ms))
                    again, parity_ms = mean(times[0]), mean(times[full])
                    better = min(again, parity_ms)
                    taken = times[ruled]
                    agreed += mean(taken) <= better + max(CHANGED_MS, 0.1 * better)
                    row = [size, parts, f"{kbps / 1e3:g}", f"{rtt_ms:g}", f"{loss:.0%}", full]
                    row += [f"{mean(series):.0f} / {p95(series):.0f}" for series in times.values()]
                    rows.append([*row, taken_name(ruled), taken_name(parity_ms < again)])
                    print(rows[-1], flush=True)
    headings = " bytes| chunks| Mbit/s| round trip, ms| loss| parity chunks"
    headings += "| asked again, ms (mean / p95)| parity, ms|rule|quicker"
    write_page(
        "loss",
        f"""# Parity chunks against asking again

Written by `python benchmarks/loss.py` on {machine()}.

{"".join((__doc__ or "").split("Run it with")[1:]).split("writes docs/benchmarks/loss.md. ")[1].strip()}

{table(headings, rows)}

The rule (`redundancy.parity_chunks`) takes parity where the link is occupied by the parity chunks that nobody needs
for a shorter time than asking again takes on average. It takes the quicker way, or one within 10 % or
{CHANGED_MS:g} ms of it, in {agreed} of {len(rows)} cases.
""",
    )


def taken_name(parity: object) -> str:
    """What the table calls it."""
    return "parity" if parity else "again"


def p95(series: list[float]) -> float:
    """The value that 95 of 100 do not exceed."""
    return sorted(series)[min(len(series) - 1, math.ceil(0.95 * len(series)) - 1)]


if __name__ == "__main__":
    main()
