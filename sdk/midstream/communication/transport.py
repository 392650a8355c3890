"""The MQTT 5 transport: a connection to a broker that a thread of its own keeps up.

It is made for latency: who publishes writes to the socket itself where nobody else does just then, who waits for an
answer may read it there itself (`attend`), everything that is due is written in one go, and nothing waits for Nagle or
a delayed acknowledgement. What was in flight when a connection broke is lost: whoever sent it has a deadline and sends
again.
"""

from __future__ import annotations

import contextlib
import logging
import random
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final

from midstream.allocator import tune_allocator
from midstream.communication.address import BrokerAddress, Refusal, parse_broker_url, silent, unreachable
from midstream.communication.chunks import CHUNK_BYTES
from midstream.communication.mqtt import MAX_PACKET_BYTES, Message
from midstream.communication.outbox import Outbox, Publish, Subscribe, Unsubscribe, pack_properties
from midstream.communication.session import Session
from midstream.communication.streams import CONNECT_TIMEOUT_S
from midstream.communication.waiting import Waiter
from midstream.communication.wire import Priority
from midstream.errors import PeerError

__all__ = ["BrokerAddress", "Message", "MqttTransport", "parse_broker_url"]

logger = logging.getLogger("midstream.transport")

MAX_PAYLOAD_BYTES: Final = 1_500_000
# What may wait to be sent: one message of the largest kind.
MAX_OUTBOX_BYTES: Final = 64 << 20
# What of it the broker has yet to acknowledge, unless the owner knows better: what is out cannot be taken back.
IN_FLIGHT_BYTES: Final = 2 * CHUNK_BYTES
FLUSH_S: Final = 2.0
FIRST_DELAY_S: Final = 0.1
LONGEST_DELAY_S: Final = 2.0

_STEADY_S: Final = 5.0
_IDLE_MS: Final = 1000

# Of a PUBLISH packet: its type and length, its topic's length, its id, and the length of its properties.
_FIXED_BYTES: Final = 1 + 4 + 2 + 2 + 1


