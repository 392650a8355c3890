"""What a gateway opens where it is to be looked at: the server, the pages and the metrics, put together."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.util import find_spec

from midstream.errors import MissingExtraError
from midstream.gateway.status import GatewayStatus
from midstream.gateway.web.address import http_token, parse_http_address


class Web:
    """Shows a gateway's ``status`` at ``http`` (a port, or HOST:PORT) between `start` and `close`.

    Raises InputError on a wrong address, or where a token is missing or cannot be one; `start` where the address cannot
    be had; MissingExtraError where the extra [gateway] is not installed.
    """

    def __init__(self, http: int | str, token: str | None, status: Callable[[], GatewayStatus]) -> None:
        address = parse_http_address(http)
        token = http_token(address, token)
        if find_spec("prometheus_client") is None:
            raise MissingExtraError("prometheus-client", "gateway", "What a gateway shows over HTTP")
        from midstream.gateway.web.metrics import Metrics
        from midstream.gateway.web.serving import HttpServer
        from midstream.gateway.web.site import Site

        site = Site(status, Metrics().exposition, time.monotonic, token=token)
        self._server = HttpServer(address, site.answer)

    @property
    def url(self) -> str | None:
        """Where it is, once it has started."""
        return self._server.url

    def start(self) -> None:
        """Begin to answer."""
        self._server.start()

    def close(self) -> None:
        """Answer no more."""
        self._server.close()
