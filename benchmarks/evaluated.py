"""The models that the evaluation prices: converted, calibrated for all its floors and kept in .cache/adaptive.

    python benchmarks/evaluated.py [--models NAME,…]

Makes what is not there yet, one after the other, and prints what the ladders hold. Beside each bundle, ``NAME.json``
says what it was made of; where that is no longer so, or the bundle is damaged, it is made anew. It says nothing of the
converters' and the codecs' code: delete a bundle to have it made by newer code.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import exits
import numpy as np
import scenes
import subjects
from models import MODELS, ROOT, interleaved_ms, machine, table
from subjects import SUBJECTS, Subject, inputs_of

from midstream.agreement import box_f1
from midstream.bundle import Bundle
from midstream.calibrating import MAX_EXIT_INPUTS, calibrate, learn_exit, pareto, write_exit, write_ladder
from midstream.communication.codecs import ALL_RUNGS, find_codec
from midstream.engines import engine_for
from midstream.errors import BundleError
from midstream.exits_file import EXITS_VERSION
from midstream.files import write_whole
from midstream.inputs import ImageInput
from midstream.ladder import Ladder, MeasuredRung, Place
from midstream.ladder_file import LADDER_VERSION, ladder_from_bytes, ladder_to_bytes
from midstream.manifest import COSTS_FILE, FORMAT_VERSION, Costs, EngineName
from midstream.sealed import costs_to_bytes
from midstream.tensors import Tensors
from midstream_converters.convert import convert
from midstream_converters.opening import Options

sys.path.append(str(ROOT / "examples" / "raspberry_pi"))
from blazeface import MODEL_PIXELS, find_faces

FOLDER = ROOT / ".cache" / "adaptive"
FLOORS = (1.0, 0.995, 0.97)
# With 36 that judge, half of these, one other answer is within .97; what is a mean of shares needs fewer.
MANY, ENOUGH = 72, 32
ROUNDS = 15
JPEG = ("jpeg75", "jpeg90")
# What calibration refines until a floor is reached.
STEPS = tuple(codec for codec in ALL_RUNGS if find_codec(codec).family in ("step", "klt"))

Kind = Literal["detector", "recogniser", "classifier", "segmenter", "audio"]
InputsOf = Callable[[Bundle, scenes.Kind, int], list[Tensors]]

WHAT = {
    "signs": "photographs with lines of text on them, pieces of a scanned page",
    "lines": "single lines of text on photographs, lines of a scanned page",
    "faces": "photographs with one or two smaller pictures of a person on them",
    "people": "pieces of a photograph of a person, darker, lighter, mirrored",
    "voices": "pieces of recorded and spoken sound, some in noise",
}


@dataclass(frozen=True)
class Recipe:
    """How a model's bundle is made. ``sources`` are the files besides the model that decide what its inputs are.

    ``metric`` is one of `midstream.agreement.find_metric`; ``what`` says what the inputs are. ``inputs`` makes so many,
    of which those to calibrate with share nothing with those to test with. Cuts at which more than ``widest_bytes``
    cross are not calibrated, where that is given.
    """

    name: str
    kind: Kind
    model: Path
    what: str
    metric: str
    options: Options
    inputs: InputsOf
    calibrated_on: int
    sources: tuple[Path, ...]
    widest_bytes: int | None = None
    learns_exit: bool = False

    def made_of(self) -> dict[str, Any]:
        """All that decides what the bundle holds, but for the code."""
        engine: EngineName = "litert" if self.model.suffix == ".tflite" else "onnx"
        return {
            "files": {path.name: _sha256(path) for path in (self.model, *self.sources)},
            "options": repr(self.options),
            "metric": self.metric,
            "inputs": self.calibrated_on,
            "widest_bytes": self.widest_bytes,
            "floors": list(FLOORS),
            "codecs": [*ALL_RUNGS, *JPEG],
            "exit": exits.TARGET if self.learns_exit else None,
            "formats": [FORMAT_VERSION, LADDER_VERSION, EXITS_VERSION],
            "engine": engine_for(engine).version(),
        }


@dataclass(frozen=True)
class Evaluated:
    """A model whose bundle is there, with a ladder for all of `FLOORS`, and with an early exit where it learns one.

    ``jpeg`` are the rungs of `JPEG` at the whole input of a picture model, measured as the ladder's are: the ladder
    itself leaves out what another rung beats or what no floor allows. ``took_s`` is how long making it took.
    """

    recipe: Recipe
    folder: Path
    jpeg: tuple[MeasuredRung, ...]
    took_s: float

    def open(self) -> Bundle:
        """The bundle, with its ladder and exit."""
        return Bundle.open(self.folder)


def main() -> int:
    """Make what is missing and print what there is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="", help="only these, by name")
    named = parser.parse_args().models
    chosen = [each for each in recipes() if not named or each.name in named.split(",")]
    found = []
    for recipe in chosen:
        (each,) = evaluated([recipe])
        print(f"{recipe.name}: made in {each.took_s:.0f} s", file=sys.stderr)
        found.append(each)
    print(summary(found))
    return 0


