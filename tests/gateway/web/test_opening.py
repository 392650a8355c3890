"""What showing a gateway's state needs, and what it costs who does not ask for it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from midstream.errors import InputError, MissingExtraError
from midstream.gateway.status import GatewayStatus
from midstream.gateway.web import Web, opening


def test_without_the_extra_it_is_one_error_that_names_it(
    status: GatewayStatus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "find_spec", lambda _name: None)
    with pytest.raises(MissingExtraError, match=r"'prometheus-client'.* pip install 'midstream\[gateway\]'"):
        Web(0, None, lambda: status)


def test_what_is_wrong_is_said_before_anything_is_opened(status: GatewayStatus) -> None:
    with pytest.raises(InputError, match="beyond this machine"):
        Web("0.0.0.0:0", None, lambda: status)
    web = Web("0.0.0.0:0", "0123456789abcdef", lambda: status)
    assert web.url is None
    web.close()


def test_a_gateway_that_shows_nothing_imports_none_of_it() -> None:
    code = "import sys, midstream.gateway.server\nprint(*{'prometheus_client', 'h11', 'asyncio'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).split() in ([], ["h11"])
