from __future__ import annotations

import struct
import subprocess
import sys
import wave
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from midstream import media
from midstream.errors import InputError, MissingExtraError
from midstream.media import media_files, media_kind, open_audio, read_audio, read_image

RATE = 16_000


def picture() -> NDArray[np.uint8]:
    """60×80 RGB: red falls to the right, green grows downwards, blue is 40."""
    rows, columns = np.mgrid[0:60, 0:80]
    return np.stack([255 - 3 * columns, 4 * rows, np.full_like(rows, 40)], axis=-1).astype(np.uint8)


def encoded(suffix: str, pixels: NDArray[np.uint8] | None = None) -> bytes:
    rgb = picture() if pixels is None else pixels
    bgr = rgb if rgb.ndim == 2 else cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
    done, data = cv2.imencode(suffix, bgr)
    assert done
    return data.tobytes()


def tone(seconds: float = 0.5, rate: int = RATE, hz: float = 440.0) -> NDArray[np.float64]:
    return 0.5 * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)


def write_wav(path: Path, sound: NDArray[np.float64], width: int = 2, rate: int = RATE) -> Path:
    frames = sound if sound.ndim == 2 else sound[:, np.newaxis]
    whole = np.rint(frames * (2 ** (8 * width - 1) - 1)).astype("<i4")
    data = (whole + 128).astype(np.uint8) if width == 1 else whole.view(np.uint8).reshape(*whole.shape, 4)[..., :width]
    with wave.open(str(path), "wb") as file:
        file.setnchannels(frames.shape[1])
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(data.tobytes())
    return path


def write_riff(path: Path, fmt: bytes, data: bytes, announced: int | None = None) -> Path:
    chunks = b"JUNK" + struct.pack("<I", 3) + b"odd\0" + b"fmt " + struct.pack("<I", len(fmt)) + fmt
    chunks += b"data" + struct.pack("<I", len(data) if announced is None else announced) + data
    path.write_bytes(b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks)
    return path


@pytest.mark.parametrize(("suffix", "off_by"), [(".png", 0), (".bmp", 0), (".jpg", 12), (".webp", 12)])
def test_pictures_come_as_rgb(tmp_path: Path, suffix: str, off_by: int) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(encoded(suffix))
    pixels = read_image(path)
    assert pixels.dtype == np.uint8 and pixels.shape == (60, 80, 3)
    assert np.abs(pixels.astype(int) - picture()).max() <= off_by


def test_lossless_webp_is_read(tmp_path: Path) -> None:
    done, data = cv2.imencode(".webp", cv2.cvtColor(picture(), cv2.COLOR_RGB2BGR), [cv2.IMWRITE_WEBP_QUALITY, 101])
    assert done and data.tobytes()[12:16] == b"VP8L"
    path = tmp_path / "a.webp"
    path.write_bytes(data.tobytes())
    assert np.array_equal(read_image(path), picture())


def test_grey_becomes_rgb_and_alpha_goes(tmp_path: Path) -> None:
    grey, alpha = tmp_path / "grey.png", tmp_path / "alpha.png"
    grey.write_bytes(encoded(".png", picture()[..., 1]))
    alpha.write_bytes(cv2.imencode(".png", np.dstack([picture()[..., ::-1], picture()[..., 0]]))[1].tobytes())
    assert np.array_equal(read_image(grey), np.repeat(picture()[..., 1:2], 3, axis=2))
    assert np.array_equal(read_image(alpha), picture())


def test_exif_turns_a_picture_upright(tmp_path: Path) -> None:
    exif = b"Exif\0\0MM\0\x2a" + struct.pack(">IHHHIHH", 8, 1, 0x0112, 3, 1, 6, 0) + bytes(4)
    plain = encoded(".jpg")
    path = tmp_path / "turned.jpg"
    path.write_bytes(plain[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + plain[2:])
    assert np.abs(read_image(path).astype(int) - np.rot90(picture(), k=-1)).max() <= 12


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp"])
@pytest.mark.parametrize("part", [0.01, 0.3, 0.99])
def test_a_picture_cut_short_is_refused(tmp_path: Path, suffix: str, part: float) -> None:
    whole = encoded(suffix)
    path = tmp_path / f"short{suffix}"
    path.write_bytes(whole[: max(1, int(len(whole) * part))])
    with pytest.raises(InputError, match=rf"short\{suffix}"):
        read_image(path)


def test_a_damaged_picture_leaves_stderr_alone(tmp_path: Path) -> None:
    whole = bytearray(encoded(".png"))
    whole[len(whole) // 2] ^= 0x10
    (tmp_path / "flipped.png").write_bytes(whole)
    code = (
        "import sys, pathlib\nfrom midstream import errors, media\n"
        "try: media.read_image(pathlib.Path(sys.argv[1]))\nexcept errors.InputError: print('refused')"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "flipped.png")], capture_output=True, text=True, check=True
    )
    assert (run.stdout, run.stderr) == ("refused\n", "")


