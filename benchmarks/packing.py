"""A stream of small requests from several callers at once, packed together and sent one by one, in turns.

Run it with ``python benchmarks/packing.py``; it writes docs/benchmarks/packing.md. Broker and gateway are processes of
their own; the links are loopback and emulated ones. Only what requests take is counted in bytes and messages; replies
are packed as well.
"""

from __future__ import annotations

import contextlib
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
from models import ROOT, machine, table, write_page
from transport import gateway

from midstream.broker import Broker
from midstream.bundle import Bundle
from midstream.communication.outbox import pack_properties
from midstream.device import Device
from midstream.link import LinkEmulator
from midstream_converters.convert import convert
from midstream_converters.opening import Options

MODEL = ROOT / "tests" / "models" / "keyword_lstm_int8.tflite"
LINKS: dict[str, tuple[float, float, float] | None] = {
    "loopback": None,
    "5 Mbit/s, 20 ms": (5000.0, 5000.0, 20.0),
    "500 kbit/s, 40 ms": (500.0, 500.0, 40.0),
}
CALLERS = (1, 4, 16, 32)
ROUNDS = 5
SECONDS = 1.5
# Of a PUBLISH packet: its type and length, its topic's length and its id.
FIXED_BYTES = 7


@dataclass(frozen=True)
class Run:
    """What one way of sending did in its turn; ``messages`` and ``sent_bytes`` are per request."""

    rate: float
    p50_ms: float
    p95_ms: float
    messages: float
    sent_bytes: float
    local: int


class Counter:
    """Counts the messages that carry a device's requests, and their bytes with MQTT's headers."""

    def __init__(self, device: Device) -> None:
        self.messages = 0
        self.bytes = 0
        transport = device._exchange._transport
        publish = transport.publish
        lock = threading.Lock()

        def counted(topic: str, payload: bytes, **options: object) -> bool:
            if "/req/" in topic:
                names = ("correlation", "response_topic", "expiry_s")
                properties = pack_properties(*(options[name] for name in names))  # type: ignore[arg-type]
                with lock:
                    self.messages += 1
                    self.bytes += FIXED_BYTES + len(topic) + len(properties) + len(payload)
            return publish(topic, payload, **options)  # type: ignore[arg-type]

        transport.publish = counted  # type: ignore[method-assign, assignment]


def main() -> None:
    """Measure every link and number of callers."""
    rows = []
    with tempfile.TemporaryDirectory() as folder, Broker() as broker:
        path = Path(folder) / "bundle"
        convert(MODEL, path, Options())
        bundle = Bundle.open(path)
        cut = min(bundle.cuts, key=lambda cut: (cut.payload_bytes < 20, cut.payload_bytes)).id
        with gateway(broker.url, path):
            for name, link in LINKS.items():
                with emulated(broker, link) as url:
                    rows += measure(bundle, url, cut, name)
    payload = bundle.manifest.cut(cut).payload_bytes
    write_page("packing", page(broker.kind or "", payload, rows))


@contextlib.contextmanager
def emulated(broker: Broker, link: tuple[float, float, float] | None) -> Iterator[str]:
    """The broker's address behind this link."""
    if link is None:
        yield broker.url
        return
    with LinkEmulator(("127.0.0.1", broker.port), *link) as emulator:
        yield emulator.url


def measure(bundle: Bundle, url: str, cut: str, name: str) -> list[list[object]]:
    """Both ways in turns, for every number of callers."""
    with Device(bundle, url, packing=False) as alone, Device(bundle, url) as together:
        if not (alone.gateways and together.gateways):
            raise SystemExit("the gateway did not come up")
        counters = {device: Counter(device) for device in (alone, together)}
        rows = []
        for callers in CALLERS:
            pairs = []
            for turn in range(ROUNDS):
                order = (alone, together) if turn % 2 else (together, alone)
                runs = {device: drive(device, counters[device], cut, callers) for device in order}
                pairs.append((runs[alone], runs[together]))
            rows.append(row(name, callers, pairs))
            print(rows[-1], flush=True)
    return rows


