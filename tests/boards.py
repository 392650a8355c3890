"""Boards as tests make them: files as their drivers write them, and a vcgencmd."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def files(root: Path, folder: str, **content: str) -> None:
    """Files of a driver."""
    (root / folder).mkdir(parents=True, exist_ok=True)
    for name, text in content.items():
        (root / folder / name).write_text(f"{text}\n")


def vcgencmd(folder: Path, monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    """A vcgencmd that is a script of these lines."""
    folder.mkdir()
    program = folder / "vcgencmd"
    program.write_text("\n".join(["#!/bin/sh", *lines, ""]))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
