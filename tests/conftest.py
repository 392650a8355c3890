"""What tests of every floor share: a real broker, and real models, pictures and sounds."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from midstream.broker import Broker

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def broker() -> Iterator[Broker]:
    """A broker on a free loopback port: mosquitto where it is installed, else iotcore."""
    with Broker() as running:
        yield running


@pytest.fixture(scope="session")
def assets() -> Path:
    """The folder with models/, pictures/ and sounds/, fetched where it is not there yet."""
    folder = ROOT / ".cache" / "assets"
    if not (folder / ".complete").is_file() or not any((folder / "models").glob("*.*")):
        (folder / ".complete").unlink(missing_ok=True)
        subprocess.run([sys.executable, str(ROOT / "scripts" / "assets.py")], check=True)
    return folder