class MqttTransport:
    """A connection to a broker that comes back by itself.

    ``will`` is a topic and a payload that the broker publishes, retained, when this client vanishes. ``on_message``
    and ``on_state`` (True: connected, False: no longer) are called on one thread at a time, the transport's own or one
    that attends: they must not block, may publish, and what they raise is logged. None is called once `close` has
    begun. ``in_flight_bytes``, which may be changed at any time, is how much the broker has yet to acknowledge when
    more has to wait.

    ``broker`` is its URL, or that with credentials, read by `parse_broker_url`. Where the broker has accounts, the
    client id that it sees ends in a random part: whoever knew another client's id could take its place.

    Raises InputError where the URL is wrong, ValueError for a wildcard in the will's topic. Thread-safe.
    """

    def __init__(
        self,
        broker: str | BrokerAddress,
        client_id: str,
        *,
        will: tuple[str, bytes] | None = None,
        keepalive_s: int = 5,
        on_message: Callable[[Message], None],
        on_state: Callable[[bool], None],
    ) -> None:
        if will is not None:
            _checked_topic(will[0], 1)
        self._address = broker if isinstance(broker, BrokerAddress) else parse_broker_url(broker)
        self._name = client_id
        self._client_id = f"{client_id}-{secrets.token_hex(8)}" if self._address.has_account else client_id
        self._will = will
        self._keepalive_s = keepalive_s
        self._on_message = on_message
        self._on_state = on_state
        self.in_flight_bytes = IN_FLIGHT_BYTES
        self._outbox = Outbox(MAX_OUTBOX_BYTES)
        self._changed = threading.Condition()
        # Guarded by _changed.
        self._filters: dict[str, int] = {}
        self._online = False
        self._given_up = False
        self._last_error: str | None = None
        self._packet_limit = MAX_PACKET_BYTES
        self._shares_subscriptions = True
        # Whose turn it is may use what is guarded by it: the session, and the waiters of the loop and of who attends.
        self._turn = _Turn()
        self._session: Session | None = None
        self._loop_waiter: Waiter | None = None
        self._attending_waiter: Waiter | None = None
        # Held by who attends, and while it is about to read.
        self._attending = threading.Lock()
        self._reading = threading.Lock()
        # Set once.
        self._thread: threading.Thread | None = None
        self._waker: socket.socket | None = None
        self._rouser: socket.socket | None = None
        self._close_by_s: float | None = None

    @property
    def connected(self) -> bool:
        """Whether the broker has accepted this connection and it still stands."""
        return self._online

    @property
    def last_error(self) -> str | None:
        """Why there is no connection, or what the broker refused on it; None where all is well."""
        return self._last_error

    @property
    def given_up(self) -> bool:
        """Whether the broker refused for good, so that it no longer tries."""
        return self._given_up

    @property
    def shares_subscriptions(self) -> bool:
        """Whether the broker, as far as it has said, hands each message on a shared subscription to one subscriber."""
        return self._shares_subscriptions

    def __enter__(self) -> MqttTransport:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<MqttTransport {self._name!r} at {self._address} {'up' if self._online else 'down'}>"

    def start(self, wait_s: float = 0.0, required: bool = False) -> None:
        """Begin to connect, and go on trying for as long as it takes.

        Returns when connected, or after ``wait_s`` seconds. ``required`` raises PeerError instead, at once where the
        broker refused for good; with ``wait_s`` 0 it waits for the outcome of the first attempt. May be called again,
        to wait.
        """
        tune_allocator()
        one_attempt = required and wait_s == 0
        if one_attempt:
            wait_s = 2 * CONNECT_TIMEOUT_S
        with self._changed:
            if self._thread is None:
                pairs = socket.socketpair(), socket.socketpair()
                (wake, self._waker), (rouse, self._rouser) = pairs
                for end in (*pairs[0], *pairs[1]):
                    end.setblocking(False)
                self._thread = threading.Thread(
                    target=self._run, args=(wake, rouse), name=f"midstream-mqtt-{self._name}", daemon=True
                )
                self._thread.start()
            self._changed.wait_for(
                lambda: self._online or self._over or (one_attempt and self._last_error is not None), wait_s
            )
            online, why = self._online, self._last_error
        if required and not online:
            self.close()
            raise PeerError(why or f"the broker at {self._address} did not answer within {wait_s:g} s")

    def subscribe(self, topic_filter: str, qos: int = 1) -> None:
        """Ask for these topics now, and again after every reconnect.

        Raises ValueError for a filter that MQTT does not allow. A broker's refusal is logged.
        """
        levels = topic_filter.split("/")
        if not topic_filter or "#" in levels[:-1] or any(len(level) > 1 and set(level) & set("+#") for level in levels):
            raise ValueError(f"{topic_filter[:200]!r} is not a topic filter")
        with self._changed:
            self._filters[topic_filter] = qos
            if self._online:
                self._outbox.put(Subscribe(topic_filter, qos))
        self._wake()

    def unsubscribe(self, topic_filter: str) -> None:
        """Ask for these topics no longer."""
        with self._changed:
            if self._filters.pop(topic_filter, None) is not None and self._online:
                self._outbox.put(Unsubscribe(topic_filter))
        self._wake()

    def payload_limit(
        self,
        topic: str,
        *,
        correlation: bytes | None = None,
        response_topic: str | None = None,
        expiry_s: int | None = None,
    ) -> int:
        """How many bytes of payload `publish` takes to this topic, with these beside it, from this broker.

        Raises ValueError for a wildcard in the topic.
        """
        return self._limit(_checked_topic(topic, 1), pack_properties(correlation, response_topic, expiry_s))

    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int = 1,
        retain: bool = False,
        correlation: bytes | None = None,
        response_topic: str | None = None,
        expiry_s: int | None = None,
        on_ack: Callable[[float], None] | None = None,
        priority: Priority = Priority.NORMAL,
    ) -> bool:
        """Hand a message to the connection; never blocks. False where there is none, or too much waits for it already.

        What waits goes by ``priority``, and of one class in order; what was sent is not overtaken any more. After
        ``expiry_s`` seconds it is not sent any more; `withdraw` takes it back before. ``on_ack`` is called on the
        thread that reads the connection, with the milliseconds from here to the broker's PUBACK; never with QoS 0, or
        where the connection breaks first.

        Raises ValueError for a payload of more than 1,500,000 bytes or more than the broker takes, a wildcard in the
        topic, or QoS 2.
        """
        topic_bytes = _checked_topic(topic, qos)
        properties = pack_properties(correlation, response_topic, expiry_s)
        limit = self._limit(topic_bytes, properties)
        if len(payload) > limit:
            raise ValueError(
                f"payload for {topic!r} has {len(payload)} bytes; the broker at {self._address} is sent at most "
                f"{limit}: send it in chunks"
            )
        now_s = time.perf_counter()
        expires_s = None if expiry_s is None else now_s + expiry_s
        message = Publish(topic, payload, qos, retain, properties, on_ack, now_s, expires_s, correlation, priority)
        with self._changed:
            if not self._online or not self._outbox.put(message):
                return False
        if not self._send_here():
            self._wake()
        return True

    def withdraw(self, correlation: bytes) -> None:
        """Take back what was published with this correlation data and was not sent yet."""
        self._outbox.withdraw(correlation)

    @contextlib.contextmanager
    def attended(self) -> Iterator[Callable[[Callable[[], bool], float], bool]]:
        """Leave it to the caller's thread to read the connection, so that an answer needs no other thread.

        Yields a function that does so until ``done()``, or for some seconds; callbacks are called on this thread
        meanwhile. What came last is acknowledged with what is sent next, at the latest in a second: an answer is not to
        wait for that. It returns False, at once or later, where it is not possible: somebody else does it, there is no
        connection (any more), or the system cannot; then wait for the callbacks otherwise. `rouse` has it look anew.

        The connection is not read outside of the function: do not do much else in between.
        """
        loops: Waiter | None = None
        if self._turn.mine or not self._attending.acquire(blocking=False):
            yield lambda _done, _timeout_s: False
            return
        try:
            with self._turn:
                session, mine, loops = self._session, self._attending_waiter, self._loop_waiter
                if loops is not None and loops.mutable:
                    loops.mute(True)
            yield lambda done, timeout_s: self._attend(session, mine, done, timeout_s)
        finally:
            with self._turn:
                if loops is not None and loops is self._loop_waiter:
                    loops.mute(False)
                if session is not None and (self._outbox or session.has_buffered or not session.is_open):
                    self._wake(always=True)
            self._attending.release()

    def _attend(
        self, session: Session | None, waiter: Waiter | None, done: Callable[[], bool], timeout_s: float
    ) -> bool:
        if session is None or waiter is None or not waiter.mutable:
            return False
        until_s = time.monotonic() + timeout_s
        with self._reading, self._turn:
            while session.is_open and self._close_by_s is None:
                if done():
                    return True
                self._write(session)
                left_s = until_s - time.monotonic()
                if left_s <= 0:
                    return True
                waiter.want_write(session.wants_write)
                readable = session.has_buffered
                if not readable:
                    self._turn.release()
                    try:
                        readable = waiter.wait(min(left_s * 1000, _IDLE_MS))
                    finally:
                        self._turn.acquire()
                if readable:
                    self._read(session)
            if self._loop_waiter is not None:
                # While it closes, the transport's own thread waits for what is under way.
                self._loop_waiter.mute(False)
                self._wake(always=True)
        return False

    def rouse(self) -> None:
        """Have whoever attends look whether it is done."""
        if self._rouser is not None:
            with contextlib.suppress(OSError):
                self._rouser.send(b"\0")

    def close(self, last: tuple[str, bytes] | None = None) -> None:
        """Publish ``last`` (topic and payload, retained), wait up to 2 s for what is under way, and disconnect.

        The broker then does not publish the will. An attempt to connect that is under way is waited for: up to 5 s
        where nothing answers. Safe to call twice, and from a callback (which does not wait).
        """
        with self._changed:
            if self._close_by_s is None:
                if last is not None and self._online:
                    self._outbox.put(Publish(last[0], last[1], 1, True, b"", None, time.perf_counter()))
                self._close_by_s = time.monotonic() + FLUSH_S
            self._changed.notify_all()
        self._wake()
        self.rouse()
        if self._thread is not None and self._thread is not threading.current_thread() and not self._turn.mine:
            self._thread.join()

    @property
    def _over(self) -> bool:
        """Whether there will be no further connection."""
        return self._given_up or self._close_by_s is not None

    def _limit(self, topic_bytes: int, properties: bytes) -> int:
        return min(MAX_PAYLOAD_BYTES, self._packet_limit - _FIXED_BYTES - topic_bytes - len(properties))

    def _send_here(self) -> bool:
        """Send what is due on the caller's thread, where it is nobody's turn: waking the loop first takes 50 µs.

        False where the loop has to be woken, for what is left or because the connection ended.
        """
        if not self._turn.try_acquire():
            return False
        try:
            session = self._session
            if session is None or not session.is_open:
                return False
            self._write(session)
            return session.is_open and not (session.wants_write or session.has_buffered or self._outbox)
        finally:
            self._turn.release()

    def _wake(self, always: bool = False) -> None:
        """Have the loop look what is to be done; whoever has the turn sees it without that."""
        if self._waker is not None and (always or not self._turn.mine):
            with contextlib.suppress(OSError):
                self._waker.send(b"\0")

    def _call(self, callback: Callable[..., None], *arguments: object) -> None:
        """Callbacks are other people's code: what they raise must not end the loop."""
        if self._close_by_s is None:
            try:
                callback(*arguments)
            except Exception:  # whatever it is, the connection and the other callbacks go on
                logger.exception("callback %r of %r raised", callback, self)

    def _run(self, wake: socket.socket, rouse: socket.socket) -> None:
        delay_s = FIRST_DELAY_S
        accepted_before = False
        with contextlib.ExitStack() as stack:
            for end in (wake, rouse, self._waker, self._rouser):
                if end is not None:
                    stack.enter_context(end)
            while not self._over:
                began_s = time.monotonic()
                refusal, accepted = self._connect(wake, rouse)
                accepted_before |= accepted
                self._went_down(refusal, may_give_up=not accepted_before)
                if accepted and time.monotonic() - began_s > _STEADY_S:
                    delay_s = FIRST_DELAY_S
                self._pause(wake, delay_s * random.uniform(0.5, 1.0))  # noqa: S311 - not a secret
                delay_s = min(2 * delay_s, LONGEST_DELAY_S)

    def _connect(self, wake: socket.socket, rouse: socket.socket) -> tuple[Refusal, bool]:
        """One connection from beginning to end: why it ended, and whether the broker had accepted it."""
        session = Session(
            self._address,
            self._client_id,
            self._will,
            self._keepalive_s,
            receive=lambda message: self._receive(session, message),
        )
        try:
            session.connect()
            with Waiter(wake, session.fileno) as loops, Waiter(rouse, session.fileno) as attending, self._turn:
                self._session, self._loop_waiter, self._attending_waiter = session, loops, attending
                try:
                    self._serve(session, loops)
                finally:
                    self._session = self._loop_waiter = self._attending_waiter = None
                    session.end()
                    self._turn.release()
                    try:
                        with self._reading:  # whoever attends uses its waiter no longer
                            pass
                    finally:
                        self._turn.acquire()
        except Exception as error:  # whatever a broker causes: try again later
            logger.debug("connection to %s failed", self._address, exc_info=True)
            session.refusal = session.refusal or unreachable(self._address, error)
        finally:
            session.close()
        return session.refusal or silent(self._address), session.accepted

    def _serve(self, session: Session, waiter: Waiter) -> None:
        """Run one connection until it ends."""
        readable = False
        while session.is_open:
            if readable:
                self._read(session)
            if session.accepted and not self._online:
                self._went_up(session)
            self._write(session)
            if self._may_disconnect(session):
                session.disconnect()
            if not session.is_open:
                return
            waiter.want_write(session.wants_write)
            timeout_ms = 0 if session.has_buffered and not waiter.muted else self._timeout_ms()
            self._turn.release()
            try:
                readable = waiter.wait(timeout_ms)
            finally:
                self._turn.acquire()
            # What whoever attends waits for must not be taken from under it.
            readable = not waiter.muted and (readable or session.has_buffered)
            session.check_keepalive()

    def _read(self, session: Session) -> None:
        session.read()
        if session.denied is not None:
            with self._changed:
                self._last_error = session.denied
        for on_ack, ms in session.take_acks():
            self._call(on_ack, ms)

    def _write(self, session: Session) -> None:
        self._queue(session)
        while session.wants_write:
            session.write()
            if session.wants_write:
                return
            # What the session had no room for until now.
            self._queue(session)

    def _may_disconnect(self, session: Session) -> bool:
        if self._close_by_s is None:
            return False
        return (session.idle and not self._outbox) or time.monotonic() > self._close_by_s

    def _timeout_ms(self) -> float:
        return _IDLE_MS if self._close_by_s is None else max(0.0, (self._close_by_s - time.monotonic()) * 1000 + 1)

    def _queue(self, session: Session) -> None:
        while self._outbox and session.has_room and session.unacked_bytes < self.in_flight_bytes:
            if (item := self._outbox.take(time.perf_counter())) is not None:
                session.send(item)

    def _receive(self, session: Session, message: Message) -> None:
        self._call(self._on_message, message)
        # An answer goes out before the acknowledgement, which would cost the broker a turn of its own first.
        self._queue(session)

    def _went_up(self, session: Session) -> None:
        with self._changed:
            # Before anybody hears of the connection: what it asks for then finds the subscriptions there.
            for topic_filter, qos in self._filters.items():
                session.send(Subscribe(topic_filter, qos))
            session.write()
            self._packet_limit = session.packet_limit
            self._shares_subscriptions = session.shares_subscriptions
            self._last_error = None
            self._online = True
            self._changed.notify_all()
        logger.info("connected to the broker at %s", self._address)
        self._call(self._on_state, True)

    def _went_down(self, refusal: Refusal, may_give_up: bool) -> None:
        """Whoever waits for the first connection asks for `last_error`; nobody asks why a later one is lost."""
        with self._changed:
            was_online, self._online = self._online, False
            self._outbox.clear()
            news = refusal.message != self._last_error
            self._last_error = refusal.message
            self._given_up |= may_give_up and refusal.permanent
            self._changed.notify_all()
        if self._close_by_s is None:
            level = logging.DEBUG if not news else logging.INFO if may_give_up else logging.WARNING
            logger.log(level, "%s", refusal.message)
        if was_online:
            self._call(self._on_state, False)

    def _pause(self, wake: socket.socket, seconds: float) -> None:
        """Wait this long, or until there is nothing to wait for."""
        end_s = time.monotonic() + seconds
        with Waiter(wake) as waiter:
            while not self._over and (left_s := end_s - time.monotonic()) > 0:
                waiter.wait(left_s * 1000)


class _Turn:
    """A lock that knows whether it is held by the current thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._owner: int | None = None

    @property
    def mine(self) -> bool:
        """Whether the current thread holds it."""
        return self._owner == threading.get_ident()

    def try_acquire(self) -> bool:
        """Take it, where it is free."""
        if not self._lock.acquire(blocking=False):
            return False
        self._owner = threading.get_ident()
        return True

    def release(self) -> None:
        """Give it back."""
        self._owner = None
        self._lock.release()

    def acquire(self) -> None:
        """Wait for it."""
        self._lock.acquire()
        self._owner = threading.get_ident()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


def _checked_topic(topic: str, qos: int) -> int:
    """The topic's length in bytes; raises ValueError where nothing can be published there, or not with this QoS."""
    size = len(topic.encode())
    if not 0 < size <= 0xFFFF or any(c in topic for c in "+#\0") or qos not in (0, 1):
        raise ValueError(f"cannot publish to {topic[:200]!r} with QoS {qos}")
    return size
