from __future__ import annotations

import socket
import ssl

import pytest

from midstream.communication.address import (
    PASSWORD_VARIABLE,
    USERNAME_VARIABLE,
    BrokerAddress,
    denied,
    parse_broker_url,
    refused,
    silent,
    turned_away,
    unreachable,
)
from midstream.errors import InputError

HOME = BrokerAddress("mqtt", "broker.home", 1883)


@pytest.mark.parametrize(
    ("url", "scheme", "host", "port", "path"),
    [
        ("mqtt://broker.home", "mqtt", "broker.home", 1883, ""),
        ("mqtt://broker.home:1884/", "mqtt", "broker.home", 1884, ""),
        ("mqtts://10.0.0.1", "mqtts", "10.0.0.1", 8883, ""),
        ("ws://broker.home", "ws", "broker.home", 80, "/mqtt"),
        ("wss://broker.home/bus", "wss", "broker.home", 443, "/bus"),
        ("mqtt://[::1]:1885", "mqtt", "::1", 1885, ""),
    ],
)
def test_a_url_names_scheme_host_port_and_path(url: str, scheme: str, host: str, port: int, path: str) -> None:
    assert parse_broker_url(url, {}) == BrokerAddress(scheme, host, port, path)


def test_tls_and_websocket_follow_from_the_scheme() -> None:
    found = {s: parse_broker_url(f"{s}://h", {}) for s in ("mqtt", "mqtts", "ws", "wss")}
    assert {s for s, address in found.items() if address.tls} == {"mqtts", "wss"}
    assert {s for s, address in found.items() if address.websocket} == {"ws", "wss"}


def test_an_ipv6_address_is_shown_in_brackets() -> None:
    assert str(parse_broker_url("mqtt://[fe80::1]", {})) == "[fe80::1]:1883"


def test_credentials_are_percent_decoded() -> None:
    address = parse_broker_url("mqtt://kitchen%40home:p%2Fw%3A@h", {})
    assert (address.username, address.password) == ("kitchen@home", "p/w:")


def test_the_environment_gives_credentials_where_the_url_has_none() -> None:
    environment = {USERNAME_VARIABLE: "kitchen", PASSWORD_VARIABLE: "pw"}
    from_environment = parse_broker_url("mqtt://h", environment)
    from_url = parse_broker_url("mqtt://attic@h", environment)
    assert (from_environment.username, from_environment.password) == ("kitchen", "pw")
    assert (from_url.username, from_url.password) == ("attic", None)


def test_empty_variables_are_no_credentials() -> None:
    address = parse_broker_url("mqtt://h", {USERNAME_VARIABLE: "", PASSWORD_VARIABLE: ""})
    assert (address.username, address.password) == (None, None)


def test_neither_text_nor_repr_shows_the_credentials() -> None:
    address = parse_broker_url("mqtt://kitchen:hunter2@h", {})
    assert "hunter2" not in f"{address} {address!r}"
    assert "kitchen" not in f"{address} {address!r}"


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("http://h", "does not begin with mqtt://"),
        ("h:1883", "does not begin with mqtt://"),
        ("kitchen:hunter2@h:1883", "does not begin with mqtt://"),
        ("", "does not begin with mqtt://"),
        ("mqtt://", "has no host"),
        ("mqtt://kitchen:hunter2@", "has no host"),
        ("mqtt://h:0", "port 0"),
        ("mqtt://h:65536", "cannot be read"),
        ("mqtt://kitchen:hunter2@h:65536", "cannot be read"),
        ("mqtt://kitchen:hunter2/@h", "cannot be read"),
        ("mqtt://[::1", "cannot be read"),
        ("mqtt://h/topic", "something after the port"),
        ("mqtt://h?x=1", "something after the port"),
        ("mqtt://1:2#hunter2@h", "something after the port"),
    ],
)
def test_a_wrong_url_is_named_without_its_credentials(url: str, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint) as caught:
        parse_broker_url(url, {})
    assert "hunter2" not in str(caught.value)
    assert "kitchen" not in str(caught.value)
    assert "mqtt://host[:port]" in str(caught.value)


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (ConnectionRefusedError(), "midstream broker"),
        (TimeoutError(), "firewall"),
        (socket.gaierror(-2, "Name or service not known"), "'broker.home' cannot be resolved"),
        (ssl.SSLError(1, "wrong version number"), "mqtt://"),
        (ssl.SSLCertVerificationError(1, "certificate verify failed"), "SSL_CERT_FILE"),
        (OSError(113, "No route to host"), "No route to host"),
    ],
)
def test_each_failure_to_connect_says_what_to_do_and_is_tried_again(error: Exception, advice: str) -> None:
    if isinstance(error, ssl.SSLCertVerificationError):
        error.verify_message = "self-signed certificate"
    refusal = unreachable(HOME, error)
    assert advice in refusal.message
    assert "broker.home" in refusal.message
    assert not refusal.permanent


