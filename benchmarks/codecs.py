"""The codec ladder on real models: how small what crosses becomes at which agreement, and how fast.

    python benchmarks/codecs.py [--inputs N] [--models NAME,…] [--only size|speed|prediction]

Rungs are chosen on calibration inputs; what the page reports are sizes and agreements on test inputs, which share no
picture, sentence or recording with them. Writes docs/benchmarks/codecs.md and a plot for each model.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median

import numpy as np
import scenes
from models import MODELS, ROOT, machine, table, verdict, write_page
from subjects import SUBJECTS, Subject, inputs_of

from midstream.agreement import Metric, find_metric
from midstream.analysis import analyze_inputs
from midstream.bundle import Bundle
from midstream.calibrating import Calibration, calibrate
from midstream.communication.codecs import SLOW, decode, encode
from midstream.drawing.chart import series_of, write_chart
from midstream.inputs import ImageInput, prepare_image
from midstream.ladder import MeasuredRung, Settings
from midstream.partitioning import SizeEstimates, size_features
from midstream.tensors import Tensors
from midstream_converters.convert import convert

FLOORS = (0.995, 0.97)
# There is nothing to pack in less than this.
LEAST_BYTES = 64
ASKED = {0.995: 9.0, 0.97: 14.0}
# Of DESIGN.md, µs per MB of float32: 8-bit quantisation in numpy, both ways.
INT8_US_PER_MB = 190.0
FACTOR = 1.5


@dataclass(frozen=True)
class Row:
    """What came of one place of one model at one floor, on the test inputs."""

    model: str
    place: str
    floor: float
    codec: str
    raw_bytes: float
    payload_bytes: float
    calibrated: float
    agreement: float

    @property
    def slow(self) -> bool:
        """Whether it is packed by LZMA."""
        return self.codec.endswith(SLOW)

    @property
    def smaller(self) -> float:
        """How many times."""
        return self.raw_bytes / self.payload_bytes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=96, help="calibration inputs of each model; half as many test it")
    parser.add_argument("--models", default="", help="only these, by name; prints, writes nothing")
    options = parser.parse_args()
    chosen = [each for each in SUBJECTS if not options.models or each.name in options.models.split(",")]
    rows: list[Row] = []
    predicted: list[list[str]] = []
    for subject in chosen:
        with tempfile.TemporaryDirectory() as folder:
            started = time.monotonic()
            convert(MODELS / subject.file, Path(folder) / "bundle", subject.options())
            bundle = Bundle.open(Path(folder) / "bundle")
            measured, found, sizes = measure(subject, bundle, options.inputs)
            rows += found
            predicted += sizes
            print(f"{subject.name}: {time.monotonic() - started:.0f} s", file=sys.stderr)
            if not options.models:
                _plot(subject, measured)
    text = _page(rows, predicted, speed(), options.inputs)
    if options.models:
        print(text)
    else:
        write_page("codecs", text)
    return 0


def measure(subject: Subject, bundle: Bundle, count: int) -> tuple[Calibration, list[Row], list[list[str]]]:
    """Calibrate on one kind of input, and hold what was chosen against the other."""
    fitted = inputs_of(subject, bundle, "calibration", count)
    tested = inputs_of(subject, bundle, "test", count // 2)
    references = [bundle.run(sample) for sample in tested]
    judge = find_metric(subject.metric, references)
    rows, tried = [], []
    for floor in FLOORS:
        measured = calibrate(bundle, fitted, metric=subject.metric, min_agreement=floor)
        tried.append(measured)
        for place in measured.ladder.places:
            seen: dict[str, float] = {}
            for rung in sorted(place.rungs, key=lambda rung: rung.payload_bytes):
                settings = measured.ladder.settings(place.cut, rung.codec)
                plain = rung.codec.removesuffix(SLOW)
                row = _tested(
                    subject, bundle, place.cut, rung, floor, settings, tested, references, judge, seen.get(plain)
                )
                seen[plain] = row.agreement
                rows.append(row)
                # Smaller ones come first: none after one that holds there without the slow stage is asked for.
                if row.agreement >= floor and not row.slow:
                    break
        print(f"  {subject.name} at {floor}: {len(rows)} rows", file=sys.stderr)
    return tried[-1], rows, _predictions(subject, bundle, tried[-1], tested)


def _tested(
    subject: Subject,
    bundle: Bundle,
    cut: str | None,
    rung: MeasuredRung,
    floor: float,
    settings: Settings,
    samples: Sequence[Tensors],
    references: Sequence[Tensors],
    judge: Metric,
    known: float | None,
) -> Row:
    """``known`` is the agreement, where another entropy stage has already been tried."""
    sizes, raw, agreements = [], [], []
    for sample, reference in zip(samples, references, strict=True):
        checked = bundle.check_inputs(sample)
        crossing, made = (checked, {}) if cut is None else bundle.run_head(cut, checked)
        encoded = encode(rung.codec, crossing, bundle.manifest.semantics, settings)
        specs = bundle.crossing_specs(cut)
        raw.append(sum(tensor.nbytes for tensor in crossing.values()))
        sizes.append(sum(len(tensor.data) for tensor in encoded))
        if known is None:
            found = decode(rung.codec, encoded, specs, bundle.manifest.semantics, 1 << 30, settings.bases)
            agreements.append(judge(reference, made | bundle.run_tail(cut, found)))
    place = "input" if cut is None else cut
    agreement = fmean(agreements) if known is None else known
    return Row(subject.name, place, floor, rung.codec, fmean(raw), fmean(sizes), rung.agreement, agreement)


def _predictions(subject: Subject, bundle: Bundle, measured: Calibration, tested: Sequence[Tensors]) -> list[list[str]]:
    """How far sizes are off before encoding: of inputs that have nothing to do with each other, and of a stream."""
    ((name, meaning),) = bundle.manifest.semantics.items()
    series: dict[str, Sequence[Tensors]] = {"apart": tested}
    if isinstance(meaning, ImageInput):
        shape = bundle.manifest.sample_shapes[name]
        size = meaning.size_of(shape)
        frames = scenes.pan("test", 40, size, 3)
        spec = next(spec for spec in bundle.manifest.free_inputs() if spec.name == name)
        series["stream"] = [tested[0] | {name: prepare_image(frame, spec, meaning, size)} for frame in frames]
    rows = []
    for what, samples in series.items():
        for place in measured.ladder.places[:4]:
            lossy = [rung for rung in place.rungs if not rung.lossless]
            if lossy:
                rung = min(lossy, key=lambda rung: abs(rung.agreement - FLOORS[1]))
                where = "input" if place.cut is None else place.cut
                errors = _size_errors(bundle, measured, place.cut, rung, samples)
                rows.append([subject.name, where, rung.codec, what, *(f"{error:.1%}" for error in errors)])
    return rows


def _size_errors(
    bundle: Bundle, measured: Calibration, cut: str | None, rung: MeasuredRung, samples: Sequence[Tensors]
) -> tuple[float, float, float]:
    """Mean absolute shares: of the calibrated mean, of the payload before, and of what the device would say."""
    estimates = SizeEstimates(measured.ladder)
    settings = measured.ladder.settings(cut, rung.codec)
    errors: list[tuple[float, float, float]] = []
    before = None
    for sample in samples:
        checked = bundle.check_inputs(sample)
        analysis = analyze_inputs(checked, bundle.manifest.semantics)
        features = None if analysis is None else size_features(analysis.features, checked)
        said, _ = estimates.predict(features)[cut, rung.codec]
        crossing = checked if cut is None else bundle.run_head(cut, checked)[0]
        size = sum(len(each.data) for each in encode(rung.codec, crossing, bundle.manifest.semantics, settings))
        estimates.observe((cut, rung.codec), features, size)
        if before is not None:
            errors.append(tuple(abs(guess - size) / size for guess in (rung.payload_bytes, before, said)))  # type: ignore[arg-type]
        before = size
    return tuple(fmean(column) for column in zip(*errors, strict=True))  # type: ignore[return-value]


def speed() -> list[list[str]]:
    """µs per MB of float32 each way, on what crosses at cuts of the text detector, and beside memcpy."""
    with tempfile.TemporaryDirectory() as folder:
        subject = SUBJECTS[0]
        convert(MODELS / subject.file, Path(folder) / "bundle", subject.options())
        bundle = Bundle.open(Path(folder) / "bundle")
        sample = bundle.check_inputs(inputs_of(subject, bundle, "test", 1)[0])
        cuts = sorted(bundle.cuts, key=lambda cut: cut.payload_bytes)
        chosen = {cut.id: bundle.run_head(cut.id, sample)[0] for cut in (cuts[len(cuts) // 2], cuts[-1])}
        specs = {cut: bundle.crossing_specs(cut) for cut in chosen}
    rows = []
    for cut, tensors in chosen.items():
        megabytes = sum(tensor.nbytes for tensor in tensors.values()) / 1e6
        copies = {name: np.empty_like(tensor) for name, tensor in tensors.items()}
        for codec, entropy in (
            ("raw", "none"), ("int8", "none"), ("int8", "zstd"), ("f16", "zstd"), ("lossless", "none"),
            ("lossless", "zstd"), ("lossless", "zlib-rle"),
        ):  # fmt: skip
            settings = Settings(entropy)  # type: ignore[arg-type]
            times: list[tuple[float, float, float]] = []
            for _ in range(25):
                marks = [time.perf_counter()]
                for name, tensor in tensors.items():
                    np.copyto(copies[name], tensor)
                marks.append(time.perf_counter())
                encoded = encode(codec, tensors, {}, settings)
                marks.append(time.perf_counter())
                decode(codec, encoded, specs[cut], {}, 1 << 30)
                marks.append(time.perf_counter())
                times.append(tuple((b - a) * 1e6 / megabytes for a, b in pairwise(marks)))  # type: ignore[arg-type]
            copy, there, back = (median(column) for column in zip(*times, strict=True))
            size = sum(len(each.data) for each in encoded) / megabytes / 1e6
            rows.append(
                [cut, f"{megabytes:.2f}", codec, entropy, f"{there:.0f}", f"{back:.0f}", f"{there + back:.0f}",
                 f"{copy:.0f}", f"{(there + back) / copy:.1f}", f"{1 / size:.1f}"]
            )  # fmt: skip
    return rows


def _plot(subject: Subject, measured: Calibration) -> None:
    series = series_of(measured.tried)
    folder = ROOT / "docs" / "benchmarks" / "codecs"
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{subject.name.replace(' ', '-')}.svg"
    write_chart(target, series, title=f"{subject.name}: bytes against agreement", metric=subject.metric)


def _geometric(rows: Sequence[Row]) -> float:
    return math.exp(fmean(math.log(row.smaller) for row in rows))


def _best(rows: Sequence[Row], floor: float, held: bool, slow: bool) -> list[Row]:
    """Of each place, the smallest rung that calibration has kept for a floor; ``held``: and that the test confirms."""
    found: dict[tuple[str, str], Row] = {}
    for row in sorted(rows, key=lambda row: row.payload_bytes):
        kept = row.calibrated >= floor and row.agreement >= floor if held else row.floor == floor
        if kept and (slow or not row.slow):
            found.setdefault((row.model, row.place), row)
    return list(found.values())


def _page(rows: Sequence[Row], predicted: Sequence[Sequence[str]], fast: Sequence[Sequence[str]], count: int) -> str:
    summary = []
    for floor in FLOORS:
        for held in (True, False):
            for slow in (True, False):
                for least in (LEAST_BYTES, 0):
                    at = [
                        row for row in _best(rows, floor, held, slow) if row.place != "input" and row.raw_bytes >= least
                    ]
                    ratio = _geometric(at)
                    summary.append(
                        [f"{floor:g}", "both" if held else "calibration", "with" if slow else "without",
                         f"of {least:,} bytes and more" if least else "all", len(at), len({row.model for row in at}),
                         f"{ratio:.1f} ×", f"{ASKED[floor]:g} ×", verdict(ratio >= ASKED[floor]),
                         f"{fmean(row.agreement for row in at):.4f}",
                         f"{sum(row.agreement >= floor for row in at)} of {len(at)}"]
                    )  # fmt: skip
    chosen = [row for floor in FLOORS for row in _best(rows, floor, True, True)]
    inputs = [row for row in chosen if row.place == "input"]
    cuts = [row for row in chosen if row.place != "input"]
    quick = [row for row in fast if row[2] == "int8" and row[3] == "none"]
    int8 = max(float(row[6]) for row in quick) if quick else math.nan

    def listed(chosen: Sequence[Row]) -> str:
        return table(
            "model|crosses| floor|codec| raw bytes| bytes| smaller| agreement when calibrated| on test inputs",
            [
                [row.model, row.place, f"{row.floor:g}", row.codec, f"{row.raw_bytes:,.0f}",
                 f"{row.payload_bytes:,.0f}",
                 f"{row.smaller:.1f} ×", f"{row.calibrated:.4f}", f"{row.agreement:.4f}"]
                for row in chosen
            ],
        )  # fmt: skip

    plots = "\n".join(f"![{subject.name}](codecs/{subject.name.replace(' ', '-')}.svg)" for subject in SUBJECTS)
    metrics = table("model|file|agreement is", [[each.name, each.file, f"`{each.metric}`"] for each in SUBJECTS])
    return f"""# The codec ladder, measured