def test_a_picture_bomb_is_refused_by_its_header(tmp_path: Path) -> None:
    header = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunks = b"".join(
        struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body)) for body in (header, b"IEND")
    )
    path = tmp_path / "bomb.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)
    with pytest.raises(InputError, match=r"bomb\.png has 60000×60000 pixels"):
        read_image(path)


def test_a_huge_picture_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media, "MAX_IMAGE_BYTES", 1 << 10)
    path = tmp_path / "huge.bmp"
    path.write_bytes(encoded(".bmp"))
    with pytest.raises(InputError, match=r"huge\.bmp is larger than"):
        read_image(path)


@pytest.mark.parametrize("read", [read_image, read_audio])
def test_what_is_no_file_of_its_kind_is_refused(tmp_path: Path, read: object) -> None:
    assert callable(read)
    (tmp_path / "empty.wav").touch()
    (tmp_path / "text.wav").write_text("neither a picture nor a sound")
    (tmp_path / "folder.wav").mkdir()
    for name, reason in (("none", "not exist"), ("empty", "empty"), ("text", "convert"), ("folder", "a folder")):
        with pytest.raises(InputError, match=rf"{name}\.wav.*{reason}"):
            read(tmp_path / f"{name}.wav")


@pytest.mark.parametrize(("width", "error"), [(1, 2**-7), (2, 2**-14), (3, 2**-22), (4, 2**-22)])
def test_pcm_of_every_width_is_read(tmp_path: Path, width: int, error: float) -> None:
    sound, rate = read_audio(write_wav(tmp_path / "a.wav", tone(), width))
    assert sound.dtype == np.float32 and sound.shape == (8000,) and rate == RATE
    assert np.abs(sound - tone()).max() < error


def test_stereo_is_averaged(tmp_path: Path) -> None:
    sound, _ = read_audio(write_wav(tmp_path / "a.wav", np.stack([tone(), np.zeros(8000)], axis=1)))
    assert np.abs(sound - tone() / 2).max() < 2**-14


@pytest.mark.parametrize("announced", [None, 0xFFFF_FFFF])
def test_extensible_float_and_streamed_wav(tmp_path: Path, announced: int | None) -> None:
    data = tone().astype("<f4").tobytes()
    guid = struct.pack("<H", 3) + b"\0\0\0\0\x10\0\x80\0\0\xaa\0\x38\x9b\x71"
    fmt = struct.pack("<HHIIHHHHI", 0xFFFE, 1, RATE, 4 * RATE, 4, 32, 22, 32, 4) + guid
    sound, _ = read_audio(write_riff(tmp_path / "a.wav", fmt, data, announced))
    assert np.array_equal(sound, tone().astype(np.float32))


def test_float_samples_are_limited_and_must_be_finite(tmp_path: Path) -> None:
    fmt = struct.pack("<HHIIHH", 3, 1, RATE, 8 * RATE, 8, 64)
    loud, _ = read_audio(write_riff(tmp_path / "loud.wav", fmt, np.array([1.5, -7.0, 0.25]).tobytes()))
    assert loud.tolist() == [1.0, -1.0, 0.25]
    for value in (np.nan, np.inf, 1e300):
        with pytest.raises(InputError, match=r"bad\.wav is damaged"):
            read_audio(write_riff(tmp_path / "bad.wav", fmt, np.array([0.0, value]).tobytes()))


