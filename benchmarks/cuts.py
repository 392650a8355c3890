"""What the converters promise, measured on real and made models: cuts kept, peers, speed, time to convert, memory.

``pip install -e .[dev,bench]`` brings the peers; ``python benchmarks/cuts.py`` measures everything (about a quarter of
an hour on two idle cores) and writes docs/benchmarks/cuts.md. ``--only SECTION`` measures that section anew and leaves
the others as they are; ``--quick`` and ``--model PART_OF_A_NAME`` are for trying the script, and print the page only.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import multiprocessing
import os
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import astuple, dataclass, replace
from functools import cached_property
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import numpy as np
import onnx
import onnx.utils
import onnxruntime as ort
from models import CONVERSIONS, MODELS, ROOT, interleaved_series, machine, table, verdict, write_page

from midstream.bundle import Bundle
from midstream.errors import MidstreamError
from midstream.manifest import WEIGHTS_FILE, Manifest
from midstream.samples import InputTypes
from midstream.tensors import Tensors
from midstream_converters import slicing
from midstream_converters.convert import convert
from midstream_converters.cuts import Candidate
from midstream_converters.difference import max_abs_error
from midstream_converters.opening import Opened, Options, open_model, read_model
from midstream_converters.recipe import BundleCache, recipe_of
from midstream_converters.samples import GENERATED_SAMPLES, read_calibration
from midstream_converters.selection import select
from midstream_converters.weights import WeightStore

T = TypeVar("T")

MADE = ROOT / "tests" / "models"
CACHE = ROOT / ".cache" / "benchmarks"
PAGE = ROOT / "docs" / "benchmarks" / "cuts.md"
SPAWN = multiprocessing.get_context("spawn")

REFUSED = "refused"
CLOSE = 1e-4
SIZE_FACTOR, SIZE_BYTES, LAYER_BYTES = 1.05, 100_000, 2_000
LARGE_MS, LARGE_RATIO, SMALL_MS = 5.0, 1.02, 0.15
NOISE = 0.01
LOADS_AND_RUNS, CONVERT_S = 20, 5.0

TIMED: Sequence[tuple[str, int | None]] = (
    ("ch_PP-OCRv4_rec_infer.onnx", 40),
    ("pose_landmark_full.tflite", 40),
    ("pose_landmark_full.tflite", None),
    ("hand_landmark_full.tflite", None),
)
WEIGHED = (
    "ch_PP-OCRv4_rec_infer.onnx",
    "ch_PP-OCRv4_det_infer.onnx",
    "pose_landmark_full.tflite",
    "iris_landmark.tflite",
)


@dataclass(frozen=True)
class Settings:
    """How much is measured. Times are limits in seconds."""

    only: tuple[str, ...]
    model: str = ""
    max_cuts: int | None = None
    convert_s: float = 300.0
    peer_cuts: int = 40
    peer_s: float = 60.0
    speed_cuts: int = 12
    speed_block_ms: float = 250.0
    speed_blocks: int = 2
    speed_s: float = 3.0
    repeats: int = 3

    @property
    def partial(self) -> bool:
        """Whether what comes out is no page to keep."""
        return bool(self.model) or self.max_cuts is not None


QUICK = Settings(
    (), max_cuts=6, peer_cuts=4, peer_s=20.0, speed_cuts=2, speed_block_ms=60.0, speed_blocks=1, speed_s=0.5, repeats=1
)


# The models, and their bundles with every cut


@dataclass(frozen=True)
class Case:
    """A model and what one tells ``midstream convert`` about it."""

    path: Path
    options: Options

    @property
    def name(self) -> str:
        """The file's name."""
        return self.path.name


@dataclass(frozen=True)
class PeerCut:
    """A candidate in the words that a peer understands: the names of what goes in and out."""

    id: str
    head_inputs: tuple[str, ...]
    head_outputs: tuple[str, ...]
    tail_inputs: tuple[str, ...]
    tail_outputs: tuple[str, ...]


@dataclass(frozen=True)
class Candidates:
    """All the candidates of a model, and for the peers a sample of them with inputs to try them on."""

    layers: int
    heads: dict[str, tuple[int, ...]]
    sample: tuple[PeerCut, ...]
    inputs: list[Tensors]


@dataclass(frozen=True)
class Made:
    """A bundle. ``seconds`` are what the conversion took; of one from the cache that is not known."""

    case: Case
    path: Path
    manifest: Manifest
    seconds: float | None


class TooLongError(Exception):
    """A conversion has used up its time."""


