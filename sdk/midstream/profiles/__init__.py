"""What boards can do. A profile is one TOML file; ten are shipped in ``midstream_profiles``.

Every table names the ``source`` of its figures, or says ``estimate = true`` with a ``reason``; a single figure that
differs from its table is listed with its reason under ``estimates``. ``docs/profiles.md`` lists all keys. ::

    title = "Raspberry Pi 4 Model B"
    cores = 4
    memory_mb = 4096
    engines = ["litert", "onnx"]
    source = "..."

    [speed]                      # layer_overhead_us: microseconds a layer costs whatever its size
    [speed.one_thread]           # gmacs_float32, gmacs_int8: 10⁹ multiply-accumulates a second
    [speed.all_cores]            # gbytes_float32, gbytes_int8: 10⁹ bytes of layer outputs a second
    [families.onnx.one_thread]   # optional: the same by family of layers, for one engine
    [families.onnx.all_cores]
    [models."face_detection"]    # optional: measured times of one bundle
    [power]                      # idle_w, busy_w (all cores computing), radio_uj_per_byte
    [power.estimates]
    radio_uj_per_byte = "..."
"""

from __future__ import annotations

from midstream.profiles.board import (
    DELEGATES,
    ENGINES,
    DType,
    Engine,
    EngineFamilies,
    Families,
    FamilyRates,
    ModelTimes,
    Origin,
    Power,
    Profile,
    Rates,
    Speed,
)
from midstream.profiles.shipped import load_profile, profile_names
from midstream.profiles.toml import profile_from_toml, profile_to_toml

__all__ = [
    "DELEGATES",
    "ENGINES",
    "DType",
    "Engine",
    "EngineFamilies",
    "Families",
    "FamilyRates",
    "ModelTimes",
    "Origin",
    "Power",
    "Profile",
    "Rates",
    "Speed",
    "load_profile",
    "profile_from_toml",
    "profile_names",
    "profile_to_toml",
]