@pytest.mark.parametrize(
    ("fmt", "data", "reason"),
    [
        (struct.pack("<HHIIHH", 1, 0, RATE, 0, 2, 16), b"1234", "0 channels"),
        (struct.pack("<HHIIHH", 1, 65_535, RATE, 0, 2, 16), b"1234", "65535 channels"),
        (struct.pack("<HHIIHH", 1, 1, 0, 0, 2, 16), b"1234", "0 Hz"),
        (struct.pack("<HHIIHH", 1, 2, RATE, 0, 3, 12), b"123", "2 channels in 3 bytes"),
        (struct.pack("<HHIIHH", 1, 1, RATE, 0, 0, 0), b"1234", "in 0 bytes"),
        (struct.pack("<HHIIHH", 1, 1, RATE, 0, 2, 16), b"", "no samples"),
        (b"\1\0", b"1234", "2 of 16 bytes"),
    ],
)
def test_impossible_wav_headers_are_refused(tmp_path: Path, fmt: bytes, data: bytes, reason: str) -> None:
    with pytest.raises(InputError, match=rf"bad\.wav.*{reason}"):
        read_audio(write_riff(tmp_path / "bad.wav", fmt, data))


def test_a_long_sound_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_wav(tmp_path / "long.wav", tone())
    monkeypatch.setattr(media, "MAX_AUDIO_FRAMES", 8000)
    assert len(read_audio(path)[0]) == 8000
    with pytest.raises(InputError, match=r"long\.wav has 16000 frames"):
        read_audio(path, 32_000)
    monkeypatch.setattr(media, "MAX_AUDIO_FRAMES", 7999)
    with pytest.raises(InputError, match=r"long\.wav has 8000 frames"):
        read_audio(path)


@pytest.mark.parametrize("part", [0.001, 0.1, 0.99])
def test_a_wav_cut_short_is_refused(tmp_path: Path, part: float) -> None:
    path = write_wav(tmp_path / "short.wav", tone())
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
    with pytest.raises(InputError, match=r"short\.wav"):
        read_audio(path)


@settings(deadline=None, max_examples=150)
@given(edits=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 255)), min_size=1, max_size=6))
def test_a_damaged_wav_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, edits: list[tuple[int, int]]
) -> None:
    path = write_wav(tmp_path_factory.getbasetemp() / "fuzz.wav", tone(0.01))
    data = bytearray(path.read_bytes())
    for offset, value in edits:
        data[offset] = value
    path.write_bytes(data)
    try:
        sound, rate = read_audio(path)
    except (InputError, MissingExtraError) as error:
        assert "fuzz.wav" in str(error)
    else:
        assert len(sound) and rate and np.abs(sound).max() <= 1


@settings(deadline=None, max_examples=150)
@given(
    suffix=st.sampled_from([".png", ".jpg", ".webp", ".bmp"]),
    edits=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=6),
)
def test_a_damaged_picture_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, edits: list[tuple[int, int]]
) -> None:
    path = tmp_path_factory.getbasetemp() / f"fuzz{suffix}"
    data = bytearray(encoded(suffix))
    for offset, value in edits:
        data[offset % len(data)] = value
    path.write_bytes(data)
    try:
        pixels = read_image(path)
    except InputError as error:
        assert path.name in str(error)
    else:
        assert pixels.ndim == 3 and pixels.shape[2] == 3


@pytest.mark.parametrize(
    ("suffix", "options", "error"),
    [(".flac", {}, 2e-4), (".ogg", {"subtype": "VORBIS"}, 0.2), (".opus", {"format": "OGG", "subtype": "OPUS"}, 0.2)],
)
def test_compressed_sounds_are_read_and_never_cut_short(
    tmp_path: Path, suffix: str, options: dict[str, str], error: float
) -> None:
    soundfile = pytest.importorskip("soundfile")
    path = tmp_path / f"a{suffix}"
    soundfile.write(path, np.stack([tone(), tone()], axis=1), RATE, **options)
    sound, rate = read_audio(path)
    assert rate == RATE and len(sound) == 8000
    # libsndfile's Opus encoder itself loses the last few milliseconds.
    assert np.abs(sound - tone())[:-500].max() < error
    whole = path.read_bytes()
    for part in (0.05, 0.5, 0.95):
        path.write_bytes(whole[: int(len(whole) * part)])
        with pytest.raises(InputError, match=rf"a\{suffix}"):
            read_audio(path)


def test_a_wav_of_another_codec_goes_to_soundfile(tmp_path: Path) -> None:
    soundfile = pytest.importorskip("soundfile")
    path = tmp_path / "law.wav"
    soundfile.write(path, tone(), RATE, subtype="ULAW")
    assert np.abs(read_audio(path)[0] - tone()).max() < 0.02
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"law\.wav is cut short"):
        read_audio(path)