class Workshop:
    """Opens and converts models, each once."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self._folder = folder
        self._settings = settings
        self._cache = BundleCache(CACHE)
        self._made: dict[Path, Made | str] = {}

    @cached_property
    def cases(self) -> list[Case]:
        """Every real model there is, then every made one."""
        told, part = dict(CONVERSIONS), self._settings.model
        real = [Case(path, told.get(path, Options())) for path in model_files(MODELS, part)]
        return real + [Case(path, self._calibrated(path)) for path in model_files(MADE, part)]

    def bundle(self, case: Case, timed: bool = False) -> Made | str:
        """The model's bundle with every cut, or why there is none; converted here and now where times are wanted."""
        known = self._made.get(case.path)
        if known is None or (timed and isinstance(known, Made) and known.seconds is None):
            known = self._made[case.path] = self._convert(case, timed)
        return known

    def bundles(self) -> Iterator[Made]:
        """Those of all models that have one."""
        for case in self.cases:
            made = self.bundle(case)
            if isinstance(made, Made):
                yield made

    def candidates(self, case: Case) -> Candidates:
        """All candidates, and a sample of them for the peers."""
        with self._opened(case.path, case.options) as opened:
            source = opened.source
            candidates = sorted(select(source.graph, every=True).chosen, key=lambda cut: len(cut.head))
            tried = candidates
            made = self._made.get(case.path)
            if self._settings.max_cuts is not None and isinstance(made, Made):
                known = {cut.id for cut in made.manifest.cuts} | {cut.id for cut in made.manifest.rejected}
                tried = [candidate for candidate in candidates if candidate.id in known]
            sample = spread(tried, self._settings.peer_cuts) if source.engine == "onnx" else []
            return Candidates(
                len(source.graph.nodes),
                {candidate.id: candidate.head for candidate in candidates},
                tuple(peer_cut(opened, candidate) for candidate in sample),
                [inputs | opened.fixed for inputs in proof_inputs(opened, case.options)],
            )

    def _convert(self, case: Case, timed: bool) -> Made | str:
        say(f"converting {case.name}")
        target = self._folder / "bundles" / case.path.relative_to(ROOT)
        options = replace(case.options, max_cuts=self._settings.max_cuts)
        start = time.perf_counter()

        def watch(_what: str, _done: int, _all: int) -> None:
            if time.perf_counter() - start > self._settings.convert_s:
                raise TooLongError

        try:
            manifest = convert(case.path, target, options, watch, None if timed else self._cache)
            seconds = time.perf_counter() - start
            if timed:
                self._cache.keep(recipe_of(read_model(case.path), options), target)
            return Made(case, target, manifest, seconds if timed else None)
        except MidstreamError as error:
            return f"{REFUSED}: {str(error).removeprefix(f'{case.path} ')}"
        except TooLongError:
            return f"given up after {self._settings.convert_s:g} s"
        except Exception as error:  # noqa: BLE001  a defect of the converters belongs on the page
            return f"failed: {type(error).__name__}: {error}"

    def _calibrated(self, path: Path) -> Options:
        """With the calibration data made for models of this name, if the model takes them as they are."""
        for archive in sorted(MADE.glob("*_calibration.npz")):
            if path.name.startswith(archive.name.removesuffix("calibration.npz")):
                options = Options(calibration=archive)
                with contextlib.suppress(MidstreamError), self._opened(path, options) as opened:
                    proof_inputs(opened, options)
                    return options
        return Options()

    @contextmanager
    def _opened(self, path: Path, options: Options) -> Iterator[Opened]:
        with (
            tempfile.TemporaryDirectory(dir=self._folder) as folder,
            WeightStore(Path(folder) / "weights.bin") as store,
        ):
            opened = open_model(read_model(path), options, store)
            try:
                yield opened
            finally:
                opened.original.close()


def model_files(folder: Path, part: str) -> list[Path]:
    """The models in a folder and those below it that have this in their names."""
    return sorted(path for path in folder.rglob("*") if path.suffix in (".tflite", ".onnx") and part in path.name)


def proof_inputs(opened: Opened, options: Options) -> list[Tensors]:
    """The inputs on which the converters prove a model's cuts: those of other sizes too, where sizes are dynamic."""
    if options.calibration is not None:
        samples = read_calibration(options.calibration, opened.types, opened.shapes)
    else:
        samples = [opened.types.generate(opened.shapes, seed) for seed in range(GENERATED_SAMPLES)]
    return samples + opened.varied


def peer_cut(opened: Opened, candidate: Candidate) -> PeerCut:
    """The candidate's names. Inputs bound by ``--value`` are given to both sides: a peer's model still has them."""
    halves, bound = slicing.halves(opened.source, candidate), tuple(opened.fixed)
    head, tail = halves.head.record, halves.tail.record
    return PeerCut(candidate.id, head.inputs + bound, head.outputs, tail.inputs + bound, tail.outputs)


# Section: every cut of every model


