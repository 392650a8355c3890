"""Attacks on a secure broker, by those who have a certificate and by those who have none."""

from __future__ import annotations

import datetime
import re
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from midstream.broker import Broker
from midstream.communication import topics
from midstream.communication.roles import Rights, rights
from midstream.communication.transport import MqttTransport, parse_broker_url
from midstream.errors import PeerError
from midstream.securing import SecureFolder, certificates
from midstream.securing.certificates import Pair

from .conftest import WAIT_S, Attacker

NOW = datetime.datetime.now(datetime.UTC)


@pytest.fixture
def as_client(secure_broker: Broker, secure_folder: SecureFolder) -> Callable[[str], Attacker]:
    return lambda name: Attacker(secure_broker, secure_folder.client(name))


def test_each_does_what_its_role_needs(as_client: Callable[[str], Attacker]) -> None:
    with as_client("a") as device, as_client("g") as gateway:
        assert device.subscribe(topics.presence_filter())
        assert device.subscribe(topics.reply_filter("a"))
        assert gateway.subscribe(topics.request_filter("g"))
        assert gateway.publish(topics.presence_topic("g"), b"here")
        assert device.received() == (topics.presence_topic("g"), b"here")
        assert device.publish(topics.request_topic("g", "a"), b"asked")
        assert gateway.received() == (topics.request_topic("g", "a"), b"asked")
        assert gateway.publish(topics.reply_topic("g", "a"), b"answered")
        assert device.received() == (topics.reply_topic("g", "a"), b"answered")
        assert device.publish(topics.probe_topic("a"))


@pytest.mark.parametrize(
    "topic",
    [
        topics.request_topic("g", "b"),
        topics.reply_topic("g", "a"),
        topics.reply_topic("g", "b"),
        topics.presence_topic("g"),
        topics.presence_topic("a"),
        topics.probe_topic("b"),
        topics.request_topic("g", "a") + "/more",
        topics.pool_request_topic("p", "b"),
        topics.forward_topic("g", "a", "a"),
        topics.peer_control_topic("g", "a"),
        topics.device_control_topic("b", "a"),
        topics.load_topic("a"),
        "home/b",
        "$CONTROL/dynamic-security/v1",
        "$SYS/broker/version",
    ],
)
def test_a_device_speaks_for_nobody_else(as_client: Callable[[str], Attacker], topic: str) -> None:
    with as_client("a") as device:
        assert not device.publish(topic)
        assert not device.publish(topic, retain=True)


@pytest.mark.parametrize(
    "topic_filter",
    [
        topics.reply_filter("b"),
        topics.reply_topic("g", "b"),
        topics.ROOT + "/dev/+/rep/+",
        topics.request_filter("g"),
        topics.request_topic("g", "b"),
        topics.probe_topic("b"),
        "#",
        "+/#",
        "midstream/#",
        topics.ROOT + "/+/+/+/+",
        "$SYS/#",
        "$CONTROL/#",
        "$share/gateways/" + topics.request_filter("g"),
        "$share/gateways/#",
        "$share/x/" + topics.reply_filter("b"),
        f"$share/pool/{topics.ROOT}/pool/p/req/+",
        *topics.pool_filters("p", "a secret that a device has not"),
        *topics.gateway_filters("g"),
    ],
)
def test_a_device_hears_nothing_of_others(as_client: Callable[[str], Attacker], topic_filter: str) -> None:
    with as_client("a") as device:
        assert not device.subscribe(topic_filter)


def test_only_its_members_share_a_pools_requests(
    as_client: Callable[[str], Attacker], secure_folder: SecureFolder
) -> None:
    """Who knows the group's name is let in no more than who does not."""
    shared, control = topics.pool_filters("p", secure_folder.secrets["p"])
    with as_client("a") as device, as_client("g") as member, as_client("h") as other:
        for client in (device, other):
            assert not client.subscribe(shared)
            assert not client.subscribe(control)
            assert not client.subscribe(shared.split("/", 2)[2])
        assert member.subscribe(shared)
        assert member.subscribe(control)
        assert device.publish(topics.pool_request_topic("p", "a"), b"asked")
        assert member.received() == (topics.pool_request_topic("p", "a"), b"asked")