def tls_error(reason: str) -> ssl.SSLError:
    error = ssl.SSLError(1, reason)
    error.reason = reason
    return error


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (10, "--renew"),
        (9, "clock is behind"),
        (62, "--host broker.home"),
        (64, "--host broker.home"),
        (19, "an authority unknown here"),
        (20, "ca.pem"),
    ],
)
def test_a_certificate_that_does_not_verify_is_tried_again(code: int, words: str) -> None:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_code, error.verify_message = code, "as OpenSSL says"
    refusal = unreachable(BrokerAddress("mqtts", "broker.home", 8883), error)
    assert words in refusal.message
    assert not refusal.permanent


@pytest.mark.parametrize(
    ("reason", "words", "permanent"),
    [
        ("TLSV13_ALERT_CERTIFICATE_REQUIRED", "wants a client certificate", True),
        ("TLSV1_ALERT_UNKNOWN_CA", "another authority", True),
        ("SSLV3_ALERT_CERTIFICATE_EXPIRED", "has expired", False),
    ],
)
def test_a_refused_certificate_says_where_to_get_one(reason: str, words: str, permanent: bool) -> None:
    address = BrokerAddress("mqtts", "broker.home", 8883)
    refusal = turned_away(address, tls_error(reason))
    assert refusal is not None
    assert words in refusal.message
    assert "DIR/clients/NAME" in refusal.message
    assert refusal.permanent is permanent
    # Before the broker's certificate was verified, anyone on the way can say this.
    assert not unreachable(address, tls_error(reason)).permanent


def test_another_tls_error_is_no_refusal() -> None:
    assert turned_away(BrokerAddress("mqtts", "h", 1), tls_error("UNEXPECTED_EOF_WHILE_READING")) is None


def test_a_websocket_that_is_none_names_port_and_path() -> None:
    message = unreachable(BrokerAddress("ws", "h", 80, "/mqtt"), ConnectionError("WebSocket handshake error")).message
    assert "'/mqtt'" in message
    assert "wss://" in message


@pytest.mark.parametrize(
    ("code", "words", "permanent"),
    [
        (0x84, "speaks only MQTT 3.1.1", True),
        (0x86, "wants credentials", True),
        (0x87, USERNAME_VARIABLE, True),
        (0x85, "client identifier", True),
        (0x8E, "client id", False),
        (0x88, "server unavailable", False),
    ],
)
def test_a_reason_code_says_what_to_do(code: int, words: str, permanent: bool) -> None:
    names = {0x85: "Client identifier not valid", 0x88: "Server unavailable"}
    refusal = refused(HOME, code, names.get(code, "Not authorized"))
    assert words in refusal.message
    assert refusal.permanent is permanent


def test_credentials_that_were_given_are_refused_rather_than_wanted() -> None:
    with_name = BrokerAddress("mqtt", "h", 1, username="kitchen", password="hunter2")
    message = refused(with_name, 0x86, "Bad user name or password").message
    assert "refuses these credentials" in message
    assert "hunter2" not in message


def test_who_may_not_subscribe_is_told_where_rights_are_given() -> None:
    message = denied(HOME, "midstream/load/+", 0x87)
    assert message is not None
    assert "midstream/load/+" in message
    assert "docs/security.md" in message
    assert denied(HOME, "$share/g/t", 0x9E) is None


def test_only_a_plain_connection_may_want_tls() -> None:
    assert "mqtts://" in silent(HOME).message
    over_tls = silent(BrokerAddress("mqtts", "h", 8883)).message
    assert "TLS" not in over_tls
    assert "certificate" in over_tls
    assert "speaks only MQTT 3.1.1" in silent(HOME).message