def every_cut(shop: Workshop, settings: Settings) -> str:
    """The share of cuts kept, the causes of the others, conversion times and sizes."""
    rows, causes, refused = [], [], []
    sums: Counter[str] = Counter()
    for case in shop.cases:
        made = shop.bundle(case, timed=True)
        if isinstance(made, str):
            refused.append([case.name, made])
            continue
        found, manifest = shop.candidates(case), made.manifest
        total, kept = len(found.heads), len(manifest.cuts)
        moved = sum(cut.nodes != found.heads[cut.id] for cut in manifest.cuts)
        dead = sum(cut.max_abs_error is None for cut in manifest.rejected)
        size, limit = Bundle.open(made.path).bundle_bytes, bundle_limit(manifest, found.layers)
        sums += Counter(models=1, total=total, kept=kept, moved=moved, dead=dead, fits=size <= limit)
        rows.append(
            [
                case.name,
                found.layers,
                total,
                total - dead,
                kept,
                f"{kept / total:.0%}" if total else "",
                moved or "",
                (settings.max_cuts is None and total - kept - len(manifest.rejected)) or "",
                len(manifest.rejected) or "",
                f"{made.seconds:.1f}",
                f"{manifest.model_bytes:,}",
                f"{size:,}",
                f"{size / limit:.2f}",
                verdict(size <= limit),
            ]
        )
        causes += [[case.name, *cause] for cause in rejections(manifest)]
    broken = [why for _, why in refused if not why.startswith(REFUSED)]
    return paragraphs(
        "A candidate is a place between two layers where something crosses that depends on the input, all of it can "
        "travel, and no hidden state leaves the device. It *runs* where head and tail convert, load and give answers "
        "of the right shapes at finite distances; it is *kept* where they give the whole model's very bits on every "
        "calibration input. "
        "*Moved* are kept cuts whose boundary had to go before one of the crossing tensors; *twice* those that became, "
        "by that, a cut which is there already. *s* is what the conversion took, proof included. The asked size is "
        f"{SIZE_FACTOR:g} × the model file + {SIZE_BYTES // 1000} kB + {LAYER_BYTES // 1000} kB a layer.",
        f"{sums['total'] - sums['dead']} of {sums['total']} candidates of {sums['models']} models run "
        f"({verdict(not sums['dead'] and not broken)}), {sums['kept']} are kept "
        f"({share(sums['kept'], sums['total'])}), {sums['moved']} of them moved. The "
        f"size is met by {sums['fits']} of {sums['models']} bundles.",
        table(
            "model| layers| candidates| run| kept| share| moved| twice| rejected| s| model bytes| bundle bytes"
            "| of the asked size|",
            rows,
        ),
        "Why cuts were rejected:" if causes else "No cut was rejected.",
        table("model|cause| cuts| largest difference", causes),
        "Models that are no bundle:" if refused else "",
        table("model|why", refused),
    )


def bundle_limit(manifest: Manifest, layers: int) -> float:
    """The largest size asked for."""
    return SIZE_FACTOR * manifest.model_bytes + SIZE_BYTES + LAYER_BYTES * layers


def rejections(manifest: Manifest) -> list[list[object]]:
    """(cause, cuts, largest difference), most frequent first."""
    reasons = [re.sub(r"[\d.]+\d ", "", cut.reason, count=1) for cut in manifest.rejected]
    differences: dict[str, list[float]] = {reason: [] for reason in reasons}
    for reason, cut in zip(reasons, manifest.rejected, strict=True):
        if cut.max_abs_error is not None:
            differences[reason].append(cut.max_abs_error)
    return [
        [reason, cuts, f"{max(differences[reason]):.2g}" if differences[reason] else "none: it does not run"]
        for reason, cuts in Counter(reasons).most_common()
    ]


# Section: the peers

Extract = Callable[[Sequence[str], Sequence[str], Path], None]


def onnx_utils(model: Path) -> Extract:
    """``onnx.utils.extract_model``, which infers shapes; without its checks, which refuse what onnxruntime runs."""

    def extract(inputs: Sequence[str], outputs: Sequence[str], target: Path) -> None:
        onnx.utils.extract_model(model, target, list(inputs), list(outputs), check_model=False)

    return extract


def ir_extract(model: Path) -> Extract:
    """``onnx_ir.convenience.extract`` on the model after onnx's shape inference, without which inputs lack a type."""
    import onnx_ir

    whole = onnx_ir.from_proto(onnx.shape_inference.infer_shapes(onnx.load(model)))

    def extract(inputs: Sequence[str], outputs: Sequence[str], target: Path) -> None:
        graph = onnx_ir.convenience.extract(whole.graph, list(inputs), list(outputs))
        part = onnx_ir.Model(graph, ir_version=whole.ir_version, functions=list(whole.functions.values()))
        onnx_ir.save(part, target)

    return extract


def sne(model: Path) -> Extract:
    """``sne4onnx.extraction`` as it comes, with onnx-graphsurgeon: it infers shapes before and after."""
    import sne4onnx

    def extract(inputs: Sequence[str], outputs: Sequence[str], target: Path) -> None:
        sne4onnx.extraction(
            list(inputs), list(outputs), str(model), output_onnx_file_path=str(target), non_verbose=True
        )

    return extract


PEERS: Mapping[str, tuple[str, Callable[[Path], Extract]]] = {
    "onnx.utils.extract_model": ("onnx", onnx_utils),
    "onnx_ir.convenience.extract": ("onnx-ir", ir_extract),
    "sne4onnx.extraction": ("sne4onnx", sne),
}


