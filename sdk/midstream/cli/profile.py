"""``midstream profile``: measure the machine this runs on, and write its profile."""

from __future__ import annotations

import tomllib
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from midstream.cli.output import JsonOption, notes, print_json, print_table, screen
from midstream.errors import ProfileError
from midstream.files import check_writable, write_whole

if TYPE_CHECKING:
    from midstream.bundle import Bundle
    from midstream.measuring import Comparison, Measured
    from midstream.profiles import Profile

_FAMILIES = ("conv_gmacs", "conv_gbytes", "depthwise_gmacs", "dense_gmacs", "other_gbytes")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(profile)


def profile(
    bundle: Annotated[Path | None, typer.Argument(help="A bundle's folder, to measure its model and cuts too.")] = None,
    output: Annotated[
        Path | None, typer.Option(help="The .toml file to write. Default: a new one by the machine's name.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="What to call this machine. Default: what it calls itself.")] = None,
    compare: Annotated[str | None, typer.Option(help="Hold it against a shipped profile, or a .toml file.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there already.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Measure this machine in less than two minutes, and write a profile that `midstream plan` reads."""
    from midstream.bundle import Bundle
    from midstream.measuring import Settings, measure_machine
    from midstream.measuring import compare as compare_profiles
    from midstream.measuring.machine import file_name, this_machine
    from midstream.profiles import load_profile, profile_to_toml

    title = _title(name)
    target = output or _new_name(file_name(title or this_machine().title), force)
    _check_target(target, force)
    other = None if compare is None else load_profile(compare)
    opened = None if bundle is None else Bundle.open(bundle)
    measured = measure_machine(opened, Settings(title), target.stem, lambda text: notes.print(text))
    text = profile_to_toml(measured.profile)
    write_whole(target, text.encode())
    facts = None if opened is None else (opened.manifest, opened.graph, opened.digest)
    rows = [] if other is None else compare_profiles(measured.profile, other, facts)
    if as_json:
        print_json(
            {
                "file": str(target),
                "seconds": round(measured.seconds, 3),
                "profile": tomllib.loads(text),
                "estimated": list(measured.profile.estimated),
                "notes": list(measured.notes),
                "compare": None if other is None else {"with": other.name, "figures": [_row(row) for row in rows]},
            }
        )
        return
    _show(measured, opened)
    if other is not None:
        _show_comparison(other, rows)
    screen.print(f"{target} written in {measured.seconds:.0f} s; use it with: midstream plan … --device {target}")


def _title(name: str | None) -> str | None:
    if name is None:
        return None
    if not name.strip() or not name.isprintable():
        raise ProfileError(f"--name {name!r} is no name for a machine; give printable text")
    return name.strip()


def _new_name(stem: str, force: bool) -> Path:
    """A file of this name in the current folder; with a number where one is there that must not be written over."""
    names = (Path(f"{stem}.toml" if number == 1 else f"{stem}-{number}.toml") for number in count(1))
    return next(path for path in names if force or not path.exists())


def _check_target(target: Path, force: bool) -> None:
    """Before minutes are spent: raises ProfileError where the file cannot be written, or must not."""
    if target.suffix != ".toml":
        raise ProfileError(f"{target} has to end in .toml: `midstream plan` knows a file by that")
    if not target.parent.is_dir():
        raise ProfileError(f"{target.parent} is no folder, so {target.name} cannot be written there")
    if target.is_dir():
        raise ProfileError(f"{target} is a folder; give the name of a file")
    if target.exists() and not force:
        raise ProfileError(f"{target} is there already; write over it with --force, or give another --output")
    try:
        check_writable(target)
    except OSError as error:
        raise ProfileError(
            f"{target.name} cannot be written in {target.parent}: {error.strerror}; give another --output"
        ) from None


def _show(measured: Measured, opened: Bundle | None) -> None:
    found: Profile = measured.profile
    screen.print(
        f"{found.title}: {found.cores} cores, {found.memory_mb:,} MB, engines {', '.join(found.engines)}, "
        f"{found.power.idle_w:.1f} W idle, {found.power.busy_w:.1f} W busy"
    )
    rows = []
    for engine, known in found.families.items():
        for dtype in ("float32", "int8"):
            for threads, families in (("1", known.one_thread), (str(found.cores), known.all_cores)):
                figures = [f"{getattr(getattr(families, dtype), rate):.3g}" for rate in _FAMILIES]
                rows.append([engine, dtype, threads, *figures])
    columns = [
        "engine",
        "numbers",
        "threads",
        "conv GMAC/s",
        "conv GB/s",
        "depthwise GMAC/s",
        "dense GMAC/s",
        "other GB/s",
    ]
    print_table("speed by family of layers", columns, rows)
    if opened is not None:
        (times,) = found.models.values()
        screen.print(
            f"{opened.name}: {times.one_thread_ms:.2f} ms with one thread, {times.all_cores_ms:.2f} ms with "
            f"{found.cores}; {len(times.cuts_ms)} of {len(opened.cuts)} cuts timed"
        )
    for note in measured.notes:
        screen.print(f"note: {note}")
    if found.estimated:
        screen.print(f"not measured: {', '.join(found.estimated)}")


def _show_comparison(other: Profile, rows: list[Comparison]) -> None:
    print_table(
        f"against {other.title}; × is this machine's figure over that one's",
        ["figure", "unit", "here", other.name, "×", ""],
        [[row.figure, row.unit, _short(row.here), _short(row.there), f"{row.ratio:.2f}", row.verdict] for row in rows],
    )
    if other.estimated:
        screen.print(f"{other.name} only estimates {', '.join(other.estimated)}")


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _row(row: Comparison) -> dict[str, str | float]:
    return {
        "figure": row.figure,
        "unit": row.unit,
        "here": row.here,
        "there": row.there,
        "ratio": row.ratio,
        "verdict": row.verdict,
    }
