"""A bundle as the gateway serves it: one copy a worker, and what its tails take here."""

from __future__ import annotations

import threading
from pathlib import Path

from midstream.bundle import Bundle
from midstream.communication.announcements import MAX_CUTS
from midstream.engines import Accelerator
from midstream.partitioning import times_from_costs

WHOLE_KEY = "whole"
# Sizes may grow where a model's shapes are dynamic.
_DYNAMIC_GROWTH = 16
_MAX_REQUEST_BYTES = 64 << 20
_OVERHEAD_BYTES = 64 << 10
_SMOOTHING = 0.2


class ServedBundle:
    """One bundle, opened once for each worker so that the same tail can run in all of them at once."""

    def __init__(self, path: str | Path, workers: int, accelerator: Accelerator = "cpu") -> None:
        self.bundles = [Bundle.open(path, accelerator=accelerator) for _ in range(workers)]
        first = self.bundles[0]
        self.name = first.name
        self.digest = first.digest
        self.bases_id = first.bases_id
        self.max_request_bytes = _request_bound(first)
        self._lock = threading.Lock()
        self._tail_ms = _tails(first, 1.0)

    def measure(self) -> None:
        """Find out how fast this machine is: loads the whole model in every worker and runs it."""
        for bundle in self.bundles:
            bundle.prepare(None)
        first = self.bundles[0]
        factor = first.measure_whole_ms() / first.costs.whole_ms
        with self._lock:
            self._tail_ms = _tails(first, factor)

    def knows(self, cut_id: str) -> bool:
        """Whether this bundle has the cut; empty stands for the whole input."""
        return not cut_id or any(cut.id == cut_id for cut in self.bundles[0].cuts)

    def expected_ms(self, cut_id: str) -> float:
        """What a request at this cut is expected to take here."""
        with self._lock:
            return self._tail_ms.get(cut_id or WHOLE_KEY, 0.0)

    def ran(self, cut_id: str, ms: float) -> None:
        """Correct the expectation by what a run took; one run that took far longer counts as four times as long."""
        key = cut_id or WHOLE_KEY
        with self._lock:
            known = self._tail_ms.get(key, ms)
            self._tail_ms[key] = known + _SMOOTHING * (min(ms, 4 * known) - known)

    def tail_ms(self) -> dict[str, float]:
        """Expected milliseconds by cut id, for the gateway's presence."""
        with self._lock:
            return {key: round(ms, 2) for key, ms in list(self._tail_ms.items())[:MAX_CUTS]}


def _tails(bundle: Bundle, factor: float) -> dict[str, float]:
    times = times_from_costs(bundle.costs, factor)
    return {WHOLE_KEY: times.whole_ms, **times.tail_ms}


def _request_bound(bundle: Bundle) -> int:
    """The largest request that this bundle can mean."""
    manifest = bundle.manifest
    largest = max(bundle.input_bytes, *(cut.payload_bytes for cut in manifest.cuts), 0)
    crossing = [*manifest.inputs, *(spec for cut in manifest.cuts for spec in cut.tensors)]
    dynamic = any(None in spec.shape for spec in crossing)
    return min(_MAX_REQUEST_BYTES, largest * (_DYNAMIC_GROWTH if dynamic else 2) + _OVERHEAD_BYTES)