# What differs from cut to cut in messages: codes and places in the runtime's source, files, names, numbers.
_GENERAL = (
    (r"\[ONNXRuntimeError\] : \d+ : \w+ : (Load model from \S+ failed: ?)?", ""),
    (r"initialization: /.*", "initialization"),
    (r"In Node, .*, Error ", ""),
    (r"value_infos: .*", "value_infos: …"),
    (r"/tmp/\S*|'[^']*'|\"[^\"]*\"|\([^()]*\)|\b\d+\b", "…"),
)


@dataclass(frozen=True)
class Attempt:
    """What became of one cut: the difference to the whole model's answer, or what failed."""

    error: float | None = None
    failure: str = ""

    @property
    def exact(self) -> bool:
        """The same bits."""
        return self.error == 0

    @property
    def close(self) -> bool:
        """Within ``CLOSE`` of the whole model."""
        return self.error is not None and self.error <= CLOSE


def try_peer(
    peer: str, model: Path, cuts: Sequence[PeerCut], inputs: Sequence[Tensors], seconds: float
) -> list[Attempt]:
    """The peer on each cut, for as long as there is time; in a process of its own."""
    start = time.perf_counter()
    attempts: list[Attempt] = []
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(None):
        whole = session(model)
        expected = [answers(whole, sample) for sample in inputs]
        try:
            extract = PEERS[peer][1](model)
        except Exception as error:  # noqa: BLE001  whatever a peer raises is its answer
            return [Attempt(failure=first_words(error))] * len(cuts)
        for cut in cuts:
            if time.perf_counter() - start > seconds:
                break
            attempts.append(attempt(extract, cut, inputs, expected, Path(folder)))
    return attempts


def attempt(
    extract: Extract, cut: PeerCut, inputs: Sequence[Tensors], expected: Sequence[Tensors], folder: Path
) -> Attempt:
    """Extract head and tail, load both, and run one behind the other."""
    names = ("head", cut.head_inputs, cut.head_outputs), ("tail", cut.tail_inputs, cut.tail_outputs)
    try:
        loaded = []
        for side, takes, gives in names:
            target = folder / f"{side}.onnx"
            extract(takes, gives, target)
            loaded.append(session(target))
        worst = 0.0
        for sample, want in zip(inputs, expected, strict=True):
            first = sample | answers(loaded[0], sample, cut.head_outputs)
            worst = max(worst, max_abs_error(want, first | answers(loaded[1], first, cut.tail_outputs)))
        return Attempt(worst)
    except (Exception, SystemExit) as error:  # noqa: BLE001  as above
        return Attempt(failure=first_words(error))


