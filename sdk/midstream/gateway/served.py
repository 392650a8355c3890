"""A bundle as the gateway serves it: one copy a worker, and what its tails take here."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Mapping
from math import exp2
from pathlib import Path

from midstream.allocation.batching import BatchTimes
from midstream.bundle import Bundle
from midstream.communication.announcements import MAX_CUTS
from midstream.communication.codecs import check_table, find_codec
from midstream.communication.directory import WHOLE_KEY
from midstream.communication.wire import Request
from midstream.engines import Accelerator
from midstream.errors import CodecError
from midstream.gateway.tallying import Known
from midstream.partitioning import times_from_costs
from midstream.tensors import TensorSpec

# Sizes may grow where a model's shapes are dynamic.
_DYNAMIC_GROWTH = 16
_MAX_REQUEST_BYTES = 64 << 20
_OVERHEAD_BYTES = 64 << 10
_SMOOTHING = 0.2
# Half of what runs took longer than measured at the start is forgotten after so long without one. Who is refused for
# what was slow once has no run to show that it is no longer.
_FORGET_S = 30.0


class ServedBundle:
    """One bundle, opened once for each worker so that the same tail can run in all of them at once."""

    def __init__(
        self,
        path: str | Path,
        workers: int,
        accelerator: Accelerator = "cpu",
        slowdown: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.bundles = [Bundle.open(path, accelerator=accelerator, slowdown=slowdown) for _ in range(workers)]
        first = self.bundles[0]
        self.name = first.name
        self.digest = first.digest
        self.bases_id = first.bases_id
        # By cut, of which the empty one is the whole input.
        self._request_bytes = _request_bounds(first)
        self.max_request_bytes = max(self._request_bytes.values())
        middles = first.manifest.middles()
        self._middles = frozenset(middles)
        cuts = tuple(cut.id for cut in first.manifest.cuts)
        self.known = Known(first.name, first.digest.hex(), cuts, middles)
        self._lock = threading.Lock()
        self._clock = clock
        # By stage, from a cut to the next one (None: the model's end), with when that was. Guarded by _lock.
        self._learned_ms: dict[tuple[str, str | None], tuple[float, float]] = {}
        # By cut, as measured at the start.
        self._tail_ms = _tails(first, 1.0)
        # By cut, as far as its tail answers several inputs at once. Guarded by whoever runs them.
        self.batches = _batches(first, {})

    def measure(self) -> None:
        """Find out how fast this machine is: loads the whole model in every worker and runs it."""
        for bundle in self.bundles:
            bundle.prepare(None)
        first = self.bundles[0]
        whole_ms = first.measure_whole_ms()
        ratios = {size: first.measure_whole_ms(batch=size) / whole_ms for size in first.batch_sizes(None)}
        with self._lock:
            self._tail_ms = _tails(first, whole_ms / first.costs.whole_ms)
            self.batches = _batches(first, ratios)

    def keep(self, workers: int) -> None:
        """Have no more copies than this."""
        del self.bundles[workers:]

    def unknown_stage(self, request: Request) -> str | None:
        """What of this request's own stage the bundle has not; None where it has it. Empty is the whole input's cut."""
        cuts = [request.cut, *(stage.cut for stage in request.onward[:1])]
        for cut_id in cuts:
            if cut_id and cut_id not in self._request_bytes:
                return f"bundle {self.name!r} has no cut {cut_id!r}"
        if all(cuts) and len(cuts) > 1 and (cuts[0], cuts[1]) not in self._middles:
            return f"bundle {self.name!r} has no slice from cut {cuts[0]!r} to cut {cuts[1]!r}"
        return None

    def misfit(self, request: Request, size_bytes: int) -> str | None:
        """What of a request at a cut that is known cannot be: its size, codec or table of tensors; None where nothing.

        Looks at no tensor's data, and takes no memory for it.
        """
        most = self._request_bytes[request.cut]
        if size_bytes > most:
            return f"a request at cut {request.cut!r} has {size_bytes} bytes; {most} are allowed"
        try:
            find_codec(request.codec)
            check_table(request.tensors, self.bundles[0].crossing_specs(request.cut or None), most)
        except CodecError as error:
            return str(error)
        return None

    def group(self, request: Request) -> Hashable:
        """What requests have in common that may run at once; None where this one runs alone."""
        single = all(tensor.shape[:1] == (1,) for tensor in request.tensors)
        alone = request.onward or request.cut not in self.batches or not single
        if alone or self.bundles[0].decodes_in_tail(request.cut or None, request.codec):
            return None
        return (self.digest, request.cut, tuple(tensor.shape for tensor in request.tensors))

    def expected_ms(self, cut_id: str, next_cut: str | None = None) -> float:
        """What a request at this cut is expected to take here, to the model's end or to the next cut."""
        now = self._clock()
        with self._lock:
            return self._expected_ms(cut_id, next_cut, now)

    def ran(self, cut_id: str, ms: float, next_cut: str | None = None) -> None:
        """Correct the expectation by what a run took; one run that took far longer counts as four times as long."""
        now = self._clock()
        with self._lock:
            known = self._expected_ms(cut_id, next_cut, now) or ms
            self._learned_ms[cut_id, next_cut] = known + _SMOOTHING * (min(ms, 4 * known) - known), now

    def tail_ms(self) -> dict[str, float]:
        """Expected milliseconds by cut id, for the gateway's presence."""
        now = self._clock()
        with self._lock:
            cuts = {key: "" if key == WHOLE_KEY else key for key in list(self._tail_ms)[:MAX_CUTS]}
            return {key: round(self._expected_ms(cut_id, None, now), 2) for key, cut_id in cuts.items()}

    def _expected_ms(self, cut_id: str, next_cut: str | None, now: float) -> float:
        measured_ms = self._tail_ms.get(cut_id or WHOLE_KEY, 0.0)
        if next_cut is not None:
            measured_ms = max(0.0, self._expected_ms(cut_id, None, now) - self._expected_ms(next_cut, None, now))
        learned_ms, at = self._learned_ms.get((cut_id, next_cut), (measured_ms, now))
        if learned_ms <= measured_ms:
            return learned_ms
        return measured_ms + (learned_ms - measured_ms) * exp2((at - now) / _FORGET_S)


