"""``midstream analyze``."""

from __future__ import annotations

import shutil
import wave
from pathlib import Path

import numpy as np

from .conftest import Midstream


def test_analyze_pictures_and_sounds(midstream: Midstream, assets: Path) -> None:
    picture = next(path for path in sorted((assets / "pictures").iterdir()) if path.suffix in (".png", ".jpg"))
    sound = next(path for path in sorted((assets / "sounds").iterdir()) if path.suffix == ".wav")
    told = midstream("analyze", picture, sound, "--json").json
    assert [entry["kind"] for entry in told] == ["image", "audio"]
    assert [entry["file"] for entry in told] == [str(picture), str(sound)]
    for entry in told:
        assert set(entry) == {"file", "kind", "score", "features"}
        assert 0 <= entry["score"] <= 100
    assert "snr_db" in told[1]["features"]
    assert picture.name in midstream("analyze", picture.parent, "--json").out


def test_what_cannot_be_read_is_one_error(midstream: Midstream, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    (tmp_path / "notes.txt").write_text("words")
    for name in ("broken.png", "notes.txt", "nowhere.wav"):
        ended = midstream("analyze", tmp_path / name, "--json")
        assert ended.code == 2
        assert name in ended.error


def test_names_that_look_like_markup_are_names(midstream: Midstream, assets: Path, tmp_path: Path) -> None:
    (tmp_path / "d[").mkdir()
    names = ("a[final].png", "d[/b].png", ":tada:.png")
    for name in names:
        shutil.copy(assets / "pictures" / "coins.png", tmp_path / name)
    shown = midstream("analyze", *(Path(name) for name in names), cwd=tmp_path)
    assert shown.code == 0, shown.err
    assert all(name in shown.out for name in names)


def test_features_are_shown_with_their_units(midstream: Midstream, assets: Path) -> None:
    shown = midstream("analyze", assets / "pictures" / "coins.png").out
    assert "coins.png: image, complexity" in shown
    assert "colourfulness" in shown and "bit" in shown


def test_files_are_drawn_with_their_features(midstream: Midstream, assets: Path, tmp_path: Path) -> None:
    target = tmp_path / "drawn.svg"
    told = midstream(
        "analyze", assets / "pictures" / "coins.png", assets / "sounds" / "front_center.wav", "--plot", target, "--json"
    ).json
    drawn = target.read_text()
    for text in ("coins.png", "front_center.wav", *told[0]["features"], *told[1]["features"]):
        assert text in drawn
    assert midstream("analyze", assets / "pictures" / "coins.png", "--plot", tmp_path / "a.gif").code == 2
    many = [assets / "pictures" / "coins.png"] * 9
    assert "at most 8 files" in midstream("analyze", *many, "--plot", target).error


def test_a_long_sound_is_read_part_by_part(midstream: Midstream, tmp_path: Path) -> None:
    path = tmp_path / "night.wav"
    seconds, rate = 32 * 60, 1000
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.random.default_rng(0).integers(-3000, 3000, seconds * rate).astype("<i2").tobytes())
    (told,) = midstream("analyze", path, "--json").json
    assert told["features"]["zero_crossing_rate"] > 0.45
    path.write_bytes(path.read_bytes()[:-1000])
    assert "night.wav is cut short" in midstream("analyze", path).error
