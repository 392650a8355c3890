"""Histories of a device and a gateway beside a real broker."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from usages import numbers

from midstream.allocation.usage import Outcome, Usage
from midstream.broker import Broker
from midstream.bundle import Bundle
from midstream.communication.wire import Request
from midstream.device import Device
from midstream.errors import BundleError, InputError
from midstream.gateway import Gateway
from midstream.history import History
from midstream.tensors import Tensors

from .conftest import WAIT_S, GatewayProcess, asking, device_with_gateway, until


def kept(path: Path) -> list[Usage]:
    with History.open(path) as history:
        return list(history)


def test_both_ends_keep_the_same_requests(
    broker: Broker, start_gateway, faces: Bundle, inputs: Tensors, tmp_path: Path
) -> None:
    gateway = start_gateway(broker, options=["--history", str(tmp_path / "gateway.db")])
    cut = faces.cuts[0].id
    with device_with_gateway(faces, broker.url, history=tmp_path / "device.db", deadline_ms=5000) as device:
        split = [device.infer(inputs, cut=cut, codec="lossless") for _ in range(3)]
        whole = device.infer(inputs, cut="input")
        local = device.infer(inputs, cut="local")
        # Whoever gets a result may do as he likes with it.
        local.timings_ms.clear()
    assert gateway.stop() == 0
    ours, theirs = kept(tmp_path / "device.db"), kept(tmp_path / "gateway.db")
    assert [each.next_cut for each in ours] == [cut, cut, cut, "input", ""]
    assert [each.outcome for each in ours] == [Outcome.OK] * 5
    assert [each.codec for each in ours] == ["lossless", "lossless", "lossless", "raw", "none"]
    assert {each.request_id for each in theirs} == {each.request_id for each in ours[:4]}
    for mine, its, result in zip(ours[:3], theirs[:3], split, strict=True):
        assert (mine.machine, its.machine) == ("device", "gateway")
        assert mine.bundle == its.bundle == faces.digest.hex()
        assert (mine.cut, its.cut, its.next_cut) == ("", cut, "")
        assert mine.device_id == its.device_id == device.device_id
        assert result.analysis is not None
        assert mine.score == result.analysis.score
        assert mine.features == pytest.approx(dict(result.analysis.features), rel=1e-6)
        assert mine.timings_ms == pytest.approx(result.timings_ms, rel=1e-6)
        assert mine.latency_ms == pytest.approx(result.timings_ms["total"], abs=5)
        assert (mine.sent_bytes, mine.received_bytes) == (result.sent_bytes, result.received_bytes)
        assert mine.sent_bytes >= its.received_bytes > 0
        assert set(mine.cpu_ms) == {"analysis", "plan", "device", "encode", "link", "decode"}
        assert all(0 <= ms <= mine.latency_ms + 1 for ms in mine.cpu_ms.values())
        assert set(its.cpu_ms) == {"decode", "run", "encode"}
        assert mine.plan == {
            "stages": ["device", "gateway"],
            "cut": cut,
            "codec": "lossless",
            "predicted_ms": pytest.approx(result.plan.predicted_ms),
            "payload_bytes": result.plan.payload_bytes,
        }
        assert mine.deadline_ms == 5000
        assert abs(mine.time_s - its.time_s) < 60
        assert mine.peak_bytes is not None
    assert whole.ran_on == ("gateway",)
    assert "encode" not in ours[4].cpu_ms
    assert ours[4].cpu_ms["device"] > 0
    assert {"analysis", "plan", "device", "total"} <= set(ours[4].timings_ms)


def test_fallbacks_and_errors_of_a_device_are_kept(
    broker: Broker, faces: Bundle, inputs: Tensors, tmp_path: Path
) -> None:
    path = tmp_path / "device.db"
    with Device(faces, broker.url, history=path, device_id="porch") as device:
        result = device.infer(inputs, cut="input", deadline_ms=2000)
        with pytest.raises(BundleError):
            device.infer(inputs, cut="no such cut")
        with pytest.raises(InputError):
            device.infer({"input": np.zeros(3, np.float32)})  # never was a request
        assert not path.exists()
    alone, failed = kept(path)
    assert (alone.outcome, alone.reason, alone.deadline_ms) == (Outcome.FALLBACK, result.fallback, 2000.0)
    assert (failed.outcome, failed.plan, failed.device_id) == (Outcome.FAILED, {}, "porch")
    assert "no such cut" in failed.reason
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_device_that_is_entered_again_goes_on(broker: Broker, faces: Bundle, inputs: Tensors, tmp_path: Path) -> None:
    device = Device(faces, broker.url, history=tmp_path / "h")
    for runs in (1, 2):
        with device:
            device.infer(inputs, cut="local")
        assert len(kept(tmp_path / "h")) == runs


def test_nothing_is_written_unless_it_is_asked_for(
    broker: Broker, start_gateway, faces: Bundle, inputs: Tensors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    gateway = start_gateway(broker)
    with device_with_gateway(faces, broker.url) as device:
        device.infer(inputs, cut="input")
    assert gateway.stop() == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("end", ["device", "gateway"])
def test_what_cannot_be_a_history_is_refused_before_anything_begins(
    broker: Broker, faces: Bundle, faces_path: Path, tmp_path: Path, end: str
) -> None:
    with pytest.raises(InputError, match="no regular file; name another file for the history"):
        if end == "device":
            Device(faces, broker.url, history=tmp_path)
        else:
            Gateway([faces_path], broker.url, history=tmp_path)


def test_a_disk_that_takes_nothing_costs_no_request(
    broker: Broker, faces: Bundle, inputs: Tensors, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "stick"
    folder.mkdir()
    device = Device(faces, broker.url, history=folder / "h")
    folder.rmdir()
    with caplog.at_level(logging.WARNING, "midstream.history"), device:
        results = [device.infer(inputs, cut="local") for _ in range(3)]
    assert [result.ran_on for result in results] == [("device",)] * 3
    (warning,) = [record.message for record in caplog.records if record.name == "midstream.history"]
    assert "what requests use is not kept" in warning


def asked(bundle: Bundle, inputs: Tensors, number: int) -> Request:
    return Request(
        request_id=number.to_bytes(16, "big"),
        bundle_digest=bundle.digest,
        cut="",
        codec="raw",
        deadline_ms=20_000,
        score=50.0,
        features=(("entropy", 5.0),),
        tensors=bundle.encode(None, "raw", inputs, False, None),
    )


def holds(path: Path, wanted: range) -> bool:
    """Whether requests of these numbers are kept there."""
    return path.exists() and set(wanted) <= set(numbers(kept(path)))


def test_a_gateway_that_is_killed_has_kept_what_it_answered(
    broker: Broker, start_gateway: Callable[..., GatewayProcess], faces: Bundle, inputs: Tensors, tmp_path: Path
) -> None:
    path = tmp_path / "h"
    for first in (0, 100):
        gateway = start_gateway(broker, name=f"gw-{first}", options=["--history", str(path)])
        with device_with_gateway(faces, broker.url):
            pass
        with asking(broker.url, f"gw-{first}") as ask:
            for number in range(first, first + 20):
                assert ask(asked(faces, inputs, number)).status.name == "OK"
            # Once a second all is committed that was there.
            until(partial(holds, path, range(first, first + 20)), "all rows")
            ask(asked(faces, inputs, first + 20))
        gateway.process.send_signal(signal.SIGKILL)
        assert gateway.process.wait(WAIT_S) == -signal.SIGKILL
    found = set(numbers(kept(path)))
    assert found >= {*range(20), *range(100, 120)}
    assert found <= {*range(21), *range(100, 121)}


def test_what_a_gateway_refuses_is_kept_too(
    broker: Broker, start_gateway: Callable[..., GatewayProcess], faces: Bundle, inputs: Tensors, tmp_path: Path
) -> None:
    gateway = start_gateway(broker, options=["--history", str(tmp_path / "h")])
    with device_with_gateway(faces, broker.url):
        pass
    with asking(broker.url, "gw-test") as ask:
        ask(replace(asked(faces, inputs, 1), bundle_digest=bytes(32)))
        ask(replace(asked(faces, inputs, 2), cut="c999"))
        ask(asked(faces, inputs, 3))
    assert gateway.stop() == 0
    found = {each.outcome: each for each in kept(tmp_path / "h") if each.device_id == "asker"}
    assert set(found) == {Outcome.UNKNOWN_BUNDLE, Outcome.UNKNOWN_CUT, Outcome.OK}
    assert (found[Outcome.UNKNOWN_BUNDLE].bundle, found[Outcome.UNKNOWN_CUT].cut) == ("00" * 32, "c999")
    assert "has no cut 'c999'" in found[Outcome.UNKNOWN_CUT].reason
    assert (found[Outcome.OK].score, found[Outcome.OK].features) == (50.0, {"entropy": 5.0})


def test_the_command_keeps_what_it_ran(broker: Broker, faces_path: Path, inputs: Tensors, tmp_path: Path) -> None:
    np.savez(tmp_path / "one.npz", **inputs)
    command = [sys.executable, "-m", "midstream.cli.main", "run", str(faces_path), "--broker", broker.url]
    command += ["--input", str(tmp_path / "one.npz"), "--cut", "local", "--history", str(tmp_path / "h"), "--json"]
    began = time.time()
    for _ in range(2):
        subprocess.run(command, check=True, capture_output=True)
    first, second = kept(tmp_path / "h")
    assert began <= first.time_s <= second.time_s <= time.time()
    assert (first.machine, first.codec, first.outcome) == ("device", "none", Outcome.OK)
