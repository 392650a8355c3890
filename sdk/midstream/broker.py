"""A broker of one's own: mosquitto, or rumqttd from the iotcore package, as a child process on loopback.

It has no accounts, so it only ever listens on a loopback address. It ends with the ``with`` block, and with the process
that started it, however that process ends.
"""

from __future__ import annotations

import errno
import importlib.util
import ipaddress
import os
import shutil
import socket
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from midstream.child import Child
from midstream.errors import InputError, MidstreamError, MissingExtraError

BrokerKind = Literal["mosquitto", "iotcore"]

READY_S = 10.0
MAX_PACKET_BYTES = 2 << 20

_POLL_S = 0.002
_WATCH_S = 0.1
_PORT_ATTEMPTS = 3

# The smallest MQTT 5 CONNECT: clean start, 5 s keepalive, no properties, a client id; then a DISCONNECT.
_CLIENT_ID = b"midstream-ready"
_CONNECT = b"\x00\x04MQTT\x05\x02\x00\x05\x00" + len(_CLIENT_ID).to_bytes(2, "big") + _CLIENT_ID
_HELLO = bytes([0x10, len(_CONNECT)]) + _CONNECT
_GOODBYE = b"\xe0\x00"
_CONNACK = 0x20

_MOSQUITTO_CONFIG = f"""\
per_listener_settings false
persistence false
log_dest stderr
log_type error
log_type warning
connection_messages false
set_tcp_nodelay true
max_packet_size {MAX_PACKET_BYTES}
max_queued_messages 1000
max_inflight_messages 64
sys_interval 0
listener {{port}} {{host}}
allow_anonymous true
"""

# Messages are kept in max_segment_count segments of max_segment_size bytes; without the limit memory only grows.
_IOTCORE_CONFIG = f"""\
id = 0

[router]
id = 0
max_connections = 1000
max_outgoing_packet_count = 200
max_segment_size = 4194304
max_segment_count = 2

[v5.1]
name = "midstream"
listen = "{{listen}}"
next_connection_delay_ms = 1

[v5.1.connections]
connection_timeout_ms = 5000
max_payload_size = {MAX_PACKET_BYTES}
max_inflight_count = 100
dynamic_filters = true
"""

# Above 800 kB glibc would map and fault every buffer anew: 6.2 ms instead of 1.9 ms a message.
_MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(256 << 20),
    "MALLOC_TOP_PAD_": str(16 << 20),
}


@dataclass(frozen=True, slots=True)
class _Launch:
    """What to run, its configuration file (the last argument) and what that holds, and as whom."""

    program: tuple[str, ...]
    config: Path
    text: str
    user: str | None = None


class Broker:
    """An MQTT 5 broker for this machine's own programs, running as long as the ``with`` block.

    ``port`` 0 takes a free one. ``kind`` "auto" takes mosquitto where it is installed, and otherwise the iotcore
    package. ``host`` must be a loopback address.

    Entering raises MidstreamError where the port is taken or the broker does not come up, MissingExtraError where
    there is neither broker, InputError for a host other than loopback.
    """

    def __init__(
        self,
        port: int = 0,
        kind: Literal["auto", "mosquitto", "iotcore"] = "auto",
        host: str = "127.0.0.1",
    ) -> None:
        if not _is_loopback(host):
            raise InputError(
                f"a broker of one's own has no accounts and cannot listen on {host!r}; "
                "leave the host at 127.0.0.1, or set up mosquitto as examples/raspberry_pi/mosquitto.conf shows"
            )
        if not 0 <= port <= 65535:
            raise InputError(f"broker port {port} is not a port; take 1 to 65535, or 0 for a free one")
        self._asked_kind = kind
        self._host = host
        self._port = port
        self._kind: BrokerKind | None = None
        self._child: Child | None = None

    @property
    def port(self) -> int:
        """The port it listens on; 0 until it runs where none was asked for."""
        return self._port

    @property
    def url(self) -> str:
        """Such as ``mqtt://127.0.0.1:1883``."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"mqtt://{host}:{self._port}"

    @property
    def kind(self) -> BrokerKind | None:
        """Which broker it is; None before it was started."""
        return self._kind

    @property
    def pid(self) -> int | None:
        """The child's process id; None while none runs."""
        return self._child.pid if self._child is not None else None

    def __enter__(self) -> Broker:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        state = f"{self._kind} pid {self.pid}" if self.pid else "stopped"
        return f"<Broker {self.url} {state}>"

    def start(self) -> Broker:
        """Start it and return when it answers. A stopped broker starts again on the same port."""
        if self.pid is not None:
            return self
        self.stop()
        kind = _choose(self._asked_kind)
        for attempt in range(1, _PORT_ATTEMPTS + 1):
            port = self._port or _free_port(self._host)
            _check_free(self._host, port)
            try:
                self._launch(kind, port)
            except BaseException as error:
                self.stop()
                # Another process may have taken the free port between finding and using it.
                if self._port or attempt == _PORT_ATTEMPTS or not isinstance(error, MidstreamError):
                    raise
            else:
                self._port, self._kind = port, kind
                break
        return self

    def stop(self) -> None:
        """End the child. Safe to call twice."""
        child, self._child = self._child, None
        if child is not None:
            child.stop()

    def wait(self, stop: threading.Event) -> None:
        """Return once ``stop`` is set, or the broker was stopped.

        Raises MidstreamError, with the broker's last words, where it ends by itself before that.
        """
        while (child := self._child) is not None and not stop.wait(_WATCH_S):
            if child.pid is None and child is self._child:
                raise MidstreamError(f"{self._kind} at {self.url} has ended by itself: {child.last_words()}")

    def _launch(self, kind: BrokerKind, port: int) -> None:
        """Start it and wait until it answers; by then it has read its configuration, which is not kept."""
        prepare = _mosquitto if kind == "mosquitto" else _iotcore
        with tempfile.TemporaryDirectory(prefix="midstream-broker-") as name:
            launch = prepare(self._host, port, Path(name))
            launch.config.write_text(launch.text, encoding="utf-8")
            if launch.user is not None:
                for path in (Path(name), launch.config):
                    shutil.chown(path, launch.user)
            self._child = Child([*launch.program, str(launch.config)], environ=_MALLOC, user=launch.user)
            self._child.start()
            _wait_until_ready(self._child, kind, self._host, port)


