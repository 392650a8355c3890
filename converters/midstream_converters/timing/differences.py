"""Layer times of a runtime that has no profiler: what heads and tails of a few cuts take, and the differences between.

Of a cut k between two layers of the running order, head and tail together take what the whole model takes and more:

    head_k + tail_k − whole = c + κ · payload_k

for starting a slice twice and copying what crosses. c and κ are fitted over all cuts and taken off; the head and the
whole model without the tail are then two measurements of the same prefix, and their mean is used. Between two prefixes
lies a segment. Within it time is shared out by a model of the layers' work (multiply-accumulates by kind of layer,
bytes written, number of layers), which non-negative least squares fits to the segments.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.optimize import nnls

from midstream.engines import Engine, Program
from midstream.tensors import Tensors
from midstream_converters import slicing
from midstream_converters.cuts import Candidate, Cutter
from midstream_converters.graph import Floats, ModelGraph, Slice, Source
from midstream_converters.loaded import Loaded

MAX_CUTS = 12
_ROUNDS = (3, 9)
_BUDGET_S = 0.6
# A run is as long as its quickest quarter: what else the machine does only ever makes it longer.
_QUANTILE = 0.25
# A segment is never taken for shorter than this part of what its layers' work suggests.
_LEAST = 0.1
# How strongly the least squares hold on to small coefficients: segments are few and their times are noisy.
_RIDGE = 0.05


@dataclass(frozen=True, slots=True)
class Segment:
    """The layers between two cuts, and what they take together."""

    layers: tuple[int, ...]
    ms: float


def layers_by_differences(source: Source, engine: Engine, weights_path: Path, sample: Tensors) -> Floats:
    """Milliseconds of each layer by index, from the times of slices at some cuts of the running order."""
    cuts = spread_by_work(source.graph)
    heads, tails, whole = _times(source, engine, weights_path, cuts, sample)
    payload = np.array([cut.payload_bytes for cut in cuts], dtype=np.float64)
    return share_out(source.graph, segments(source.graph, cuts, prefixes(heads, tails, whole, payload)))


def spread_by_work(graph: ModelGraph) -> list[Candidate]:
    """Some cuts between which there is about the same work; each head holds those before it."""
    work = np.array([0.0 if node.static else node.macs + graph.written_bytes(node) for node in graph.nodes])
    cutter = Cutter(graph)
    done = np.cumsum(work[cutter.order])[:-1]
    made: dict[int, Candidate | None] = {}
    for goal in np.linspace(0.0, work.sum(), MAX_CUTS + 2)[1:-1]:
        for place in np.argsort(np.abs(done - goal), kind="stable").tolist():
            if place not in made:
                made[place] = cutter.after(place + 1)
            if made[place] is not None:
                break
    return [cut for _, cut in sorted(made.items()) if cut is not None]


def prefixes(heads: Floats, tails: Floats, whole: float, payload: Floats) -> Floats:
    """Milliseconds of the layers before each cut, and of all, without what a slice takes by itself."""
    if not len(heads):
        return np.array([whole])
    scale = max(float(payload.max()), 1.0)
    design = np.stack([np.ones_like(payload), payload / scale], axis=1)
    (start, copying), _ = nnls(design, np.maximum(heads + tails - whole, 0.0))
    own = start + copying * payload / scale / 2
    net = max(whole - start, _LEAST * whole)
    both = ((heads - own) + (net - (tails - own))) / 2
    return np.append(np.maximum.accumulate(np.clip(both, 0.0, net)), net)


def segments(graph: ModelGraph, cuts: Sequence[Candidate], prefix_ms: Floats) -> list[Segment]:
    """What lies between one cut and the next, from the input to the outputs."""
    everything = tuple(node.index for node in graph.nodes)
    made: list[Segment] = []
    before: set[int] = set()
    for head, ms in zip([*(cut.head for cut in cuts), everything], np.diff(prefix_ms, prepend=0.0), strict=True):
        layers = tuple(index for index in head if index not in before and not graph.nodes[index].static)
        made.append(Segment(layers, float(ms)))
        before.update(head)
    return made


def share_out(graph: ModelGraph, parts: Sequence[Segment]) -> Floats:
    """Each layer's part of its segment's time, by what the layers of all segments show of the kinds of work."""
    features = np.array([_features(graph, node.index) for node in graph.nodes])
    design = np.array([features[list(part.layers)].sum(axis=0) for part in parts])
    times = np.array([part.ms for part in parts])
    scale = np.where(design.max(axis=0) > 0, design.max(axis=0), 1.0)
    weight = 1.0 / np.maximum(times, 0.3 * max(float(times.mean()), 1e-9))
    ridge = _RIDGE * np.sqrt(len(parts)) * np.eye(len(scale))
    fitted, _ = nnls(
        np.vstack([design / scale * weight[:, None], ridge]), np.concatenate([times * weight, np.zeros(len(scale))])
    )
    ms: Floats = features @ (fitted / scale)
    for part in parts:
        layers = list(part.layers)
        expected = float(ms[layers].sum())
        if expected > 0:
            ms[layers] *= max(part.ms, _LEAST * expected) / expected
        elif layers:
            ms[layers] = part.ms / len(layers)
    return ms


def _times(
    source: Source, engine: Engine, weights_path: Path, cuts: Sequence[Candidate], sample: Tensors
) -> tuple[Floats, Floats, float]:
    """Heads, tails and the whole model, in turn and again, for about a second."""
    halves = [slicing.halves(source, cut) for cut in cuts]
    with ExitStack() as stack:

        def load(part: Slice) -> Loaded:
            program = Program(part.record, part.content, weights_path)
            return stack.enter_context(Loaded(engine.load(program), part.record.inputs))

        heads = [load(half.head) for half in halves]
        tails, whole = [load(half.tail) for half in halves], load(slicing.whole(source))
        crossing = [sample | head.run(sample) for head in heads]
        runs = [*((head, sample) for head in heads), *zip(tails, crossing, strict=True), (whole, sample)]
        start = time.perf_counter()
        _round(runs)
        least, most = _ROUNDS
        rounds = int(np.clip(_BUDGET_S / (time.perf_counter() - start), least, most))
        found = np.quantile([_round(runs) for _ in range(rounds)], _QUANTILE, axis=0)
    return found[: len(cuts)], found[len(cuts) : -1], float(found[-1])


def _round(runs: Sequence[tuple[Loaded, Tensors]]) -> list[float]:
    return [loaded.time_ms(tensors) for loaded, tensors in runs]


def _features(graph: ModelGraph, index: int) -> list[float]:
    """Multiply-accumulates as one of three kinds of layer, bytes written, and one for the layer itself."""
    node = graph.nodes[index]
    if node.static:
        return [0.0] * 5
    op = node.op.upper()
    kind = 0 if "DEPTHWISE" in op else 1 if "CONV" in op else 2
    return [*(float(node.macs) * (kind == each) for each in range(3)), float(graph.written_bytes(node)), 1.0]
