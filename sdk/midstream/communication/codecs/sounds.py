"""Sound as whole input: 16-bit samples, FLAC of them, or Opus; the last two by soundfile (extra [audio])."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from midstream.errors import CodecError
from midstream.inputs import AudioInput, Semantics
from midstream.media import optional_module, unnamed_file
from midstream.tensors import Tensor

SoundFormat = Literal["pcm16", "flac", "opus"]

_FULL_SCALE = 32_767
_FILE = {"flac": ("FLAC", "PCM_16"), "opus": ("OGG", "OPUS")}
_MAGIC = {"flac": b"fLaC", "opus": b"OggS"}
OPUS_RATES = (8_000, 12_000, 16_000, 24_000, 48_000)
# libsndfile's compression level 0 is 256 kbit/s a channel, level 1 is 6.
_OPUS_LEAST_KBPS, _OPUS_MOST_KBPS = 6, 256


def as_sound(
    kind: SoundFormat, shape: tuple[int, ...], dtype: np.dtype[np.generic], semantics: Semantics | None
) -> AudioInput | None:
    """What a tensor means where it can travel as one mono sound, else None; both ends ask this of the same values."""
    if not isinstance(semantics, AudioInput) or dtype.kind != "f" or not shape or max(shape) != int(np.prod(shape)):
        return None
    return semantics if kind != "opus" or semantics.sample_rate in OPUS_RATES else None


def encode_sound(kind: SoundFormat, kbps: float, tensor: Tensor, semantics: AudioInput) -> bytes | None:
    """The samples' bytes; None where one is not finite or beyond ±1, which these formats cannot hold."""
    samples = tensor.reshape(-1).astype(np.float32)
    if not float(np.abs(samples).max(initial=0.0)) <= 1.0:
        return None
    whole = np.rint(samples * np.float32(_FULL_SCALE)).astype("<i2")
    if kind == "pcm16":
        return bytes(whole.tobytes())
    soundfile = _soundfile(kind)
    options = {} if kind == "flac" else {"compression_level": _opus_level(kbps)}
    container, subtype = _FILE[kind]
    rate = semantics.sample_rate
    with unnamed_file() as file:
        with soundfile.SoundFile(
            file.fileno(), "w", rate, 1, subtype, format=container, closefd=False, **options
        ) as sound:
            sound.write(whole if kind == "flac" else samples)
        file.seek(0)
        return file.read()


def decode_sound(kind: SoundFormat, data: bytes, shape: tuple[int, ...], semantics: AudioInput, name: str) -> Tensor:
    """The sound of this shape, float32. Raises CodecError where it is damaged or of another length or rate."""
    count = int(np.prod(shape))
    if kind == "pcm16":
        if len(data) != 2 * count:
            raise CodecError(f"sound {name!r} came with {len(data)} bytes, needed {2 * count}")
        return (np.frombuffer(data, "<i2").astype(np.float32) / np.float32(_FULL_SCALE)).reshape(shape)
    if not data.startswith(_MAGIC[kind]):
        raise CodecError(f"sound {name!r} of {len(data)} bytes is no {kind.upper()}")
    soundfile = _soundfile(kind)
    try:
        with unnamed_file(data) as file, soundfile.SoundFile(file.fileno(), closefd=False) as sound:
            found = (sound.format, sound.subtype, sound.samplerate, sound.channels, sound.frames)
            if found != (*_FILE[kind], semantics.sample_rate, 1, count):
                raise CodecError(
                    f"sound {name!r} is {found[4]} frames of {found[3]} channels at {found[2]} Hz, needed {count} of 1 "
                    f"at {semantics.sample_rate} Hz"
                )
            samples = sound.read(count, dtype="float32" if kind == "opus" else "int16")
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise CodecError(f"sound {name!r} of {len(data)} bytes cannot be decoded: {error}") from None
    if len(samples) != count:
        raise CodecError(f"sound {name!r} of {len(data)} bytes ends after {len(samples)} of {count} samples")
    if kind == "flac":
        samples = samples.astype(np.float32) / np.float32(_FULL_SCALE)
    return np.asarray(samples, np.float32).reshape(shape)


def _opus_level(kbps: float) -> float:
    share = (kbps - _OPUS_LEAST_KBPS) / (_OPUS_MOST_KBPS - _OPUS_LEAST_KBPS)
    return 1.0 - min(1.0, max(0.0, share))


def _soundfile(kind: SoundFormat) -> Any:
    return optional_module("soundfile", "audio", f"the codec {kind}")
