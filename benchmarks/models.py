"""What the benchmarks share: the demo's models, fair timing, and the pages in docs/benchmarks."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

from midstream.inputs import parse_semantics
from midstream_converters.opening import Options

ROOT = Path(__file__).resolve().parent.parent
MODELS = ROOT / ".cache" / "assets" / "models"

CONVERSIONS: Sequence[tuple[Path, Options]] = (
    (
        MODELS / "face_detection_short_range.tflite",
        Options(semantics=dict([parse_semantics("input=image:NHWC:RGB:1/127.5:127.5")])),
    ),
    (MODELS / "silero_vad.onnx", Options(shapes={"input": (1, 576), "state": (2, 1, 128)}, values={"sr": 16000})),
    (MODELS / "ch_PP-OCRv4_det_infer.onnx", Options(shapes={"x": (1, 3, 320, 320)})),
    (MODELS / "ch_PP-OCRv4_rec_infer.onnx", Options(shapes={"x": (1, 3, 48, 320)})),
)


def interleaved_ms(runs: Sequence[Callable[[], object]], rounds: int) -> list[float]:
    """Median milliseconds of each, taking turns, so that whatever else the machine does meets them alike."""
    return [median(series) for series in interleaved_series(runs, rounds)]


def interleaved_series(runs: Sequence[Callable[[], object]], rounds: int) -> list[list[float]]:
    """The milliseconds of every run of each, after one run of each that does not count."""
    times: list[list[float]] = [[] for _ in runs]
    for run in runs:
        run()
    for _ in range(rounds):
        for position, run in enumerate(runs):
            start = time.perf_counter()
            run()
            times[position].append((time.perf_counter() - start) * 1e3)
    return times


def processor_series_ms(runs: Sequence[Callable[[], object]], rounds: int) -> list[list[float]]:
    """Milliseconds of processor time of one thread, of each; they take turns, and the first round does not count."""
    series: list[list[float]] = [[] for _ in runs]
    for _ in range(rounds + 1):
        for run, took in zip(runs, series, strict=True):
            start = time.thread_time()
            run()
            took.append((time.thread_time() - start) * 1e3)
    return [took[1:] for took in series]


def machine() -> str:
    """Processor kind and cores, for the page."""
    return f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"


def write_page(name: str, text: str) -> None:
    """Write docs/benchmarks/NAME.md and show it."""
    path = ROOT / "docs" / "benchmarks" / f"{name}.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    print(text)


def table(headings: str, rows: Sequence[Sequence[object]]) -> str:
    """A table; headings are parted by ``|``, and those of numbers begin with a space. Empty without rows."""
    if not rows:
        return ""
    names = headings.split("|")
    lines = [names, ["---:" if name.startswith(" ") else "---" for name in names], *rows]
    return "\n".join("| " + " | ".join(str(cell).strip().replace("|", "\\|") for cell in line) + " |" for line in lines)


def verdict(met: bool) -> str:
    """In a word."""
    return "met" if met else "**missed**"
