"""The optional tables of a profile: families, models, delegates."""

from __future__ import annotations

import pytest

from midstream.errors import ProfileError
from midstream.profiles import FamilyRates, ModelTimes, Profile, load_profile, profile_from_toml, profile_to_toml

RATES = "conv_gmacs = {0}, conv_gbytes = {0}, depthwise_gmacs = {0}, dense_gmacs = {0}, other_gbytes = {0}"
FAMILIES = f"""
[families.onnx.one_thread]
layer_overhead_us = 2.0
run_overhead_us = 20
float32 = {{ {RATES.format(1.0)} }}
int8 = {{ {RATES.format(3.0)} }}
source = "a stopwatch"

[families.onnx.all_cores]
layer_overhead_us = 4.0
run_overhead_us = 50.0
float32 = {{ {RATES.format(2.0)} }}
int8 = {{ {RATES.format(7.0)} }}
source = "a stopwatch"
[families.onnx.all_cores.estimates]
int8 = "a guess"
"""
MODELS = f"""
[models."a model \U0001f600 of mine"]
digest = "{"ab" * 32}"
one_thread_ms = 12.5
all_cores_ms = 4
cuts_ms = {{ "c1" = [2.5, 10], "c 2" = [11.0, 1.5] }}
source = "a stopwatch"
"""


def parse(*more: str) -> Profile:
    return profile_from_toml(profile_to_toml(load_profile("pi4")) + "".join(more), "board", "board.toml")


def test_families_are_read_and_interpolated() -> None:
    profile = parse(FAMILIES)
    assert profile.family_rates("litert", int8=False) is None
    assert profile.family_rates("onnx", int8=False, threads=1) == (FamilyRates(1, 1, 1, 1, 1), 2.0, 20.0)
    assert profile.family_rates("onnx", int8=True) == (FamilyRates(7, 7, 7, 7, 7), 4.0, 50.0)
    rates, layer_us, run_us = profile.family_rates("onnx", int8=True, threads=2) or (None, 0, 0)
    # Two of four cores are a third of the way.
    assert rates is not None
    assert (rates.conv_gmacs, layer_us, run_us) == pytest.approx((3 + 4 / 3, 2 + 2 / 3, 30.0))


def test_models_are_found_by_their_digest() -> None:
    profile = parse(MODELS)
    assert profile.model_times("cd" * 32) is None
    found = profile.model_times("ab" * 32)
    assert isinstance(found, ModelTimes)
    assert (found.one_thread_ms, found.all_cores_ms) == (12.5, 4.0)
    assert found.cuts_ms == {"c1": (2.5, 10.0), "c 2": (11.0, 1.5)}


def test_what_is_written_is_read_again() -> None:
    profile = parse(FAMILIES, MODELS)
    assert profile_from_toml(profile_to_toml(profile), "board", "board.toml") == profile
    assert profile.estimated[-2:] == ("power.radio_uj_per_byte", "families.onnx.all_cores.int8")


def test_any_name_survives_writing() -> None:
    for name in ('"quoted"', "back\\slash", "a.b", "\x7f", "tab\tand\nline", ""):
        text = profile_to_toml(parse(MODELS)).replace('"a model \U0001f600 of mine"', _basic(name))
        profile = profile_from_toml(text, "board", "board.toml")
        assert list(profile.models) == [name]
        assert profile_from_toml(profile_to_toml(profile), "board", "board.toml") == profile


def _basic(text: str) -> str:
    return '"' + "".join(f"\\U{ord(letter):08x}" for letter in text) + '"'


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("families.onnx.one_thread", "families.onxx.one_thread", r"unknown key families\.onxx; nearest is 'onnx'"),
        ("[families.onnx.one_thread]", "[families.onnx.one_tread]", r"onnx\.one_tread; nearest is 'one_thread'"),
        ("conv_gmacs = 1.0", "convs_gmacs = 1.0", r"float32\.convs_gmacs; nearest is 'conv_gmacs'"),
        ("dense_gmacs = 3.0, ", "", r"has no families\.onnx\.one_thread\.int8\.dense_gmacs"),
        ("other_gbytes = 7.0", "other_gbytes = 0", r"all_cores\.int8\.other_gbytes is 0, needed a number above 0"),
        ("run_overhead_us = 20", "run_overhead_us = inf", r"one_thread\.run_overhead_us is inf, needed a number above"),
        ("layer_overhead_us = 4.0\n", "", r"has no families\.onnx\.all_cores\.layer_overhead_us"),
        ("float32 = { conv_gmacs = 1.0", "int16 = { conv_gmacs = 1.0", r"one_thread\.int16; nearest is 'int8'"),
        ("one_thread_ms = 12.5", "one_tread_ms = 12.5", r"one_tread_ms; nearest is 'one_thread_ms'"),
        ("all_cores_ms = 4", "all_cores_ms = -4", r"all_cores_ms is -4, needed a number above 0"),
        ('"abab', '"xyab', r"digest is 'xyab.*64 hexadecimal"),
        ("[2.5, 10]", "[2.5, 10, 3]", r"cuts_ms\.c1 is \[2\.5, 10, 3\], needed two numbers"),
        ("[2.5, 10]", '[2.5, "10"]', r"cuts_ms\.c1 is '10', needed a number"),
        ("[2.5, 10]", "[nan, 10]", r"cuts_ms\.c1 is nan, needed a number above 0"),
        ('delegates = ["xnnpack"]', 'delegates = ["xnpack"]', r"delegates is .*needed a list of xnnpack, edgetpu"),
        ('delegates = ["xnnpack"]', "models = 3", r"models is 3, needed a table"),
    ],
)
def test_wrong_tables_are_refused(old: str, new: str, message: str) -> None:
    board = profile_to_toml(load_profile("pi4"))
    text = board + FAMILIES + ("" if new == "models = 3" else MODELS)
    assert old in text
    with pytest.raises(ProfileError, match=message):
        profile_from_toml(text.replace(old, new, 1), "board", "board.toml")
