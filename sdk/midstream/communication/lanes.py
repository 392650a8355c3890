"""Two connections to a broker: one for what is large, and one for what must not wait behind it.

MQTT over TCP is a queue: a message that has begun keeps all later ones of its connection waiting. So critical requests,
their replies and control messages have a second connection, and share the link with the first as TCP does.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Final

from midstream.communication.address import BrokerAddress
from midstream.communication.transport import Message, MqttTransport
from midstream.communication.wire import Priority

logger = logging.getLogger("midstream.transport")

# One connection ends the other where it does so within this time, and so often.
_CLASH_S: Final = 1.0
_CLASHES: Final = 3


class Lanes:
    """A transport of two connections, with the methods of one; `MqttTransport` says what they do.

    What is published as critical goes out on the second connection where there is one, else first on the main one, on
    which everything else goes. What is subscribed to as urgent comes on the second, and on the main one while there is
    no second: for a moment it may come on both, or on none. The state is the main one's, which has the will;
    ``on_urgent_lost`` is called where the second ends. ``on_message`` is called for one message at a time. `close` must
    not be called from a callback.
    """

    def __init__(
        self,
        broker: str | BrokerAddress,
        client_id: str,
        *,
        will: tuple[str, bytes] | None = None,
        on_message: Callable[[Message], None],
        on_state: Callable[[bool], None],
        on_urgent_lost: Callable[[], None] | None = None,
    ) -> None:
        self._one_at_a_time = threading.Lock()
        self._on_message = on_message
        self._on_urgent_lost = on_urgent_lost
        self._urgent_filters: dict[str, int] = {}
        self._on_state = on_state
        self._clashes_lock = threading.Lock()
        self._clashes = 0
        self._began: dict[MqttTransport, float] = {}
        self.main = MqttTransport(broker, client_id, will=will, on_message=self._receive, on_state=self._on_main_state)
        self.urgent = MqttTransport(
            broker, f"{client_id}-urgent", on_message=self._receive, on_state=self._on_urgent_state
        )

    def __enter__(self) -> Lanes:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def connected(self) -> bool:
        """Whether the main connection stands."""
        return self.main.connected

    @property
    def last_error(self) -> str | None:
        """Why there is no main connection, or what the broker refused on it."""
        return self.main.last_error

    @property
    def given_up(self) -> bool:
        """Whether the broker refused for good."""
        return self.main.given_up

    @property
    def shares_subscriptions(self) -> bool:
        """Whether the broker, as far as it has said, hands each message on a shared subscription to one subscriber."""
        return self.main.shares_subscriptions

    def start(self, wait_s: float = 0.0, required: bool = False) -> None:
        """Begin to connect; wait for the main connection as `MqttTransport.start` does."""
        self.urgent.start()
        try:
            self.main.start(wait_s, required)
        except BaseException:
            self.close()
            raise

    def subscribe(self, topic_filter: str, qos: int = 1, *, urgent: bool = False) -> None:
        """Ask for these topics, on the second connection where they are urgent."""
        if urgent:
            self._urgent_filters[topic_filter] = qos
            self.urgent.subscribe(topic_filter, qos)
        if not urgent or not self.urgent.connected:
            self.main.subscribe(topic_filter, qos)

    def payload_limit(
        self,
        topic: str,
        *,
        correlation: bytes | None = None,
        response_topic: str | None = None,
        expiry_s: int | None = None,
    ) -> int:
        """How many bytes of payload `publish` takes; the broker takes as much on either."""
        return self.main.payload_limit(topic, correlation=correlation, response_topic=response_topic, expiry_s=expiry_s)

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
        """Hand a message to the connection of its class; False where there is none, or too much waits already."""
        urgent = priority is Priority.CRITICAL and self.urgent.connected
        return self.lane(urgent).publish(
            topic,
            payload,
            qos=qos,
            retain=retain,
            correlation=correlation,
            response_topic=response_topic,
            expiry_s=expiry_s,
            on_ack=on_ack,
            priority=priority,
        )

    def withdraw(self, correlation: bytes) -> None:
        """Take back what was published with this correlation data and was not sent yet."""
        self.main.withdraw(correlation)
        self.urgent.withdraw(correlation)

    def attended(self, urgent: bool = False) -> AbstractContextManager[Callable[[Callable[[], bool], float], bool]]:
        """Leave it to the caller's thread to read one of them."""
        return self.lane(urgent).attended()

    def rouse(self) -> None:
        """Have whoever attends look whether it is done."""
        self.main.rouse()
        self.urgent.rouse()

    def close(self, last: tuple[str, bytes] | None = None) -> None:
        """Close both; ``last`` is the main one's."""
        self.main.close(last)
        self.urgent.close()

    def lane(self, urgent: bool) -> MqttTransport:
        """One of the two."""
        return self.urgent if urgent else self.main

    def _receive(self, message: Message) -> None:
        with self._one_at_a_time:
            self._on_message(message)

    def _on_main_state(self, connected: bool) -> None:
        self._look_for_clashes(connected, self.main, self.urgent)
        self._on_state(connected)

    def _look_for_clashes(self, connected: bool, changed: MqttTransport, other: MqttTransport) -> None:
        """Do without the second connection where each one ends the other, as the broker lets an account have one only.

        Not every broker says so: it shows in that one ends as soon as the other has begun, again and again.
        """
        now = time.monotonic()
        with self._clashes_lock:
            if connected:
                self._began[changed] = now
                return
            self._clashes += now - self._began.get(other, -math.inf) < _CLASH_S
            if self._clashes != _CLASHES:
                return
            self._clashes += 1
        logger.warning(
            "%r has one connection only, as the broker ends one for the other: critical requests may wait for large "
            "ones; let it take two for each account (mosquitto: no use_username_as_clientid)",
            self.main,
        )
        # Not on a connection's thread, which it waits for.
        threading.Thread(target=self._have_one, name="midstream-one-lane", daemon=True).start()

    def _have_one(self) -> None:
        self.urgent.close()
        self._on_urgent_state(False)

    def _on_urgent_state(self, connected: bool) -> None:
        self._look_for_clashes(connected, self.urgent, self.main)
        for topic_filter, qos in list(self._urgent_filters.items()):
            if connected:
                self.main.unsubscribe(topic_filter)
            else:
                self.main.subscribe(topic_filter, qos)
        if not connected and self._on_urgent_lost is not None:
            self._on_urgent_lost()
