"""The main job: one model, two processes, a real broker, the whole model's answer."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest

from midstream.broker import Broker
from midstream.bundle import Bundle
from midstream.device import Device
from midstream.errors import BundleError, CodecError, InputError, PlanError
from midstream.tensors import Tensors

from .conftest import device_with_gateway


def same(want: Tensors, got: Tensors) -> bool:
    return want.keys() == got.keys() and all(np.array_equal(want[name], got[name]) for name in want)


def slow_board(path: Path) -> Bundle:
    """The bundle as on a board where the whole model takes two seconds, however fast this machine is."""
    return Bundle.open(path, slowdown=2000.0 / Bundle.open(path).costs.whole_ms)


def test_every_cut_and_lossless_codec_gives_the_whole_models_answer(
    broker: Broker, start_gateway, faces: Bundle, inputs: Tensors
) -> None:
    start_gateway(broker)
    want = faces.run(inputs)
    with device_with_gateway(faces, broker.url) as device:
        for cut in faces.cuts:
            for codec in ("raw", "lossless"):
                result = device.infer(inputs, cut=cut.id, codec=codec)
                assert result.ran_on == ("device", "gateway"), result.fallback
                assert same(want, result.outputs)
                assert result.plan.cut == cut.id
                assert result.plan.codec == codec
                assert result.sent_bytes > 0
        whole = device.infer(inputs, cut="input")
        assert whole.ran_on == ("gateway",)
        assert whole.plan.cut is None
        assert same(want, whole.outputs)
        local = device.infer(inputs, cut="local")
        assert local.ran_on == ("device",)
        assert local.sent_bytes == 0
        assert same(want, local.outputs)


def test_the_planner_chooses_and_says_why(broker: Broker, start_gateway, faces: Bundle, inputs: Tensors) -> None:
    start_gateway(broker)
    with device_with_gateway(faces, broker.url) as device:
        result = device.infer(inputs)
    assert same(faces.run(inputs), result.outputs)
    assert result.fallback is None
    assert "ms" in result.plan.why
    assert result.analysis is not None
    assert 0 <= result.analysis.score <= 100
    assert result.timings_ms["total"] >= result.timings_ms["device"]


def test_a_slow_device_sends_the_work_away(broker: Broker, start_gateway, faces_path: Path, inputs: Tensors) -> None:
    start_gateway(broker)
    slow = slow_board(faces_path)
    with device_with_gateway(slow, broker.url) as device:
        result = device.infer(inputs)
    assert "gateway" in result.ran_on, result.plan.why


def test_keep_input_local_never_sends_the_input(
    broker: Broker, start_gateway, faces_path: Path, inputs: Tensors
) -> None:
    start_gateway(broker)
    slow = slow_board(faces_path)
    with device_with_gateway(slow, broker.url, keep_input_local=True) as device:
        result = device.infer(inputs)
    assert result.plan.keeps_input
    assert result.plan.cut is not None


def test_a_camera_frame_goes_through_as_jpeg(broker: Broker, start_gateway, faces: Bundle, assets: Path) -> None:
    start_gateway(broker)
    frame = cv2.cvtColor(cv2.imread(str(assets / "pictures" / "astronaut.png")), cv2.COLOR_BGR2RGB)
    with device_with_gateway(faces, broker.url) as device:
        exact = device.infer(source=frame, cut="local")
        lossy = device.infer(source=frame, cut="input", codec="jpeg90")
        raw = device.infer(source=frame, cut="input", codec="raw")
    assert lossy.ran_on == ("gateway",)
    assert lossy.sent_bytes < raw.sent_bytes / 5
    assert same(exact.outputs, raw.outputs)
    best = int(np.argmax(exact.outputs["classificators"]))
    assert int(np.argmax(lossy.outputs["classificators"])) == best
    assert not same(exact.outputs, lossy.outputs)


def test_infer_from_many_threads_and_from_asyncio(broker: Broker, start_gateway, faces: Bundle) -> None:
    start_gateway(broker)
    rng = np.random.default_rng(1)
    many = [{"input": rng.uniform(-1, 1, (1, 128, 128, 3)).astype(np.float32)} for _ in range(24)]
    want = [faces.run(x) for x in many]
    cut = faces.cuts[4].id
    with device_with_gateway(faces, broker.url) as device:
        with ThreadPoolExecutor(8) as pool:
            results = list(pool.map(lambda x: device.infer(x, cut=cut), many))
        later = asyncio.run(device.infer_async(many[0], cut=cut))
    assert all(result.ran_on == ("device", "gateway") for result in results)
    assert all(same(w, r.outputs) for w, r in zip(want, results, strict=True))
    assert same(want[0], later.outputs)


def test_nothing_is_left_running(broker: Broker, start_gateway, faces: Bundle, inputs: Tensors) -> None:
    start_gateway(broker)
    before = set(threading.enumerate())
    files = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        with device_with_gateway(faces, broker.url) as device:
            device.infer(inputs, cut=faces.cuts[0].id)
    assert set(threading.enumerate()) <= before
    assert len(list(Path("/proc/self/fd").iterdir())) <= files


def test_wrong_calls_are_refused(broker: Broker, faces: Bundle, inputs: Tensors) -> None:
    with Device(faces, broker.url) as device:
        with pytest.raises(InputError, match="no input named 'picture'"):
            device.infer({"picture": inputs["input"]})
        with pytest.raises(InputError, match="dtype float64"):
            device.infer({"input": inputs["input"].astype(np.float64)})
        with pytest.raises(InputError, match="shape"):
            device.infer({"input": inputs["input"][:, :64]})
        with pytest.raises(BundleError, match="has no cut 'c9999'"):
            device.infer(inputs, cut="c9999")
        with pytest.raises(CodecError, match="'gzip'"):
            device.infer(inputs, cut=faces.cuts[0].id, codec="gzip")
        with pytest.raises(PlanError, match="jpeg90"):
            device.infer(inputs, cut=faces.cuts[0].id, codec="jpeg90")
        with pytest.raises(PlanError, match="deadline_ms"):
            device.infer(inputs, deadline_ms=float("nan"))
    with pytest.raises(InputError):
        Device(faces, "http://localhost")


def test_the_gateway_stops_cleanly_on_sigterm(broker: Broker, start_gateway, faces: Bundle) -> None:
    gateway = start_gateway(broker)
    with device_with_gateway(faces, broker.url) as device:
        assert gateway.stop() == 0
        gone = threading.Event()
        for _ in range(2000):
            if device.gateways == 0:
                gone.set()
                break
            gone.wait(0.005)
        assert gone.is_set()