def evaluated(chosen: Sequence[Recipe] | None = None, folder: Path = FOLDER) -> list[Evaluated]:
    """These models, or all; each is made where it is not there as its recipe says."""
    return [_kept(recipe, folder) or _made(recipe, folder) for recipe in (recipes() if chosen is None else chosen)]


def recipes() -> list[Recipe]:
    """Seven models of all kinds. The keyword network and its data are made where they are not in the cache."""
    return [
        *(_of_subject(subject, *KINDS[subject.name]) for subject in (*SUBJECTS, FACES)),
        _keywords(),
    ]


# With the cuts kept, the widest of them to calibrate, and the inputs to do it on: few where each takes long. The
# recogniser's only narrow cuts, which are late, come after the 46 that some link makes the best where all travels raw.
KINDS: dict[str, tuple[Kind, int, int | None, int]] = {
    "text detection": ("detector", 10, None, ENOUGH),
    "text recognition": ("recogniser", 48, 500_000, MANY),
    "text direction": ("classifier", 10, None, MANY),
    "person segmentation": ("segmenter", 10, None, ENOUGH),
    "voice activity": ("audio", 10, None, MANY),
    "face detection": ("detector", 10, None, MANY),
}


def _any_face(outputs: Tensors) -> bool:
    return bool(find_faces(outputs, (MODEL_PIXELS, MODEL_PIXELS)))


FACES = Subject(
    "face detection", "face_detection_short_range.tflite", "input=image:NHWC:RGB:1/127.5:127.5", "faces",
    "evaluated:faces_agree", {}, {}, _any_face,
)  # fmt: skip


def faces_agree(want: Tensors, got: Tensors) -> float:
    """F1 of the faces that the outputs of the short-range face detector tell of."""
    found = [find_faces(outputs, (MODEL_PIXELS, MODEL_PIXELS)) for outputs in (want, got)]
    wanted, seen = (np.array([face.box for face in faces], np.float64).reshape(-1, 4) for faces in found)
    return box_f1(wanted, seen)


def _of_subject(subject: Subject, kind: Kind, max_cuts: int, widest_bytes: int | None, calibrated_on: int) -> Recipe:
    def inputs(bundle: Bundle, which: scenes.Kind, count: int) -> list[Tensors]:
        return inputs_of(subject, bundle, which, count)

    sources = (Path(scenes.__file__), Path(subjects.__file__))
    return Recipe(
        subject.name, kind, MODELS / subject.file, WHAT[subject.inputs], subject.metric,
        replace(subject.options(), max_cuts=max_cuts), inputs, calibrated_on, sources, widest_bytes,
    )  # fmt: skip


def _keywords() -> Recipe:
    task = next(each for each in exits.TASKS if each.name == "keywords")
    examples = exits.made(task)

    def inputs(bundle: Bundle, which: scenes.Kind, count: int) -> list[Tensors]:
        """Evenly spread over the part, in which those of one voice are neighbours."""
        part = examples.inputs["exit" if which == "calibration" else "test"]
        places = np.linspace(0, len(part) - 1, min(count, len(part))).round().astype(int)
        return [{bundle.inputs[0].name: part[place][np.newaxis]} for place in places]

    return Recipe(
        task.name, "audio", exits.model_file(task, "tflite"), task.what.partition(";")[0], "argmax",
        Options(tolerance=exits.TOLERANCE), inputs, MANY, (exits.data_file(task),), learns_exit=True,
    )  # fmt: skip