def _choose(asked: Literal["auto", "mosquitto", "iotcore"]) -> BrokerKind:
    has_mosquitto, has_iotcore = _find_mosquitto() is not None, importlib.util.find_spec("iotcore") is not None
    if asked == "mosquitto" and not has_mosquitto:
        raise MidstreamError(
            "no mosquitto on PATH or in /usr/sbin; install it (apt install mosquitto), or take kind 'iotcore'"
        )
    if asked == "iotcore" and not has_iotcore:
        raise MissingExtraError("iotcore", "broker", "A broker of kind 'iotcore'")
    if asked == "auto" and not has_mosquitto and not has_iotcore:
        raise MissingExtraError(
            "iotcore", "broker", "A broker of one's own, where mosquitto is not installed (apt install mosquitto),"
        )
    if asked == "auto":
        return "mosquitto" if has_mosquitto else "iotcore"
    return asked


def _find_mosquitto() -> str | None:
    return shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")


def _mosquitto(host: str, port: int, folder: Path) -> _Launch:
    program = _find_mosquitto() or "mosquitto"
    text = _MOSQUITTO_CONFIG.format(host=host, port=port)
    return _Launch((program, "-c"), folder / "mosquitto.conf", text, _unprivileged_user())


def _iotcore(host: str, port: int, folder: Path) -> _Launch:
    listen = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    program = (sys.executable, "-P", "-m", "iotcore", "--log-level", "CRITICAL", "--config")
    return _Launch(program, folder / "rumqttd.toml", _IOTCORE_CONFIG.format(listen=listen))


def _unprivileged_user() -> str | None:
    """Whom to start mosquitto as, where this process is root.

    It would change user by itself, but the kernel forgets the parent-death signal when it does.
    """
    if os.name != "posix" or os.geteuid() != 0:
        return None
    import grp
    import pwd

    try:
        pwd.getpwnam("mosquitto")
        grp.getgrnam("mosquitto")
    except KeyError:
        return None
    return "mosquitto"


def _wait_until_ready(child: Child, kind: BrokerKind, host: str, port: int) -> None:
    who = f"{kind} on {host}:{port}"
    deadline = time.monotonic() + READY_S
    while not _answers(host, port):
        if child.wait(_POLL_S):
            raise MidstreamError(f"{who} ended while starting: {child.last_words()}")
        if time.monotonic() > deadline:
            raise MidstreamError(f"{who} did not answer within {READY_S:g} s: {child.last_words()}")
    if child.pid is None:
        raise MidstreamError(f"{who} could not start: another broker answers there")


def _answers(host: str, port: int) -> bool:
    """Whether an MQTT 5 broker there accepts a CONNECT."""
    try:
        with socket.create_connection((host, port), timeout=1.0) as connection:
            connection.sendall(_HELLO)
            answer = connection.recv(4)
            connection.sendall(_GOODBYE)
    except OSError:
        return False
    return len(answer) == 4 and answer[0] == _CONNACK and answer[3] == 0


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _bind(host: str, port: int) -> int:
    """The port a socket bound to this one gets; raises OSError where it is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))
        return int(probe.getsockname()[1])


def _free_port(host: str) -> int:
    return _bind(host, 0)


def _check_free(host: str, port: int) -> None:
    try:
        _bind(host, port)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            reason = "it is in use; a broker may run there already: use it, stop it, or take another port (0: any)"
        else:
            reason = f"{error.strerror}; take another port (0: any)"
        raise MidstreamError(f"a broker cannot listen on {host}:{port}: {reason}") from None
