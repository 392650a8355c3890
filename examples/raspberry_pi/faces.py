#!/usr/bin/env python3
"""Faces from a camera or a folder of pictures to an MQTT topic: a complete program for a Raspberry Pi.

Every picture goes to ``Device.infer``, which runs BlazeFace here, on the gateway, or part here and part there. What was
found is published as one JSON object a picture; README.md shows it, and how to set all of it up.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import paho.mqtt.client as mqtt
from blazeface import find_faces, to_square
from numpy.typing import NDArray
from paho.mqtt.enums import CallbackAPIVersion

from midstream import Device, InputError, MidstreamError, Result
from midstream.communication.address import parse_broker_url
from midstream.communication.credentials import tls_context
from midstream.media import media_kind, read_image
from midstream.stream import FrameStream

Frame = NDArray[np.uint8]
# A picture's name or a frame's number, as it is published, and its RGB pixels.
Picture = tuple[dict[str, str | int], Frame]

CAMERA_SIZE = (640, 480)
FOLDER_EVERY_S = 0.5
FLUSH_S = 5.0
MAX_TOPIC_BYTES = 65_535


def main() -> int:
    """Run until the pictures end, or SIGTERM or Ctrl-C comes."""
    options = parser().parse_args()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        with (
            Device(options.bundle, options.broker, deadline_ms=options.deadline_ms) as device,
            Results(options.broker, options.topic) as results,
        ):
            if not device.connected:
                print(f"faces are found here alone for now: {device.last_error}", file=sys.stderr, flush=True)
            for (name, frame), result in answers(options, device, stop):
                results.publish(name | report(result, frame))
                if stop.is_set():
                    break
    except MidstreamError as error:
        print(f"faces: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description="Find faces and publish them on an MQTT topic.")
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="face_detection_short_range, converted")
    parser.add_argument(
        "--broker",
        required=True,
        metavar="URL",
        help="such as mqtts://gateway.local:8883; the credentials from MIDSTREAM_MQTT_CREDENTIALS",
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--camera", type=int, default=0, metavar="N", help="/dev/videoN, such as a USB camera (0)")
    source.add_argument("--picamera", action="store_true", help="the camera on the board's own connector")
    source.add_argument("--folder", type=Path, metavar="DIR", help="pictures in a folder, and those that come")
    parser.add_argument("--topic", type=topic, default="home/faces", help="where results are published (home/faces)")
    parser.add_argument("--deadline-ms", type=float, default=500.0, metavar="MS", help="of each answer (500)")
    parser.add_argument("--once", action="store_true", help="one frame, or the folder's pictures once")
    return parser


def topic(name: str) -> str:
    """A topic that can be published to; argparse turns ValueError into its own message."""
    if not 0 < len(name.encode()) <= MAX_TOPIC_BYTES or any(sign in name for sign in "+#\0"):
        raise ValueError
    return name


def report(result: Result, frame: Frame) -> dict[str, Any]:
    """What is published about one picture."""
    height, width = frame.shape[:2]
    faces = find_faces(result.outputs, (height, width))
    return {
        "faces": [{"box": [round(edge) for edge in face.box], "score": round(face.score, 3)} for face in faces],
        "ran_on": list(result.ran_on),
        "total_ms": round(result.timings_ms["total"], 1),
        "score": None if result.analysis is None else round(result.analysis.score, 1),
    }


class Results:
    """An ordinary MQTT client that publishes JSON; while the broker is away it keeps the last hundred messages."""

    def __init__(self, url: str, topic: str) -> None:
        self._address = parse_broker_url(url)
        self._topic = topic
        self._client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            protocol=mqtt.MQTTv5,
            transport="websockets" if self._address.websocket else "tcp",
        )
        self._last: mqtt.MQTTMessageInfo | None = None

    def __enter__(self) -> Results:
        address, client = self._address, self._client
        if address.tls:
            client.tls_set_context(tls_context(address.credentials))
        if address.websocket:
            client.ws_set_options(path=address.path)
        if address.username is not None:
            client.username_pw_set(address.username, address.password)
        client.max_queued_messages_set(100)
        client.connect_async(address.host, address.port, keepalive=30)
        client.loop_start()
        return self

    def publish(self, message: dict[str, Any]) -> None:
        """Send it, now or when the broker is back."""
        self._last = self._client.publish(self._topic, json.dumps(message), qos=1)

    def __exit__(self, *_: object) -> None:
        if self._last is not None and self._client.is_connected():
            self._last.wait_for_publish(FLUSH_S)
        self._client.disconnect()
        self._client.loop_stop()


def answers(options: argparse.Namespace, device: Device, stop: threading.Event) -> Iterator[tuple[Picture, Result]]:
    """Each picture of a folder, or the newest frame of a camera whenever the one before is done, and its answer."""

    def answer(picture: Picture) -> Result:
        return device.infer(source=to_square(picture[1]))

    if options.folder is not None or options.once:
        for picture in pictures(options, stop):
            yield picture, answer(picture)
        return
    with ThreadPoolExecutor(1) as thread, FrameStream(answer) as stream:
        capturing = thread.submit(capture, pictures(options, stop), stream)
        yield from stream
        capturing.result()


def capture(frames: Iterator[Picture], stream: FrameStream[Picture, Result]) -> None:
    """Offer frames to the stream until there are no more, or it has ended."""
    with stream:
        for picture in frames:
            if not stream.offer(picture):
                break


def pictures(options: argparse.Namespace, stop: threading.Event) -> Iterator[Picture]:
    """Pictures of the source asked for, until there are no more or ``stop`` is set."""
    if options.folder is not None:
        yield from folder(options.folder, options.once, stop)
        return
    for number, frame in enumerate(picamera() if options.picamera else camera(options.camera)):
        if stop.is_set():
            return
        yield {"frame": number}, frame
        if options.once:
            return


def folder(path: Path, once: bool, stop: threading.Event) -> Iterator[Picture]:
    """The pictures of a folder by name, then, unless ``once``, those that are added or changed."""
    if not path.is_dir():
        raise InputError(f"{path} is not a folder; give --folder one with pictures")
    seen: dict[Path, int] = {}
    while not stop.is_set():
        for file, changed in files(path):
            if stop.is_set() or seen.get(file) == changed:
                continue
            seen[file] = changed
            try:
                frame = read_image(file)
            except InputError as error:
                # It may still be being written: then it changes, and is read again.
                print(f"faces: {error}", file=sys.stderr, flush=True)
                continue
            yield {"file": file.name}, frame
        if once:
            if not seen:
                raise InputError(f"folder {path} has no pictures")
            return
        stop.wait(FOLDER_EVERY_S)


def files(path: Path) -> list[tuple[Path, int]]:
    """The pictures that are in a folder now, by name, and when each was changed."""
    found = []
    try:
        for file in sorted(file for file in path.iterdir() if media_kind(file) == "image"):
            # One that was taken away meanwhile is simply not there.
            with contextlib.suppress(FileNotFoundError):
                found.append((file, file.stat().st_mtime_ns))
    except OSError as error:
        raise InputError(f"folder {path} can no longer be read: {error.strerror}") from None
    return found


def camera(number: int) -> Iterator[Frame]:
    """Frames of a V4L2 camera."""
    capture = cv2.VideoCapture(number, cv2.CAP_V4L2)
    try:
        # Old frames are worth nothing: the one that is worked on should be the newest.
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        capture.set(cv2.CAP_PROP_FRAME_WIDTH, CAMERA_SIZE[0])
        capture.set(cv2.CAP_PROP_FRAME_HEIGHT, CAMERA_SIZE[1])
        while True:
            there, frame = capture.read()
            if not there:
                raise InputError(
                    f"no picture from /dev/video{number}; `v4l2-ctl --list-devices` (apt install v4l-utils) shows the "
                    "cameras there are. One on the board's own connector needs --picamera; your user must be in the "
                    "group video"
                )
            yield np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), dtype=np.uint8)
    finally:
        capture.release()


def picamera() -> Iterator[Frame]:
    """Frames of the camera on the board's own connector."""
    try:
        picamera2 = import_module("picamera2")
    except ModuleNotFoundError:
        raise InputError(
            "--picamera needs picamera2, which comes with Raspberry Pi OS: apt install python3-picamera2, and make the "
            "virtual environment with --system-site-packages"
        ) from None
    try:
        board_camera = picamera2.Picamera2()
    except (IndexError, RuntimeError) as error:
        raise InputError(
            f"no camera on the board's connector ({error}); `rpicam-hello --list-cameras` shows it"
        ) from None
    with board_camera:
        # libcamera's BGR888 is R, G, B in memory.
        layout = {"format": "BGR888", "size": CAMERA_SIZE}
        board_camera.configure(board_camera.create_video_configuration(main=layout, buffer_count=2))
        board_camera.start()
        while True:
            yield np.asarray(board_camera.capture_array("main"), dtype=np.uint8)


if __name__ == "__main__":
    raise SystemExit(main())
