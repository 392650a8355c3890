"""The fuzzer itself, for a minute and a half: ``scripts/fuzz`` runs it for longer."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent.parent


@pytest.mark.long
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the fuzzer forks")
def test_nothing_is_found(tmp_path: Path) -> None:
    found = subprocess.run(
        [sys.executable, "-m", "hostile", "--seconds", "90", "--seed", "1", "--keep", tmp_path],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path]), "OPENBLAS_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert found.returncode == 0, found.stdout