Generated by `python benchmarks/codecs.py --inputs {count}` on {machine()}:
{count} calibration inputs of each model, of which one half sets the rungs up and the other judges them, and
{count // 2} test inputs. The two kinds share no picture, sentence or recording
(`benchmarks/scenes.py`). Sizes are those of the tensors' data on the test inputs.

{metrics}

## How small, at which agreement

For each cut that `midstream convert` keeps, the smallest rung that reached the floor in a calibration with that floor:
on the *calibration* inputs alone, as a user has it, or on those and the test inputs, *both*. {count // 2} inputs tell
agreements of {2 / count:.3f} apart where an answer is the same or not, and one other answer is {1 - 2 / count:.3f};
so the first kind is a little below its floor on inputs that it has not seen, and the second above it.

{table("floor|reached on|LZMA|cuts| number| models| smaller, geometric mean| asked|| agreement| held", summary)}

*Agreement* and *held* are those of the test inputs.

## The compressed whole input, by the same measure

{listed(inputs)}

## Every cut

The smallest rung that reached the floor on both.

{listed(cuts)}

## Speed

µs for each MB of float32, one thread, medians of 25 runs in turns; `memcpy` in the same run. Asked for 8-bit
quantisation, both ways: at most {FACTOR} × of the {INT8_US_PER_MB:g} µs/MB in the plan, {FACTOR * INT8_US_PER_MB:g};
seen: {int8:.0f}, {verdict(int8 <= FACTOR * INT8_US_PER_MB)}. For lossless the plan states no time.

{table("cut| MB|codec|packed by| encode| decode| both| memcpy| both / memcpy| smaller", fast)}

## The size before encoding

Mean absolute shares by which a size is wrong: the calibrated mean, the payload before this one, and what the device
says, which is whichever has erred least lately of these two and of the features' prediction. *apart* are the test
inputs, *stream* a camera that moves over a photograph.

{table("model|crosses|codec|inputs| mean| before| device", predicted)}

## The pictures

{plots}
"""


if __name__ == "__main__":
    raise SystemExit(main())