@dataclass(frozen=True)
class _Files:
    """Where a model's files are."""

    bundle: Path
    key: Path
    jpeg: Path


def _files(recipe: Recipe, folder: Path) -> _Files:
    name = recipe.name.replace(" ", "-")
    return _Files(folder / f"{name}.bundle", folder / f"{name}.json", folder / f"{name}.jpeg.json")


def _kept(recipe: Recipe, folder: Path) -> Evaluated | None:
    """What is there, if it is sound and of this recipe."""
    files = _files(recipe, folder)
    try:
        told = json.loads(files.key.read_text(encoding="utf-8"))
        bundle = Bundle.open(files.bundle)
        jpeg = ladder_from_bytes(files.jpeg.read_bytes(), str(files.jpeg))
    except (OSError, ValueError, BundleError):
        return None
    if told["made_of"] != recipe.made_of() or jpeg.bundle != bundle.digest.hex() or bundle.ladder is None:
        return None
    return Evaluated(recipe, files.bundle, _rungs_of(jpeg), told["took_s"])


def _made(recipe: Recipe, folder: Path) -> Evaluated:
    """Made anew. The key is written last: without it nothing of the rest counts."""
    files = _files(recipe, folder)
    files.key.unlink(missing_ok=True)
    if files.bundle.exists():
        shutil.rmtree(files.bundle)
    began, made_of = time.monotonic(), recipe.made_of()
    convert(recipe.model, files.bundle, recipe.options)
    bundle = Bundle.open(files.bundle)
    inputs = recipe.inputs(bundle, "calibration", recipe.calibrated_on)
    write_whole(files.bundle / COSTS_FILE, costs_to_bytes(_timed_alone(bundle, inputs[0])))
    jpeg = _jpeg(bundle, inputs, recipe.metric)
    widest = recipe.widest_bytes
    cuts = [cut.id for cut in bundle.cuts if widest is None or cut.payload_bytes <= widest]
    write_ladder(bundle, _for_floors(bundle, inputs, recipe.metric, cuts))
    files.jpeg.write_bytes(ladder_to_bytes(jpeg))
    if recipe.learns_exit:
        learned = learn_exit(bundle, recipe.inputs(bundle, "calibration", MAX_EXIT_INPUTS), target=exits.TARGET)
        if learned.exit is None:
            raise SystemExit(f"{recipe.name} has no early exit: {learned.reason}")
        write_exit(bundle, learned.exit)
    took_s = time.monotonic() - began
    key = {"made_of": made_of, "took_s": took_s}
    files.key.write_text(json.dumps(key, indent=1), encoding="utf-8")
    return Evaluated(recipe, files.bundle, _rungs_of(jpeg), took_s)


def _timed_alone(bundle: Bundle, sample: Tensors) -> Costs:
    """The bundle's costs with heads and tails timed one by one: conversion proves two cuts at once, on all cores.

    They are taken as shares of the whole model, which takes turns with them, so that other work meets all alike.
    """
    given = bundle.check_inputs(sample)
    costs = dict(bundle.costs.cuts)
    for cut in costs:
        crossing, _ = bundle.run_head(cut, given)
        whole_ms, head_ms, tail_ms = interleaved_ms(
            [
                partial(bundle.run_tail, None, given),
                partial(bundle.run_head, cut, given),
                partial(bundle.run_tail, cut, crossing),
            ],
            ROUNDS,
        )
        scale = bundle.costs.whole_ms / whole_ms
        costs[cut] = replace(costs[cut], head_ms=head_ms * scale, tail_ms=tail_ms * scale)
        bundle.unload(cut)
    return replace(bundle.costs, cuts=costs)


