"""The policies of the simulation with real processes: a gateway, a broker, a device as slow as a board, a link."""

from __future__ import annotations
