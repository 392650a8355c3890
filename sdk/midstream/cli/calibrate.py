"""``midstream calibrate`` and ``midstream bench codecs``: the codec ladder of a bundle, measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from midstream.cli.output import JsonOption, notes, print_json, print_table, screen
from midstream.errors import InputError

if TYPE_CHECKING:
    from midstream.bundle import Bundle
    from midstream.calibrating import Calibration
    from midstream.ladder import Ladder, MeasuredRung, Place

DEFAULT_AGREEMENT = 0.9
_MANY = 40

BundleArgument = Annotated[Path, typer.Argument(help="A bundle's folder.")]
MetricOption = Annotated[
    str,
    typer.Option(
        help="What agreement is: auto, argmax, text, mask, regions, boxes, max_error, cosine or exact, with @OUTPUT "
        "and :KEY=VALUE,… where needed; or MODULE:FUNCTION."
    ),
]
CutsOption = Annotated[str | None, typer.Option(help="Only these cuts, separated by commas; default: all.")]
CodecsOption = Annotated[str | None, typer.Option(help="Only these codecs, separated by commas.")]
SamplesOption = Annotated[int | None, typer.Option(min=1, help="At most this many inputs; default 200.")]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(calibrate)


def calibrate(
    bundle: BundleArgument,
    calibration: Annotated[
        Path, typer.Option(help="Inputs: an .npz file, or a folder of .npz files, pictures or sounds.")
    ],
    min_agreement: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Codecs below this agreement are not kept.")
    ] = DEFAULT_AGREEMENT,
    metric: MetricOption = "auto",
    cuts: CutsOption = None,
    codecs: CodecsOption = None,
    samples: SamplesOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure what each codec makes of each cut and of the input, and keep the best with the bundle."""
    from midstream.bundle import Bundle
    from midstream.calibrating import check_ladder_target, write_ladder

    # What an earlier calibration left may be damaged, or another bundle's: it is about to be replaced.
    opened = Bundle.open(bundle, calibrated=False)
    check_ladder_target(opened)
    measured = _measured(opened, calibration, metric, min_agreement, cuts, codecs, samples)
    target = write_ladder(opened, measured.ladder)
    if as_json:
        print_json({"bundle": str(bundle), "file": str(target), **describe_ladder(measured.ladder)})
        return
    _show(opened, measured.ladder)
    _say_how_far(measured.ladder)
    screen.print(f"{target} written; copy it to the gateway's bundle too, then use --min-agreement with run and plan")


