"""The Raspberry Pi program, as a process of its own, on a folder, beside a gateway's."""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from midstream.broker import Broker
from midstream.bundle import Bundle
from midstream.errors import InputError

from .conftest import EXAMPLES, WAIT_S, listening

PROGRAM = EXAMPLES / "raspberry_pi" / "faces.py"


def faces_of(message: dict[str, Any]) -> int:
    return len(message["faces"])


@pytest.fixture(scope="module")
def bundle(bundle_of: Callable[[Any], Bundle]) -> Bundle:
    from models import FACES

    return bundle_of(FACES)


@pytest.fixture(scope="module")
def gateway(broker: Broker, bundle: Bundle) -> Iterator[int]:
    from peers import gateway_process

    with gateway_process(bundle.path, broker.url, {bundle.digest}) as pid:
        yield pid


@pytest.fixture
def folder(assets: Path, tmp_path: Path) -> Path:
    for name in ("astronaut.png", "flower.jpg"):
        shutil.copy(assets / "pictures" / name, tmp_path)
    (tmp_path / "cut-short.png").write_bytes((assets / "pictures" / "coins.png").read_bytes()[:5000])
    return tmp_path


def command(bundle: Bundle, broker: Broker, *options: str) -> list[str]:
    return [sys.executable, str(PROGRAM), str(bundle.path), "--broker", broker.url, *options]


def test_a_folder_goes_to_the_topic_once(bundle: Bundle, broker: Broker, gateway: int, folder: Path) -> None:
    assert gateway
    with listening(broker, "test/once") as inbox:
        options = ["--folder", str(folder), "--topic", "test/once", "--once"]
        done = subprocess.run(
            command(bundle, broker, *options), capture_output=True, text=True, timeout=WAIT_S, check=False
        )
        assert done.returncode == 0, done.stderr
        messages = [json.loads(payload) for payload in inbox.wait_for(2)]
    assert "cut-short.png" in done.stderr
    assert [message["file"] for message in messages] == ["astronaut.png", "flower.jpg"]
    assert [faces_of(message) for message in messages] == [1, 0]
    (face,) = messages[0]["faces"]
    left, top, right, bottom = face["box"]
    assert left < 225 < right
    assert top < 130 < bottom
    assert face["score"] > 0.9
    for message in messages:
        assert set(message) == {"file", "faces", "ran_on", "total_ms", "score"}
        assert message["ran_on"] in (["device"], ["gateway"], ["device", "gateway"])
        assert message["total_ms"] > 0
        assert 0 <= message["score"] <= 100


def test_pictures_that_come_later_are_taken_until_it_is_told_to_stop(
    bundle: Bundle, broker: Broker, folder: Path, assets: Path
) -> None:
    with listening(broker, "test/later") as inbox:
        options = ["--folder", str(folder), "--topic", "test/later"]
        program = subprocess.Popen(command(bundle, broker, *options), stderr=subprocess.DEVNULL)
        try:
            inbox.wait_for(2)
            shutil.copy(assets / "pictures" / "camera.png", folder / "part")
            (folder / "part").rename(folder / "zoom.png")
            last = json.loads(inbox.wait_for(3)[-1])
            program.send_signal(signal.SIGTERM)
            assert program.wait(WAIT_S) == 0
        finally:
            program.kill()
            program.wait()
    assert last["file"] == "zoom.png"
    assert faces_of(last) == 1


def test_a_folder_that_disappears_is_one_line(bundle: Bundle, broker: Broker, folder: Path) -> None:
    with listening(broker, "test/gone") as inbox:
        options = ["--folder", str(folder), "--topic", "test/gone"]
        program = subprocess.Popen(command(bundle, broker, *options), stderr=subprocess.PIPE, text=True)
        try:
            inbox.wait_for(2)
            shutil.rmtree(folder)
            _, said = program.communicate(timeout=WAIT_S)
        finally:
            program.kill()
            program.wait()
    assert program.returncode == 2
    assert said.splitlines()[-1] == f"faces: folder {folder} can no longer be read: No such file or directory"
    assert "Traceback" not in said


@pytest.mark.parametrize("topic", ["", "a/#", "a/+/b", "ä" * 40_000])
def test_a_topic_that_nothing_can_be_published_to_is_refused(bundle: Bundle, broker: Broker, topic: str) -> None:
    done = subprocess.run(
        command(bundle, broker, "--once", "--folder", "nowhere", "--topic", topic),
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    assert done.returncode == 2
    assert "argument --topic: invalid topic value" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--folder", "nowhere"], "nowhere is not a folder"),
        (["--camera", "63"], "v4l2-ctl --list-devices"),
        (["--picamera"], "apt install python3-picamera2"),
    ],
)
def test_a_source_that_is_not_there_is_one_line(
    bundle: Bundle, broker: Broker, gateway: int, options: list[str], said: str
) -> None:
    assert gateway
    done = subprocess.run(
        command(bundle, broker, *options), capture_output=True, text=True, timeout=WAIT_S, check=False
    )
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("faces: ")]
    assert said in line
    assert "Traceback" not in done.stderr


class FakeDevice:
    """Answers a frame when the camera has given more of them than ``behind`` since it took the last."""

    def __init__(self, behind: int) -> None:
        self.behind = behind
        self.given = threading.Semaphore(0)

    def infer(self, source: np.ndarray) -> np.ndarray:
        for _ in range(self.behind):
            assert self.given.acquire(timeout=WAIT_S)
        return source

    def frames(self, _number: int = 0) -> Iterator[np.ndarray]:
        while True:
            yield np.zeros((4, 4, 3), np.uint8)
            self.given.release()


@pytest.fixture
def program() -> Any:
    import faces

    return faces


def camera_options() -> argparse.Namespace:
    return argparse.Namespace(folder=None, once=False, picamera=False, camera=0)


def test_of_a_camera_the_newest_frame_is_taken(program: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    device, stop = FakeDevice(behind=3), threading.Event()
    monkeypatch.setattr(program, "camera", device.frames)
    taken = []
    for (name, _), _ in program.answers(camera_options(), device, stop):
        taken.append(name["frame"])
        if len(taken) == 4:
            stop.set()
            break
    assert taken == sorted(set(taken))
    assert taken[-1] - taken[0] >= 6
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ThreadPoolExecutor")]


def test_a_camera_that_fails_is_told(program: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def frames(_number: int) -> Iterator[np.ndarray]:
        yield np.zeros((4, 4, 3), np.uint8)
        raise InputError("no picture from /dev/video7")

    monkeypatch.setattr(program, "camera", frames)
    with pytest.raises(InputError, match="video7"):
        list(program.answers(camera_options(), FakeDevice(behind=0), threading.Event()))