def drive(device: Device, counter: Counter, cut: str, callers: int) -> Run:
    """So many callers, each asking again when it has its answer."""
    (spec,) = device.bundle.inputs
    value = np.zeros(device.bundle.manifest.sample_shapes[spec.name], spec.dtype)
    times: list[float] = []
    local: list[str | None] = []
    messages, sent = counter.messages, counter.bytes
    began = time.perf_counter()

    def call() -> None:
        while time.perf_counter() < began + SECONDS:
            start = time.perf_counter()
            result = device.infer({spec.name: value}, cut=cut)
            times.append((time.perf_counter() - start) * 1e3)
            if result.fallback is not None:
                local.append(result.fallback)

    threads = [threading.Thread(target=call) for _ in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took_s = time.perf_counter() - began
    p50, p95 = np.percentile(times, [50, 95])
    count = len(times)
    return Run(
        count / took_s,
        float(p50),
        float(p95),
        (counter.messages - messages) / count,
        (counter.bytes - sent) / count,
        len(local),
    )


def row(name: str, callers: int, pairs: list[tuple[Run, Run]]) -> list[object]:
    """Medians of one by one, and the medians of the ratios of each round."""
    alone, together = ([pair[place] for pair in pairs] for place in (0, 1))

    def ratio(field: str) -> str:
        return f"{median(getattr(b, field) / getattr(a, field) for a, b in pairs):.2f}"

    def plain(runs: list[Run], field: str) -> float:
        return median(getattr(run, field) for run in runs)

    return [
        name,
        callers,
        f"{plain(alone, 'rate'):.0f}",
        f"{plain(alone, 'p50_ms'):.1f}",
        f"{plain(alone, 'p95_ms'):.1f}",
        f"{plain(alone, 'sent_bytes'):.0f}",
        f"{plain(together, 'messages'):.2f}",
        ratio("sent_bytes"),
        ratio("rate"),
        ratio("p50_ms"),
        ratio("p95_ms"),
        sum(run.local for run in (*alone, *together)),
    ]


def page(kind: str, payload: int, rows: list[list[object]]) -> str:
    """The generated page."""
    headings = (
        "link|callers| req/s one by one| p50 ms| p95 ms| B/request"
        "| messages/request packed| × bytes| × req/s| × p50| × p95| fell back"
    )
    return "\n".join(
        [
            "# Small requests, packed and one by one",
            "",
            f"Generated by `python benchmarks/packing.py`: `{MODEL.name}` at a cut of {payload} bytes, each caller "
            f"asks again when it has its answer, no deadline; {ROUNDS} rounds of {SECONDS:g} s each way, in turns; "
            f"{machine()}, broker {kind}. Bytes are those of the requests' PUBLISH packets, without TCP and IP. First "
            "what sending one by one does (medians of the rounds), then packing in multiples of it (medians of the "
            "rounds' ratios): below 1 is better for bytes, p50 and p95, above 1 for requests a second.",
            "",
            table(headings, rows),
            "",
            *findings(rows),
            "",
        ]
    )


def findings(rows: list[list[object]]) -> list[str]:
    """What the figures say, gains and losses alike."""
    gains = [line for line in rows if float(str(line[8])) >= 1.1]
    losses = [line for line in rows if float(str(line[8])) <= 0.95 or float(str(line[9])) >= 1.05]

    def named(lines: list[list[object]]) -> str:
        return (
            "; ".join(f"{line[0]}, {line[1]} callers (req/s × {line[8]}, p50 × {line[9]})" for line in lines) or "none"
        )

    return [
        f"- At least 10 % more requests a second: {named(gains)}.",
        f"- At least 5 % fewer requests a second, or 5 % more p50: {named(losses)}.",
        "- With one caller nothing waits and nothing is packed: its ratios show how far runs of the same thing differ. "
        "On loopback several callers keep both cores busy, and runs differed by up to 20 % either way.",
    ]


if __name__ == "__main__":
    main()
