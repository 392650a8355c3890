"""``midstream run``: the device, over files."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from itertools import chain, count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from midstream.cli.gateway import BrokerOption, CredentialsOption, HistoryOption, HistorySizeOption, history_bytes
from midstream.cli.logs import LogFormat, LogFormatOption, LogLevelOption, set_up, tell
from midstream.cli.objective import (
    AgreementOption,
    EnergyOption,
    KeepInputOption,
    MemoryOption,
    ObjectiveName,
    ObjectiveOption,
    QuantileOption,
    TariffOption,
    memory_bytes,
    tariff_of,
)
from midstream.cli.output import AcceleratorName, AcceleratorOption, JsonOption, notes, print_json, print_table, screen
from midstream.errors import InputError, PeerError

if TYPE_CHECKING:
    from midstream.bundle import Bundle
    from midstream.device import Result

_BROKER_WAIT_S = 3.0


class PriorityChoice(StrEnum):
    """Which requests go first."""

    critical = "critical"
    normal = "normal"
    bulk = "bulk"


class PlannerChoice(StrEnum):
    """Who decides, `midstream.partitioning.replay.PlannerName` for the command line."""

    adaptive = "adaptive"
    bandit = "bandit"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("run")(run)


def run(
    bundle: Annotated[Path, typer.Argument(help="A bundle's folder.")],
    broker: BrokerOption,
    source: Annotated[Path, typer.Option("--input", help="A picture, sound or .npz file, or a folder of them.")],
    credentials: CredentialsOption = None,
    cut: Annotated[str | None, typer.Option(help="Force a cut, 'input' or 'local'.")] = None,
    codec: Annotated[str | None, typer.Option(help="Force a codec; goes with --cut.")] = None,
    objective: ObjectiveOption = ObjectiveName.latency,
    deadline_ms: Annotated[float | None, typer.Option(help="The device answers by itself in time for this.")] = None,
    min_agreement: AgreementOption = 1.0,
    keep_input_local: KeepInputOption = False,
    quantile: QuantileOption = None,
    max_device_memory: MemoryOption = None,
    energy_budget_mj: EnergyOption = None,
    tariff: TariffOption = None,
    emulate: Annotated[str | None, typer.Option(help="Slow this machine down to a board's profile.")] = None,
    accelerator: AcceleratorOption = AcceleratorName.cpu,
    priority: Annotated[PriorityChoice, typer.Option(help="Which requests go first.")] = PriorityChoice.normal,
    planner: Annotated[PlannerChoice, typer.Option(help="Who decides; bandit: µLinUCB.")] = PlannerChoice.adaptive,
    decisions: Annotated[Path | None, typer.Option(help="File for a log of decisions; see midstream replay.")] = None,
    save: Annotated[Path | None, typer.Option(help="Folder for the outputs, one .npz file for each input.")] = None,
    state: Annotated[Path | None, typer.Option(help="Folder for what is learned of costs, for the next run.")] = None,
    log_format: LogFormatOption = LogFormat.text,
    log_level: LogLevelOption = None,
    history: HistoryOption = None,
    history_mbytes: HistorySizeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run inputs through a bundle, on this device and a gateway."""
    set_up(log_level, log_format)
    import numpy as np
    from rich.progress import track

    from midstream.device import Device

    opened = _open(bundle, emulate, accelerator)
    device = Device(
        opened,
        broker,
        objective=objective.value,
        deadline_ms=deadline_ms,
        min_agreement=min_agreement,
        keep_input_local=keep_input_local,
        quantile=quantile,
        max_device_memory_bytes=memory_bytes(max_device_memory),
        energy_budget_mj=energy_budget_mj,
        tariff=tariff_of(tariff),
        profile=emulate,
        credentials=credentials,
        state_dir=state,
        planner=planner.value,
        priority=priority.value,
        decisions=decisions,
        history=history,
        history_bytes=history_bytes(history_mbytes),
    )
    device.check_plan(cut, codec)
    # What is wrong with the first input is said before anything is waited for.
    inputs = _inputs(source, opened)
    first = list(islice(inputs, 1))
    results = []
    with device:
        if not device.wait_connected(_BROKER_WAIT_S):
            raise PeerError(device.last_error or f"no broker answers at the URL given within {_BROKER_WAIT_S:g} s")
        watched = track(chain(first, inputs), "running", console=notes, disable=as_json or not notes.is_terminal)
        for name, given in watched:
            result = device.infer(**given, cut=cut, codec=codec)
            results.append(_json(name, result))
            if save is not None:
                save.mkdir(parents=True, exist_ok=True)
                arrays: dict[str, Any] = dict(result.outputs)
                np.savez(save / f"{name}.npz", **arrays)
    if as_json:
        print_json({"results": results})
    else:
        _show(opened.name, results)


