"""Reading pictures and sounds from files, within limits.

==========  ===================================  ==================================================================
what        files                                limits
==========  ===================================  ==================================================================
pictures    JPEG, PNG, WebP, BMP                 ``MAX_IMAGE_BYTES`` (64 MiB), ``MAX_IMAGE_PIXELS`` (100 million)
sounds      WAV; with the extra [audio] also     ``MAX_AUDIO_SECONDS`` (30 minutes), ``MAX_AUDIO_FRAMES`` (that at
            FLAC, Ogg (Vorbis, Opus) and MP3     48 kHz), 64 channels, rates of 1000–384000 Hz; read part by part
                                                 (`open_audio`) ``MAX_STREAM_SECONDS`` (24 hours)
==========  ===================================  ==================================================================

The limits hold before anything is decoded. A file that ends early is refused, never padded; of an MP3 without a Xing
header that cannot be told. Of an animation the first picture is read.
"""

from __future__ import annotations

import os
import struct
import sys
import tempfile
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any, BinaryIO, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from midstream.errors import InputError, MissingExtraError
from midstream.files import regular_file

MAX_IMAGE_BYTES = 64 << 20
MAX_IMAGE_PIXELS = 100_000_000
MAX_AUDIO_SECONDS = 30 * 60
MAX_AUDIO_FRAMES = MAX_AUDIO_SECONDS * 48_000
MAX_STREAM_SECONDS = 24 * 3600
# Of full scale: a sample at this level or above has reached it.
CLIPPED_LEVEL = 0.999

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3")

_RATES = range(1000, 384_001)
_MAX_CHANNELS = 64
_MAX_CHUNKS = 1000
_BLOCK_FRAMES = 1 << 16
_UNKNOWN_SIZE = 0xFFFF_FFFF
_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_OGG_LAST_PAGE = 4
_OPENCV_SILENT = 0
_OPENCV_LOG = threading.Lock()


def media_kind(path: Path) -> Literal["image", "audio"] | None:
    """What a file holds by its suffix, in any case; None where that is not understood."""
    suffix = path.suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        return "image"
    return "audio" if suffix in AUDIO_SUFFIXES else None


def media_files(path: Path) -> list[Path]:
    """The file itself, or the picture and sound files of a folder (not of its subfolders) sorted by name.

    Raises InputError where the path does not exist, the suffix is not understood or a folder has none.
    """
    understood = " ".join((*IMAGE_SUFFIXES, *AUDIO_SUFFIXES))
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.is_file() and media_kind(file))
        if not files:
            raise InputError(f"folder {path} has no pictures or sounds; understood are {understood}")
        return files
    if not path.exists():
        raise InputError(f"{path} does not exist")
    if media_kind(path) is None:
        raise InputError(f"{path} is not a picture or sound by its suffix; understood are {understood}")
    return [path]


