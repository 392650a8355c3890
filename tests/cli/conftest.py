"""The command line in this process, and a small bundle for it."""

from __future__ import annotations

import json
import logging
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from midstream.cli.main import run
from midstream_converters.convert import convert
from midstream_converters.opening import Options


@dataclass(frozen=True)
class Ended:
    """What a command left."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one value on stdout."""
        assert self.code == 0, self.err
        assert self.out.count("\n") == 1
        return json.loads(self.out)

    @property
    def error(self) -> str:
        """The one line on stderr of a command that failed, with nothing on stdout."""
        assert self.out == ""
        assert "Traceback" not in self.err
        (line,) = self.err.splitlines()
        assert line.startswith("midstream: ")
        return line


Midstream = Callable[..., Ended]


@pytest.fixture
def midstream(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Midstream]:
    before = signal.getsignal(signal.SIGTERM)
    # The handler would hold on to this test's stderr.
    monkeypatch.setattr(logging, "basicConfig", lambda **_: None)

    def call(*arguments: object, cwd: Path | None = None) -> Ended:
        """Run it, in this folder if one is given."""
        if cwd is not None:
            monkeypatch.chdir(cwd)
        monkeypatch.setattr(sys, "argv", ["midstream", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            run()
        captured = capsys.readouterr()
        return Ended(int(ended.value.code or 0), captured.out, captured.err)

    yield call
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="session")
def faces_model(assets: Path) -> Path:
    return assets / "models" / "face_detection_short_range.tflite"


@pytest.fixture(scope="session")
def faces(faces_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("a folder with spaces") / "faces"
    convert(faces_model, target, Options(max_cuts=4))
    return target
