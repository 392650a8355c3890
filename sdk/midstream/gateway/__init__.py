"""The gateway: serves the tails of its bundles over MQTT."""

from __future__ import annotations

from midstream.gateway.server import Gateway

__all__ = ["Gateway"]
