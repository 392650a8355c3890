"""Measurements in the device's process: its slices and encodings alone, and requests over a link without limits."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import fmean, median

from midstream.benching.measured import Coded, Key, Measured
from midstream.bundle import Bundle
from midstream.communication.codecs import encode
from midstream.device import Device, Result
from midstream.engines.paced import FIRST_RUNS
from midstream.errors import PeerError, PlanError
from midstream.partitioning import MachineTimes
from midstream.simulating.world import REPLY_BYTES
from midstream.tensors import Tensors

# Runs of each slice before those that count, requests at each cut, and in the smallest code.
_RUNS, _REQUESTS, _SMALL_REQUESTS = FIRST_RUNS, 4, 10
# Runs that count: paced ones are alike.
_QUOTA_RUNS = 5
# A machine that has just done the same is quicker than one that was idle for a while.
_PAUSE_S = 0.2
_CODING_S = _SLICES_S = 20.0
_CODED_INPUTS = 8
_DEADLINE_MS = 60_000.0


def measure(
    bundle: Bundle, device: Device, inputs: Sequence[Tensors], keys: Sequence[Key], slowdown: float, quota: bool
) -> Measured:
    """Everything the simulation wants to know. ``slowdown`` is what the device is to be paced to, unless by a quota."""
    if not keys:
        raise PlanError(
            f"nothing of bundle {bundle.name!r} can be sent to a gateway: there is nothing to choose between"
        )
    bundle.slowdown = 1.0
    some = inputs[:_CODED_INPUTS]
    crossing = {cut.id: [bundle.run_head(cut.id, each)[0] for each in some] for cut in bundle.cuts}
    tensors: dict[str | None, Sequence[Tensors]] = {None: some}
    tensors.update(crossing)
    coded, left_out = _encoded(bundle, tensors, keys, slowdown)
    places = (*crossing,) if bundle.manifest.stateful else (None, *crossing)
    answers = {cut: _asked(device, inputs, cut, "raw", _REQUESTS) for cut in places}
    every = [each for found in answers.values() for each in found]
    smallest = min(coded, key=lambda key: coded[key].payload_bytes)
    small = _asked(device, inputs, *smallest, _SMALL_REQUESTS)
    packed_share, packing_ms = _packed([bundle.run_tail(None, each) for each in some])
    here = _slices(bundle, inputs[0], {cut: found[0] for cut, found in crossing.items()}, slowdown, quota)
    gateway = {cut: _median_ms(found, "gateway") for cut, found in answers.items()}
    replies = {
        cut: max(0.0, median(each.received_bytes for each in found) - REPLY_BYTES) for cut, found in answers.items()
    }
    return Measured(
        here,
        MachineTimes(
            gateway.get(None, here.whole_ms / slowdown), {}, {cut: ms for cut, ms in gateway.items() if cut is not None}
        ),
        coded,
        replies,
        packed_share,
        packing_ms,
        median(each.timings_ms["analysis"] + each.timings_ms["plan"] for each in every),
        median(_beside_ms(each) for each in small),
        left_out,
    )


def _packed(outputs: Sequence[Tensors]) -> tuple[float, float]:
    """What share of these outputs is left where a gateway packs them as its answers, and what that takes here."""
    took_ms, sizes = [], []
    for each in outputs:
        # Of a core, so that a quota of the device's is none of the gateway's.
        start = time.thread_time()
        encoded = encode("lossless", each, {})
        took_ms.append((time.thread_time() - start) * 1e3)
        sizes.append(sum(len(tensor.data) for tensor in encoded))
    return sum(sizes) / sum(value.nbytes for each in outputs for value in each.values()), median(took_ms)


def _slices(
    bundle: Bundle, inputs: Tensors, crossing: Mapping[str, Tensors], slowdown: float, quota: bool
) -> MachineTimes:
    """What whole model, heads and tails take, slowed down: each while the time lasts, the others as the whole model.

    Before that, paced ones are run without pace until their quickest run is known. Leaves the bundle slowed down.
    """
    runs: dict[tuple[str, str], Callable[[], object]] = {("whole", ""): partial(bundle.run_tail, None, inputs)}
    for cut, tensors in crossing.items():
        runs["head", cut] = partial(bundle.run_head, cut, inputs)
        runs["tail", cut] = partial(bundle.run_tail, cut, tensors)
    alone = {name: min(_took_ms(run) for _ in range(2 if quota else _RUNS)) for name, run in runs.items()}
    if not quota:
        bundle.slowdown = slowdown
    until = time.perf_counter() + _SLICES_S
    found: dict[tuple[str, str], float] = {}
    for name, run in runs.items():
        if found and time.perf_counter() > until:
            break
        found[name] = median(_took_ms(run) for _ in range(_QUOTA_RUNS if quota else 1))
    factor = found["whole", ""] / alone["whole", ""]
    times = {name: found.get(name, ms * factor) for name, ms in alone.items()}
    return MachineTimes(
        times["whole", ""],
        {cut: times["head", cut] for cut in crossing},
        {cut: times["tail", cut] for cut in crossing},
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


def _asked(device: Device, inputs: Sequence[Tensors], cut: str | None, codec: str, count: int) -> list[Result]:
    """Requests with time between them, as inputs have; the first does not count."""
    found = []
    for number in range(count + 1):
        time.sleep(_PAUSE_S)
        given = inputs[number % len(inputs)]
        found.append(device.infer(given, cut=cut or "input", codec=codec, deadline_ms=_DEADLINE_MS))
        if (problem := found[-1].fallback) is not None:
            raise PeerError(f"the gateway of the bench does not answer: {problem}")
    return found[1:]


def _median_ms(results: Sequence[Result], part: str) -> float:
    return median(each.timings_ms[part] for each in results)


def _beside_ms(result: Result) -> float:
    timings = result.timings_ms
    return timings["total"] - sum(timings[part] for part in ("analysis", "plan", "device", "encode", "gateway"))


def _took_ms(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return (time.perf_counter() - start) * 1e3