def session(model: Path) -> ort.InferenceSession:
    """The model in onnxruntime, one thread, as the engine of midstream loads it."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"], enable_fallback=0)


def answers(loaded: ort.InferenceSession, values: Tensors, outputs: Sequence[str] | None = None) -> Tensors:
    """These outputs, or all, of a model that takes some of these values."""
    names = list(outputs) if outputs is not None else [output.name for output in loaded.get_outputs()]
    given = {entry.name: values[entry.name] for entry in loaded.get_inputs() if entry.name in values}
    return dict(zip(names, loaded.run(names, given), strict=True))


def first_words(error: BaseException) -> str:
    """What failed, without what differs from cut to cut."""
    text = " ".join(str(error).split("\n", 1)[0].split())
    for shown, hidden in _GENERAL:
        text = re.sub(shown, hidden, text)
    return f"{type(error).__name__}: {text[:120]}"


def peers(shop: Workshop, settings: Settings) -> str:
    """How many of the same cuts each peer manages."""
    try:
        versions = ", ".join(f"{package} {metadata.version(package)}" for package, _ in PEERS.values())
    except metadata.PackageNotFoundError as error:
        raise SystemExit(f"{error.name} is missing: pip install -e '.[dev,bench]'") from None
    rows: list[list[object]] = []
    failures: dict[str, Counter[str]] = {peer: Counter() for peer in PEERS}
    sums: Counter[tuple[str, str]] = Counter()
    for made in shop.bundles():
        if made.manifest.engine != "onnx":
            continue
        found = shop.candidates(made.case)
        if not found.sample:
            continue
        say(f"peers on {made.case.name}")
        row: list[object] = [made.case.name, len(found.heads), len(found.sample)]
        for peer, attempts in [("midstream", ours(made, found)), *theirs(made.case, found, settings)]:
            exact, close = sum(a.exact for a in attempts), sum(a.close for a in attempts)
            tried = "" if len(attempts) == len(found.sample) else f" of {len(attempts)} in time"
            row.append(f"{exact} / {close}{tried}")
            sums[peer, "exact"] += exact
            sums[peer, "close"] += close
            if peer in failures:
                failures[peer].update(reason(a) for a in attempts if not a.exact)
        rows.append(row)
    total: list[object] = ["all", "", sum(int(str(row[2])) for row in rows)]
    total += [f"**{sums[peer, 'exact']} / {sums[peer, 'close']}**" for peer in ("midstream", *PEERS)]
    return paragraphs(
        f"At most {settings.peer_cuts} candidates of each ONNX model, evenly spaced from the first to the last, at "
        f"most {settings.peer_s:g} s for each peer and model; {versions}, onnxruntime {ort.__version__}. Each peer is "
        "given the file as it is and, as names of inputs and outputs, the tensors that cross at our candidate, and "
        "model inputs bound to a value besides. What only makes them refuse more is left out (`check_model=False`), "
        "and onnx_ir gets the model after onnx's shape inference, which the others do themselves. A peer manages a cut "
        "where head and tail are extracted, both load in onnxruntime with one thread, and head, then tail, give what "
        f"the file gives on every input of our own proof: *bit for bit / within {CLOSE:g}*. A cut that midstream keeps "
        "after moving its boundary is not the same cut and counts for nothing here. sne4onnx 2.0.1 is newer, and "
        "manages none of these cuts: what makes a tensor that is named as an input stays in its tails.",
        "For TFLite there is no such peer: we know of no released package that takes a .tflite file and two sets of "
        "tensor names and gives back what runs between them.",
        table("model| candidates| sample| " + "| ".join(("midstream", *PEERS)), [*rows, total]),
        "Where they fail, most frequent first:",
        table(
            "peer|what comes| cuts",
            [[peer, what, cuts] for peer, count in failures.items() for what, cuts in count.most_common(8)],
        ),
    )


def ours(made: Made, found: Candidates) -> list[Attempt]:
    """The same cuts in our bundle, judged by the same measure; of rejected ones, the difference that the proof saw."""
    bundle, whole = Bundle.open(made.path), session(made.case.path)
    kept = {cut.id for cut in bundle.cuts if cut.nodes == found.heads[cut.id]}
    seen = {cut.id: cut for cut in made.manifest.rejected}
    expected = [answers(whole, sample) for sample in found.inputs]
    attempts = []
    for cut in found.sample:
        if cut.id in kept:
            given = [bundle.run_split(sample, cut.id) for sample in found.inputs]
            attempts.append(Attempt(max(map(max_abs_error, expected, given))))
            bundle.unload(cut.id)
        elif cut.id in seen:
            attempts.append(Attempt(seen[cut.id].max_abs_error, seen[cut.id].reason))
        else:
            attempts.append(Attempt(failure="moved"))
    return attempts


def theirs(case: Case, found: Candidates, settings: Settings) -> list[tuple[str, list[Attempt]]]:
    """Every peer beside the others, each in a process of its own, which it may take down with it."""
    with ExitStack() as stack:
        pools = {peer: stack.enter_context(ProcessPoolExecutor(1, mp_context=SPAWN)) for peer in PEERS}
        running = {
            peer: pool.submit(try_peer, peer, case.path, found.sample, found.inputs, settings.peer_s)
            for peer, pool in pools.items()
        }
        made = []
        for peer, future in running.items():
            try:
                made.append((peer, future.result()))
            except BrokenProcessPool:
                made.append((peer, [Attempt(failure="the process died")] * len(found.sample)))
    return made


def reason(tried: Attempt) -> str:
    """Why an attempt does not count as exact."""
    if tried.error is None:
        return tried.failure
    return f"runs, within {CLOSE:g}, not bit for bit" if tried.close else f"runs, off by more than {CLOSE:g}"


# Section: head and tail against the whole


@dataclass(frozen=True)
class Speed:
    """Medians of one cut's interleaved runs, in milliseconds. ``again`` is the whole model in a second session."""

    cut: str
    rounds: int
    first_ms: float
    again_ms: float
    split_ms: float

    @property
    def whole_ms(self) -> float:
        """The baseline: both whole models together."""
        return (self.first_ms + self.again_ms) / 2

    @property
    def noise(self) -> float:
        """How far whole and whole are apart, relative to it."""
        return abs(self.first_ms / self.again_ms - 1)

    @property
    def ratio(self) -> float:
        """Head and tail to whole."""
        return self.split_ms / self.whole_ms

    @property
    def allowed_ms(self) -> float:
        """The most that is asked for."""
        return self.whole_ms * LARGE_RATIO if self.whole_ms >= LARGE_MS else self.whole_ms + SMALL_MS

    @property
    def met(self) -> bool:
        """Whether head and tail take no longer."""
        return self.split_ms <= self.allowed_ms


