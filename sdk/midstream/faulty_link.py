"""A link as bad as a radio's: an emulated one that also loses, doubles, reorders and damages messages, and breaks down.

Clients reach the `LinkEmulator`, which gives the rate and the delay; behind it, beside the broker, a proxy that reads
MQTT packets does to messages what `faults` decides.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from dataclasses import dataclass
from types import EllipsisType

from midstream.errors import InputError
from midstream.faults import Dice, FaultCounts, FaultMix, Packets, Scrambler
from midstream.link import LinkEmulator

_READ_BYTES = 64 << 10
# What waits to be overtaken by others goes on after this long without any.
_HOLD_S = 0.05
_NO_FAULTS = FaultMix()


@dataclass(frozen=True, slots=True)
class Outages:
    """The link is cut for ``length_s`` once in ``every_s``, first after what is left of that. Raises InputError."""

    every_s: float = 60.0
    length_s: float = 5.0

    def __post_init__(self) -> None:
        if not 0 < self.length_s < self.every_s:
            raise InputError(f"a link cannot be cut for {self.length_s:g} s every {self.every_s:g} s")


class FaultyLink:
    """A bad link to the broker at ``target`` (host, port); clients reach it at ``url`` while the ``with`` block runs.

    ``up`` are the faults of messages to the broker, ``down`` of those from it; the same ``seed`` throws the same dice.
    Rates and round trip are as in `LinkEmulator`. Plain ``mqtt://`` only. Thread-safe.
    """

    def __init__(
        self,
        target: tuple[str, int],
        up: FaultMix = _NO_FAULTS,
        down: FaultMix = _NO_FAULTS,
        *,
        seed: int = 0,
        uplink_kbps: float | None = None,
        downlink_kbps: float | None = None,
        rtt_ms: float = 0.0,
        outages: Outages | None = None,
    ) -> None:
        self._proxy = _Proxy(target, Dice(up, 2 * seed), Dice(down, 2 * seed + 1))
        self._rates = (uplink_kbps, downlink_kbps, rtt_ms)
        self._outages = outages
        self._stop = threading.Event()
        self._running = contextlib.ExitStack()
        self._link: LinkEmulator | None = None
        self.cuts = 0

    def __enter__(self) -> FaultyLink:
        with contextlib.ExitStack() as running:
            port = running.enter_context(self._proxy)
            self._link = running.enter_context(LinkEmulator(("127.0.0.1", port), *self._rates))
            if self._outages is not None:
                cutting = threading.Thread(
                    target=self._cut_often, args=(self._link, self._outages), name="midstream-outages", daemon=True
                )
                cutting.start()
                running.callback(cutting.join)
            running.callback(self._stop.set)
            self._running = running.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()

    @property
    def url(self) -> str:
        """Where clients find the broker, inside the ``with`` block."""
        return self._emulator.url

    @property
    def up(self) -> FaultCounts:
        """What was done to messages to the broker."""
        return self._proxy.up.counts

    @property
    def down(self) -> FaultCounts:
        """What was done to messages from the broker."""
        return self._proxy.down.counts

    def set(
        self,
        *,
        up: FaultMix | None = None,
        down: FaultMix | None = None,
        uplink_kbps: float | EllipsisType | None = ...,
        downlink_kbps: float | EllipsisType | None = ...,
        rtt_ms: float | EllipsisType = ...,
    ) -> None:
        """Change the link from now on; what is not named stays. Raises InputError."""
        self._proxy.up.mix = up or self._proxy.up.mix
        self._proxy.down.mix = down or self._proxy.down.mix
        self._emulator.set(uplink_kbps=uplink_kbps, downlink_kbps=downlink_kbps, rtt_ms=rtt_ms)

    def cut(self) -> None:
        """Let nothing through."""
        self.cuts += 1
        self._emulator.cut()

    def restore(self) -> None:
        """End a `cut`."""
        self._emulator.restore()

    @property
    def _emulator(self) -> LinkEmulator:
        if self._link is None:
            raise InputError("a faulty link is there inside its with block only")
        return self._link

    def _cut_often(self, link: LinkEmulator, outages: Outages) -> None:
        while not self._stop.wait(outages.every_s - outages.length_s):
            self.cut()
            self._stop.wait(outages.length_s)
            link.restore()


class _Proxy:
    """A relay on loopback that reads the packets of both directions. ``with`` gives its port."""

    def __init__(self, target: tuple[str, int], up: Dice, down: Dice) -> None:
        self._target = target
        self.up, self.down = up, down
        self._ready = threading.Event()
        self._port = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="midstream-faults", daemon=True)

    def __enter__(self) -> int:
        self._thread.start()
        self._ready.wait()
        return self._port

    def __exit__(self, *_: object) -> None:
        if self._loop is not None and self._stop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        carried: set[asyncio.Task[None]] = set()

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.create_task(self._carry(reader, writer))
            carried.add(task)
            task.add_done_callback(carried.discard)

        server = await asyncio.start_server(accept, "127.0.0.1", 0, limit=_READ_BYTES)
        self._port = int(server.sockets[0].getsockname()[1])
        self._ready.set()
        await self._stop.wait()
        server.close()
        for task in list(carried):
            task.cancel()
        await asyncio.gather(*carried, return_exceptions=True)

    async def _carry(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        """One connection, until one end closes it; a close is passed on at once, as a lost link would show it."""
        to_broker: asyncio.StreamWriter | None = None
        try:
            broker, to_broker = await asyncio.open_connection(*self._target, limit=_READ_BYTES)
            up = asyncio.create_task(_relay(client, to_broker, to_client, Scrambler(self.up)))
            down = asyncio.create_task(_relay(broker, to_client, to_broker, Scrambler(self.down)))
            try:
                await asyncio.wait((up, down), return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in (up, down):
                    task.cancel()
                await asyncio.gather(up, down, return_exceptions=True)
        except OSError:
            pass  # the broker is not there: neither is the connection
        finally:
            for writer in (to_client, to_broker):
                if writer is not None:
                    writer.close()


async def _relay(
    source: asyncio.StreamReader, sink: asyncio.StreamWriter, back: asyncio.StreamWriter, scrambler: Scrambler
) -> None:
    """One direction, until its sender closes. Raises OSError and ValueError where the connection is of no more use."""
    packets = Packets()
    while True:
        try:
            async with asyncio.timeout(_HOLD_S if scrambler.holds else None):
                data = await source.read(_READ_BYTES)
        except TimeoutError:
            sink.writelines(scrambler.release())
            continue
        if not data:
            return
        for packet in packets.feed(data):
            passed = scrambler.passed(packet)
            sink.writelines(passed.onward)
            if passed.answer:
                back.write(passed.answer)
        await sink.drain()
