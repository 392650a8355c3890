"""What a real gateway shows while it serves: scraped, looked at, asked for its health, and in its log."""

from __future__ import annotations

import gc
import json
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from midstream.broker import Broker
from midstream.bundle import Bundle
from midstream.communication.codecs import encode
from midstream.communication.wire import Request, Status
from midstream.errors import InputError
from midstream.gateway import Gateway
from midstream.tensors import Tensors

from .conftest import WAIT_S, asking, until

ID = "gw-shown"
TOKEN = "0123456789abcdef"


def got(url: str, path: str, **headers: str) -> tuple[int, str]:
    request = urllib.request.Request(url.rstrip("/") + path, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=WAIT_S) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def scraped(url: str) -> dict[tuple[str, str, str], float]:
    """By name, cut and outcome."""
    found = text_string_to_metric_families(got(url, "/metrics")[1])
    samples = [sample for family in found for sample in family.samples]
    return {
        (sample.name.removeprefix("midstream_gateway_"), *(sample.labels.get(key, "") for key in ("cut", "outcome"))):
        sample.value
        for sample in samples
    }  # fmt: skip


@contextmanager
def shown(url: str, bundle: Path, gateway_id: str = ID) -> Iterator[tuple[Gateway, str]]:
    """A gateway in this process, and where it shows its state."""
    with Gateway([bundle], url, gateway_id=gateway_id, workers=1, http=0) as gateway:
        assert gateway.wait_connected(WAIT_S)
        thread = threading.Thread(target=gateway.serve)
        thread.start()
        try:
            yield gateway, str(gateway.http_url)
        finally:
            gateway.stop()
            thread.join()


def request(bundle: Bundle, inputs: Tensors, cut: str = "", **changed: object) -> Request:
    digest = changed.get("digest", bundle.digest)
    assert isinstance(digest, bytes)
    return Request(os.urandom(16), digest, cut, "raw", 5000, 0.0, (), encode("raw", inputs, {}))


def test_what_is_served_and_refused_is_counted_while_it_is_scraped(
    broker: Broker, faces_path: Path, faces: Bundle, inputs: Tensors
) -> None:
    with shown(broker.url, faces_path) as (_, url), asking(broker.url, ID) as ask:
        for _ in range(20):
            assert ask(request(faces, inputs)).status is Status.OK
            assert scraped(url)["connected", "", ""] == 1
        assert ask(request(faces, inputs, 'evil"} 1')).status is Status.UNKNOWN_CUT
        assert ask(request(faces, inputs, digest=b"\xee" * 32)).status is Status.UNKNOWN_BUNDLE
        until(lambda: scraped(url).get(("requests_total", "other", "unknown_bundle")) == 1, "the refusals are counted")
        counted = {key[1:]: value for key, value in scraped(url).items() if key[0] == "requests_total"}
        assert counted == {("input", "ok"): 20, ("other", "unknown_cut"): 1, ("other", "unknown_bundle"): 1}
        told = json.loads(got(url, "/status.json")[1])
        assert (told["gateway"], told["condition"], told["workers"]) == (ID, "serving", 1)
        assert [bundle["digest"] for bundle in told["bundles"]] == [faces.digest.hex()]
        code, page = got(url, "/")
        assert code == 200
        assert ID in page
        assert "evil" not in page + got(url, "/metrics")[1] + json.dumps(told)
        assert got(url, "/healthz") == (200, '{"status": "ok"}\n')


def test_health_follows_the_broker(faces_path: Path) -> None:
    with Broker() as first:
        port = first.url.rpartition(":")[2]
        with shown(first.url, faces_path) as (_, url):
            assert got(url, "/healthz")[0] == 200
            first.__exit__(None, None, None)
            until(lambda: got(url, "/healthz")[0] == 503, "the gateway misses its broker")
            body = got(url, "/healthz")[1]
            assert json.loads(body)["status"] == "broker lost"
            assert port not in body
            assert port in json.loads(got(url, "/status.json")[1])["broker_error"]
            with Broker(int(port)):
                until(lambda: got(url, "/healthz")[0] == 200, "the gateway finds its broker again")


