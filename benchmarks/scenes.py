"""Inputs for the benchmarks: pieces of real photographs, of a scanned page, and of recorded and spoken sound.

Two kinds, "calibration" and "test", that share no picture, no sentence and no recording. Text on photographs is set
there; a scanned page and a photographed one bring text that nobody set.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from midstream.media import read_audio, read_image

Kind = Literal["calibration", "test"]
Picture = NDArray[np.uint8]

ASSETS = Path(__file__).resolve().parent.parent / ".cache" / "assets"
PHOTOGRAPHS: dict[Kind, tuple[str, ...]] = {
    "calibration": ("astronaut.png", "coffee.png", "china.jpg", "motorcycle_left.png"),
    "test": ("chelsea.png", "rocket.jpg", "flower.jpg", "camera.png"),
}
PEOPLE: dict[Kind, str] = {"calibration": "astronaut.png", "test": "camera.png"}
# The scanned page is parted at this share of its height.
_PARTED = 0.5
SOUNDS: dict[Kind, tuple[str, ...]] = {
    "calibration": ("espeak_weather.wav", "espeak_numbers.wav", "rear_left.wav"),
    "test": ("espeak_command.wav", "front_center.wav", "noise.wav"),
}
_SENTENCES: dict[Kind, tuple[str, ...]] = {
    "calibration": (
        "Mind the gap", "Platform 9", "OPEN 24 HOURS", "Fresh bread", "No entry", "Push to start", "Exit 14B",
        "Maximum 3.5 t", "Do not touch", "Room 217", "Tickets here", "Quiet please", "Keep left", "Gate A12",
    ),
    "test": (
        "Departures", "Line 42 north", "CLOSED MONDAYS", "Hot coffee 2.80", "Way out", "Pull", "Dock 6",
        "Wet floor", "Serial 0917-X", "Staff only", "Speed limit 30", "Library", "Track 3 east", "Bus stop",
    ),
}  # fmt: skip
_FONTS: dict[Kind, tuple[str, ...]] = {
    "calibration": ("DejaVuSans.ttf", "DejaVuSerif-Bold.ttf", "DejaVuSansMono.ttf"),
    "test": ("DejaVuSans-Bold.ttf", "DejaVuSerif.ttf", "DejaVuSansMono-Bold.ttf"),
}
_INKS = ((255, 255, 255), (20, 20, 20), (250, 220, 40), (200, 30, 30), (30, 60, 160))


def photographs(kind: Kind, count: int, seed: int) -> list[Picture]:
    """Pieces of photographs, from a third of one to all of it."""
    rng = np.random.default_rng(seed)
    frames = [read_image(ASSETS / "pictures" / name) for name in PHOTOGRAPHS[kind]]
    return [_piece(frames[index % len(frames)], rng, 0.35, 1.0) for index in range(count)]


def people(kind: Kind, count: int, seed: int) -> list[Picture]:
    """Large pieces of a photograph of a person, darker, lighter, mirrored."""
    rng = np.random.default_rng(seed)
    frame = read_image(ASSETS / "pictures" / PEOPLE[kind])
    return [_varied(_piece(frame, rng, 0.6, 1.0), rng) for _ in range(count)]


def faces(kind: Kind, count: int, seed: int) -> list[Picture]:
    """Photographs with one or two smaller pictures of a person on them, darker, lighter, mirrored."""
    rng = np.random.default_rng(seed)
    found = []
    for piece in photographs(kind, count, seed):
        scene = np.asarray(cv2.resize(piece, (256, 256), interpolation=cv2.INTER_AREA), np.uint8)
        for person in people(kind, int(rng.integers(1, 3)), int(rng.integers(1 << 31))):
            side = int(rng.integers(110, 240))
            y, x = rng.integers(0, 256 - side, 2)
            scene[y : y + side, x : x + side] = cv2.resize(person, (side, side), interpolation=cv2.INTER_AREA)
        found.append(scene)
    return found


def signs(kind: Kind, count: int, seed: int) -> list[Picture]:
    """Photographs with some lines of text on them; every fourth is a piece of the page instead."""
    rng = np.random.default_rng(seed)
    pieces = photographs(kind, count, seed)
    page = _page(kind)
    return [
        _piece(page, rng, 0.6, 1.0) if index % 4 == 3 else _with_text(piece, kind, rng)
        for index, piece in enumerate(pieces)
    ]


def lines(kind: Kind, count: int, seed: int) -> list[Picture]:
    """Single lines of text, 48 × 320, on a piece of photograph or paper; every fourth is a line of the page."""
    rng = np.random.default_rng(seed)
    pieces = photographs(kind, count, seed)
    page = _page(kind)
    found = []
    for index, piece in enumerate(pieces):
        if index % 4 == 3:
            found.append(_page_line(page, rng))
            continue
        calm = cv2.GaussianBlur(cv2.resize(piece, (320, 48)), (0, 0), rng.uniform(2.0, 6.0))
        words = str(rng.choice(_SENTENCES[kind]))
        found.append(_varied(_set(np.asarray(calm, np.uint8), words, (8, 6), 30, kind, rng), rng, mirror=False))
    return found


def windows(kind: Kind, length: int, count: int, seed: int) -> list[NDArray[np.float32]]:
    """Pieces of 16 kHz sound, some with noise at 5 to 30 dB."""
    rng = np.random.default_rng(seed)
    sounds = [read_audio(path, 16_000)[0] for name in SOUNDS[kind] if (path := ASSETS / "sounds" / name).is_file()]
    found = []
    for index in range(count):
        sound = sounds[index % len(sounds)]
        start = int(rng.integers(0, max(1, len(sound) - length)))
        piece = np.resize(sound[start : start + length], length).astype(np.float32)
        if index % 2:
            noise = rng.standard_normal(length).astype(np.float32)
            power = float(np.sqrt(np.mean(piece**2)) + 1e-4)
            piece = piece + noise * np.float32(power * 10 ** (-rng.uniform(5, 30) / 20))
        found.append(np.clip(piece, -1, 1).astype(np.float32))
    return found


def pan(kind: Kind, count: int, size: tuple[int, int], seed: int) -> list[Picture]:
    """A camera that moves over a photograph, frame by frame, with the noise of a sensor."""
    rng = np.random.default_rng(seed)
    frame = read_image(ASSETS / "pictures" / PHOTOGRAPHS[kind][0])
    height, width = (round(side * 0.7) for side in frame.shape[:2])
    found = []
    for index in range(count):
        turn = 2 * np.pi * index / max(count, 1)
        y = round((frame.shape[0] - height) * (0.5 + 0.5 * np.sin(turn)))
        x = round((frame.shape[1] - width) * (0.5 + 0.5 * np.cos(turn)))
        part = cv2.resize(frame[y : y + height, x : x + width], size[::-1], interpolation=cv2.INTER_AREA)
        noisy = part + rng.normal(0, 2.0, part.shape)
        found.append(np.clip(noisy, 0, 255).astype(np.uint8))
    return found


def _page(kind: Kind) -> Picture:
    """The upper part of the scanned page for calibration, the lower for the test."""
    page = read_image(ASSETS / "pictures" / "page.png")
    middle = round(len(page) * _PARTED)
    return page[:middle] if kind == "calibration" else page[middle:]


def _page_line(page: Picture, rng: np.random.Generator) -> Picture:
    """A piece of one of the page's lines, found by its ink."""
    grey = cv2.cvtColor(page, cv2.COLOR_RGB2GRAY)
    inked = (grey < cv2.GaussianBlur(grey, (0, 0), 15) * 0.75).mean(axis=1) > 0.05
    edges = np.flatnonzero(np.diff(np.concatenate([[0], inked.astype(np.int8), [0]])))
    rows = [(top, bottom) for top, bottom in edges.reshape(-1, 2) if 8 <= bottom - top <= 30]
    top, bottom = rows[int(rng.integers(len(rows)))]
    top, bottom = max(0, top - 4), min(len(page), bottom + 4)
    wide = min(page.shape[1], (bottom - top) * 320 // 48)
    x = int(rng.integers(0, page.shape[1] - wide + 1))
    return np.asarray(cv2.resize(page[top:bottom, x : x + wide], (320, 48), interpolation=cv2.INTER_CUBIC), np.uint8)


def _piece(frame: Picture, rng: np.random.Generator, least: float, most: float) -> Picture:
    share = rng.uniform(least, most)
    height, width = (max(8, round(side * share)) for side in frame.shape[:2])
    y, x = int(rng.integers(0, frame.shape[0] - height + 1)), int(rng.integers(0, frame.shape[1] - width + 1))
    return np.ascontiguousarray(frame[y : y + height, x : x + width])


def _varied(frame: Picture, rng: np.random.Generator, mirror: bool = True) -> Picture:
    changed = frame.astype(np.float32) * rng.uniform(0.6, 1.25) + rng.uniform(-15, 15)
    if rng.random() < 0.5:
        changed = changed + rng.normal(0, rng.uniform(1, 6), frame.shape)
    done = np.clip(changed, 0, 255).astype(np.uint8)
    return np.ascontiguousarray(done[:, ::-1]) if mirror and rng.random() < 0.5 else done


def _with_text(frame: Picture, kind: Kind, rng: np.random.Generator) -> Picture:
    scene = np.asarray(cv2.resize(frame, (480, 480), interpolation=cv2.INTER_AREA), np.uint8)
    for row in range(int(rng.integers(1, 4))):
        words = str(rng.choice(_SENTENCES[kind]))
        place = (int(rng.integers(10, 120)), 40 + 140 * row + int(rng.integers(0, 60)))
        scene = _set(scene, words, place, int(rng.integers(24, 44)), kind, rng)
    return _varied(scene, rng, mirror=False)


def _set(
    frame: Picture, words: str, place: tuple[int, int], size: int, kind: Kind, rng: np.random.Generator
) -> Picture:
    """The frame with words on it, in ink that stands out."""
    import matplotlib

    fonts = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    image = Image.fromarray(frame)
    font = ImageFont.truetype(str(fonts / str(rng.choice(_FONTS[kind]))), size)
    behind = float(frame[place[1] : place[1] + size, place[0] : place[0] + size * 4].mean())
    inks = [ink for ink in _INKS if abs(float(np.mean(ink)) - behind) > 70] or [_INKS[0 if behind < 128 else 1]]
    ImageDraw.Draw(image).text(place, words, inks[int(rng.integers(len(inks)))], font)
    return np.asarray(image, np.uint8)


MAKERS: dict[str, Callable[[Kind, int, int], Sequence[Picture]]] = {
    "photographs": photographs, "people": people, "faces": faces, "signs": signs, "lines": lines,
}  # fmt: skip
