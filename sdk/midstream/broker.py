"""A broker of one's own: mosquitto, or rumqttd from the iotcore package, as a child process.

Without accounts it only ever listens on a loopback address; with a `SecureFolder` everyone who gets in has a
certificate, and it listens where it is told to. It ends with the ``with`` block, and with the process
that started it, however that process ends.
"""

from __future__ import annotations

import errno
import importlib.util
import ipaddress
import os
import shutil
import socket
import ssl
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from midstream.child import Child
from midstream.errors import InputError, MidstreamError, MissingExtraError
from midstream.securing import SecureFolder
from midstream.securing.configuration import CONFIGURATION_FILE, MAX_PACKET_BYTES, listeners

BrokerKind = Literal["mosquitto", "iotcore"]

READY_S = 10.0
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
    """What to run, with the last of these files, its configuration, as the last argument, and as whom."""

    program: tuple[str, ...]
    files: Mapping[str, bytes]
    config: str
    user: str | None = None


class Broker:
    """An MQTT 5 broker for this machine's own programs, running as long as the ``with`` block.

    ``port`` 0 takes a free one. ``kind`` "auto" takes mosquitto where it is installed, and otherwise the iotcore
    package. ``host`` must be a loopback address, unless the broker is ``secure``: then it is mosquitto, speaks TLS
    only, and ``host`` may be any address, or None for all of them. ``websockets`` is a second port of a secure one.

    Entering raises MidstreamError where the port is taken or the broker does not come up, MissingExtraError where
    there is neither broker, InputError for a host other than loopback.
    """

    def __init__(
        self,
        port: int = 0,
        kind: Literal["auto", "mosquitto", "iotcore"] = "auto",
        host: str | None = "127.0.0.1",
        secure: SecureFolder | None = None,
        websockets: int | None = None,
    ) -> None:
        if secure is None and (host is None or not _is_loopback(host)):
            raise InputError(
                f"a broker without accounts cannot listen on {host or 'every address'!r}; "
                "leave the host at 127.0.0.1, or give everyone a certificate: midstream broker --secure DIR"
            )
        if secure is None and websockets is not None:
            raise InputError("only a secure broker has a port for WebSockets; see midstream broker --secure DIR")
        if secure is not None and kind == "iotcore":
            raise InputError("iotcore knows no certificates and no roles; a secure broker is mosquitto")
        for number in (port, websockets or 0):
            if not 0 <= number <= 65535:
                raise InputError(f"broker port {number} is not a port; take 1 to 65535, or 0 for a free one")
        if port == websockets:
            raise InputError(f"port {port} cannot be for MQTT and for WebSockets; take two ports")
        self._asked_kind: Literal["auto", "mosquitto", "iotcore"] = kind if secure is None else "mosquitto"
        self._host = host
        self._secure = secure
        self._websockets = websockets
        self._port = port
        self._kind: BrokerKind | None = None
        self._child: Child | None = None

    @property
    def port(self) -> int:
        """The port it listens on; 0 until it runs where none was asked for."""
        return self._port

    @property
    def url(self) -> str:
        """Such as ``mqtt://127.0.0.1:1883``, as reached from this machine."""
        return f"mqtt{'s' if self._secure else ''}://{_bracketed(self._own_host)}:{self._port}"

    @property
    def websockets_url(self) -> str | None:
        """The same for WebSockets, where there is a port for them."""
        return None if self._websockets is None else f"wss://{_bracketed(self._own_host)}:{self._websockets}"

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
            for number in (port, self._websockets):
                if number is not None:
                    _check_free(self._host, number)
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

    @property
    def _own_host(self) -> str:
        """Where it is reached from this machine."""
        return self._host or "127.0.0.1"

    def _launch(self, kind: BrokerKind, port: int) -> None:
        """Start it and wait until it answers; by then it has read its files, which are not kept."""
        with tempfile.TemporaryDirectory(prefix="midstream-broker-") as name:
            folder = Path(name)
            launch = self._prepare(kind, port, folder)
            for file, content in launch.files.items():
                (folder / file).touch(mode=0o600)
                (folder / file).write_bytes(content)
            if launch.user is not None:
                for path in (folder, *folder.iterdir()):
                    shutil.chown(path, launch.user)
            command = [*launch.program, str(folder / launch.config)]
            self._child = Child(command, environ=_MALLOC, user=launch.user)
            self._child.start()
            for number in (port, self._websockets):
                if number is not None:
                    _wait_until_ready(self._child, kind, self._own_host, number, self._answers)

    def _prepare(self, kind: BrokerKind, port: int, folder: Path) -> _Launch:
        if self._secure is None:
            assert self._host is not None
            return (_mosquitto if kind == "mosquitto" else _iotcore)(self._host, port)
        files = self._secure.broker_files(str(folder), listeners(port, self._host, self._websockets))
        return _Launch(_mosquitto_program(), files, CONFIGURATION_FILE, _unprivileged_user())

    def _answers(self, host: str, port: int) -> bool:
        return _answers(host, port) if self._secure is None else _answers_securely(host, port, self._secure.authority)


def _choose(asked: Literal["auto", "mosquitto", "iotcore"]) -> BrokerKind:
    has_mosquitto, has_iotcore = _find_mosquitto() is not None, importlib.util.find_spec("iotcore") is not None
    if asked == "mosquitto" and not has_mosquitto:
        raise MidstreamError(
            "no mosquitto on PATH or in /usr/sbin; install it: apt install mosquitto. Without accounts kind 'iotcore' "
            "will do; a secure broker is always mosquitto"
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


def _mosquitto_program() -> tuple[str, ...]:
    return (_find_mosquitto() or "mosquitto", "-c")


def _mosquitto(host: str, port: int) -> _Launch:
    text = _MOSQUITTO_CONFIG.format(host=host, port=port)
    files = {CONFIGURATION_FILE: text.encode()}
    return _Launch(_mosquitto_program(), files, CONFIGURATION_FILE, _unprivileged_user())


def _iotcore(host: str, port: int) -> _Launch:
    text = _IOTCORE_CONFIG.format(listen=f"{_bracketed(host)}:{port}")
    program = (sys.executable, "-P", "-m", "iotcore", "--log-level", "CRITICAL", "--config")
    return _Launch(program, {"rumqttd.toml": text.encode()}, "rumqttd.toml")


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


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


def _wait_until_ready(
    child: Child, kind: BrokerKind, host: str, port: int, answers: Callable[[str, int], bool]
) -> None:
    who = f"{kind} on {host}:{port}"
    deadline = time.monotonic() + READY_S
    while not answers(host, port):
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


def _answers_securely(host: str, port: int, authority: Path) -> bool:
    """Whether someone there has a certificate of this authority; what it would say without ours is not waited for."""
    context = ssl.create_default_context(cafile=authority)
    try:
        with socket.create_connection((host, port), timeout=1.0) as connection:
            context.wrap_socket(connection, server_hostname=host).close()
    except OSError:
        return False
    return True


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _bind(host: str | None, port: int) -> int:
    """The port a socket bound to this one gets; raises OSError where it is taken."""
    family = socket.AF_INET6 if host is not None and ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host or "", port))
        return int(probe.getsockname()[1])


def _free_port(host: str | None) -> int:
    return _bind(host, 0)


def _check_free(host: str | None, port: int) -> None:
    try:
        _bind(host, port)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            reason = "it is in use; a broker may run there already: use it, stop it, or take another port (0: any)"
        else:
            reason = f"{error.strerror}; take another port (0: any)"
        raise MidstreamError(
            f"a broker cannot listen on {host or 'port'}{':' if host else ' '}{port}: {reason}"
        ) from None