def _open(path: Path, emulate: str | None, accelerator: AcceleratorName) -> Bundle:
    from midstream.bundle import Bundle
    from midstream.partitioning import times_from_profile
    from midstream.profiles import load_profile

    bundle = Bundle.open(path, accelerator=accelerator.value)
    if emulate is None:
        return bundle
    profile = load_profile(emulate)
    wanted_ms = times_from_profile(bundle.manifest, bundle.graph, profile, threads=1, digest=bundle.digest).whole_ms
    slowdown = max(1.0, wanted_ms / bundle.measure_whole_ms())
    tell(f"paced to {profile.title}: every run takes {slowdown:.1f} × its time here")
    return Bundle.open(path, slowdown=slowdown, accelerator=accelerator.value)


def _inputs(path: Path, bundle: Bundle) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each input's name and what `Device.infer` takes, read when its turn comes; raises InputError naming the file.

    Names are those of the files without their suffixes, and with them where that is one taken already.
    """
    taken: set[str] = set()
    for file in _files(path):
        for place, given in _of_file(file, bundle):
            for name in chain((file.stem + place, file.name + place), (f"{file.name}{place}~{n}" for n in count(2))):
                if name not in taken:
                    break
            taken.add(name)
            yield name, given


def _files(path: Path) -> list[Path]:
    from midstream.arrays import ARRAYS_SUFFIX
    from midstream.media import media_files, media_kind

    if not path.is_dir():
        return [path] if path.suffix == ARRAYS_SUFFIX else media_files(path)
    known = (file for file in path.iterdir() if file.suffix == ARRAYS_SUFFIX or media_kind(file))
    return sorted(file for file in known if file.is_file()) or media_files(path)


def _of_file(file: Path, bundle: Bundle) -> Iterator[tuple[str, dict[str, Any]]]:
    """What is in a file, with its place in it: arrays, a picture, or a sound in pieces of the model's length."""
    import numpy as np

    from midstream.arrays import ARRAYS_SUFFIX, read_arrays
    from midstream.inputs import AudioInput
    from midstream.media import media_kind, read_audio, read_image

    if file.suffix == ARRAYS_SUFFIX:
        yield "", {"inputs": read_arrays(file)}
        return
    if media_kind(file) == "image":
        yield "", {"source": read_image(file)}
        return
    described = [(n, s) for n, s in bundle.manifest.semantics.items() if isinstance(s, AudioInput)]
    if not described:
        raise InputError(f"{file} is a sound, but no input of bundle {bundle.name!r} was described as one")
    name, semantics = described[0]
    sound, _ = read_audio(file, semantics.sample_rate)
    length = int(np.prod(bundle.manifest.sample_shapes[name]))
    missing = -len(sound) % length
    if missing:
        tell(f"{file}: the last of its pieces of {length} samples ends in {missing} samples of silence")
    pieces = np.pad(sound, (0, missing)).reshape(-1, length)
    for number, piece in enumerate(pieces):
        yield f"-{number:04d}", {"source": piece}


def _json(name: str, result: Result) -> dict[str, Any]:
    return {
        "input": name,
        "ran_on": list(result.ran_on),
        "plan": result.plan.to_json(),
        "timings_ms": result.timings_ms,
        "score": None if result.analysis is None else result.analysis.score,
        "sent_bytes": result.sent_bytes,
        "received_bytes": result.received_bytes,
        "fallback": result.fallback,
        "exited": result.exited,
        "outputs": {
            key: {
                "dtype": value.dtype.name,
                "shape": list(value.shape),
                "argmax": int(value.argmax()) if value.size else None,
            }
            for key, value in result.outputs.items()
        },
    }


def _show(name: str, results: list[dict[str, Any]]) -> None:
    print_table(
        name,
        ["input", "score", "cut", "codec", "ran on", "sent bytes", "device ms", "link ms", "gateway ms", "total ms"],
        [
            [
                result["input"],
                "" if result["score"] is None else f"{result['score']:.0f}",
                result["plan"]["cut"] or "–",
                result["plan"]["codec"],
                " → ".join(result["ran_on"]) + (", early exit" if result["exited"] else ""),
                f"{result['sent_bytes']:,}",
                *(f"{result['timings_ms'].get(part, 0.0):.1f}" for part in ("device", "link", "gateway", "total")),
            ]
            for result in results
        ],
    )
    for reason in sorted({result["fallback"] for result in results if result["fallback"]}):
        screen.print(f"answered by the device: {reason}")