def read_image(path: Path) -> NDArray[np.uint8]:
    """A picture as H×W×3, uint8, RGB, turned upright as its EXIF orientation says; alpha is dropped.

    Raises InputError naming the file where it is missing, empty, damaged, cut short, too large or of another format.
    """
    with _opened(path, "picture") as file:
        data = file.read(MAX_IMAGE_BYTES + 1)
    if len(data) > MAX_IMAGE_BYTES:
        raise InputError(f"picture {path} is larger than {MAX_IMAGE_BYTES >> 20} MiB; make it smaller")
    width, height = _declared_size(data, path)
    if width * height > MAX_IMAGE_PIXELS:
        raise InputError(
            f"picture {path} has {width}×{height} pixels; at most {MAX_IMAGE_PIXELS:,} are read; make it smaller"
        )
    with _quiet_opencv():
        try:
            pixels = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_COLOR)
        except cv2.error:
            pixels = None
    if pixels is None:
        raise InputError(f"picture {path} is damaged or cut short: it cannot be decoded")
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def read_audio(path: Path, sample_rate: int | None = None) -> tuple[NDArray[np.float32], int]:
    """A sound as mono samples of -1…1 and their rate in Hz; channels are averaged.

    With ``sample_rate`` the sound is resampled to it where its own is another, for which soxr is needed. WAV files of
    8, 16, 24 and 32 bit and of floats are read here, anything else by soundfile.

    Raises InputError naming the file where it is missing, empty, damaged, cut short, too long or of another format, and
    MissingExtraError where a package is needed that is not installed.
    """
    if sample_rate is not None and sample_rate not in _RATES:
        raise InputError(f"cannot resample {path} to {sample_rate} Hz; give a rate of 1000…384000 Hz")
    with open_audio(path) as file:
        rate = file.sample_rate
        _check_length(file.length, rate, path)
        sound = np.empty(file.length, dtype=np.float32)
        for start in range(0, file.length, _BLOCK_FRAMES):
            part = file.read(min(_BLOCK_FRAMES, file.length - start))
            sound[start : start + len(part)] = part
    if sample_rate is not None and sample_rate != rate:
        _check_length(-(-len(sound) * sample_rate // rate), sample_rate, path)
        soxr = optional_module("soxr", "audio", f"resampling {path} from {rate} to {sample_rate} Hz")
        sound, rate = np.asarray(soxr.resample(sound, rate, sample_rate), dtype=np.float32), sample_rate
    return np.clip(sound, -1.0, 1.0), rate


class AudioFile:
    """A sound that is read part by part, so that a long one takes no more memory; `open_audio` gives it."""

    def __init__(
        self, path: Path, length: int, sample_rate: int, planes: Callable[[int], NDArray[np.floating]]
    ) -> None:
        self.length = length
        self.sample_rate = sample_rate
        self.clipped = 0
        self._path = path
        self._planes = planes

    def read(self, count: int) -> NDArray[np.float32]:
        """The next ``count`` samples, mono, within -1…1; ``clipped`` counts those at 99.9 % or above in some channel.

        Raises InputError where the file ends before, or has NaN or infinite samples.
        """
        planes = self._planes(count)
        if len(planes) < count:
            raise InputError(
                f"sound {self._path} is cut short: its header says {self.length} frames, {count - len(planes)} are "
                "missing; copy it again"
            )
        with np.errstate(over="ignore", invalid="ignore"):
            mono = np.asarray(planes.mean(axis=1), dtype=np.float32)
        if not np.isfinite(mono).all():
            raise InputError(f"sound {self._path} is damaged: it has NaN or infinite samples")
        if max(-float(planes.min()), float(planes.max())) >= CLIPPED_LEVEL:
            self.clipped += int(np.count_nonzero((np.abs(planes) >= CLIPPED_LEVEL).any(axis=1)))
        return np.clip(mono, -1.0, 1.0)


@contextmanager
def open_audio(path: str | Path) -> Iterator[AudioFile]:
    """A sound of up to ``MAX_STREAM_SECONDS``, read from its beginning to its end, in the formats of `read_audio`.

    Raises InputError and MissingExtraError as `read_audio` does.
    """
    path = Path(path)
    with _opened(path, "sound") as file:
        head = file.read(12)
        if head[:4] == b"RIFF" and head[8:] == b"WAVE":
            wav = _open_wav(file, path)
            if wav is not None:
                yield wav
                return
        else:
            _check_compressed(file, head, path)
    with _open_by_soundfile(path) as sound:
        yield sound


def optional_module(name: str, extra: str, purpose: str) -> Any:
    """The module of an optional dependency, imported now; raises MissingExtraError where it is not installed."""
    if find_spec(name) is None:
        raise MissingExtraError(name, extra, purpose)
    return import_module(name)


@contextmanager
def unnamed_file(data: bytes = b"") -> Iterator[IO[bytes]]:
    """A file of the system's, in memory on Linux, with this data, at its beginning.

    Of one of Python's, soundfile would call back to read and write, and swallow a Ctrl-C that comes meanwhile.
    """
    with os.fdopen(os.memfd_create("sound"), "w+b") if sys.platform == "linux" else tempfile.TemporaryFile() as file:
        file.write(data)
        file.seek(0)
        yield file


@contextmanager
def _opened(path: Path, what: str) -> Iterator[BinaryIO]:
    if not path.exists():
        raise InputError(f"{what} {path} does not exist")
    if not path.is_file():
        raise InputError(f"{what} {path} is not a file" + (" but a folder" if path.is_dir() else ""))
    try:
        with regular_file(path) as file:
            if not file.read(1):
                raise InputError(f"{what} {path} is empty")
            file.seek(0)
            yield file
    except OSError as error:
        raise InputError(f"{what} {path} cannot be read: {error.strerror or error}") from None


@contextmanager
def _quiet_opencv() -> Iterator[None]:
    """OpenCV writes about damaged files to stderr, where the one line of our own error belongs."""
    # OpenCV 5 moved the functions here.
    log: Any = getattr(cv2.utils, "logging", cv2)
    with _OPENCV_LOG:
        level = log.getLogLevel()
        log.setLogLevel(_OPENCV_SILENT)
        try:
            yield
        finally:
            log.setLogLevel(level)


def _declared_size(data: bytes, path: Path) -> tuple[int, int]:
    """Width and height as the header says, after a check that the file has its end."""
    try:
        if data.startswith(b"\x89PNG\r\n\x1a\n"):
            size = _png_size(data)
        elif data.startswith(b"\xff\xd8\xff"):
            size = _jpeg_size(data)
        elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            size = _webp_size(data)
        elif data.startswith(b"BM"):
            width, height = struct.unpack_from("<HH" if data[14] == 12 else "<ii", data, 18)
            size = width, abs(height)
        else:
            raise InputError(f"picture {path} is not a JPEG, PNG, WebP or BMP file; convert it to one of these")
    except (struct.error, IndexError):
        size = None
    if size is None or min(size) < 1:
        raise InputError(f"picture {path} is damaged or cut short: its header or its end is missing")
    return size


def _png_size(data: bytes) -> tuple[int, int] | None:
    start = 8
    while True:
        (length,) = struct.unpack_from(">I", data, start)
        end = start + 8 + length
        (checksum,) = struct.unpack_from(">I", data, end)
        if zlib.crc32(data[start + 4 : end]) != checksum:
            return None
        if data[start + 4 : start + 8] == b"IEND":
            width, height = struct.unpack_from(">II", data, 16)
            return width, height
        start = end + 4


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    size, start = None, 2
    while True:
        mark, marker, length = struct.unpack_from(">BBH", data, start)
        if mark != 0xFF:
            return None
        if marker == 0xFF:
            start += 1
        elif marker == 0xDA:
            # Within coded data FF is always followed by 00, so the end marker is found nowhere else.
            return size if data.find(b"\xff\xd9", start) > 0 else None
        else:
            if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
                height, width = struct.unpack_from(">HH", data, start + 5)
                size = width, height
            start += 2 + length


def _webp_size(data: bytes) -> tuple[int, int] | None:
    if struct.unpack_from("<I", data, 4)[0] + 8 > len(data):
        return None
    if data[12:16] == b"VP8X":
        low_w, high_w, low_h, high_h = struct.unpack_from("<HBHB", data, 24)
        return (high_w << 16 | low_w) + 1, (high_h << 16 | low_h) + 1
    if data[12:16] == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    width, height = struct.unpack_from("<HH", data, 26)
    return width & 0x3FFF, height & 0x3FFF


@dataclass(frozen=True, slots=True)
class _WavFormat:
    codec: int
    channels: int
    sample_rate: int
    frame_bytes: int

    @property
    def sample_bytes(self) -> int:
        return self.frame_bytes // self.channels

    def planes(self, data: bytes) -> NDArray[np.floating]:
        """Frames × channels; data is a whole number of frames."""
        width = self.sample_bytes
        values: NDArray[np.floating]
        if self.codec == _FLOAT:
            values = np.frombuffer(data, dtype=f"<f{width}")
        elif width == 1:
            values = (np.frombuffer(data, dtype=np.uint8) - np.float32(128)) / np.float32(128)
        elif width == 2:
            values = np.frombuffer(data, dtype="<i2") / np.float32(1 << 15)
        else:
            # The bytes of a sample become the high ones of 32 bits.
            wide = np.zeros((len(data) // width, 4), dtype=np.uint8)
            wide[:, 4 - width :] = np.frombuffer(data, dtype=np.uint8).reshape(-1, width)
            values = wide.view("<i4")[:, 0] / np.float32(1 << 31)
        return values.reshape(-1, self.channels)


def _open_wav(file: BinaryIO, path: Path) -> AudioFile | None:
    """The sound of a RIFF file read up to its first chunk; None where its codec is not plain numbers."""
    layout: _WavFormat | None = None
    size = file.seek(0, 2)
    start = 12
    for _ in range(_MAX_CHUNKS):
        file.seek(start)
        header = file.read(8)
        if len(header) < 8:
            break
        name, length = struct.unpack("<4sI", header)
        if name == b"fmt ":
            layout = _wav_format(file.read(min(length, 40)), path)
        elif name == b"data" and layout is not None:
            present = size - start - 8
            length = present if length == _UNKNOWN_SIZE else length
            if length > present:
                raise InputError(f"sound {path} is cut short: its header says {length} bytes, {present} are there")
            return _pcm(file, layout, length, path) if layout.codec in (_PCM, _FLOAT) else None
        start += 8 + length + length % 2
    raise InputError(f"sound {path} is damaged or cut short: it is a WAV file without a format or without samples")


def _wav_format(chunk: bytes, path: Path) -> _WavFormat:
    if len(chunk) < 16:
        raise InputError(f"sound {path} is damaged or cut short: its WAV format has {len(chunk)} of 16 bytes")
    codec, channels, sample_rate, _, frame_bytes, _ = struct.unpack_from("<HHIIHH", chunk)
    if codec == _EXTENSIBLE and len(chunk) >= 26:
        (codec,) = struct.unpack_from("<H", chunk, 24)
    _check_format(channels, sample_rate, path)
    layout = _WavFormat(codec, channels, sample_rate, frame_bytes)
    widths = {_PCM: (1, 2, 3, 4), _FLOAT: (4, 8)}.get(codec)
    if widths and (frame_bytes % channels or layout.sample_bytes not in widths):
        raise InputError(f"sound {path} has {channels} channels in {frame_bytes} bytes, which is no WAV format known")
    return layout


def _pcm(file: BinaryIO, layout: _WavFormat, length: int, path: Path) -> AudioFile:
    def planes(count: int) -> NDArray[np.floating]:
        data = file.read(count * layout.frame_bytes)
        return layout.planes(data[: len(data) // layout.frame_bytes * layout.frame_bytes])

    return _streamed(path, length // layout.frame_bytes, layout.sample_rate, planes)


def _streamed(path: Path, frames: int, rate: int, planes: Callable[[int], NDArray[np.floating]]) -> AudioFile:
    if frames < 1:
        raise InputError(f"sound {path} has no samples")
    if frames > MAX_STREAM_SECONDS * rate:
        raise InputError(
            f"sound {path} has {frames} frames ({frames / rate:.0f} s at {rate} Hz); at most {MAX_STREAM_SECONDS} s "
            "are read; cut it into parts"
        )
    return AudioFile(path, frames, rate, planes)


def _check_compressed(file: BinaryIO, head: bytes, path: Path) -> None:
    """Refuse what is no sound at all, and an Ogg stream without its last page, which libsndfile would not notice."""
    known = head.startswith((b"fLaC", b"OggS", b"ID3", b"RF64")) or (head[:1] == b"\xff" and head[1:2] >= b"\xe0")
    if not known:
        raise InputError(f"sound {path} is not a WAV, FLAC, Ogg or MP3 file, or is damaged; convert it to one of these")
    if head.startswith(b"OggS"):
        size = file.seek(0, 2)
        file.seek(max(0, size - (1 << 17)))
        end = file.read()
        page = end[end.rfind(b"OggS") :]
        lengths = page[27 : 27 + page[26]] if len(page) > 26 else b""
        if not lengths or not page[5] & _OGG_LAST_PAGE or len(page) < 27 + len(lengths) + sum(lengths):
            raise InputError(f"sound {path} is cut short: the last page of its Ogg stream is missing")


@contextmanager
def _open_by_soundfile(path: Path) -> Iterator[AudioFile]:
    soundfile = optional_module("soundfile", "audio", f"reading {path}")

    def planes(count: int) -> NDArray[np.floating]:
        parts = [np.zeros((0, file.channels), dtype=np.float32)]
        with _named(soundfile, path):
            while count and len(part := file.read(min(_BLOCK_FRAMES, count), dtype="float32", always_2d=True)):
                parts.append(part)
                count -= len(part)
        return np.concatenate(parts)

    with _named(soundfile, path):
        file = soundfile.SoundFile(str(path))
    with file:
        _check_format(file.channels, file.samplerate, path)
        yield _streamed(path, int(file.frames), int(file.samplerate), planes)


@contextmanager
def _named(soundfile: Any, path: Path) -> Iterator[None]:
    """What soundfile raises, as an error that names the file."""
    try:
        yield
    except (soundfile.SoundFileError, RuntimeError) as error:
        raise InputError(f"sound {path} is damaged, cut short or of another format: {error}") from None


def _check_format(channels: int, sample_rate: int, path: Path) -> None:
    if not 1 <= channels <= _MAX_CHANNELS or sample_rate not in _RATES:
        raise InputError(
            f"sound {path} has {channels} channels at {sample_rate} Hz; 1…{_MAX_CHANNELS} channels at "
            f"{_RATES[0]}…{_RATES[-1]} Hz are read"
        )


def _check_length(frames: int, sample_rate: int, path: Path) -> None:
    if frames > min(MAX_AUDIO_SECONDS * sample_rate, MAX_AUDIO_FRAMES):
        raise InputError(
            f"sound {path} has {frames} frames ({frames / sample_rate:.0f} s at {sample_rate} Hz); at most "
            f"{MAX_AUDIO_SECONDS} s and {MAX_AUDIO_FRAMES} frames are read at once; cut it into parts"
        )
