"""One run of the demo: the processes, the jobs, the summary."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jobs
from models import MODELS, make_bundles
from peers import gateway_process
from report import print_summary, to_json, verdict
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from stage import Setting, Stage

from midstream import Bundle
from midstream.broker import Broker
from midstream.link import LinkEmulator
from midstream.profiles import load_profile

CACHE = Path(__file__).resolve().parents[2] / ".cache"
ASSETS = CACHE / "assets"
BUNDLES = CACHE / "demo" / "bundles"
PLAIN_WIDTH = 120
LOOPBACK = "loopback, as fast as this machine is"


@dataclass(frozen=True, slots=True)
class Link:
    """The emulated link: kilobits a second both ways (None: as fast as it goes), and milliseconds there and back."""

    uplink_kbps: float | None
    rtt_ms: float

    def __str__(self) -> str:
        speed = "no limit" if self.uplink_kbps is None else f"{self.uplink_kbps:g} kbit/s"
        return f"{speed} each way, {self.rtt_ms:g} ms there and back"

    def emulated(self, port: int) -> LinkEmulator:
        """The link, to the broker on this port of this machine."""
        return LinkEmulator(
            ("127.0.0.1", port), uplink_kbps=self.uplink_kbps, downlink_kbps=self.uplink_kbps, rtt_ms=self.rtt_ms
        )


def run(options: argparse.Namespace) -> bool:
    """All of it; whether any request failed. Raises MidstreamError."""
    began = time.monotonic()
    console = Console(stderr=options.json)
    if not console.is_terminal:
        console.width = PLAIN_WIDTH
    profile = load_profile(options.device)
    link = Link(options.uplink_kbps, options.rtt_ms or 0.0) if options.uplink_kbps or options.rtt_ms else None
    bundles = make_bundles(ASSETS / "models", BUNDLES, partial(console.print, highlight=False))
    with ExitStack() as stack:
        broker = stack.enter_context(Broker())
        digests = {Bundle.open(path).digest for path in bundles.values()}
        gateway = stack.enter_context(gateway_process(BUNDLES, broker.url, digests))
        url = broker.url if link is None else stack.enter_context(link.emulated(broker.port)).url
        console.print(
            f"device: this process ({os.getpid()}), paced to {profile.title}; broker: {broker.kind} ({broker.pid}); "
            f"gateway: process {gateway}; link from the device: {link or LOOPBACK}",
            highlight=False,
            markup=False,
        )
        setting = Setting(
            profile, url, broker.url, bundles, ASSETS, options.output, cut_codec="raw" if link is None else "lossless"
        )
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        progress = stack.enter_context(Progress(*columns, console=console, transient=True))
        stage = Stage(console, progress, setting)
        jobs.photographs(stage)
        jobs.sounds(stage)
        jobs.pages(stage)
    finish(stage, link, options.json, time.monotonic() - began)
    return any(trial.failure is not None for trial in stage.trials)


def finish(stage: Stage, link: Link | None, as_json: bool, seconds: float) -> None:
    """The summary, and the JSON object where it is asked for."""
    profile = stage.setting.profile
    verdicts = [verdict(model.title, stage.trials) for model in MODELS]
    note = (
        f"Paced to {profile.title}: its model runs are stretched to that board's time; codecs and MQTT ran as fast as "
        f"this machine does. Totals hold analysis and planning too. Link: {link or LOOPBACK}. {seconds:.0f} s in all. "
        f"Pictures: {stage.setting.output}"
    )
    print_summary(stage.console, verdicts, stage.trials, note)
    if as_json:
        circumstances = {
            "device": profile.name,
            "link": None if link is None else {"uplink_kbps": link.uplink_kbps, "rtt_ms": link.rtt_ms},
            "seconds": round(seconds, 1),
        }
        value = to_json(stage.bundles, stage.trials, verdicts, circumstances, stage.found)
        sys.stdout.write(json.dumps(value, allow_nan=False) + "\n")