def speed(shop: Workshop, settings: Settings) -> str:
    """Head + tail of each cut against the whole model."""
    overview, rows = [], []
    every: list[Speed] = []
    for made in shop.bundles():
        say(f"speed of {made.case.name}")
        measured = cut_speeds(made, settings)
        if not measured:
            continue
        every += measured
        worst = max(measured, key=lambda one: one.split_ms - one.allowed_ms)
        overview.append(
            [
                made.case.name,
                f"{median(one.whole_ms for one in measured):.3f}",
                f"{len(measured)} of {len(made.manifest.cuts)}",
                f"{median(one.ratio for one in measured):.3f}",
                f"{max(one.ratio for one in measured):.3f}",
                f"{max(one.split_ms - one.whole_ms for one in measured):+.3f}",
                f"{median(one.noise for one in measured):.1%}, {max(one.noise for one in measured):.1%}",
                f"{sum(one.met for one in measured)} of {len(measured)}"
                + ("" if worst.met else f"; {worst.cut} **missed**"),
            ]
        )
        rows += [
            [
                made.case.name,
                one.cut,
                one.rounds,
                f"{one.first_ms:.3f}",
                f"{one.again_ms:.3f}",
                f"{one.split_ms:.3f}",
                f"{one.ratio:.3f}",
                f"{one.split_ms - one.whole_ms:+.3f}",
                f"{one.noise:.1%}" + (" (loud)" if one.noise > NOISE else ""),
                verdict(one.met),
            ]
            for one in measured
            if made.case.path.is_relative_to(MODELS) or not one.met
        ]
    met, noises = sum(one.met for one in every), [one.noise for one in every] or [0.0]
    large = [one for one in every if one.whole_ms >= LARGE_MS]
    return paragraphs(
        f"At most {settings.speed_cuts} kept cuts of each model, evenly spaced, in one process and with one thread. "
        "A round is whole model, head and tail, whole model in a second session; each cut has rounds of its own, "
        f"{settings.speed_blocks} blocks or more, until whole and whole are less than {NOISE:.0%} apart or "
        f"{settings.speed_s:g} s have passed. That distance is the noise: what a second loading of the same model and "
        f"the rest of the machine make of equal work. It was {median(noises):.2%} in the median of all cuts and "
        f"{max(noises):.1%} at most, above {NOISE:.0%} at {sum(noise > NOISE for noise in noises)}. Asked for: at most "
        f"{LARGE_RATIO:g} × the whole model where that takes {LARGE_MS:g} ms or more, {SMALL_MS:g} ms more where it "
        "takes less.",
        f"{met} of {len(every)} cuts meet it ({verdict(met == len(every))}): {sum(one.met for one in large)} of "
        f"{len(large)} in the large models, {met - sum(one.met for one in large)} of {len(every) - len(large)} in the "
        "small ones.",
        table(
            "model| whole ms| cuts| median ratio| largest ratio| largest difference ms| noise (median, largest)|met",
            overview,
        ),
        "Every cut of the real models, and what the made ones missed:",
        table("model|cut| rounds| whole ms| whole again ms| head + tail ms| ratio| more ms| noise|", rows),
    )


def cut_speeds(made: Made, settings: Settings) -> list[Speed]:
    """One cut after the other; what was loaded for it is unloaded again."""
    bundle, second = Bundle.open(made.path), Bundle.open(made.path)
    inputs = sample_inputs(bundle)
    single_ms = median(interleaved_series([lambda: bundle.run_tail(None, inputs)], 5)[0])
    rounds = int(min(400, max(15, settings.speed_block_ms / (3 * single_ms))))
    return [
        measure(bundle, second, cut.id, inputs, rounds, settings) for cut in spread(bundle.cuts, settings.speed_cuts)
    ]


def measure(bundle: Bundle, second: Bundle, cut_id: str, inputs: Tensors, rounds: int, settings: Settings) -> Speed:
    """Blocks of interleaved rounds, until they are quiet enough."""

    def split() -> None:
        crossing, _ = bundle.run_head(cut_id, inputs)
        bundle.run_tail(cut_id, crossing)

    runs = [lambda: bundle.run_tail(None, inputs), split, lambda: second.run_tail(None, inputs)]
    times: list[list[float]] = [[] for _ in runs]
    start = time.perf_counter()
    while True:
        for mine, more in zip(times, interleaved_series(runs, rounds), strict=True):
            mine += more
        first_ms, split_ms, again_ms = map(median, times)
        result = Speed(cut_id, len(times[0]), first_ms, again_ms, split_ms)
        settled = result.rounds >= settings.speed_blocks * rounds and result.noise < NOISE
        if settled or time.perf_counter() - start > settings.speed_s:
            bundle.unload(cut_id)
            return result


def sample_inputs(bundle: Bundle) -> Tensors:
    """Made inputs of the sizes that the bundle was proven with."""
    manifest = bundle.manifest
    types = InputTypes(manifest.free_inputs(), manifest.semantics)
    return bundle.check_inputs(types.generate(manifest.sample_shapes, seed=0))


# Section: the time a conversion takes


def conversion_time(shop: Workshop, settings: Settings) -> str:
    """Conversions, proof included, against loads and runs of the whole model."""
    rows, met = [], 0
    cases = {case.name: case for case in shop.cases}
    for case, cuts in [(cases[name], cuts) for name, cuts in TIMED if name in cases]:
        say(f"time to convert {case.name} with {cuts or 'all'} cuts")
        took, baseline = [], []
        for _ in range(settings.repeats):
            with tempfile.TemporaryDirectory() as folder:
                target = Path(folder) / "bundle"
                start = time.perf_counter()
                manifest = convert(case.path, target, replace(case.options, max_cuts=cuts))
                took.append(time.perf_counter() - start)
                inputs = sample_inputs(Bundle.open(target))
            baseline += [load_and_run_s(case.path, manifest, inputs) for _ in range(5)]
        asked = LOADS_AND_RUNS * median(baseline) + CONVERT_S
        met += median(took) <= asked
        rows.append(
            [
                case.name,
                f"{manifest.model_bytes / 1e6:.1f}",
                cuts or "every",
                len(manifest.cuts),
                len(manifest.rejected),
                f"{median(baseline):.3f}",
                f"{asked:.1f}",
                f"{median(took):.1f}",
                f"{median(took) / median(baseline):.0f}",
                f"{median(took) / asked:.2f}",
                verdict(median(took) <= asked),
            ]
        )
    return paragraphs(
        f"Conversion with its proof and without cache, median of {settings.repeats}, against opening the whole model "
        "from its file with the runtime's default threads and running it once, the median of five after each "
        f"conversion. Asked for: a 10 MB model with 40 cuts in at most {LOADS_AND_RUNS} × one load and run + "
        f"{CONVERT_S:g} s; the same measure for the other rows, which are smaller models or more cuts.",
        f"{met} of {len(rows)} are within it.",
        table(
            "model| MB| cuts asked for| kept| rejected| load and run s| asked s| converting s| loads and runs"
            "| of what is asked|",
            rows,
        ),
    )


