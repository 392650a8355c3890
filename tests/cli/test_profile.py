"""``midstream profile``."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from midstream import measuring
from midstream.bundle import Bundle
from midstream.measuring import Settings
from midstream.profiles import load_profile

from .conftest import Midstream

LINK = ["--gateway", "x86-mini", "--uplink-kbps", "0", "--rtt-ms", "2", "--json"]


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A tenth of the time that a user's measurement has."""

    def settings(title: str | None) -> Settings:
        return Settings(title, programs_s=0.5, bundle_s=1.0, power_s=0.3)

    monkeypatch.setattr(measuring, "Settings", settings)
    yield


def test_a_profile_with_a_bundle_that_plan_reads(midstream: Midstream, faces: Path, tmp_path: Path) -> None:
    target = tmp_path / "my board.toml"
    told = midstream("profile", faces, "--output", target, "--compare", "pi4", "--json").json
    assert (told["file"], told["profile"]["title"] != "") == (str(target), True)
    assert set(told) == {"file", "seconds", "profile", "estimated", "notes", "compare"}
    profile, bundle = load_profile(str(target)), Bundle.open(faces)
    times = profile.models[bundle.name]
    assert times.digest == bundle.digest.hex()
    assert set(times.cuts_ms) == {cut.id for cut in bundle.cuts}
    plan = midstream("plan", faces, "--device", target, *LINK).json
    # Without a link it all runs here, which takes what was measured.
    assert plan["predicted_ms"] == pytest.approx(times.all_cores_ms)
    figures: dict[str, dict[str, Any]] = {row["figure"]: row for row in told["compare"]["figures"]}
    whole = figures[f"{bundle.name}, one thread"]
    assert (told["compare"]["with"], whole["here"]) == ("pi4", times.one_thread_ms)
    assert whole["ratio"] == pytest.approx(whole["here"] / whole["there"])


def test_as_tables_into_a_file_by_name(midstream: Midstream, tmp_path: Path) -> None:
    shown = midstream("profile", "--name", "Garage Pi", "--compare", "x86-mini", cwd=tmp_path)
    assert shown.code == 0, shown.err
    assert "speed by family of layers" in shown.out
    assert "against Mini PC" in shown.out
    assert "garage-pi.toml written in" in shown.out
    assert load_profile(str(tmp_path / "garage-pi.toml")).title == "Garage Pi"
    assert [path.name for path in tmp_path.iterdir()] == ["garage-pi.toml"]


def test_without_an_output_no_file_is_written_over(midstream: Midstream, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("# mine")
    assert midstream("profile", "--name", "Mine", "--json", cwd=tmp_path).json["file"] == "mine-2.toml"
    assert (tmp_path / "mine.toml").read_text() == "# mine"
    assert load_profile(str(tmp_path / "mine-2.toml")).title == "Mine"


def test_a_file_that_is_there_is_kept_unless_forced(midstream: Midstream, tmp_path: Path) -> None:
    target = tmp_path / "mine.toml"
    target.write_text("# mine")
    assert "is there already; write over it with --force" in midstream("profile", "--output", target).error
    assert target.read_text() == "# mine"
    assert midstream("profile", "--output", target, "--force", "--json").json["file"] == str(target)
    assert load_profile(str(target)).name == "mine"


def test_the_longest_name_that_a_file_can_have(midstream: Midstream, tmp_path: Path) -> None:
    target = tmp_path / f"{'🦊' * 62}.toml"
    assert midstream("profile", "--output", target).code == 0
    assert [path.name for path in tmp_path.iterdir()] == [target.name]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output", "mine.yaml"], "has to end in .toml"),
        (["--output", "nowhere/mine.toml"], "is no folder"),
        # Where nobody can write, whatever the permissions say.
        (["--output", "/proc/mine.toml"], "mine.toml cannot be written in /proc"),
        (["--name", " "], "no name for a machine"),
        (["--name", "a\x1bb"], "no name for a machine"),
        (["--compare", "pi9"], "no profile is named 'pi9'; nearest is"),
        (["nowhere"], "is missing"),
    ],
)
def test_a_mistake_is_told_before_anything_is_measured(
    midstream: Midstream, tmp_path: Path, arguments: list[str], message: str
) -> None:
    ended = midstream("profile", *arguments, cwd=tmp_path)
    assert ended.code == 2
    assert message in ended.error
    assert not any(tmp_path.iterdir())


def test_a_damaged_bundle_is_told_and_nothing_is_written(midstream: Midstream, faces: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(faces, damaged)
    with (damaged / "weights.bin").open("r+b") as file:
        file.write(b"\xff\xff")
    ended = midstream("profile", damaged, "--output", tmp_path / "mine.toml")
    assert ended.code == 2
    assert "SHA-256" in ended.error
    assert not (tmp_path / "mine.toml").exists()
