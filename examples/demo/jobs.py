"""The demo's three jobs: faces in photographs, speech in recordings, text in pictures."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import text
from blazeface import draw_faces, find_faces, to_square
from models import DETECTION, DETECTION_SIZE, FACES, RECOGNITION, SPEECH
from report import print_request, print_stream
from speech import BEGINS, SAMPLE_RATE, first_state, spans, windows
from stage import Frame, Stage
from trials import Case

from midstream import Bundle
from midstream.inputs import prepare_image
from midstream.media import read_audio, read_image
from midstream.tensors import Tensors

PHOTOGRAPHS = ("astronaut.png", "camera.png", "chelsea.png")
SOUNDS = ("front_center.wav", "noise.wav", "espeak_command.wav")
PAGES = ("page.png", "text.png")
MAX_LINES = 8
# A box may move this share of its size before a user would call it another one.
BOX_SLACK = 0.1
LINE_SLACK_PIXELS = 4.0


def photographs(stage: Stage) -> None:
    """Faces in photographs."""
    with stage.model(FACES.title, same_faces) as (trials, bundle):
        stage.expect(len(PHOTOGRAPHS) * (1 + len(list(trials.options()))))
        for name in PHOTOGRAPHS:
            frame = read_image(stage.setting.assets / "pictures" / name)
            case = Case(name, prepared(bundle, to_square(frame)))
            faces = find_faces(trials.plan(case), (frame.shape[0], frame.shape[1]))
            print_request(stage.console, stage.trials[-1])
            places = "; ".join(str([round(edge) for edge in face.box]) for face in faces)
            stage.console.print(f"    faces: {places or 'none'}", markup=False)
            stage.found[name] = [{"box": list(face.box), "score": face.score} for face in faces]
            stage.save(f"faces-{Path(name).stem}.png", draw_faces(frame, faces))
            stage.tour(trials, case)


def sounds(stage: Stage) -> None:
    """Speech in recordings, window by window; the first window with speech, or the middle one, takes the tour."""
    with stage.model(SPEECH.title, same_speech) as (trials, _):
        for file in (stage.setting.assets / "sounds" / name for name in SOUNDS):
            if not file.is_file():
                stage.console.print(f"{file.name} is not there; alsa-utils and espeak-ng bring the sounds")
                continue
            sound, _ = read_audio(file, SAMPLE_RATE)
            parts = list(windows(sound))
            stage.expect(len(parts) + len(list(trials.options())))
            start = len(stage.trials)
            state = first_state()
            cases, probabilities = [], []
            for index, part in enumerate(parts):
                case = Case(f"{file.name}, window {index}", {"input": part, "state": state})
                outputs = trials.plan(case)
                state = np.asarray(outputs["stateN"], dtype=np.float32)
                probabilities.append(float(outputs["output"].reshape(-1)[0]))
                cases.append(case)
            print_stream(stage.console, file.name, stage.trials[start:])
            found = spans(probabilities)
            heard = ", ".join(f"{begin:.2f}–{end:.2f} s" for begin, end in found) or "none"
            stage.console.print(f"    speech in {len(sound) / SAMPLE_RATE:.2f} s of sound: {heard}", highlight=False)
            stage.found[file.name] = [list(span) for span in found]
            stage.console.print("    of a sound, one window takes the tour")
            stage.tour(trials, cases[max(range(len(cases)), key=probabilities.__getitem__)])


def pages(stage: Stage) -> None:
    """Text in pictures: detection, then recognition of every line; a picture's narrowest line takes the tour."""
    lines: dict[str, list[text.Line]] = {}
    frames = {name: read_image(stage.setting.assets / "pictures" / name) for name in PAGES}
    with stage.model(DETECTION.title, same_lines) as (trials, bundle):
        stage.expect(len(PAGES) * (1 + len(list(trials.options()))))
        for name, frame in frames.items():
            fitted = text.fit(frame, DETECTION_SIZE)
            case = Case(name, prepared(bundle, fitted.pixels))
            (probability,) = trials.plan(case).values()
            lines[name] = text.find_lines(np.asarray(probability, dtype=np.float32), fitted.scale, MAX_LINES)
            print_request(stage.console, stage.trials[-1])
            stage.console.print(f"    lines of text: {len(lines[name])}")
            stage.tour(trials, case)
    characters = text.read_characters(stage.setting.assets / "models" / RECOGNITION.file)
    same = partial(same_text, characters)
    with stage.model(RECOGNITION.title, same) as (trials, bundle):
        for name, frame in frames.items():
            cases = [
                Case(f"{name}, line {index}", prepared(bundle, text.cut_out(frame, line)))
                for index, line in enumerate(lines[name], start=1)
            ]
            stage.expect(len(cases) + (len(list(trials.options())) if cases else 0))
            said = []
            for case in cases:
                (probabilities,) = trials.plan(case).values()
                words, _ = text.read_line(np.asarray(probabilities, dtype=np.float32), characters)
                print_request(stage.console, stage.trials[-1])
                stage.console.print(f"    “{words}”", markup=False, highlight=False)
                said.append(words)
            stage.found[name] = said
            stage.save(f"text-{Path(name).stem}.png", text.draw_lines(frame, lines[name], said))
            if cases:
                stage.console.print("    of a picture's lines, the narrowest takes the tour")
                stage.tour(trials, min(cases, key=lambda case: case.tensors["x"].size))
            else:
                stage.console.print(f"  {name}: no line was found, so there is nothing to read")


def prepared(bundle: Bundle, pixels: Frame) -> Tensors:
    """A picture as the tensors of a model with one input; where its size is free, as large as it is."""
    (spec,) = bundle.manifest.free_inputs()
    return {spec.name: prepare_image(pixels, spec, bundle.image_inputs[spec.name])}


def same_faces(expected: Tensors, got: Tensors) -> bool:
    """Whether the same faces were found, in about the same places."""
    size = (128, 128)
    left, right = find_faces(expected, size), find_faces(got, size)
    return len(left) == len(right) and all(
        np.allclose(one.box, other.box, rtol=0.0, atol=BOX_SLACK * (one.box[2] - one.box[0]))
        for one, other in zip(left, right, strict=True)
    )


def same_speech(expected: Tensors, got: Tensors) -> bool:
    """Whether both say speech, or both say none."""
    return (float(expected["output"].item()) >= BEGINS) == (float(got["output"].item()) >= BEGINS)


def same_lines(expected: Tensors, got: Tensors) -> bool:
    """Whether the same lines were found, in about the same places."""
    (one,), (other,) = expected.values(), got.values()
    left, right = (text.find_lines(np.asarray(value, dtype=np.float32), 1.0) for value in (one, other))
    return len(left) == len(right) and all(
        np.allclose(line.corners, twin.corners, rtol=0.0, atol=LINE_SLACK_PIXELS)
        for line, twin in zip(left, right, strict=True)
    )


def same_text(characters: tuple[str, ...], expected: Tensors, got: Tensors) -> bool:
    """Whether both read the same."""
    (one,), (other,) = expected.values(), got.values()
    first, second = (text.read_line(np.asarray(value, dtype=np.float32), characters)[0] for value in (one, other))
    return first == second
