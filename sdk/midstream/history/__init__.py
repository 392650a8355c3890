"""What requests have used, kept in a file: written beside the work, read while it is written."""

from __future__ import annotations

from midstream.history.reading import History
from midstream.history.recorder import Recorder, for_device, for_gateway

__all__ = ["History", "Recorder", "for_device", "for_gateway"]