def test_what_was_refused_is_not_delivered_either(as_client: Callable[[str], Attacker]) -> None:
    with as_client("a") as device, as_client("b") as other, as_client("g") as gateway:
        assert device.subscribe(topics.reply_filter("a"))
        for topic_filter in (topics.reply_filter("b"), "#", "$share/gateways/" + topics.request_filter("g")):
            assert not device.subscribe(topic_filter)
        assert gateway.subscribe(topics.request_filter("g"))
        for number in range(4):
            assert other.publish(topics.request_topic("g", "b"), bytes([number]))
            assert gateway.publish(topics.reply_topic("g", "b"))
        assert [gateway.received()[1] for _ in range(4)] == [bytes([number]) for number in range(4)]
        assert gateway.publish(topics.reply_topic("g", "a"), b"last")
        assert device.received() == (topics.reply_topic("g", "a"), b"last")
        assert device.heard_nothing()


@pytest.mark.parametrize("topic", [topics.reply_topic("other", "a"), topics.presence_topic("other"), "home/a"])
def test_a_gateway_speaks_for_no_other(as_client: Callable[[str], Attacker], topic: str) -> None:
    with as_client("g") as gateway:
        assert not gateway.publish(topic)


@pytest.mark.parametrize("topic_filter", [topics.request_filter("other"), topics.reply_filter("a"), "#"])
def test_a_gateway_hears_no_other(as_client: Callable[[str], Attacker], topic_filter: str) -> None:
    with as_client("g") as gateway:
        assert not gateway.subscribe(topic_filter)


def test_further_topics_are_those_in_the_roles_file(as_client: Callable[[str], Attacker]) -> None:
    with as_client("a") as device, as_client("b") as other:
        assert device.publish("home/a")
        assert not device.publish("home/b")
        assert not other.publish("home/a")


def test_a_will_is_no_way_around(
    secure_broker: Broker, secure_folder: SecureFolder, as_client: Callable[[str], Attacker]
) -> None:
    with as_client("b") as watcher:
        assert watcher.subscribe(topics.presence_filter())
        for name in ("a", "g"):
            will = {"topic": topics.presence_topic("g"), "payload": name.encode(), "qos": 1, "retain": True}
            folder = secure_folder.client(name)
            # A client that takes over another's id ends that one, and brings about its will.
            with (
                Attacker(secure_broker, folder, f"willing-{name}", **will) as ended,
                Attacker(secure_broker, folder, f"willing-{name}"),
            ):
                assert ended.gone.wait(WAIT_S)
        assert watcher.received() == (topics.presence_topic("g"), b"g")
        assert watcher.heard_nothing()


def test_a_client_id_of_another_cannot_be_guessed(secure_broker: Broker, secure_folder: SecureFolder) -> None:
    up: list[bool] = []
    address = parse_broker_url(secure_broker.url, {}, secure_folder.client("b"))
    with MqttTransport(address, "midstream-dev-b", on_message=lambda _m: None, on_state=up.append) as victim:
        victim.start(WAIT_S, required=True)
        with Attacker(secure_broker, secure_folder.client("a"), "midstream-dev-b") as thief:
            assert thief.greeting == "Success"
            assert thief.publish(topics.probe_topic("a"))
        assert up == [True]


