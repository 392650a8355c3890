from __future__ import annotations

import os
from pathlib import Path

import pytest

from midstream.errors import ProfileError
from midstream.profiles import Profile, load_profile, profile_from_toml, profile_names, profile_to_toml

NAMES = (
    "coral-dev",
    "jetson-nano",
    "jetson-orin-nano",
    "pi-zero-2w",
    "pi3",
    "pi4",
    "pi4-coral-usb",
    "pi5",
    "x86-laptop",
    "x86-mini",
)

# Multiply-accumulates, layers and float32 output bytes at 224 × 224 with fused activations.
MOBILENET_V2 = (300_774_272, 65, 4 * 6_897_776)
MOBILENET_V1 = (568_740_352, 30, 4 * 5_045_688)
RESNET18 = (1_814_073_344, 32, 4 * 3_439_556)
RESNET50 = (4_089_184_256, 73, 4 * 16_838_096)

GOOD = """
title = "A board"
cores = 4
memory_mb = 1024
engines = ["litert"]
source = "its data sheet"

[speed]
layer_overhead_us = 10
estimate = true
reason = "a guess"

[speed.one_thread]
gmacs_float32 = 2.0
gmacs_int8 = 4.0
gbytes_float32 = 0.5
gbytes_int8 = 1.0
source = "a stopwatch"

[speed.all_cores]
gmacs_float32 = 5.0
gmacs_int8 = 10.0
gbytes_float32 = 1.0
gbytes_int8 = 2.0
source = "a stopwatch"

[power]
idle_w = 1.0
busy_w = 5.0
radio_uj_per_byte = 0.3
source = "a meter"
[power.estimates]
radio_uj_per_byte = "a guess"
"""


def parse(text: str) -> Profile:
    return profile_from_toml(text, "board", "board.toml")


def ms(profile: Profile, model: tuple[int, int, int], threads: int | None = None) -> float:
    macs, layers, output_bytes = model
    return profile.predict_ms(macs, layers, output_bytes=output_bytes, threads=threads)


def test_the_ten_boards_are_shipped() -> None:
    assert profile_names() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_shipped_profile_loads_and_survives_writing(name: str) -> None:
    profile = load_profile(name)
    assert profile.name == name
    assert profile_from_toml(profile_to_toml(profile), name, name) == profile


def test_what_the_boards_have_beside_their_processors() -> None:
    delegates = {name: load_profile(name).delegates for name in NAMES}
    assert {name for name in NAMES if "edgetpu" in delegates[name]} == {"coral-dev", "pi4-coral-usb"}
    assert {name for name in NAMES if "cuda" in delegates[name]} == {"jetson-nano", "jetson-orin-nano"}
    assert all("xnnpack" in each for each in delegates.values())


@pytest.mark.parametrize("name", NAMES)
def test_all_cores_are_no_slower_than_one(name: str) -> None:
    profile = load_profile(name)
    for model in (MOBILENET_V2, RESNET50):
        assert ms(profile, model) <= ms(profile, model, threads=1)


@pytest.mark.parametrize(
    ("name", "mobilenet_v2_ms", "resnet50_ms"),
    [("pi-zero-2w", 147, 783), ("pi4", 62, 263), ("pi5", 10.5, 46), ("jetson-nano", 33.8, 204)],
)
def test_published_times_come_out_again(name: str, mobilenet_v2_ms: float, resnet50_ms: float) -> None:
    profile = load_profile(name)
    assert ms(profile, MOBILENET_V2) == pytest.approx(mobilenet_v2_ms, rel=0.02)
    assert ms(profile, RESNET50) == pytest.approx(resnet50_ms, rel=0.02)


@pytest.mark.parametrize(
    ("name", "mobilenet_v1_ms", "resnet18_ms"),
    [("pi-zero-2w", 163, 353), ("pi3", 109, 272), ("pi4", 61, 123), ("x86-mini", 32, 54)],
)
def test_published_times_of_models_it_was_not_fitted_to(name: str, mobilenet_v1_ms: float, resnet18_ms: float) -> None:
    profile = load_profile(name)
    assert ms(profile, MOBILENET_V1) == pytest.approx(mobilenet_v1_ms, rel=0.3)
    assert ms(profile, RESNET18) == pytest.approx(resnet18_ms, rel=0.3)


def test_predicted_time_by_hand() -> None:
    profile = parse(GOOD)
    # 2 s of arithmetic, 100 ms of memory, 30 ms of layers.
    all_cores = profile.predict_ms(10_000_000_000, 3000, output_bytes=100_000_000)
    assert all_cores == pytest.approx(2000 + 100 + 30)
    # Half of each: twice the arithmetic rate, twice the memory's.
    int8 = profile.predict_ms(10_000_000_000, 3000, output_bytes=100_000_000, int8=True)
    assert int8 == pytest.approx(1000 + 50 + 30)
    one = profile.predict_ms(10_000_000_000, 3000, output_bytes=100_000_000, threads=1)
    assert one == pytest.approx(5000 + 200 + 30)
    # Two of four threads: a third of the way, 3 GMAC/s and 0.667 GB/s.
    two = profile.predict_ms(10_000_000_000, 3000, output_bytes=100_000_000, threads=2)
    assert two == pytest.approx(10_000 / 3 + 150 + 30)


