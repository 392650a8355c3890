"""Profiles by the names of shipped boards, or from any file."""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path

from midstream.errors import ProfileError
from midstream.files import read_at_most
from midstream.profiles.board import Profile
from midstream.profiles.toml import nearest, profile_from_toml

PACKAGE = "midstream_profiles"
MAX_PROFILE_BYTES = 1 << 20


def profile_names() -> tuple[str, ...]:
    """The names of the shipped profiles, sorted."""
    found = (entry.name for entry in files(PACKAGE).iterdir())
    return tuple(sorted(name.removesuffix(".toml") for name in found if name.endswith(".toml")))


def load_profile(name_or_path: str | Path) -> Profile:
    """A shipped profile by its name, or any profile by the path of its ``.toml`` file; a `Path` is one.

    Raises ProfileError where there is none, and where a key is unknown, missing or out of range.
    """
    if isinstance(name_or_path, Path) or name_or_path.endswith(".toml") or os.sep in name_or_path:
        path = Path(name_or_path)
        try:
            text = str(read_at_most(path, MAX_PROFILE_BYTES), "utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or "it is not UTF-8 text"
            raise ProfileError(f"cannot read profile {name_or_path}: {why}") from None
        return profile_from_toml(text, path.stem, str(name_or_path))
    known = profile_names()
    if name_or_path not in known:
        raise ProfileError(
            f"no profile is named {name_or_path!r}{nearest(name_or_path, known)}; "
            f"shipped are {', '.join(known)}, and the path of a .toml file is taken too"
        )
    text = files(PACKAGE).joinpath(f"{name_or_path}.toml").read_text(encoding="utf-8")
    return profile_from_toml(text, name_or_path, f"{name_or_path}.toml")
