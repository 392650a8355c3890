"""``midstream history``."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from usages import usage

from midstream.allocation.usage import Outcome, Usage
from midstream.history import History
from midstream.history.store import MIN_BYTES, Store

from .conftest import Midstream


def written(path: Path, *usages: Usage) -> Path:
    store = Store(path, MIN_BYTES)
    store.append(usages)
    store.close()
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    now = time.time()
    return written(
        tmp_path / "a history.db",
        usage(),
        usage(time_s=now - 90),
        usage(time_s=now - 30, machine="device", outcome=Outcome.FALLBACK),
    )


def test_it_sums_up(midstream: Midstream, file: Path) -> None:
    told = midstream("history", file, "--json").json
    assert told["file"] == str(file)
    gateway, device = told["partitions"]
    assert (gateway["machine"], gateway["requests"], gateway["first_s"]) == ("gateway", 2, 1_700_000_000.0)
    assert (device["machine"], device["outcomes"], device["rate_hz"]) == ("device", {"fallback": 1}, None)
    assert gateway["latency_ms"] == {"mean": 3.5, "p50": 3.5, "p95": 3.5, "p99": 3.5}
    assert (gateway["queue_ms"]["p95"], gateway["cpu_ms"], gateway["codecs"]) == (
        0.75,
        {"decode": 0.5, "run": 2.25},
        {"int8": 2},
    )
    shown = midstream("history", file).out
    assert "gateway, bundle abababababab, c12 → end: 2 requests, " in shown
    assert "device, bundle abababababab, c12 → end: 1 requests, fallback 1\n" in shown
    assert "int8 2; received 8,642 bytes, sent 198; at most 129 MB resident\n" in shown
    assert "3 requests from 2023-11-14 22:13:20 to " in shown


def test_a_time_and_a_machine_are_chosen(midstream: Midstream, file: Path) -> None:
    def requests(*options: str) -> int:
        return sum(each["requests"] for each in midstream("history", file, "--json", *options).json["partitions"])

    assert requests("--since", "1m") == 1
    assert requests("--since", "0.5h") == 2
    assert requests("--since", "2023-11-14T22:13:20") == 3
    assert requests("--since", "2023-11-14T23:13:20+01:00") == 3
    assert requests("--since", "2023-11-14T22:13:21Z") == 2
    assert requests("--machine", "device") == 1
    assert requests("--machine", "gateway", "--since", "1m") == 0
    assert midstream("history", file, "--since", "0s").out == f"{file}: no requests\n"


def test_it_exports(midstream: Midstream, file: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.csv"
    assert midstream("history", file, "--export", target, "--machine", "gateway", "--json").json == {
        "file": str(file), "export": str(target), "rows": 2,
    }  # fmt: skip
    with target.open(newline="") as rows:
        assert [row["machine"] for row in csv.DictReader(rows)] == ["gateway", "gateway"]
    ended = midstream("history", file, "--export", tmp_path / "out.parquet")
    assert (ended.code, ended.out) == (0, "")
    assert f"3 requests written to {tmp_path / 'out.parquet'}" in ended.err


def test_without_pyarrow_parquet_is_one_error(file: Path, tmp_path: Path) -> None:
    code = (
        "import sys\nsys.modules['pyarrow'] = None\nfrom midstream.cli.main import run\n"
        f"sys.argv[1:] = ['history', {str(file)!r}, '--export', {str(tmp_path / 'o.parquet')!r}]\nrun()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.endswith("pip install 'midstream[parquet]'\n")
    assert done.stderr.count("\n") == 1
    assert {each.name for each in tmp_path.iterdir()} == {file.name}


def test_mistakes_are_one_line(midstream: Midstream, file: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello")
    os.mkfifo(tmp_path / "pipe")
    for wrong, told in (
        ([tmp_path / "none"], "there is no history"),
        ([tmp_path / "text"], "is there, and is no history"),
        ([tmp_path], "no regular file"),
        ([tmp_path / "pipe"], "no regular file"),
        ([file, "--since", "yesterday"], "--since 'yesterday' is no time"),
        ([file, "--since", "5w"], "--since '5w' is no time"),
        ([file, "--export", tmp_path / "o.txt"], "exported as .csv or .parquet"),
        ([file, "--export", tmp_path / "none" / "o.csv"], "the table cannot be written there: No such file"),
        ([file, "--machine", "broker"], "'broker'"),
    ):
        ended = midstream("history", *wrong, "--json")
        assert ended.code == 2
        assert told in ended.error


def test_what_a_peer_has_named_does_nothing_to_the_terminal(midstream: Midstream, tmp_path: Path) -> None:
    file = written(
        tmp_path / "h", usage(time_s=1e300, codec="\x1b[2J[red]", cut="\x1b]0;owned\x07", cpu_ms={"\x1b[1m": 1.0})
    )
    out = midstream("history", file).out
    assert "\x1b" not in out
    assert "?[2J[red]" in out
    assert "from 1e+300 s to" in out
    json.dumps(midstream("history", file, "--json").json, allow_nan=False)


def test_it_reads_while_another_process_writes(midstream: Midstream, tmp_path: Path) -> None:
    store = Store(tmp_path / "h", MIN_BYTES)
    for number in range(3):
        store.append([usage(number)])
        (found,) = midstream("history", tmp_path / "h", "--json").json["partitions"]
        assert found["requests"] == number + 1
    store.close()
    with History.open(tmp_path / "h") as history:
        assert len(list(history)) == 3