def test_power_grows_by_the_same_share_with_every_core() -> None:
    profile = parse(GOOD)
    assert [profile.power_with(threads).busy_w for threads in (1, 2, 4, 9)] == [2.0, 3.0, 5.0, 5.0]
    assert profile.power_with(1).idle_w == 1.0


def test_estimates_are_named() -> None:
    assert parse(GOOD).estimated == ("speed.layer_overhead_us", "power.radio_uj_per_byte")


def test_a_path_is_taken_too(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(GOOD, encoding="utf-8")
    assert load_profile(str(path)).name == "mine"
    assert load_profile(path) == load_profile(str(path))


def test_unknown_name_names_the_nearest() -> None:
    with pytest.raises(ProfileError, match=r"'raspi4'.*nearest is 'pi4'"):
        load_profile("raspi4")


@pytest.mark.parametrize("name", ["nowhere/board.toml", "../pi4", ""])
def test_what_is_no_profile_is_refused(name: str) -> None:
    with pytest.raises(ProfileError):
        load_profile(name)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("memory_mb", "memory_kb", r"board\.toml has the unknown key memory_kb; nearest is 'memory_mb'"),
        ("gbytes_int8 = 2.0", "gbyte_int8 = 2.0", r"unknown key speed\.all_cores\.gbyte_int8"),
        ("idle_w = 1.0\n", "", r"board\.toml has no power\.idle_w"),
        ("idle_w = 1.0", 'idle_w = "1"', r"power\.idle_w is '1', needed a number"),
        ("idle_w = 1.0", "idle_w = true", r"power\.idle_w is True, needed a number"),
        ("idle_w = 1.0", "idle_w = 6.0", r"power\.busy_w is 5, below power\.idle_w = 6"),
        ("gmacs_int8 = 4.0", "gmacs_int8 = 0", r"one_thread\.gmacs_int8 is 0, needed a number above 0"),
        ("gmacs_int8 = 4.0", "gmacs_int8 = -3", r"needed a number above 0"),
        ("gmacs_int8 = 4.0", "gmacs_int8 = nan", r"needed a number above 0"),
        (
            "gmacs_int8 = 4.0",
            "gmacs_int8 = 1e308",
            r"gmacs_int8 is 1e\+308, needed a number above 0, from 1e-09 to 1e\+12",
        ),
        ("gmacs_int8 = 4.0", "gmacs_int8 = 5e-324", r"gmacs_int8 is 5e-324, needed a number above 0"),
        ("gmacs_int8 = 4.0", f"gmacs_int8 = 1{'0' * 400}", r"gmacs_int8 is 10{199}, needed a number above 0"),
        ("gmacs_int8 = 4.0", f"gmacs_int8 = 0x{'f' * 5000}", r"gmacs_int8 is a number of thousands of digits, needed"),
        ("gmacs_int8 = 4.0", f"gmacs_int8 = 1{'0' * 5000}", r"board\.toml is not TOML: Exceeds the limit"),
        ("cores = 4", f"cores = 1{'0' * 400}", r"cores is 10{199}, needed a whole number above 0, at most 1000000000"),
        ("cores = 4", "cores = 4.5", r"cores is 4\.5, needed a whole number"),
        ('title = "A board"', "title = 3", r"title is 3, needed a text"),
        ('["litert"]', '["litert", "tvm"]', r"engines is .*needed a list of litert and onnx"),
        ('source = "a meter"\n', "", r"\[power\] need either source"),
        ('source = "a meter"', 'source = "a meter"\nestimate = true\nreason = "x"', r"need either source"),
        ('reason = "a guess"\n', "", r"has no speed\.reason"),
        ('radio_uj_per_byte = "a guess"', 'radio = "a guess"', r"unknown key power\.estimates\.radio"),
        ("[power]", "[power", r"board\.toml is not TOML"),
    ],
)
def test_wrong_profiles_are_refused(old: str, new: str, message: str) -> None:
    assert old in GOOD
    with pytest.raises(ProfileError, match=message):
        parse(GOOD.replace(old, new, 1))


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    (tmp_path / "board.toml").write_text(GOOD, encoding="utf-8-sig")
    assert load_profile(str(tmp_path / "board.toml")) == parse(GOOD)


@pytest.mark.timeout(10)
def test_a_pipe_is_not_waited_for_and_a_file_without_end_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.toml")
    (tmp_path / "endless.toml").symlink_to("/dev/zero")
    (tmp_path / "large.toml").write_bytes(b"#" * (2 << 20))
    for name, reason in (("pipe", "not a regular file"), ("endless", "not a regular file"), ("large", "larger than")):
        with pytest.raises(ProfileError, match=rf"cannot read profile .*{name}\.toml: .*{reason}"):
            load_profile(str(tmp_path / f"{name}.toml"))
