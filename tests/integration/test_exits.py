"""An early exit at run time: what is easy is answered on the device, and nothing is sent."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from gratings import pictures

from midstream.broker import Broker
from midstream.bundle import Bundle
from midstream.calibrating import learn_exit, write_exit
from midstream.device import Device
from midstream.exits import Exit
from midstream.history import History

from .conftest import device_with_gateway

NOWHERE = "mqtt://127.0.0.1:9"
TARGET = 0.95


@pytest.fixture(scope="module")
def learned(gratings: Bundle) -> Exit:
    found = learn_exit(gratings, [{"picture": each} for each in pictures(600, 5)[0]], target=TARGET)
    assert found.exit is not None, found
    # What was measured on held-out inputs depends on the machine's rounding: here it is what was asked for.
    return replace(found.exit, agreement=TARGET)


@pytest.fixture
def with_exit(gratings: Bundle, learned: Exit, tmp_path: Path) -> Callable[[float], Bundle]:
    """The bundle with an exit that answers from this confidence on."""

    def make(threshold: float) -> Bundle:
        copy = Path(shutil.copytree(gratings.path, tmp_path / "copy", dirs_exist_ok=True))
        write_exit(Bundle.open(copy, calibrated=False), replace(learned, threshold=threshold))
        return Bundle.open(copy)

    return make


def test_what_the_exit_answers_is_not_sent(
    broker: Broker, start_gateway: Callable[..., object], with_exit: Callable[[float], Bundle], tmp_path: Path
) -> None:
    bundle = with_exit(0.0)
    given = {"picture": pictures(1, 77)[0][0]}
    start_gateway(broker, bundle=bundle.path)
    options = {"min_agreement": TARGET, "keep_input_local": True, "history": tmp_path / "history"}
    with device_with_gateway(bundle, broker.url, **options) as device:
        result = device.infer(given)
    with History.open(tmp_path / "history") as history:
        (usage,) = history
    assert (usage.plan["exit"], usage.plan["exited"]) == (result.plan.exit, True)
    assert usage.cpu_ms.keys() == {"analysis", "plan", "device", "exit"}
    assert result.exited
    assert result.ran_on == ("device",)
    assert (result.sent_bytes, result.fallback) == (0, None)
    assert bundle.early_exit is not None
    assert result.plan.exit == bundle.early_exit.cut
    assert {"device", "exit", "total"} <= result.timings_ms.keys()
    assert result.outputs["shares"].argmax() == bundle.run(given)["shares"].argmax()


def test_what_it_does_not_answer_is_finished_as_if_there_were_none(with_exit: Callable[[float], Bundle]) -> None:
    bundle = with_exit(1e9)
    device = Device(bundle, NOWHERE, min_agreement=TARGET)
    given = {"picture": pictures(1, 77)[0][0]}
    result = device.infer(given)
    assert result.plan.exit is not None
    assert not result.exited
    assert result.ran_on == ("device",)
    assert np.array_equal(result.outputs["shares"], bundle.run(given)["shares"])


def test_without_a_floor_below_1_no_exit_is_asked(with_exit: Callable[[float], Bundle]) -> None:
    bundle = with_exit(0.0)
    given = {"picture": pictures(1, 77)[0][0]}
    for options in ({}, {"min_agreement": 0.999}):
        result = Device(bundle, NOWHERE, **options).infer(given)
        assert (result.exited, result.plan.exit) == (False, None)
        assert np.array_equal(result.outputs["shares"], bundle.run(given)["shares"])


def test_a_forced_plan_asks_no_exit(with_exit: Callable[[float], Bundle]) -> None:
    bundle = with_exit(0.0)
    device = Device(bundle, NOWHERE, min_agreement=TARGET)
    given = {"picture": pictures(1, 77)[0][0]}
    for cut in ("local", "input", bundle.cuts[0].id):
        result = device.infer(given, cut=cut)
        assert (result.exited, result.plan.exit) == (False, None)