def test_two_gateways_in_one_process_count_apart_and_leave_nothing(
    broker: Broker, faces_path: Path, faces: Bundle, inputs: Tensors
) -> None:
    with shown(broker.url, faces_path, "one") as (_, one), shown(broker.url, faces_path, "other") as (_, other):
        with asking(broker.url, "one") as ask:
            assert ask(request(faces, inputs)).status is Status.OK
        until(lambda: ("requests_total", "input", "ok") in scraped(one), "the request is counted")
        assert not any(name == "requests_total" for name, _, _ in scraped(other))
    gc.collect()
    assert not any(thread.name == "midstream-http" for thread in threading.enumerate())
    with pytest.raises(urllib.error.URLError):
        got(one, "/healthz")


def test_a_port_that_is_taken_is_said_before_anything_else(broker: Broker, faces_path: Path) -> None:
    with shown(broker.url, faces_path) as (_, url):
        port = int(url.rstrip("/").rpartition(":")[2])
        with pytest.raises(InputError, match=f"port {port} of 127.0.0.1"), Gateway([faces_path], broker.url, http=port):
            pass
        assert got(url, "/healthz")[0] == 200


@pytest.fixture
def gateway_command(broker: Broker, faces_path: Path) -> Callable[..., subprocess.Popen[str]]:
    def start(*options: str, **environment: str) -> subprocess.Popen[str]:
        command = [
            sys.executable,
            "-m",
            "midstream.cli.main",
            "gateway",
            "--bundles",
            str(faces_path),
            "--workers",
            "1",
        ]
        command += ["--broker", broker.url, "--id", ID, *options]
        return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | environment)

    return start


def test_a_log_in_json_has_a_line_for_each_request_and_nothing_else(
    broker: Broker, gateway_command: Callable[..., subprocess.Popen[str]], faces: Bundle, inputs: Tensors
) -> None:
    asked = request(faces, inputs)
    with gateway_command("--http", "0", "--log-format", "json", "--log-level", "debug") as gateway:
        assert gateway.stderr is not None
        try:
            lines = [json.loads(gateway.stderr.readline())]
            while lines[-1]["message"] != f"gateway {ID} is ready":
                lines.append(json.loads(gateway.stderr.readline()))
            (url,) = [found[0] for line in lines if (found := re.findall(r"http://127.0.0.1:\d+/", line["message"]))]
            with asking(broker.url, ID) as ask:
                assert ask(asked).status is Status.OK
                assert ask(request(faces, inputs, "c999")).status is Status.UNKNOWN_CUT
            assert got(url, "/healthz")[0] == 200
        finally:
            gateway.send_signal(signal.SIGTERM)
            lines += [json.loads(line) for line in gateway.stderr]
    assert gateway.returncode == 0
    ended = {line["outcome"]: line for line in lines if "outcome" in line}
    assert set(ended) == {"ok", "unknown_cut"}
    well, refused = ended["ok"], ended["unknown_cut"]
    assert (well["level"], well["request_id"], well["device_id"]) == ("debug", asked.request_id.hex(), "asker")
    assert (well["bundle"], well["cut"]) == (faces.name, "input")
    assert well["latency_ms"] > 0
    assert (refused["level"], refused["cut"]) == ("info", "other")
    assert "has no cut 'c999'" in refused["message"]
    assert all({"time", "level", "logger", "message"} <= set(line) for line in lines)


def test_beyond_this_machine_a_token_is_needed_and_never_shown(
    gateway_command: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    with gateway_command("--http", "0.0.0.0:0") as refused:
        _, told = refused.communicate(timeout=WAIT_S)
    assert refused.returncode == 2
    assert "beyond this machine, and there is no token" in told
    assert told.count("\n") == 1
    (tmp_path / "token").write_text(TOKEN + "\n")
    options = ("--http", "0.0.0.0:0", "--http-token-file", str(tmp_path / "token"), "--log-level", "debug")
    with gateway_command(*options) as gateway:
        assert gateway.stderr is not None
        try:
            said = ""
            while not said.endswith("is ready\n"):
                said += gateway.stderr.readline()
            (port,) = re.findall(r"http://0\.0\.0\.0:(\d+)/", said)
            url = f"http://127.0.0.1:{port}"
            assert got(url, "/metrics", Authorization="Bearer 0000000000000000")[0] == 401
            assert got(url, "/healthz")[0] == 200
            assert got(url, "/metrics", Authorization=f"Bearer {TOKEN}")[0] == 200
        finally:
            gateway.terminate()
            said += gateway.stderr.read()
    assert TOKEN not in said
