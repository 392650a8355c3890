"""What mosquitto is told: its configuration and who may do what, as files in one folder.

The same text runs as a child of ``midstream broker --secure`` and as a system's service, from another folder.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from midstream.communication.credentials import AUTHORITY_FILE, CERTIFICATE_FILE, KEY_FILE
from midstream.communication.roles import Rights
from midstream.errors import InputError

CONFIGURATION_FILE: Final = "mosquitto.conf"
SECURITY_FILE: Final = "dynamic-security.json"
# Where a service's configuration lies; docs/security.md says how it comes there.
INSTALLED_FOLDER: Final = "/etc/mosquitto/midstream"

SECURE_PORT: Final = 8883
MAX_PACKET_BYTES: Final = 2 << 20


@dataclass(frozen=True, slots=True)
class Listener:
    """A port that is listened on; ``address`` None is every address of the machine."""

    port: int
    address: str | None = None
    websockets: bool = False


def listeners(port: int, address: str | None, websockets: int | None) -> list[Listener]:
    """One for MQTT, and where ``websockets`` is a port, another one for them.

    Raises InputError for WebSockets at one IPv6 address: mosquitto 2.0 would let them in at all addresses.
    """
    if websockets is not None and address is not None and ":" in address:
        raise InputError(
            f"mosquitto cannot listen for WebSockets at {address} alone; take an IPv4 address, or a name: then it "
            "listens at all addresses"
        )
    ports = [(port, False)] if websockets is None else [(port, False), (websockets, True)]
    return [Listener(number, address, over_websockets) for number, over_websockets in ports]


def configuration(folder: str, listeners: Sequence[Listener]) -> str:
    """mosquitto.conf for these listeners, with its other files in this folder. Nobody gets in without a certificate."""
    return _COMMON.format(folder=folder) + "".join(_listener(listener, folder) for listener in listeners)


def installed_configuration(listeners: Sequence[Listener]) -> str:
    """The same for a service, with what an operator has to know to install it."""
    return _HEAD + configuration(INSTALLED_FOLDER, listeners)


def dynamic_security(rights: Mapping[str, Rights]) -> str:
    """The dynamic security plugin's file: to each client exactly these rights, one role a client, to others none.

    An access control list would not do: mosquitto 2.0 checks no subscription against one, so that any device could
    join a gateway's shared group and swallow its requests.
    """
    refused = {"publishClientSend": False, "publishClientReceive": False, "subscribe": False, "unsubscribe": True}
    body = {
        "defaultACLAccess": refused,
        "clients": [{"username": name, "roles": [{"rolename": name}]} for name in rights],
        "groups": [],
        "roles": [{"rolename": name, "acls": _acls(granted)} for name, granted in rights.items()],
    }
    return json.dumps(body, indent=1) + "\n"


def _acls(rights: Rights) -> list[dict[str, Any]]:
    kinds = {
        "publishClientSend": rights.publish,
        "publishClientReceive": rights.receive,
        "subscribeLiteral": rights.subscribe,
    }
    return [
        {"acltype": kind, "topic": topic, "priority": 0, "allow": True}
        for kind, topics in kinds.items()
        for topic in topics
    ]


def _listener(listener: Listener, folder: str) -> str:
    where = f"{listener.port}" if listener.address is None else f"{listener.port} {listener.address}"
    protocol = ""
    if listener.websockets:
        # Without socket_domain, mosquitto 2.0 forgets the address and lets WebSockets in everywhere.
        protocol = "protocol websockets\n" + ("" if listener.address is None else "socket_domain ipv4\n")
    return f"\nlistener {where}\n{protocol}" + _TLS.format(folder=folder)


_HEAD: Final = f"""\
# A broker for midstream: mosquitto 2.0 or later, for clients with certificates only. `midstream broker --secure DIR`
# makes it, the files it names, and each client's credentials; docs/security.md explains it. To install it:
#
#   sudo rm -rf {INSTALLED_FOLDER} && sudo cp -r DIR/broker {INSTALLED_FOLDER}
#   sudo chown -R mosquitto: {INSTALLED_FOLDER} && sudo chmod 700 {INSTALLED_FOLDER}
#   sudo ln -sf {INSTALLED_FOLDER}/{CONFIGURATION_FILE} /etc/mosquitto/conf.d/midstream.conf
#   sudo systemctl restart mosquitto

"""

_COMMON: Final = f"""\
per_listener_settings false
allow_anonymous false

# Who may publish and subscribe to what. What is not written there is refused.
plugin mosquitto_dynamic_security.so
plugin_opt_config_file {{folder}}/{SECURITY_FILE}

# Without this a message waits up to 40 ms for the acknowledgement of the one before.
set_tcp_nodelay true

# midstream sends chunks of at most 256 KiB, and never more than 1.5 MB in one message.
max_packet_size {MAX_PACKET_BYTES}
# What may wait for a client that does not keep up; the rest is dropped, and its sender asks again.
max_queued_messages 1000
max_queued_bytes 16777216
max_inflight_messages 64
# A client that goes silent is given up, and its will published, after at most 1.5 times this many seconds.
max_keepalive 60

# A request is worth nothing after its deadline: nothing is written to the SD card.
persistence false
sys_interval 0

log_dest stderr
log_type error
log_type warning
connection_messages false
"""

_TLS: Final = f"""\
# TLS 1.2 or later. The certificate that the client shows says who it is.
tls_version tlsv1.2
cafile {{folder}}/{AUTHORITY_FILE}
certfile {{folder}}/{CERTIFICATE_FILE}
keyfile {{folder}}/{KEY_FILE}
require_certificate true
use_identity_as_username true
"""
