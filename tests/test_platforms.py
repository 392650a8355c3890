"""Where modules and calls of Linux are missing, as on Windows and macOS, everything can be imported and works."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from midstream.broker import Broker

BARE = """
import os, select, signal, subprocess, sys
# It has code of its own for each system, that of this one here.
import psutil
# As on Windows; on Linux it asks for SIGKILL.
subprocess.Popen.kill = subprocess.Popen.terminate
for name in ("fcntl", "grp", "pwd", "resource", "termios", "tty", "pty"):
    sys.modules[name] = None
for module, names in (
    (os, "O_NOFOLLOW O_NONBLOCK O_CLOEXEC O_DIRECTORY geteuid pread pwrite sched_yield fchmod chown mkfifo"),
    (select, "poll epoll"),
    (signal, "SIGKILL SIGHUP SIGUSR1 SIGALRM SIGSTOP SIGCONT pthread_sigmask"),
):
    for name in names.split():
        delattr(module, name)
"""


def bare(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run code where all of these are missing."""
    command = [sys.executable, "-c", BARE + code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)


def test_every_module_can_be_imported() -> None:
    done = bare(
        "import importlib, pkgutil, midstream, midstream_converters\n"
        "for package in (midstream, midstream_converters):\n"
        "    for module in pkgutil.walk_packages(package.__path__, package.__name__ + '.'):\n"
        "        importlib.import_module(module.name)\n"
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["face_detection_short_range.tflite", "ch_ppocr_mobile_v2.0_cls_infer.onnx"])
@pytest.mark.parametrize(
    "run",
    [
        "import midstream.cli.main as m; m.run()",
        "import runpy; runpy.run_module('midstream_converters', {}, '__main__')",
    ],
)
def test_models_are_converted(assets: Path, tmp_path: Path, name: str, run: str) -> None:
    command = ["convert"] if "cli" in run else []
    model = assets / "models" / name
    done = bare(f"sys.argv[0] = 'midstream'\n{run}", *command, model, "-o", tmp_path / "b", "--max-cuts", "2", "--json")
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["cuts"]) == 2
    verified = bare("import midstream.cli.main as m; m.run()", "verify", tmp_path / "b", "--json")
    assert json.loads(verified.stdout)["verified"] is True


def test_a_model_is_split(broker: Broker, assets: Path, tmp_path: Path) -> None:
    done = bare(
        "from pathlib import Path\n"
        "from threading import Event, Thread\n"
        "import numpy as np\n"
        "from midstream import Device, Gateway\n"
        "from midstream_converters.convert import convert\n"
        "from midstream_converters.opening import Options\n"
        "model, bundle, url = sys.argv[1:]\n"
        "convert(Path(model), Path(bundle), Options(max_cuts=1))\n"
        "with Gateway([bundle], url, workers=1) as gateway, Device(bundle, url) as device:\n"
        "    inputs = {'input': np.zeros((1, 128, 128, 3), np.float32)}\n"
        "    print(device.infer(inputs, cut=device.bundle.cuts[0].id).ran_on)\n",
        assets / "models" / "face_detection_short_range.tflite",
        tmp_path / "b",
        broker.url,
    )
    assert done.stdout == "('device', 'gateway')\n", done.stderr
