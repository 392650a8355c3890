"""``midstream broker --secure`` as an operator runs it."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from midstream.communication import topics
from midstream.communication.address import parse_broker_url
from midstream.communication.transport import MqttTransport

MIDSTREAM = [sys.executable, "-m", "midstream.cli.main", "broker"]
WAIT_S = 20.0


def broker(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*MIDSTREAM, *(str(argument) for argument in arguments)], capture_output=True, text=True, timeout=60
    )


def error(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode == 2, result.stderr
    (line,) = result.stderr.splitlines()
    assert line.startswith("midstream: ")
    return line


def test_a_secure_broker_is_made_run_and_stopped(tmp_path: Path) -> None:
    folder = tmp_path / "secure"
    command = [*MIDSTREAM, "--secure", str(folder), "--device", "pi1", "--gateway", "big", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = []
        while "is ready at" not in (line := process.stderr.readline()):
            assert line, said
            said.append(line)
        text = "".join(said).replace("\n", " ")
        assert f"device pi1: copy {folder / 'clients' / 'pi1'} to it" in text
        assert "good for localhost, 127.0.0.1, ::1" in text
        address = parse_broker_url(line.split("is ready at ")[1].strip(), {}, folder / "clients" / "pi1")
        with MqttTransport(address, "t", on_message=lambda _m: None, on_state=lambda _up: None) as client:
            client.start(WAIT_S, required=True)
        process.send_signal(signal.SIGINT)
        assert process.wait(WAIT_S) == 0


def test_a_folder_is_prepared_for_a_service_without_running(tmp_path: Path) -> None:
    folder = tmp_path / "secure"
    result = broker("--secure", folder, "--prepare", "--device", "pi1", "--host", "broker.home", "--websockets", "8884")
    assert result.returncode == 0, result.stderr
    assert "is ready" not in result.stderr
    text = (folder / "broker" / "mosquitto.conf").read_text()
    assert "\nlistener 8883\n" in text
    assert "\nlistener 8884\nprotocol websockets\n" in text
    assert topics.reply_filter("pi1") in (folder / "broker" / "dynamic-security.json").read_text()
    removed = broker("--secure", folder, "--prepare", "--remove", "pi1")
    assert removed.returncode == 0, removed.stderr
    assert "pi1" not in (folder / "broker" / "dynamic-security.json").read_text()
    assert "'pi1' was removed" in error(broker("--secure", folder, "--prepare", "--device", "pi1"))


@pytest.mark.parametrize("option", [["--device", "a"], ["--host", "h"], ["--renew"], ["--websockets", "8884"]])
def test_what_goes_with_a_secure_broker_only(option: list[str]) -> None:
    assert "go with --secure DIR" in error(broker("--port", "0", *option))


def test_what_is_wrong_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").touch()
    assert "did not make it" in error(broker("--secure", tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"127.0.0.1:{port}: it is in use" in error_after_notes(
            broker("--secure", tmp_path / "secure", "--port", port)
        )
    assert "is not an address that clients can connect to" in error(
        broker("--secure", tmp_path / "secure", "--host", "0.0.0.0")
    )


def error_after_notes(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    return result.stderr.splitlines()[-1]