def load_and_run_s(path: Path, manifest: Manifest, inputs: Tensors) -> float:
    """Seconds from the file to the first answer."""
    bound = {name: np.asarray(value, spec(manifest, name)) for name, value in manifest.fixed.items()}
    start = time.perf_counter()
    run_original(path, manifest, inputs | bound)
    return time.perf_counter() - start


def spec(manifest: Manifest, name: str) -> np.dtype[Any]:
    """An input's dtype."""
    return next(entry.dtype for entry in manifest.inputs if entry.name == name)


def run_original(path: Path, manifest: Manifest, inputs: Tensors) -> object:
    """Open the file with its runtime, as a user would, and run it; returns what is loaded."""
    if manifest.engine == "onnx":
        loaded = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        loaded.run(None, dict(inputs))
        return loaded
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path))
    for entry, detail in zip(manifest.inputs, interpreter.get_input_details(), strict=True):
        if tuple(detail["shape"]) != inputs[entry.name].shape:
            interpreter.resize_tensor_input(detail["index"], inputs[entry.name].shape)
    interpreter.allocate_tensors()
    for entry, detail in zip(manifest.inputs, interpreter.get_input_details(), strict=True):
        interpreter.set_tensor(detail["index"], inputs[entry.name])
    interpreter.invoke()
    return interpreter


# Section: the memory of a slice


@dataclass(frozen=True)
class Growth:
    """Bytes of a process: memory of its own, pages of mapped files, and the most there was of both at once."""

    own: int
    file: int
    peak: int

    @property
    def both(self) -> int:
        """What is resident."""
        return self.own + self.file


