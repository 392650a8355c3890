"""``midstream simulate``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from midstream.bundle import Bundle
from midstream.trace_making import make_trace
from midstream.traces import Trace

from .conftest import Midstream

FIGURES = {"mean_ms", "p50_ms", "p95_ms", "p99_ms", "missed_share", "energy_mj", "split_share", "payload_bytes"}
PLAIN = ["local", "raw", "jpeg75", "jpeg90"]
POLICIES = [*PLAIN, "best_static", "neurosurgeon", "mincut_ewma", "bandit", "adaptive", "clairvoyant"]


@pytest.fixture(scope="module")
def link(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("a link") / "wifi.csv"
    path.write_bytes(make_trace("wifi", 30).to_csv())
    return path


@pytest.fixture
def asked(gratings: Bundle, link: Path) -> list[object]:
    return ["simulate", "--bundle", gratings.path, "--device", "pi-zero-2w", "--gateway", "x86-mini",
            "--trace", link, "--rate", 5, "--seconds", 12]  # fmt: skip


def test_all_policies_with_the_figures_of_the_contract(midstream: Midstream, asked: list[object]) -> None:
    told = midstream(*asked, "--json").json
    # The model's input is no picture, so there is no JPEG of it.
    assert list(told["policies"]) == [name for name in POLICIES if "jpeg" not in name]
    assert set(told["notes"]) == {"jpeg75", "jpeg90", "best_static"}
    for figures in told["policies"].values():
        assert set(figures) >= FIGURES
        assert figures["requests"] == 60
        assert 0 < figures["p50_ms"] <= figures["p95_ms"] <= figures["p99_ms"]
    policies = told["policies"]
    assert policies["local"]["payload_bytes"] == 0 < policies["raw"]["payload_bytes"]
    assert policies["clairvoyant"]["mean_ms"] <= min(each["mean_ms"] for each in policies.values()) * (1 + 1e-9)
    assert "adaptive takes" in told["verdict"]


def test_some_policies_in_their_order_and_the_same_seed_the_same_bytes(
    midstream: Midstream, asked: list[object]
) -> None:
    options = ["--policies", "adaptive, local", "--arrivals", "poisson", "--json"]
    first, again = (midstream(*asked, *options, "--seed", 3) for _ in range(2))
    assert list(first.json["policies"]) == ["adaptive", "local"]
    assert first.out == again.out != midstream(*asked, *options, "--seed", 4).out
    assert "simulating adaptive" in first.err


def test_several_bundles_are_given_in_either_way(midstream: Midstream, asked: list[object], gratings: Bundle) -> None:
    options = ["--devices", 4, "--seconds", 3, "--policies", "local,best_static,adaptive", "--json"]
    twice = midstream(*asked, "--bundle", gratings.path, *options)
    # As in --bundle A B.
    place = asked.index(gratings.path) + 1
    beside = midstream(*asked[:place], gratings.path, *asked[place:], *options)
    assert twice.json == beside.json
    assert "several bundles" in twice.json["notes"]["best_static"]
    assert twice.json["policies"]["local"]["requests"] == 60


def test_a_person_gets_a_table_and_a_sentence(midstream: Midstream, asked: list[object], tmp_path: Path) -> None:
    picture = tmp_path / "policies.svg"
    policies = "local,raw,adaptive,clairvoyant"
    out = midstream(*asked, "--policies", policies, "--deadline-ms", 60, "--plot", picture).out
    assert all(name in out for name in policies.split(","))
    assert out.splitlines()[-1].startswith("Deciding for each input ")
    assert "× what foresight would reach." in out
    drawn = picture.read_text()
    assert all(name in drawn for name in (*policies.split(","), "uplink, Mbit/s"))


def test_outages_load_and_workers_reach_the_simulation(midstream: Midstream, asked: list[object]) -> None:
    def mean(*options: object) -> float:
        policies = midstream(*asked, "--policies", "raw", "--json", *options).json["policies"]
        return float(policies["raw"]["mean_ms"])

    usual = mean()
    assert mean("--overhead-ms", 7) == pytest.approx(usual + 7, abs=0.5)
    assert mean("--outage-every", 4, "--outage-length", 1) > usual + 50
    assert mean("--gateway-load", 0.9, "--workers", 1) > usual + 5
    assert mean("--gateway-load", 0.9, "--workers", 1, "--gateways", 3) < mean("--gateway-load", 0.9, "--workers", 1)


def test_constraints_reach_the_policies(midstream: Midstream, asked: list[object]) -> None:
    told = midstream(*asked, "--policies", "raw,adaptive", "--keep-input-local", "--json").json
    assert told["policies"]["adaptive"]["input_share"] == 0
    assert "may not leave the device" in told["notes"]["raw"]
    told = midstream(*asked, "--policies", "local,adaptive", "--max-device-memory-mb", 0.01, "--json").json
    assert list(told["policies"]) == ["adaptive"]
    energy = midstream(*asked, "--objective", "energy", "--json").json
    assert "mJ an input" in energy["verdict"]
    assert energy["notes"]["bandit"] == "left out: it learns latencies, and cannot minimise energy"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--bundle", "nowhere"], "nowhere"),
        (["--trace", "nowhere.csv"], "nowhere.csv"),
        (["--trace", __file__], "line 1: "),
        (["--device", "pi6"], "pi6"),
        (["--gateway", "pi6"], "pi6"),
        (["--policies", "local,adapitve"], "no policy is called 'adapitve'; known are local, raw, jpeg75,"),
        (["--policies", ""], "no policy is called ''"),
        (["--device", "coral-dev"], "is for onnx: convert a model of the other format"),
        (["--rate", "0"], "the rate is 0"),
        (["--rate", "fast"], "'--rate'"),
        (["--seconds", "nan"], "the time is nan"),
        (["--seed", "-1"], "the seed is -1"),
        (["--gateways", "1000"], "the number of gateways is 1000"),
        (["--gateway-load", "1"], "the gateways' load is 1"),
        (
            ["--gateway-load", "0.9", "--rate", "0.001", "--seconds", "1e7"],
            "others send the gateways some 1.8e+09 jobs",
        ),
        (["--deadline-ms", "0"], "deadline_ms is 0"),
        (["--outage-every", "5"], "both --outage-every and --outage-length"),
        (["--plot", "policies.gif"], "ends in neither"),
        (["--objective", "throughput"], "throughput"),
    ],
)
def test_mistakes_are_one_line(midstream: Midstream, asked: list[object], options: list[str], told: str) -> None:
    ended = midstream(*asked, "--json", *options)
    assert ended.code == 2
    assert told in ended.error


def test_without_simpy_the_extra_is_named(tmp_path: Path, asked: list[object]) -> None:
    hidden = (
        "import importlib.util as u, sys\n"
        "find = u.find_spec\n"
        "u.find_spec = lambda name, package=None: None if name == 'simpy' else find(name, package)\n"
        "from midstream.cli.main import run\n"
        "run()\n"
    )
    ended = subprocess.run([sys.executable, "-c", hidden, *map(str, asked)], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "pip install 'midstream[simulate]'" in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_a_link_that_is_never_up_is_simulated(midstream: Midstream, asked: list[object], tmp_path: Path) -> None:
    path = tmp_path / "down.csv"
    path.write_bytes(Trace.steady(0, 10).to_csv())
    told = midstream(*asked, "--trace", path, "--policies", "local,raw,adaptive", "--json").json["policies"]
    assert told["raw"]["fallback_share"] == 1
    assert told["adaptive"]["mean_ms"] == told["local"]["mean_ms"]
