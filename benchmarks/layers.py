"""How far the layers' times are from the times of slices that had no part in finding them.

``python benchmarks/layers.py`` takes some minutes and writes docs/benchmarks/layers.md; names of models as arguments
measure these alone and print the page only.
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
from models import CONVERSIONS, MODELS, machine, table, verdict, write_page

from midstream.engines import Program, engine_for
from midstream.tensors import Tensors
from midstream_converters import slicing
from midstream_converters.cuts import Candidate, Cutter
from midstream_converters.graph import PLAIN, Slice, Source
from midstream_converters.loaded import Loaded
from midstream_converters.opening import Options, open_model, read_model
from midstream_converters.timing import time_layers
from midstream_converters.timing.differences import spread_by_work
from midstream_converters.weights import WeightStore

NAMES = (
    "ch_PP-OCRv4_det_infer.onnx",
    "ch_PP-OCRv4_rec_infer.onnx",
    "ch_ppocr_mobile_v2.0_cls_infer.onnx",
    "face_detection_short_range.tflite",
    "palm_detection_full.tflite",
    "pose_landmark_full.tflite",
    "selfie_segmentation.tflite",
)
CUTS = 12
ROUNDS = 15
ASKED = 0.10
QUANTILE = 0.25


@dataclass(frozen=True)
class Trial:
    """A slice that the fit has not seen: what kind it is, its layers, and how to run it."""

    kind: str
    layers: tuple[int, ...]
    part: Slice
    inputs: Tensors


@dataclass(frozen=True)
class Result:
    """A slice's time as the layers say, as a sharing out by work says, and as it was; in milliseconds."""

    kind: str
    said_ms: float
    shared_ms: float
    took_ms: float

    @property
    def error(self) -> float:
        """Relative to what it took."""
        return abs(self.said_ms - self.took_ms) / self.took_ms

    @property
    def shared_error(self) -> float:
        """The same of the sharing out."""
        return abs(self.shared_ms - self.took_ms) / self.took_ms


def measure(path: Path) -> tuple[float, list[Result]]:
    """The whole model's milliseconds, and one result for each slice."""
    options = dict(CONVERSIONS).get(path, Options())
    with (
        tempfile.TemporaryDirectory() as folder,
        WeightStore(Path(folder) / "weights.bin") as weights,
    ):
        opened = open_model(read_model(path), options, weights)
        source, engine = opened.source, engine_for(opened.source.engine)
        sample = opened.types.generate(opened.shapes, 0)
        opened.original.close()

        @contextmanager
        def loaded(part: Slice) -> Iterator[Loaded]:
            with Loaded(engine.load(Program(part.record, part.content, weights.path)), part.record.inputs) as ready:
                yield ready

        candidates = Cutter(source.graph).candidates()
        with loaded(slicing.whole(source)) as whole:
            whole.run(sample)
            whole_ms = float(np.quantile([whole.time_ms(sample) for _ in range(ROUNDS)], QUANTILE))
        layers_ms = np.array(time_layers(source, engine, weights.path, sample, whole_ms))
        shared_ms = by_work(source, whole_ms)
        results = []
        for trial in trials(source, candidates, sample, loaded):
            with loaded(trial.part) as slice_:
                slice_.run(trial.inputs)
                took = float(np.quantile([slice_.time_ms(trial.inputs) for _ in range(ROUNDS)], QUANTILE))
            layers = list(trial.layers)
            results.append(Result(trial.kind, float(layers_ms[layers].sum()), float(shared_ms[layers].sum()), took))
    # What takes hardly any time is mostly the start of a slice.
    return whole_ms, [result for result in results if result.took_ms > 0.05 * whole_ms]


def trials(
    source: Source,
    candidates: Sequence[Candidate],
    sample: Tensors,
    loaded: Callable[[Slice], AbstractContextManager[Loaded]],
) -> Iterator[Trial]:
    """Heads, tails, and what lies between two cuts; none of these cuts is one of the fit's."""
    rng = random.Random(0)
    fitted = {cut.id for cut in spread_by_work(source.graph)}
    free = [cut for cut in candidates if cut.id not in fitted]
    cuts = sorted(rng.sample(free, min(CUTS, len(free))), key=lambda cut: len(cut.head))
    crossing: dict[str, Tensors] = {}
    for cut in cuts:
        halves = slicing.halves(source, cut)
        with loaded(halves.head) as head:
            crossing[cut.id] = sample | head.run(sample)
        yield Trial("head", cut.head, halves.head, sample)
        yield Trial("tail", cut.tail, halves.tail, crossing[cut.id])
    for first, second in (sorted(rng.sample(cuts, 2), key=lambda cut: len(cut.head)) for _ in range(CUTS)):
        part = slicing.middle(source, first, second, PLAIN)
        if part is not None:
            layers = tuple(sorted(set(first.tail) & set(second.head)))
            yield Trial("middle", layers, part, crossing[first.id])


def by_work(source: Source, whole_ms: float) -> np.ndarray:
    """The whole model's time shared out by multiply-accumulates and bytes written: what there was before."""
    graph = source.graph
    work = np.array(
        [0 if node.static else node.macs + graph.written_bytes(node) for node in graph.nodes],
        dtype=np.float64,
    )
    return work * (whole_ms / work.sum())


def main() -> None:
    """Measure all, or the models named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="of models in .cache/assets/models; prints, writes nothing")
    given = parser.parse_args()
    start = time.perf_counter()
    rows, medians = [], []
    for name in given.names or NAMES:
        whole_ms, results = measure(MODELS / name)
        errors = sorted(result.error for result in results)
        medians.append(median(errors))
        row: list[object] = [name, f"{whole_ms:.2f}", len(results), f"{medians[-1]:.1%}"]
        row += [
            f"{median(each):.1%}" if (each := [r.error for r in results if r.kind == kind]) else ""
            for kind in ("head", "tail", "middle")
        ]
        row += [f"{np.quantile(errors, 0.9):.1%}", f"{median(r.shared_error for r in results):.1%}"]
        rows.append([*row, verdict(medians[-1] <= ASKED)])
    page = f"""# The time of each layer

Generated by `python benchmarks/layers.py`. A model's layers are timed as a conversion does it: by onnxruntime's
profiler, and for LiteRT by the differences between heads and tails of at most twelve cuts. Then {
        CUTS
    } other cuts, drawn
drawn at random, are made; their heads, tails and what lies between two of them are timed ({ROUNDS} runs, the quickest
quarter's longest), and held against the sum of their layers. The error is the difference relative to what the slice
took; slices of less than 5 % of the whole model are left out. *By work* is the median error where the whole model's
time is only shared out by multiply-accumulates and bytes. Asked for: a median of at most {ASKED:.0%} for three models.

{sum(each <= ASKED for each in medians)} of {len(medians)} models are within it.

{table("model| whole ms| slices| median error| of heads| of tails| of middles| nine of ten within| by work|", rows)}

Measured in {time.perf_counter() - start:.0f} s on {machine()}, load {os.getloadavg()[0]:.1f}.
"""
    if given.names:
        print(page)
    else:
        write_page("layers", page)


if __name__ == "__main__":
    main()
