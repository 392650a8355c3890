"""Measurements in the device's process: its slices and encodings alone, and requests over a link without limits."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, median

from midstream.benching.measured import Coded, Key, Measured
from midstream.bundle import Bundle
from midstream.device import Device, Result
from midstream.errors import PeerError
from midstream.partitioning import MachineTimes
from midstream.tensors import Tensors

# Runs of each slice, requests at each cut; of these the first does not count.
_RUNS, _REQUESTS = 8, 5
_CODING_S = 20.0
_CODED_INPUTS = 8
# Larger messages say what this machine's loopback takes, which the link then hides.
_SMALL_BYTES = 64 << 10


def measure(
    bundle: Bundle, device: Device, inputs: Sequence[Tensors], keys: Sequence[Key], slowdown: float, quota: bool
) -> Measured:
    """Everything the simulation wants to know. ``slowdown`` is what the device is to be paced to.

    Paced slices take the quickest run's time stretched: they are run without pace. Under a ``quota`` it is the median.
    """
    bundle.slowdown = 1.0
    typical: Callable[[Sequence[float]], float] = median if quota else min
    runs = _RUNS if not quota else 3

    def timed(run: Callable[[], object]) -> float:
        run()
        return slowdown * typical([_took_ms(run) for _ in range(runs)])

    crossing = {cut.id: [bundle.run_head(cut.id, each)[0] for each in inputs[:_CODED_INPUTS]] for cut in bundle.cuts}
    here = MachineTimes(
        timed(lambda: bundle.run_tail(None, inputs[0])),
        {cut.id: timed(lambda name=cut.id: bundle.run_head(name, inputs[0])) for cut in bundle.cuts},  # type: ignore[misc]
        {cut: timed(lambda name=cut: bundle.run_tail(name, crossing[name][0])) for cut in crossing},  # type: ignore[misc]
    )
    tensors: dict[str | None, Sequence[Tensors]] = {None: inputs[:_CODED_INPUTS]}
    tensors.update(crossing)
    coded, left_out = _encoded(bundle, tensors, keys, slowdown)
    answers = {cut: _asked(device, inputs, cut) for cut in (None, *crossing)}
    gateway = {cut: median(each.timings_ms["gateway"] for each in found) for cut, found in answers.items()}
    every = [each for found in answers.values() for each in found]
    small = [each for each in every if each.sent_bytes < _SMALL_BYTES] or answers[None]
    bundle.slowdown = slowdown if not quota else 1.0
    return Measured(
        here,
        MachineTimes(gateway[None], {}, {cut: ms for cut, ms in gateway.items() if cut is not None}),
        coded,
        median(each.timings_ms["analysis"] + each.timings_ms["plan"] for each in every),
        median(_beside_ms(each) for each in small),
        left_out,
    )


def _encoded(
    bundle: Bundle, tensors: Mapping[str | None, Sequence[Tensors]], keys: Sequence[Key], slowdown: float
) -> tuple[dict[Key, Coded], tuple[str, ...]]:
    """The quickest encoding of each, and the mean of its payloads; those that come first, while the time lasts."""
    until = time.perf_counter() + _CODING_S
    found: dict[Key, Coded] = {}
    for cut, codec in keys:
        if time.perf_counter() > until:
            break
        sizes, took_ms = [], []
        for each in tensors[cut]:
            start = time.perf_counter()
            encoded = bundle.encode(cut, codec, each)
            took_ms.append((time.perf_counter() - start) * 1e3)
            sizes.append(sum(len(tensor.data) for tensor in encoded))
        found[cut, codec] = Coded(fmean(sizes), slowdown * min(took_ms))
    missing = len(keys) - len(found)
    notes = (f"{missing} of {len(keys)} encodings were not measured, for want of time; they are as calibrated",)
    return found, notes if missing else ()


def _asked(device: Device, inputs: Sequence[Tensors], cut: str | None) -> list[Result]:
    found = [
        device.infer(inputs[number % len(inputs)], cut=cut or "input", codec="raw", deadline_ms=60_000.0)
        for number in range(_REQUESTS + 1)
    ][1:]
    for each in found:
        if each.fallback is not None:
            raise PeerError(f"the gateway of the bench does not answer: {each.fallback}")
    return found


def _beside_ms(result: Result) -> float:
    timings = result.timings_ms
    return timings["total"] - sum(timings[part] for part in ("analysis", "plan", "device", "encode", "gateway"))


def _took_ms(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return (time.perf_counter() - start) * 1e3
