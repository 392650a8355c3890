"""What mosquitto is told: roles as the plugin reads them, listeners."""

from __future__ import annotations

import json

import pytest

from midstream.communication.roles import Rights
from midstream.errors import InputError
from midstream.securing.configuration import Listener, configuration, dynamic_security, listeners


def test_each_client_has_its_own_role_and_nobody_else_any() -> None:
    body = json.loads(dynamic_security({"a": Rights(("up/a",), ("$share/g/down/+",)), "b": Rights()}))
    assert body["defaultACLAccess"] == {
        "publishClientSend": False,
        "publishClientReceive": False,
        "subscribe": False,
        "unsubscribe": True,
    }
    assert body["clients"] == [{"username": n, "roles": [{"rolename": n}]} for n in "ab"]
    assert [role["rolename"] for role in body["roles"]] == ["a", "b"]
    assert [(acl["acltype"], acl["topic"], acl["allow"]) for acl in body["roles"][0]["acls"]] == [
        ("publishClientSend", "up/a", True),
        ("publishClientReceive", "down/+", True),
        ("subscribeLiteral", "$share/g/down/+", True),
    ]
    assert body["roles"][1]["acls"] == []


def test_every_listener_wants_a_certificate() -> None:
    text = configuration("/there", listeners(8883, "10.0.0.1", 8884))
    assert listeners(8883, "10.0.0.1", 8884) == [Listener(8883, "10.0.0.1"), Listener(8884, "10.0.0.1", True)]
    _, mqtt, websockets = text.split("\nlistener ")
    assert mqtt.startswith("8883 10.0.0.1\n")
    assert websockets.startswith("8884 10.0.0.1\nprotocol websockets\nsocket_domain ipv4\n")
    for listener in (mqtt, websockets):
        for line in ("require_certificate true", "use_identity_as_username true", "cafile /there/ca.pem"):
            assert f"\n{line}\n" in listener
    assert "\nallow_anonymous false\n" in text


def test_websockets_at_one_ipv6_address_are_refused() -> None:
    with pytest.raises(InputError, match="WebSockets at fd00::1 alone"):
        listeners(8883, "fd00::1", 8884)
    assert len(listeners(8883, "fd00::1", None)) == 1