def test_a_name_without_a_role_may_do_nothing(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    removed = SecureFolder.open(path, devices=["a", "b"]).client("a")
    with Broker(secure=SecureFolder.open(path, remove=["a"])) as broker, Attacker(broker, removed) as device:
        for topic_filter in (*rights("device", "a").subscribe, topics.reply_filter("b"), "#"):
            assert not device.subscribe(topic_filter)
        for topic in (topics.request_topic("g", "a"), topics.probe_topic("a"), "x"):
            assert not device.publish(topic)


def test_a_removed_client_says_once_that_it_has_no_role(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "folder"
    removed = SecureFolder.open(path, devices=["a"]).client("a")
    with Broker(secure=SecureFolder.open(path, remove=["a"])) as broker:
        address = parse_broker_url(broker.url, credentials=removed)
        transport = MqttTransport(address, "a", on_message=lambda _: None, on_state=lambda _: None)
        for topic_filter in rights("device", "a").subscribe:
            transport.subscribe(topic_filter)
        with caplog.at_level("WARNING", "midstream"), transport:
            end = time.monotonic() + WAIT_S
            while transport.last_error is None or not transport.connected:
                assert time.monotonic() < end
                time.sleep(0.01)
            transport.publish("x", b"")
            assert re.search(r"does not let this client subscribe.*was removed.*roles\.toml", transport.last_error)
    (said,) = [record.message for record in caplog.records]
    assert "subscribe" in said


def test_a_shared_group_is_for_its_members(tmp_path: Path) -> None:
    folder = SecureFolder.open(tmp_path / "folder", devices=["asker", "thief"], gateways=["one"])
    shared = "$share/pool/work/+"
    extra = {"asker": Rights(publish=("work/asker",)), "thief": Rights(), "one": Rights(subscribe=(shared,))}
    members = tuple(replace(member, extra=extra[member.name]) for member in folder.members)
    with (
        Broker(secure=replace(folder, members=members)) as broker,
        Attacker(broker, folder.client("one")) as one,
        Attacker(broker, folder.client("thief")) as thief,
        Attacker(broker, folder.client("asker")) as asker,
    ):
        assert one.subscribe(shared)
        for topic_filter in (shared, "$share/pool/work/asker", "$share/pool/#", "$share/other/work/+", "work/+"):
            assert not thief.subscribe(topic_filter)
        for topic_filter in ("$share/other/work/+", "work/+", "$share/pool/work/asker"):
            assert not one.subscribe(topic_filter)
        for number in range(6):
            assert asker.publish("work/asker", bytes([number]))
        assert [one.received()[1] for _ in range(6)] == [bytes([number]) for number in range(6)]


def test_plain_mqtt_gets_no_answer(secure_broker: Broker) -> None:
    with pytest.raises(PeerError, match="wants TLS on this port"):
        connect(f"mqtt://127.0.0.1:{secure_broker.port}", None)


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_tls_before_1_2_is_refused(secure_broker: Broker, secure_folder: SecureFolder) -> None:
    context = ssl.create_default_context(cafile=secure_folder.authority)
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    with (
        socket.create_connection(("127.0.0.1", secure_broker.port)) as plain,
        pytest.raises(ssl.SSLError, match=r"PROTOCOL_VERSION|protocol version|UNSUPPORTED_PROTOCOL"),
    ):
        context.wrap_socket(plain, server_hostname="127.0.0.1")


@pytest.mark.parametrize("kind", ["none", "foreign", "expired", "self-signed", "broker's own"])
@pytest.mark.parametrize("websockets", [False, True], ids=["mqtts", "wss"])
def test_only_a_valid_certificate_of_the_authority_lets_in(
    secure_broker: Broker, secure_folder: SecureFolder, tmp_path: Path, kind: str, websockets: bool
) -> None:
    folder = tmp_path / "credentials"
    folder.mkdir()
    (folder / "ca.pem").write_bytes(secure_folder.authority.read_bytes())
    if kind != "none":
        pair = certificate_of(kind, secure_folder)
        (folder / "cert.pem").write_bytes(pair.certificate)
        (folder / "key.pem").write_bytes(pair.key)
    url = secure_broker.websockets_url if websockets else secure_broker.url
    assert url is not None
    with pytest.raises(PeerError, match="certificate"):
        connect(url, folder)


def certificate_of(kind: str, secure: SecureFolder) -> Pair:
    if kind == "broker's own":
        own = secure.path / "broker"
        return Pair((own / "cert.pem").read_bytes(), (own / "key.pem").read_bytes())
    key = certificates.new_key()
    if kind == "expired":
        long_ago = NOW - datetime.timedelta(days=400)
        authority = secure.path / "authority"
        signer = Pair((authority / "cert.pem").read_bytes(), (authority / "key.pem").read_bytes())
        return Pair(certificates.client_certificate(signer, key, "a", long_ago, days=30), key)
    own_authority = Pair(certificates.authority_certificate(key, "midstream broker's authority", NOW), key)
    if kind == "self-signed":
        return own_authority
    client_key = certificates.new_key()
    return Pair(certificates.client_certificate(own_authority, client_key, "a", NOW), client_key)


def connect(url: str, credentials: Path | None) -> None:
    address = parse_broker_url(url, {}, credentials)
    with MqttTransport(address, "t", on_message=lambda _m: None, on_state=lambda _up: None) as transport:
        transport.start(required=True)