def _tails(bundle: Bundle, factor: float) -> dict[str, float]:
    times = times_from_costs(bundle.costs, factor)
    return {WHOLE_KEY: times.whole_ms, **times.tail_ms}


def _batches(bundle: Bundle, ratios: Mapping[int, float]) -> dict[str, BatchTimes]:
    """By cut id, the empty one being the whole input's."""
    sizes = {cut_id: bundle.batch_sizes(cut_id or None) for cut_id in ("", *(cut.id for cut in bundle.cuts))}
    return {cut_id: BatchTimes(proven, ratios) for cut_id, proven in sizes.items() if proven}


def _request_bounds(bundle: Bundle) -> dict[str, int]:
    """The largest request that can be meant at each cut, and at the whole input, whose key is empty.

    No codec makes twice as much of what crosses; dynamic sizes may be larger than those that the bundle was verified
    with.
    """
    manifest = bundle.manifest
    sizes = {"": (bundle.input_bytes, manifest.inputs)}
    sizes |= {cut.id: (cut.payload_bytes, cut.tensors) for cut in manifest.cuts}
    return {
        place: min(_MAX_REQUEST_BYTES, size * (_DYNAMIC_GROWTH if _dynamic(specs) else 2) + _OVERHEAD_BYTES)
        for place, (size, specs) in sizes.items()
    }


def _dynamic(specs: tuple[TensorSpec, ...]) -> bool:
    return any(None in spec.shape for spec in specs)