def _for_floors(bundle: Bundle, inputs: Sequence[Tensors], metric: str, cuts: Sequence[str]) -> Ladder:
    """One ladder for all floors: each of them ends the refining of steps elsewhere."""
    lowest, *others = sorted(floor for floor in FLOORS if floor < 1)
    ladder = calibrate(bundle, inputs, metric=metric, min_agreement=lowest, cuts=cuts).ladder
    for floor in others:
        finer = calibrate(bundle, inputs, metric=metric, min_agreement=floor, codecs=STEPS, cuts=cuts)
        ladder = joined(ladder, finer.ladder)
    return ladder


def joined(first: Ladder, second: Ladder) -> Ladder:
    """The first with what the second adds to it: of the rungs of both at a place, those that no other beats.

    Both are of the same bundle, places and inputs, so that their bases are alike.
    """
    return replace(first, places=tuple(map(_joined, first.places, second.places)))


def _joined(first: Place, second: Place) -> Place:
    known = {rung.codec for rung in first.rungs}
    added = [rung for rung in second.rungs if rung.codec not in known]
    return replace(first, rungs=pareto([*first.rungs, *added]), bases=first.bases or second.bases)


def _jpeg(bundle: Bundle, inputs: Sequence[Tensors], metric: str) -> Ladder:
    """`JPEG` at the whole input, whatever the agreement; without rungs where the input is no picture."""
    found = calibrate(bundle, inputs, metric=metric, min_agreement=0.0, codecs=JPEG, cuts=())
    pictures = any(isinstance(meaning, ImageInput) for meaning in bundle.manifest.semantics.values())
    rungs = [rung for rung in found.tried[None] if pictures and rung.codec in JPEG]
    (place,) = found.ladder.places
    return replace(found.ladder, places=(replace(place, rungs=tuple(rungs)),))


def _rungs_of(jpeg: Ladder) -> tuple[MeasuredRung, ...]:
    return tuple(rung for place in jpeg.places for rung in place.rungs)


def smallest(ladder: Ladder, floor: float, *, cuts: bool) -> tuple[str, MeasuredRung] | None:
    """Place and rung of the smallest payload that a floor allows, at the cuts or at the whole input."""
    allowed = [
        ("input" if place.cut is None else place.cut, rung)
        for place in ladder.places
        if (place.cut is not None) == cuts
        for rung in place.rungs
        if rung.lossless or (floor < 1 and rung.agreement >= floor)
    ]
    return min(allowed, key=lambda pair: pair[1].payload_bytes, default=None)


def summary(found: Sequence[Evaluated]) -> str:
    """What there is, as tables."""
    rows, pictures = [], []
    for each in found:
        bundle, recipe = each.open(), each.recipe
        ladder = bundle.ladder
        assert ladder is not None
        least = [_told(smallest(ladder, floor, cuts=cuts)) for floor in FLOORS for cuts in (False, True)]
        early = bundle.early_exit
        rows.append(
            [recipe.name, recipe.kind, bundle.manifest.engine, len(bundle.graph.layers), len(bundle.cuts),
             f"{bundle.costs.whole_ms:.2f}", f"{bundle.input_bytes:,}", *least,
             "" if early is None else f"{early.cut}: {early.answered_share:.0%} at {early.assured:g}",
             f"{each.took_s:.0f}"]
        )  # fmt: skip
        pictures += [
            [recipe.name, rung.codec, f"{rung.payload_bytes:,.0f}", f"{rung.spread:.0%}", f"{rung.agreement:.4f}",
             f"{rung.encode_ms:.2f}", f"{rung.decode_ms:.2f}",
             "yes" if ladder.rung(None, rung.codec) is not None else "no"]
            for rung in each.jpeg
        ]  # fmt: skip
    floors = "|".join(f"input at {floor:g}|cut at {floor:g}" for floor in FLOORS)
    models = table(f"model|kind|engine| layers| cuts| whole ms| input bytes|{floors}|exit| made in s", rows)
    jpeg = table("model|codec| bytes| spread| agreement| encode ms| decode ms|in the ladder", pictures)
    return f"On {machine()}; the smallest payload at each floor.\n\n{models}\n\n{jpeg}"


def _told(found: tuple[str, MeasuredRung] | None) -> str:
    return "–" if found is None else f"{found[0]} {found[1].codec}: {found[1].payload_bytes:,.0f}"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    sys.exit(main())
