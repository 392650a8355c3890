"""What a gateway shows over HTTP: metrics, health, a status page. Imported in full once asked for."""

from __future__ import annotations

from midstream.gateway.web.address import read_token
from midstream.gateway.web.opening import Web

__all__ = ["Web", "read_token"]
