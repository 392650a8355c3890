"""What a machine tells of itself: how busy, warm, throttled, short of memory or of charge it is."""

from __future__ import annotations

from midstream.sensing.memory import free_memory_bytes
from midstream.sensing.monitor import LoadMonitor
from midstream.sensing.system import peak_bytes, usable_cores

__all__ = ["LoadMonitor", "free_memory_bytes", "peak_bytes", "usable_cores"]
