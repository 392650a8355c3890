"""What a model has of numbers narrower than float32; either may be empty, and names what was found."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class NarrowNumbers:
    """Signs of quantisation, and of half precision."""

    quantised: str = ""
    half: str = ""
