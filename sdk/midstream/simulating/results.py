"""What became of each request of a simulation or a run, and what that comes to."""

from __future__ import annotations

from array import array
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

Way = Literal["local", "input", "split", "exit"]
WAYS: tuple[Way, ...] = get_args(Way)
_NUMBERS: dict[Way, int] = {way: number for number, way in enumerate(WAYS)}


def _figures() -> array[float]:
    return array("d")


@dataclass(slots=True)
class Outcome:
    """All requests under one policy, in the order in which they were answered.

    ``began_s`` is when an input came, and ``devices`` the number of the device to which. Arrays, as fleets ask millions
    of times.
    """

    began_s: array[float] = field(default_factory=_figures)
    latency_ms: array[float] = field(default_factory=_figures)
    energy_mj: array[float] = field(default_factory=_figures)
    sent_bytes: array[float] = field(default_factory=_figures)
    devices: array[int] = field(default_factory=lambda: array("l"))
    missed: int = 0
    fallbacks: int = 0
    unanswered: int = 0
    _ways: bytearray = field(default_factory=bytearray)

    def __len__(self) -> int:
        return len(self._ways)

    def add(
        self,
        latency_ms: float,
        energy_mj: float,
        sent_bytes: float,
        way: Way,
        *,
        missed: bool = False,
        fallback: bool = False,
        answered: bool = True,
        began_s: float = 0.0,
        device: int = 0,
    ) -> None:
        """One request more; ``way`` is how it was planned, or "exit" where an early exit has answered it."""
        self.began_s.append(began_s)
        self.latency_ms.append(latency_ms)
        self.energy_mj.append(energy_mj)
        self.sent_bytes.append(sent_bytes)
        self.devices.append(device)
        self._ways.append(_NUMBERS[way])
        self.missed += missed
        self.fallbacks += fallback
        self.unanswered += not answered

    @property
    def ways(self) -> list[Way]:
        """How each was answered, or meant to be."""
        return [WAYS[number] for number in self._ways]

    def of_device(self, device: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """When the inputs of one device came, in s and in that order, and the latency of each in ms."""
        mine = np.array(self.devices, np.int64) == device
        began_s, latency_ms = np.array(self.began_s)[mine], np.array(self.latency_ms)[mine]
        order = np.argsort(began_s, kind="stable")
        return began_s[order], latency_ms[order]

    def summary(self) -> Summary:
        """What it comes to."""
        latency = np.array(self.latency_ms or [0.0])
        p50, p95, p99 = (float(each) for each in np.percentile(latency, (50, 95, 99)))
        count = max(1, len(self))
        shares = {way: self._ways.count(number) / count for way, number in _NUMBERS.items()}
        return Summary(
            requests=len(self),
            mean_ms=float(latency.mean()),
            p50_ms=p50,
            p95_ms=p95,
            p99_ms=p99,
            missed_share=self.missed / count,
            energy_mj=float(np.mean(self.energy_mj or [0.0])),
            split_share=shares["split"],
            payload_bytes=float(np.mean(self.sent_bytes or [0.0])),
            local_share=shares["local"],
            input_share=shares["input"],
            exit_share=shares["exit"],
            fallback_share=self.fallbacks / count,
            unanswered_share=self.unanswered / count,
        )


@dataclass(frozen=True, slots=True)
class Summary:
    """Latencies in ms, and per request: the device's energy in mJ, and the bytes it sent, those of probes among them.

    ``missed_share`` is of requests answered after the deadline, or not at all; ``split_share``, ``local_share``,
    ``input_share`` and ``exit_share`` say how they were answered or meant to be: ``fallback_share`` were then answered
    by the device alone, and ``unanswered_share`` by nobody, as the whole model is too large for it.
    """

    requests: int
    mean_ms: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    missed_share: float
    energy_mj: float
    split_share: float
    payload_bytes: float
    local_share: float
    input_share: float
    exit_share: float
    fallback_share: float
    unanswered_share: float

    def to_json(self) -> dict[str, Any]:
        """Its figures by name."""
        return asdict(self)