def codecs(
    bundle: BundleArgument,
    calibration: Annotated[
        Path | None, typer.Option(help="Inputs to measure all codecs with; default: show what the bundle has.")
    ] = None,
    metric: MetricOption = "auto",
    cuts: CutsOption = None,
    codecs: CodecsOption = None,
    samples: SamplesOption = None,
    plot: Annotated[Path | None, typer.Option(help="Draw bytes against agreement into this .svg or .png file.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show bytes against agreement of every codec, at the cuts and for the whole input. The bundle stays as it is."""
    from midstream.bundle import Bundle

    if plot is not None:
        from midstream.drawing.canvas import check_target

        check_target(plot)
    if calibration is None and (cuts, codecs, samples, metric) != (None, None, None, "auto"):
        raise InputError("--cuts, --codecs, --samples and --metric say what to measure; give inputs with --calibration")
    opened = Bundle.open(bundle, calibrated=calibration is None)
    if calibration is not None:
        measured = _measured(opened, calibration, metric, 0.0, cuts, codecs, samples)
        ladder, rungs = measured.ladder, dict(measured.tried)
    elif opened.ladder is None:
        raise InputError(f"bundle {bundle} is not calibrated; give inputs with --calibration, or calibrate it first")
    else:
        ladder, rungs = opened.ladder, {place.cut: place.rungs for place in opened.ladder.places}
    if plot is not None:
        _plot(plot, opened, ladder, rungs)
    if as_json:
        told = describe_ladder(ladder)
        for place in told["places"]:
            place["rungs"] = [
                _rung(rung) | {"best": ladder.rung(place["cut"], rung.codec) is not None}
                for rung in rungs[place["cut"]]
            ]
        print_json({"bundle": str(bundle), "plot": None if plot is None else str(plot), **told})
        return
    _show(opened, ladder, rungs)
    if plot is not None:
        screen.print(f"{plot} drawn")


def describe_ladder(ladder: Ladder) -> dict[str, Any]:
    """What ``--json`` tells of a ladder."""
    return {
        "metric": ladder.metric,
        "samples": ladder.samples,
        "held_out": ladder.held_out,
        "min_agreement": ladder.min_agreement,
        "machine": ladder.machine,
        "places": [
            {"cut": place.cut, "raw_bytes": place.raw_bytes, "rungs": [_rung(rung) for rung in place.rungs]}
            for place in ladder.places
        ],
    }


def _measured(
    bundle: Bundle,
    path: Path,
    metric: str,
    min_agreement: float,
    cuts: str | None,
    codecs: str | None,
    samples: int | None,
) -> Calibration:
    from midstream.calibrating import MAX_INPUTS, read_inputs
    from midstream.calibrating import calibrate as measure
    from midstream.communication.codecs import ALL_RUNGS, find_codec

    chosen = ALL_RUNGS if codecs is None else tuple(find_codec(name).name for name in _listed(codecs))
    return measure(
        bundle,
        read_inputs(bundle, path, samples or MAX_INPUTS),
        metric=metric,
        min_agreement=min_agreement,
        codecs=chosen,
        cuts=None if cuts is None else list(dict.fromkeys(_listed(cuts))),
        progress=lambda what: notes.print(f"measuring {what}"),
    )


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _rung(rung: MeasuredRung) -> dict[str, Any]:
    return {
        "codec": rung.codec,
        "lossless": rung.lossless,
        "entropy": rung.entropy,
        "agreement": rung.agreement,
        "payload_bytes": rung.payload_bytes,
        "spread": rung.spread,
        "size_error": None if rung.size is None else rung.size.error,
        "encode_ms": rung.encode_ms,
        "decode_ms": rung.decode_ms,
    }


def _say_how_far(ladder: Ladder) -> None:
    """A note where so few inputs have judged that a floor says little."""
    if ladder.samples < _MANY:
        notes.print(
            f"{ladder.samples} inputs have judged: agreements nearer than {1 / ladder.samples:.2f} are not told apart; "
            "give a hundred or more"
        )


def _show(bundle: Bundle, ladder: Ladder, rungs: Mapping[str | None, Sequence[MeasuredRung]] | None = None) -> None:
    held_out = "held out" if ladder.held_out else "the same that set the rungs up, as there were too few to hold out"
    screen.print(f"{bundle.name}: {ladder.metric} agreement on {ladder.samples} inputs ({held_out}), {ladder.machine}")
    columns = ["codec", "bytes", "smaller", "agreement", "encode + decode ms", "known"]
    for place in ladder.places:
        shown = place.rungs if rungs is None else rungs[place.cut]
        where = "the whole input" if place.cut is None else f"cut {place.cut}"
        rows = [_row(place, rung) for rung in sorted(shown, key=lambda rung: -rung.payload_bytes)]
        if rungs is not None:
            rows = [[*row, "*" if ladder.rung(place.cut, row[0]) is not None else ""] for row in rows]
        title = f"{where}: {place.raw_bytes:,.0f} bytes"
        print_table(title, columns if rungs is None else [*columns, "best"], rows)


def _row(place: Place, rung: MeasuredRung) -> list[str]:
    return [
        rung.codec,
        f"{rung.payload_bytes:,.0f}",
        f"{place.raw_bytes / rung.payload_bytes:.1f} ×" if rung.payload_bytes else "",
        f"{rung.agreement:.4f}",
        f"{rung.encode_ms:.2f} + {rung.decode_ms:.2f}",
        f"± {(rung.spread if rung.size is None else rung.size.error):.0%}",
    ]


def _plot(path: Path, bundle: Bundle, ladder: Ladder, rungs: Mapping[str | None, Sequence[MeasuredRung]]) -> None:
    from midstream.drawing.chart import series_of, write_chart

    write_chart(path, series_of(rungs), title=f"{bundle.name}: bytes against agreement", metric=ladder.metric)
