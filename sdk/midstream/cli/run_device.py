"""``midstream run``: the device, over files."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.progress import track

from midstream.bundle import Bundle
from midstream.cli.gateway import BrokerOption
from midstream.cli.output import JsonOption, notes, print_json, print_table, screen
from midstream.cli.plan import ObjectiveName
from midstream.device import Device, Result
from midstream.errors import InputError, PeerError
from midstream.inputs import AudioInput
from midstream.media import media_files, media_kind, read_audio, read_image
from midstream.partitioning import times_from_profile
from midstream.profiles import load_profile

_BROKER_WAIT_S = 3.0


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("run")(run)


def run(
    bundle: Annotated[Path, typer.Argument(help="A bundle's folder.")],
    broker: BrokerOption,
    source: Annotated[Path, typer.Option("--input", help="A picture, sound or .npz file, or a folder of them.")],
    cut: Annotated[str | None, typer.Option(help="Force a cut, 'input' or 'local'.")] = None,
    codec: Annotated[str | None, typer.Option(help="Force a codec; goes with --cut.")] = None,
    objective: Annotated[ObjectiveName, typer.Option(help="What to minimise.")] = ObjectiveName.latency,
    deadline_ms: Annotated[float | None, typer.Option(help="The device answers by itself in time for this.")] = None,
    min_agreement: Annotated[float, typer.Option(min=0.0, max=1.0, help="1: lossless only; 0: any codec.")] = 1.0,
    keep_input_local: Annotated[bool, typer.Option("--keep-input-local", help="The input may not leave.")] = False,
    emulate: Annotated[str | None, typer.Option(help="Slow this machine down to a board's profile.")] = None,
    save: Annotated[Path | None, typer.Option(help="Folder for the outputs, one .npz file for each input.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Run inputs through a bundle, on this device and a gateway."""
    opened = _open(bundle, emulate)
    inputs = list(_inputs(source, opened))
    results = []
    with Device(
        opened,
        broker,
        objective=objective.value,
        deadline_ms=deadline_ms,
        min_agreement=min_agreement,
        keep_input_local=keep_input_local,
        profile=emulate,
    ) as device:
        if not device.wait_connected(_BROKER_WAIT_S):
            raise PeerError(device.last_error or f"no broker answers at the URL given within {_BROKER_WAIT_S:g} s")
        for name, given in track(inputs, "running", console=notes, disable=as_json or not notes.is_terminal):
            result = device.infer(**given, cut=cut, codec=codec)
            results.append((name, result))
            if save is not None:
                save.mkdir(parents=True, exist_ok=True)
                arrays: dict[str, Any] = dict(result.outputs)
                np.savez(save / f"{name}.npz", **arrays)
    if as_json:
        print_json({"results": [_json(name, result) for name, result in results]})
    else:
        _show(opened.name, results)


def _open(path: Path, emulate: str | None) -> Bundle:
    bundle = Bundle.open(path)
    if emulate is None:
        return bundle
    profile = load_profile(emulate)
    wanted_ms = times_from_profile(bundle.manifest, bundle.graph, profile, threads=1).whole_ms
    slowdown = max(1.0, wanted_ms / bundle.measure_whole_ms())
    notes.print(f"paced to {profile.title}: every run takes {slowdown:.1f} × its time here", highlight=False)
    return Bundle.open(path, slowdown=slowdown)


def _inputs(path: Path, bundle: Bundle) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each input's name and what `Device.infer` takes; sounds come in pieces of the model's length."""
    archives = sorted(path.glob("*.npz")) if path.is_dir() else [path] if path.suffix == ".npz" else []
    for archive in archives:
        yield archive.stem, {"inputs": _arrays(archive)}
    if archives:
        return
    for file in media_files(path):
        if media_kind(file) == "image":
            yield file.stem, {"source": read_image(file)}
            continue
        described = [(n, s) for n, s in bundle.manifest.semantics.items() if isinstance(s, AudioInput)]
        if not described:
            raise InputError(f"{file} is a sound, but no input of bundle {bundle.name!r} was described as one")
        name, semantics = described[0]
        sound, _ = read_audio(file, semantics.sample_rate)
        length = int(np.prod(bundle.manifest.sample_shapes[name]))
        for piece in range(len(sound) // length):
            yield f"{file.stem}-{piece:04d}", {"source": sound[piece * length : (piece + 1) * length]}


def _arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        raise InputError(f"{path} is not an .npz archive of plain arrays, one for each input by its name") from None


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
        "outputs": {
            key: {
                "dtype": value.dtype.name,
                "shape": list(value.shape),
                "argmax": int(np.argmax(value)) if value.size else None,
            }
            for key, value in result.outputs.items()
        },
    }


def _show(name: str, results: list[tuple[str, Result]]) -> None:
    print_table(
        name,
        ["input", "score", "cut", "codec", "ran on", "sent bytes", "device ms", "link ms", "gateway ms", "total ms"],
        [
            [
                key,
                "" if result.analysis is None else f"{result.analysis.score:.0f}",
                result.plan.cut or "–",
                result.plan.codec,
                " → ".join(result.ran_on),
                f"{result.sent_bytes:,}",
                *(f"{result.timings_ms.get(part, 0.0):.1f}" for part in ("device", "link", "gateway", "total")),
            ]
            for key, result in results
        ],
    )
    fallbacks = sorted({result.fallback for _, result in results if result.fallback})
    for reason in fallbacks:
        screen.print(f"answered by the device: {reason}")
