"""Measuring the machine this runs on, and writing what was found as a profile."""

from __future__ import annotations

from midstream.measuring.comparing import Comparison, compare
from midstream.measuring.profiling import Measured, Settings, measure_machine

__all__ = ["Comparison", "Measured", "Settings", "compare", "measure_machine"]
