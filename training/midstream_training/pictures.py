"""The corpus of pictures: pieces of the sources and made ones, at a camera's sizes, as they are or changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np

from midstream_training.sources import Picture

Change = Callable[[Picture, np.random.Generator, float], Picture]

LONG_SIDES = (240, 320, 480, 640, 640, 960)
_MADE_SHARE = 0.12
_PLAIN_SHARE = 0.25
_TWICE_SHARE = 0.25
_WORDS = ("Exit 14B", "OPEN", "Platform 9", "Gate A12", "2.80", "Mind the gap", "0917-X", "Library", "Way out")


def picture(frames: Sequence[Picture], seed: int) -> tuple[Picture, int]:
    """One picture of the corpus, and the index of its source, -1 for a made one."""
    rng = np.random.default_rng(seed)
    if rng.random() < _MADE_SHARE:
        source, found = -1, _made(rng)
    else:
        source = int(rng.integers(len(frames)))
        found = piece(frames[source], rng)
    if rng.random() >= _PLAIN_SHARE:
        for _ in range(2 if rng.random() < _TWICE_SHARE else 1):
            change = _CHANGES[int(rng.integers(len(_CHANGES)))]
            found = change(found, rng, float(rng.random()))
    return found, source


def noise(frame: Picture, rng: np.random.Generator, strength: float) -> Picture:
    """White noise of 2 to 40 levels, at ``strength`` 0 to 1."""
    sigma = 2.0 * 20.0**strength
    noisy = frame.astype(np.float32) + rng.standard_normal(frame.shape, np.float32) * np.float32(sigma)
    return _bytes(noisy)


def blur(frame: Picture, rng: np.random.Generator, strength: float) -> Picture:
    """A Gaussian of 0.2 % to 4 % of the long side."""
    sigma = 0.002 * 20.0**strength * max(frame.shape[:2])
    return np.asarray(cv2.GaussianBlur(frame, (0, 0), sigma), np.uint8)


def compressed(frame: Picture, rng: np.random.Generator, strength: float) -> Picture:
    """JPEG of quality 60 down to 3, and back."""
    _, data = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, round(60 - 57 * strength)])
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)


def exposed(frame: Picture, rng: np.random.Generator, strength: float) -> Picture:
    """Darker or lighter, by up to 2.5 stops, clipped."""
    stops = (2.5 * strength + 0.2) * (1 if rng.random() < 0.4 else -1)
    return _bytes(frame.astype(np.float32) * np.float32(2.0**stops))


def flatter(frame: Picture, rng: np.random.Generator, strength: float) -> Picture:
    """Less contrast, down to a tenth."""
    mean = frame.mean()
    return _bytes(mean + (frame.astype(np.float32) - mean) * np.float32(1.0 - 0.9 * strength))


def overlaid(frame: Picture, rng: np.random.Generator, strength: float) -> Picture:
    """Words, boxes and lines over it, 4 to 40 of them."""
    done = np.ascontiguousarray(frame.copy())
    height, width = done.shape[:2]
    size = max(height, width) / 640
    for _ in range(round(4 * 10.0**strength)):
        place = (int(rng.integers(width)), int(rng.integers(height)))
        ink = tuple(int(level) for level in rng.integers(0, 256, 3))
        kind = rng.integers(3)
        if kind == 0:
            cv2.putText(
                done,
                str(rng.choice(_WORDS)),
                place,
                cv2.FONT_HERSHEY_SIMPLEX,
                float(rng.uniform(0.5, 1.4) * size),
                ink,
                max(1, round(2 * size)),
                cv2.LINE_AA,
            )
        elif kind == 1:
            corner = (place[0] + int(rng.integers(5, 90) * size), place[1] + int(rng.integers(5, 90) * size))
            cv2.rectangle(done, place, corner, ink, max(1, round(2 * size)))
        else:
            cv2.line(
                done,
                place,
                (int(rng.integers(width)), int(rng.integers(height))),
                ink,
                max(1, round(2 * size)),
                cv2.LINE_AA,
            )
    return done


def detailed(frame: Picture, rng: np.random.Generator, strength: float) -> Picture:
    """Detail of its own added once more: sharpened, one to three times."""
    soft = cv2.GaussianBlur(frame, (0, 0), 0.004 * max(frame.shape[:2]))
    return np.asarray(cv2.addWeighted(frame, 2.0 + 2.0 * strength, soft, -1.0 - 2.0 * strength, 0.0), np.uint8)


def crop(frame: Picture, rng: np.random.Generator, strength: float) -> Picture:
    """A part of it, half to a sixth of each side, stretched to the whole's size."""
    share = 0.5 - 0.33 * strength
    height, width = frame.shape[:2]
    part = _window(frame, share, float(rng.random()), float(rng.random()))
    return np.asarray(cv2.resize(part, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)


def flat_part(frame: Picture, share: float) -> Picture:
    """The calmest of 49 parts, each this share of both sides, at its own size."""
    grid = [(y, x) for y in np.linspace(0, 1, 7) for x in np.linspace(0, 1, 7)]
    parts = [_window(frame, share, y, x) for y, x in grid]
    return min(parts, key=lambda part: float(np.abs(cv2.Laplacian(part, cv2.CV_16S)).mean()))


_CHANGES: tuple[Change, ...] = (
    noise, noise, blur, blur, compressed, exposed, flatter, overlaid, overlaid, detailed, crop,
)  # fmt: skip


def piece(frame: Picture, rng: np.random.Generator) -> Picture:
    """A part of a fifth of each side to all of it, at one of a camera's sizes."""
    share = rng.uniform(0.2, 1.0)
    height, width = (max(8, round(side * min(1.0, share * rng.uniform(0.8, 1.25)))) for side in frame.shape[:2])
    y, x = int(rng.integers(0, frame.shape[0] - height + 1)), int(rng.integers(0, frame.shape[1] - width + 1))
    part = frame[y : y + height, x : x + width]
    return _scaled(part, int(rng.choice(LONG_SIDES)))


def _scaled(part: Picture, side: int) -> Picture:
    ratio = side / max(part.shape[:2])
    size = (max(8, round(part.shape[1] * ratio)), max(8, round(part.shape[0] * ratio)))
    return np.asarray(cv2.resize(part, size, interpolation=cv2.INTER_AREA if ratio < 1 else cv2.INTER_CUBIC), np.uint8)


def _window(frame: Picture, share: float, down: float, along: float) -> Picture:
    height, width = (max(8, round(side * share)) for side in frame.shape[:2])
    y, x = round((frame.shape[0] - height) * down), round((frame.shape[1] - width) * along)
    return np.ascontiguousarray(frame[y : y + height, x : x + width])


def _made(rng: np.random.Generator) -> Picture:
    """A plane, a slope, noise with a 1/f spectrum, discs in front of each other, or a screen of text."""
    kind, width, height = int(rng.integers(5)), int(rng.choice((320, 640))), int(rng.choice((240, 480)))
    if kind == 0:
        return np.full((height, width, 3), rng.integers(0, 256, 3), np.uint8)
    if kind == 1:
        ends = rng.uniform(0, 255, (2, 2, 3)).astype(np.float32)
        return _bytes(cv2.resize(ends, (width, height), interpolation=cv2.INTER_LINEAR))
    if kind == 2:
        return _coloured_noise(rng, height, width)
    if kind == 3:
        return _discs(rng, height, width)
    page = np.full((height, width, 3), 255 if rng.random() < 0.6 else 30, np.uint8)
    ink = 255 - int(page[0, 0, 0])
    scale = rng.uniform(0.35, 1.2)
    for row in range(int(30 * scale), height, max(10, int(36 * scale))):
        words = "  ".join(str(word) for word in rng.choice(_WORDS, 12))
        cv2.putText(page, words, (8, row), cv2.FONT_HERSHEY_DUPLEX, scale, (ink, ink, ink), 1, cv2.LINE_AA)
    return page


def _coloured_noise(rng: np.random.Generator, height: int, width: int) -> Picture:
    y, x = np.fft.fftfreq(height)[:, np.newaxis], np.fft.rfftfreq(width)
    radius = np.maximum(np.hypot(y, x), 1 / max(height, width))
    slope = rng.uniform(0.5, 2.2)
    planes = []
    for _ in range(3):
        spectrum = np.fft.rfft2(rng.standard_normal((height, width))) / radius**slope
        plane = np.fft.irfft2(spectrum, (height, width))
        planes.append(plane / plane.std())
    grey = planes[0]
    mixed = np.stack([0.8 * grey + 0.4 * plane for plane in planes], axis=-1)
    return _bytes(128 + rng.uniform(10, 60) * mixed)


def _discs(rng: np.random.Generator, height: int, width: int) -> Picture:
    done = np.full((height, width, 3), rng.integers(0, 256, 3), np.uint8)
    for _ in range(int(4 * 60 ** rng.random())):
        centre = (int(rng.integers(width)), int(rng.integers(height)))
        ink = tuple(int(level) for level in rng.integers(0, 256, 3))
        cv2.circle(done, centre, int(4 * 20 ** rng.random()), ink, -1, cv2.LINE_AA)
    return done


def _bytes(levels: object) -> Picture:
    return np.clip(np.rint(np.asarray(levels)), 0, 255).astype(np.uint8)
