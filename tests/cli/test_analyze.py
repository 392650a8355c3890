"""``midstream analyze``."""

from __future__ import annotations

import shutil
from pathlib import Path

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
