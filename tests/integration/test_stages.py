"""Plans of three stages and more: over several gateways, and what becomes of them where one fails."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from midstream.broker import Broker
from midstream.bundle import Bundle
from midstream.communication.choosing import Route
from midstream.communication.codecs import encode
from midstream.communication.wire import EncodedTensor, Request, Runner, Stage, Status
from midstream.device import Device, Result
from midstream.errors import BundleError, PeerError, PlanError
from midstream.gateway import Gateway
from midstream.partitioning import Plan, Power, SystemState, device_memory, plan_for
from midstream.tensors import Tensors

from .conftest import WAIT_S, GatewayProcess, asking, until


@pytest.fixture(scope="module")
def chain(faces: Bundle) -> tuple[str, str]:
    """Two cuts between which the bundle has a slice, after which an output is made."""
    return faces.manifest.middles()[0]


@pytest.fixture
def gateways(broker: Broker, start_gateway: Callable[..., GatewayProcess]) -> list[GatewayProcess]:
    return [start_gateway(broker, name) for name in ("gw-a", "gw-b")]


@contextmanager
def device_with_both(bundle: Bundle, broker: Broker) -> Iterator[Device]:
    with Device(bundle, broker.url) as device:
        until(lambda: device.gateways == 2, "both gateways")
        yield device


def same(result: Result, want: Tensors) -> bool:
    return list(result.outputs) == list(want) and all(np.array_equal(want[name], result.outputs[name]) for name in want)


def test_three_stages_over_two_gateways_give_the_bits_of_one_process(
    broker: Broker, gateways: list[GatewayProcess], faces: Bundle, inputs: Tensors, chain: tuple[str, str]
) -> None:
    layers = len(faces.graph.layers)
    with device_with_both(faces, broker) as device:
        for codec in ("raw", "lossless", "int8"):
            result = device.infer(inputs, cut=chain, codec=codec)
            assert result.ran_on == ("device", "gateway", "gateway"), result.fallback
            assert same(result, faces.run_split(inputs, cut=chain, codec=codec))
            assert result.plan.onward == chain[1:]
            machines = [stage.machine for stage in result.plan.stages]
            assert machines[:2] == ["device", "gateway"]
            assert machines[2] in ("gw-a", "gw-b")
            assert sorted(node for stage in result.plan.stages for node in stage.nodes) == list(range(layers))
        for machines in (("gw-a", "gw-b"), ("gw-b", "gw-a"), ("gw-a", "gw-a")):
            result = device.infer(inputs, cut=list(chain), machines=machines)
            assert result.ran_on == ("device", "gateway", "gateway"), result.fallback
            assert result.plan.stages[2].machine == machines[1]
            assert same(result, faces.run(inputs))
        assert device.pending == 0


def test_the_whole_input_may_begin_at_the_first_of_two_gateways(
    broker: Broker, gateways: list[GatewayProcess], faces: Bundle, inputs: Tensors, chain: tuple[str, str]
) -> None:
    with device_with_both(faces, broker) as device:
        result = device.infer(inputs, cut=["input", chain[0]])
        assert result.ran_on == ("gateway", "gateway"), result.fallback
        assert same(result, faces.run(inputs))


@pytest.mark.parametrize(
    "cut", [("c2", "c6"), ("c2", "c4", "c7"), ("input", "c4"), ("input", "c3", "c6"), ("c3", "c4")]
)
def test_outputs_of_every_stage_come_together(
    broker: Broker,
    start_gateway: Callable[..., GatewayProcess],
    outputs_path: Path,
    outputs: Bundle,
    vector: Tensors,
    cut: tuple[str, ...],
) -> None:
    """Those that the device's head has, those of middle slices, in partial replies, and the last one's."""
    stages = len(cut)
    for number in range(stages):
        start_gateway(broker, f"gw-{number}", outputs_path)
    with Device(outputs, broker.url) as device:
        until(lambda: device.gateways == stages, "the gateways")
        for codec in ("raw", "lossless"):
            result = device.infer(vector, cut=cut, codec=codec)
            assert result.ran_on[-stages:] == ("gateway",) * stages, result.fallback
            assert same(result, outputs.run(vector))


def test_what_cannot_be_forced_is_an_error(faces: Bundle, inputs: Tensors, chain: tuple[str, str]) -> None:
    device = Device(faces, "mqtt://127.0.0.1:9")
    with pytest.raises(BundleError, match="has no slice from cut"):
        device.infer(inputs, cut=[chain[1], chain[0]])
    with pytest.raises(BundleError, match="has no cut 'c999'"):
        device.infer(inputs, cut=[chain[0], "c999"])
    for cut, machines in ((chain, ("one",)), (chain[0], "gw"), ("local", ("gw",)), (None, ("a", "b"))):
        with pytest.raises(PlanError, match="name as many gateways as there are cuts"):
            device.infer(inputs, cut=cut, machines=machines)
    with pytest.raises(PlanError, match="0 cuts were given"):
        device.infer(inputs, cut=[])


def test_too_few_gateways_or_others_than_named_leave_the_device_to_itself(
    broker: Broker, start_gateway: Callable[..., GatewayProcess], faces: Bundle, inputs: Tensors, chain: tuple[str, str]
) -> None:
    start_gateway(broker, "gw-a")
    with Device(faces, broker.url) as device:
        until(lambda: device.gateways == 1, "the gateway")
        alone = device.infer(inputs, cut=chain)
        assert alone.ran_on == ("device",)
        assert "2 stages need as many gateways with this bundle; there are 1" in (alone.fallback or "")
        absent = device.infer(inputs, cut=chain, machines=["gw-a", "gw-z"])
        assert absent.ran_on == ("device",)
        assert "gw-z is not there" in (absent.fallback or "")
        assert same(alone, faces.run(inputs))
        assert same(absent, faces.run(inputs))


@pytest.mark.parametrize("dies", [0, 1])
def test_whichever_gateway_dies_the_device_goes_on_at_once(
    broker: Broker,
    gateways: list[GatewayProcess],
    faces: Bundle,
    inputs: Tensors,
    chain: tuple[str, str],
    dies: int,
) -> None:
    with device_with_both(faces, broker) as device:
        gateways[dies].process.send_signal(signal.SIGSTOP)
        results: list[Result] = []
        asking = threading.Thread(
            target=lambda: results.append(device.infer(inputs, cut=chain, machines=["gw-a", "gw-b"]))
        )
        asking.start()
        until(lambda: device.pending > 0, "the request to be sent")
        gateways[dies].process.kill()
        asking.join(WAIT_S)
        assert results[0].ran_on == ("device",)
        assert "is gone" in (results[0].fallback or "")
        assert same(results[0], faces.run(inputs))


def test_a_gateway_that_cannot_pass_on_says_why(
    broker: Broker, faces_path: Path, faces: Bundle, inputs: Tensors, chain: tuple[str, str]
) -> None:
    crossing, _ = faces.run_head(chain[0], faces.check_inputs(inputs))
    first = Request(bytes(16), faces.digest, chain[0], "raw", 5000, 0.0, (), encode("raw", crossing, {}))

    def onward(cut: str, runner: Runner, name: str) -> Request:
        return replace(first, onward=(Stage(cut, runner, name),))

    with (
        Gateway([faces_path], broker.url, gateway_id="gw-first", workers=1, pool="attic") as gateway,
        Device(faces, broker.url) as device,
        asking(broker.url, "gw-first") as ask,
    ):
        assert gateway.wait_connected(WAIT_S)
        until(lambda: device.gateways == 1, "the presence")
        for runner, name in ((Runner.GATEWAY, "gw-nobody"), (Runner.POOL, "cellar")):
            reply = ask(onward(chain[1], runner, name))
            assert reply.status is Status.CANNOT_FORWARD
            assert f"{name}, which is to run the stage from cut {chain[1]!r} on, is not there" in reply.message
        assert ask(onward("c9999", Runner.POOL, "attic")).status is Status.UNKNOWN_CUT
        # The only member of the pool passes the request on to itself.
        assert ask(onward(chain[1], Runner.POOL, "attic")).status is Status.OK


@pytest.mark.parametrize(("near", "stages"), [(True, 3), (False, 2)])
def test_a_free_plan_may_give_stages_to_a_further_gateway(
    broker: Broker,
    gateways: list[GatewayProcess],
    faces: Bundle,
    inputs: Tensors,
    monkeypatch: pytest.MonkeyPatch,
    near: bool,
    stages: int,
) -> None:
    """What the engine would choose on slow machines, chosen by hand: over both gateways, or past the first."""
    with device_with_both(faces, broker) as device:
        planning = device._planning

        def plan(route: Route, state: SystemState, *_: object) -> Plan:
            options = planning._known_with((*route.gateways, *route.further)).table.candidates
            chosen = next(each for each in options if each.head and bool(each.tail) is near and len(each.legs) == 1)
            return plan_for(chosen, state, Power(1.0, 1.0, 0.0), "chosen by a test")

        monkeypatch.setattr(planning, "plan", plan)
        result = device.infer(inputs)
        assert result.fallback is None
        assert result.ran_on == ("device", *("gateway",) * (stages - 1))
        assert {stage.machine for stage in result.plan.stages[-1:]} <= {"gw-a", "gw-b"}
        assert same(result, faces.run(inputs))


def test_who_is_sent_to_in_the_first_one_s_stead_gets_what_it_can_decode(
    broker: Broker, gateways: list[GatewayProcess], faces: Bundle, inputs: Tensors, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plan past the first gateway, to one without zstd."""
    with device_with_both(faces, broker) as device:
        planning, told = device._planning, []
        free_route, encode = device._exchange.free_route, device.bundle.encode

        def route(request_id: bytes, most_further: int) -> Route:
            found = free_route(request_id, most_further)
            first, (other,) = found.gateways[0], found.further
            return replace(found, gateways=(replace(first, knows=("zstd",)),), further=(replace(other, knows=()),))

        def plan(route: Route, state: SystemState, *_: object) -> Plan:
            options = planning._known_with((*route.gateways, *route.further)).table.candidates
            chosen = next(each for each in options if each.head and not each.tail and len(each.legs) == 1)
            return plan_for(chosen, state, Power(1.0, 1.0, 0.0), "chosen by a test")

        def encoded(cut: str | None, codec: str, tensors: Tensors, zstd: bool, made: Any) -> tuple[EncodedTensor, ...]:
            told.append(zstd)
            return encode(cut, codec, tensors, zstd, made)

        monkeypatch.setattr(device._exchange, "free_route", route)
        monkeypatch.setattr(planning, "plan", plan)
        monkeypatch.setattr(device.bundle, "encode", encoded)
        assert device.infer(inputs).fallback is None
        assert told == [False]


def test_without_memory_for_the_whole_model_there_is_no_answer_without_a_gateway(
    broker: Broker, start_gateway: Callable[..., GatewayProcess], faces: Bundle, inputs: Tensors
) -> None:
    least = min(device_memory(faces.manifest, faces.graph).values())
    with Device(faces, broker.url, max_device_memory_bytes=least, deadline_ms=2000) as device:
        with pytest.raises(PlanError, match="the device's layers take more than"):
            device.infer(inputs)
        gateway = start_gateway(broker, "gw-a")
        until(lambda: device.gateways == 1, "the gateway")
        result = device.infer(inputs)
        assert "gateway" in result.ran_on
        assert result.plan.fallback is None
        gateway.process.send_signal(signal.SIGSTOP)
        try:
            with pytest.raises(PeerError, match="takes more memory than max_device_memory_bytes allows"):
                device.infer(inputs, deadline_ms=300)
        finally:
            gateway.process.send_signal(signal.SIGCONT)
