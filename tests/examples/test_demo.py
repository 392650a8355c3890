"""How the demo's programs begin and end, without its jobs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from midstream.broker import Broker

from .conftest import EXAMPLES, WAIT_S

DEMO = EXAMPLES / "demo"


def test_a_folder_that_cannot_be_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for output in ("/proc/x", str(tmp_path / "file")):
        command = [sys.executable, str(DEMO / "main.py"), "--output", output]
        done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=False)
        assert done.returncode == 2
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"demo: {output}: ")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_it_through_its_with_blocks(tmp_path: Path, number: signal.Signals, code: int) -> None:
    program = (
        "import signal, sys, types\n"
        f"sys.path.insert(0, {str(DEMO)!r})\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "def run(options):\n"
        "    try:\n"
        "        print('running', flush=True)\n"
        "        sys.stdin.read()\n"
        "    finally:\n"
        "        print('left', flush=True)\n"
        "sys.modules['run'] = types.SimpleNamespace(run=run)\n"
        f"sys.argv = ['demo', '--output', {str(tmp_path)!r}]\n"
        "import main\n"
        "raise SystemExit(main.main())\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as demo:
        assert demo.stdout is not None
        assert demo.stdout.readline() == "running\n"
        demo.send_signal(number)
        out, err = demo.communicate(timeout=WAIT_S)
    assert (demo.returncode, out, err) == (code, "left\n", "")


def test_the_gateway_ends_with_the_demo_even_where_that_is_killed(
    broker: Broker, bundle_of: Callable[[Any], Any]
) -> None:
    from models import FACES

    bundle = bundle_of(FACES)
    program = (
        "import sys\n"
        f"sys.path.insert(0, {str(DEMO)!r})\n"
        "from pathlib import Path\n"
        "from peers import gateway_process\n"
        "path, broker, digest = sys.argv[1:]\n"
        "with gateway_process(Path(path), broker, {bytes.fromhex(digest)}) as pid:\n"
        "    print(pid, flush=True)\n"
        "    sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", program, str(bundle.path), broker.url, bundle.digest.hex()]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as demo:
        assert demo.stdout is not None
        pid = int(demo.stdout.readline())
        assert Path(f"/proc/{pid}").exists()
        demo.send_signal(signal.SIGKILL)
    end = time.monotonic() + WAIT_S
    while not has_ended(pid):
        assert time.monotonic() < end
        os.sched_yield()


def has_ended(pid: int) -> bool:
    """Whoever adopts it may leave it a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True