def test_a_sound_is_resampled(tmp_path: Path) -> None:
    pytest.importorskip("soxr")
    path = write_wav(tmp_path / "a.wav", tone(rate=48_000), rate=48_000)
    sound, rate = read_audio(path, RATE)
    assert (len(sound), rate) == (8000, RATE)
    assert np.abs(sound - tone())[100:-100].max() < 1e-3
    with pytest.raises(InputError, match="to 0 Hz"):
        read_audio(path, 0)


def test_missing_extras_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media, "find_spec", lambda name: None)
    path = write_wav(tmp_path / "a.wav", tone())
    assert len(read_audio(path, RATE)[0]) == 8000
    with pytest.raises(MissingExtraError, match=r"soxr.*midstream\[audio\]"):
        read_audio(path, 8000)
    (tmp_path / "a.flac").write_bytes(b"fLaC" + bytes(100))
    with pytest.raises(MissingExtraError, match=r"a\.flac.*soundfile.*midstream\[audio\]"):
        read_audio(tmp_path / "a.flac")


def test_kinds_are_told_by_suffix() -> None:
    names = ("a.JPG", "b.png", "c.WAV", "d.opus", "e.txt", "f")
    assert [media_kind(Path(name)) for name in names] == ["image", "image", "audio", "audio", None, None]


def test_a_folder_gives_its_files_sorted(tmp_path: Path) -> None:
    for name in ("b.png", "a.wav", "c.JPEG", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "d.png").mkdir()
    assert [file.name for file in media_files(tmp_path)] == ["a.wav", "b.png", "c.JPEG"]
    assert media_files(tmp_path / "b.png") == [tmp_path / "b.png"]
    with pytest.raises(InputError, match=r"notes\.txt.*\.png"):
        media_files(tmp_path / "notes.txt")
    with pytest.raises(InputError, match="does not exist"):
        media_files(tmp_path / "none.png")
    with pytest.raises(InputError, match="has no pictures or sounds"):
        media_files(tmp_path / "d.png")


def test_a_sound_is_read_part_by_part(tmp_path: Path) -> None:
    stereo = np.stack([tone(), np.zeros(8000)], axis=1)
    stereo[100:150, 1] = -1.0
    path = write_wav(tmp_path / "a.wav", stereo)
    with open_audio(path) as file:
        assert (file.length, file.sample_rate) == (8000, RATE)
        parts = [file.read(count) for count in (1, 99, 7900)]
        assert file.clipped == 50
        with pytest.raises(InputError, match=r"a\.wav is cut short"):
            file.read(1)
    assert np.array_equal(np.concatenate(parts), read_audio(path)[0])


def test_a_compressed_sound_is_read_part_by_part(tmp_path: Path) -> None:
    soundfile = pytest.importorskip("soundfile")
    path = tmp_path / "a.flac"
    soundfile.write(path, tone(), RATE)
    with open_audio(path) as file:
        assert np.array_equal(np.concatenate([file.read(3000), file.read(5000)]), read_audio(path)[0])


def test_only_a_part_of_a_long_sound_may_be_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_wav(tmp_path / "long.wav", tone(3.0))
    monkeypatch.setattr(media, "MAX_AUDIO_SECONDS", 2)
    with pytest.raises(InputError, match=r"long\.wav has 48000 frames .*at once"):
        read_audio(path)
    with open_audio(path) as file:
        assert len(file.read(48_000)) == 48_000
    monkeypatch.setattr(media, "MAX_STREAM_SECONDS", 2)
    with pytest.raises(InputError, match=r"long\.wav has 48000 frames"), open_audio(path):
        pass


def test_the_readers_own_errors_are_not_the_files(tmp_path: Path) -> None:
    soundfile = pytest.importorskip("soundfile")
    soundfile.write(tmp_path / "a.flac", tone(), RATE)
    with pytest.raises(RuntimeError, match="mine"), open_audio(tmp_path / "a.flac"):
        raise RuntimeError("mine")


def test_cmyk_and_animated_pictures_are_read_as_one_rgb_picture(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    first, second = image.fromarray(picture()), image.fromarray(255 - picture())
    first.convert("CMYK").save(tmp_path / "cmyk.jpg", quality=95)
    for name, options in (("a.webp", {"lossless": True}), ("a.png", {})):
        first.save(tmp_path / name, save_all=True, append_images=[second], duration=100, **options)
        assert np.array_equal(read_image(tmp_path / name), picture())
    assert np.abs(read_image(tmp_path / "cmyk.jpg").astype(int) - picture()).max() <= 24
