"""What tests of every floor share: a real broker, and real models, pictures and sounds."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from gratings import write_model

from midstream.broker import Broker
from midstream.bundle import Bundle
from midstream_converters.convert import convert
from midstream_converters.opening import Options

ROOT = Path(__file__).resolve().parent.parent
# Beside other tests these would meet deadlines and rates that are not theirs.
REALTIME = ("integration", "gateway", "securing", "examples", "measuring", "sensing", "benching")
REALTIME_FILES = (
    "test_lanes.py",
    "test_mail.py",
    "test_transport.py",
    "test_link.py",
    "test_faulty_link.py",
    "test_stream.py",
    "test_broker.py",
    "test_background_file.py",
    "test_bench_adaptive.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what goes by the clock, by its folder or file."""
    for item in items:
        place = item.path.relative_to(ROOT / "tests")
        if place.parts[0] in REALTIME or place.name in REALTIME_FILES:
            item.add_marker("realtime")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Commands, of other processes too, neither find bundles of the user's nor leave any."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIDSTREAM_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def broker() -> Iterator[Broker]:
    """A broker on a free loopback port: mosquitto where it is installed, else iotcore."""
    with Broker() as running:
        yield running


@pytest.fixture(scope="session")
def gratings(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A classifier of pictures that is large enough for an early exit, with at most four cuts."""
    folder = tmp_path_factory.mktemp("gratings")
    write_model(folder / "gratings.onnx")
    convert(folder / "gratings.onnx", folder / "bundle", Options(max_cuts=4))
    return Bundle.open(folder / "bundle")


@pytest.fixture(scope="session")
def mosquitto() -> Callable[[Path, list[str]], AbstractContextManager[int]]:
    """Starts mosquitto with a listener that these lines configure, in this folder; gives its port."""
    program = shutil.which("mosquitto", path=os.environ["PATH"] + ":/usr/sbin")
    if program is None:
        pytest.skip("iotcore cannot be set up so")

    @contextmanager
    def start(folder: Path, lines: list[str]) -> Iterator[int]:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = int(server.getsockname()[1])
        config = folder / "mosquitto.conf"
        # Root may read its own folder; whom mosquitto would change to may not.
        config.write_text("\n".join(["user root", f"listener {port} 127.0.0.1", *lines, ""]))
        with subprocess.Popen([str(program), "-c", str(config)], stderr=subprocess.PIPE) as process:
            assert process.stderr is not None
            try:
                while b"running" not in (line := process.stderr.readline()):
                    assert line, f"mosquitto ended with {process.wait()}"
                yield port
            finally:
                process.terminate()

    return start


@pytest.fixture(scope="session")
def assets() -> Path:
    """The folder with models/, pictures/ and sounds/, fetched where it is not there yet."""
    folder = ROOT / ".cache" / "assets"
    if not (folder / ".complete").is_file() or not any((folder / "models").glob("*.*")):
        (folder / ".complete").unlink(missing_ok=True)
        subprocess.run([sys.executable, str(ROOT / "scripts" / "assets.py")], check=True)
    return folder


@pytest.fixture
def no_program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No vcgencmd on the way."""
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