def memory(shop: Workshop, settings: Settings) -> str:
    """What loading a slice costs, against the engine alone with the original file."""
    rows, single = [], []
    for case in (case for case in shop.cases if case.name in WEIGHED):
        made = shop.bundle(case)
        if isinstance(made, str):
            continue
        say(f"memory of {case.name}")
        bundle = Bundle.open(made.path)
        inputs = sample_inputs(bundle)
        cut = bundle.cuts[len(bundle.cuts) // 2].id
        crossing, _ = bundle.run_head(cut, inputs)
        loads: dict[str, tuple[Path | None, Callable[..., object], tuple[object, ...]]] = {
            "the engine alone, original file": (None, run_original, (made.case.path, made.manifest, inputs)),
            "whole model": (made.path, load_slice, (None, inputs, "tail")),
            f"head of {cut}": (made.path, load_slice, (cut, inputs, "head")),
            f"tail of {cut}": (made.path, load_slice, (cut, crossing, "tail")),
            "the bundle itself": (None, opened_bundle, (made.path,)),
        }
        weights = made.manifest.files[WEIGHTS_FILE].bytes
        grown = {what: growth(settings.repeats, *load) for what, load in loads.items()}
        alone, whole, *_ = grown.values()
        extra = whole.both - alone.both
        single.append(extra < weights / 2)
        more = f"{extra / 1e6:+.1f}: {extra / weights:.2f} of the weights ({weights / 1e6:.1f})"
        rows += [
            [
                made.case.name if one is alone else "",
                what,
                f"{one.own / 1e6:.1f}",
                f"{one.file / 1e6:.1f}",
                f"{one.both / 1e6:.1f}",
                f"{one.both / alone.both:.2f}",
                f"{one.peak / 1e6:.1f}",
                f"{one.peak / alone.peak:.2f}",
                more if one is whole else "",
                verdict(single[-1]) if one is whole else "",
            ]
            for what, one in grown.items()
        ]
    return paragraphs(
        f"Growth of a fresh process from before a slice is loaded until after one run, median of {settings.repeats}, "
        "in MB; what the allocator has free was given back. The bundle is open by then, its list of cuts read and its "
        "programs unpacked: what that takes is in its own row. *Own* is anonymous memory; *file* are pages of mapped "
        "files, those of the runtime's library included, which the system takes back when it needs them; *peak* is the "
        "most that was resident on the way. The bundle holds every cut that is exact. A second copy of the weights "
        "would show as their size more than the engine alone with the original file has; half of it counts as missed, "
        "whatever it is.",
        f"In {sum(single)} of {len(single)} models there is no room for a second copy ({verdict(all(single))}).",
        table("model|loaded| own| file| both| of the engine alone| peak| of the engine alone's| more|", rows),
    )


def growth(repeats: int, path: Path | None, load: Callable[..., object], arguments: tuple[object, ...]) -> Growth:
    """The median of some fresh processes."""
    found = []
    for _ in range(repeats):
        with ProcessPoolExecutor(1, mp_context=SPAWN) as pool:
            found.append(pool.submit(grown_by, path, load, arguments).result())
    return Growth(*(int(median(sizes)) for sizes in zip(*map(astuple, found), strict=True)))


def grown_by(path: Path | None, load: Callable[..., object], arguments: tuple[object, ...]) -> Growth:
    """What this process grows by while something is loaded, from a bundle that is open if there is one."""
    bundle = () if path is None else (opened_bundle(path),)
    before = resident()
    # From here on the kernel counts the peak anew.
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    held = load(*bundle, *arguments)
    peak = resident().peak - before.both
    after = resident()
    del held
    return Growth(after.own - before.own, after.file - before.file, peak)


def opened_bundle(path: Path) -> Bundle:
    """A bundle with its programs unpacked."""
    bundle = Bundle.open(path)
    if not bundle.graph.layers:
        raise SystemExit(f"{path} has no layers")
    return bundle


def load_slice(bundle: Bundle, cut: str | None, tensors: Tensors, side: str) -> object:
    """Run one slice; returns what is loaded."""
    if side == "head" and cut is not None:
        bundle.run_head(cut, tensors)
    else:
        bundle.run_tail(cut, tensors)
    return bundle


def resident() -> Growth:
    """What is in memory now, after giving back what is free."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    lines = (line.partition(":") for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines())
    sizes = {key: int(rest.split()[0]) << 10 for key, _, rest in lines if key in ("RssAnon", "RssFile", "VmHWM")}
    return Growth(sizes["RssAnon"], sizes["RssFile"], sizes["VmHWM"])


# The page

SECTIONS: Mapping[str, tuple[str, Callable[[Workshop, Settings], str]]] = {
    "cuts": ("Every cut of every model", every_cut),
    "peers": ("The peers on the same cuts", peers),
    "speed": ("Head + tail against the whole model", speed),
    "time": ("Time to convert", conversion_time),
    "memory": ("Memory of a slice", memory),
}
INTRODUCTION = """# Cuts of real and made models

Generated by `python benchmarks/cuts.py`. Real models are those that `scripts/assets.py` takes out of wheels, made ones
those in `tests/models`. What missed its figure says **missed**."""


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=SECTIONS, action="append", help="a section; may be given several times")
    parser.add_argument("--model", default="", help="only models with this in their names; prints, writes nothing")
    parser.add_argument("--quick", action="store_true", help="few cuts and rounds; prints, writes nothing")
    given = parser.parse_args()
    settings = replace(QUICK if given.quick else Settings(()), only=tuple(given.only or SECTIONS), model=given.model)
    parts = {} if settings.partial else sections_of(PAGE)
    with tempfile.TemporaryDirectory(prefix="midstream-cuts-") as folder:
        shop = Workshop(Path(folder), settings)
        for section in settings.only:
            title, content = SECTIONS[section]
            start = time.perf_counter()
            text = content(shop, settings)
            seconds = time.perf_counter() - start
            parts[title] = f"{text}\n\nMeasured in {seconds:.0f} s on {machine()}, load {os.getloadavg()[0]:.1f}."
            if settings.partial:
                print(f"## {title}\n\n{parts[title]}\n")
            else:
                # After each section, so that a run that is cut short has not been for nothing.
                write_page(PAGE.stem, page(parts))


def page(parts: Mapping[str, str]) -> str:
    """The page of these sections, by title."""
    ordered = [f"## {title}\n\n{parts[title]}" for title, _ in SECTIONS.values() if title in parts]
    return paragraphs(INTRODUCTION, *ordered) + "\n"


def sections_of(path: Path) -> dict[str, str]:
    """The sections of a page written before, by title."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    starts = [match.start() for match in re.finditer("^## ", text, re.MULTILINE)] + [len(text)]
    blocks = [text[start:end].strip().split("\n", 1) for start, end in pairwise(starts)]
    return {block[0].removeprefix("## "): block[-1].strip() for block in blocks}


def spread(items: Sequence[T], count: int) -> list[T]:
    """At most this many of them, evenly spaced, the first and the last included."""
    if len(items) <= count:
        return list(items)
    return [items[index] for index in np.linspace(0, len(items) - 1, count).round().astype(int)]


def paragraphs(*parts: str) -> str:
    """Those that are not empty, with a line between."""
    return "\n\n".join(part for part in parts if part)


def share(part: int, of: int) -> str:
    """As a percentage."""
    return f"{part / of:.1%}" if of else "none"


def say(what: str) -> None:
    """Progress, to stderr."""
    print(f"{time.strftime('%H:%M:%S')} {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
