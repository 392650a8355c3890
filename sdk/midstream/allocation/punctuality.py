"""How much later than expected requests end: what admission adds so that who is let in is in time."""

from __future__ import annotations

import math
from collections import deque

_KEPT = 256
_FIRST = 20
_EVERY = 16
_SHARE = 0.97
# The most that is added, in times of what was expected: past that, it is the expectation that is wrong.
_MOST = 1.0
# What every machine may be late by, however short the work.
_GRAIN_S = 0.01
# Half of what is added goes after so long in which none has ended: all may be refused for it.
_FORGET_S = 30.0


class Punctuality:
    """Of the last requests, how their time in the gateway was to what was expected when they were let in.

    Time is passed in, on one clock.
    """

    def __init__(self) -> None:
        self._shares: deque[float] = deque(maxlen=_KEPT)
        self._told = 0
        self._margin = 0.0
        self._last_s = 0.0

    def ended(self, expected_s: float, took_s: float, now_s: float) -> None:
        """One that was expected to end so long after it came has ended now, after ``took_s``."""
        self._last_s = now_s
        self._shares.append((took_s - expected_s) / (expected_s + _GRAIN_S))
        self._told += 1
        if len(self._shares) >= _FIRST and self._told % _EVERY == 0:
            ordered = sorted(self._shares)
            found = ordered[min(len(ordered) - 1, math.ceil(_SHARE * len(ordered)) - 1)]
            self._margin = min(_MOST, max(0.0, found))

    def margin_s(self, expected_s: float, now_s: float) -> float:
        """By how much 97 in a hundred end at most later than expected; 0 while too little is known."""
        return self._margin * math.exp2((self._last_s - now_s) / _FORGET_S) * (expected_s + _GRAIN_S)
