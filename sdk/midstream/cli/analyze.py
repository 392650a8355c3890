"""``midstream analyze``: how complex pictures and sounds are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from midstream.cli.output import JsonOption, print_json, print_table, screen
from midstream.errors import InputError

if TYPE_CHECKING:
    from midstream.analysis import Analysis
    from midstream.analysis.catalogue import Feature
    from midstream.drawing.analysis import Row


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(analyze)


def analyze(
    files: Annotated[list[Path], typer.Argument(help="Pictures, sounds, or folders of them.")],
    as_json: JsonOption = False,
    plot: Annotated[Path | None, typer.Option(help="Draw up to 8 files and their features: .svg or .png.")] = None,
) -> None:
    """Show the features and the complexity score (0–100) of image and audio files. Sounds may last up to 24 hours."""
    from midstream.media import media_files

    paths = [file for path in files for file in media_files(path)]
    if plot is not None:
        _check_plot(plot, len(paths))
    found = [(file, analyze_file(file)) for file in paths]
    if plot is not None:
        _draw(plot, found)
    if as_json:
        print_json([_json(file, analysis) for file, analysis in found])
        return
    for file, analysis in found:
        rows = [[name, f"{value:.4g}", unit] for name, value, unit in _listed(analysis)]
        screen.print(f"{file}: {analysis.kind}, complexity {analysis.score:.1f} of 100")
        print_table("", ["feature", "value", "unit"], rows)


def analyze_file(file: Path) -> Analysis:
    """Read and analyse one file, a sound part by part; raises InputError naming it."""
    from midstream.complexity import analyze as analyze_array
    from midstream.complexity import analyze_sound
    from midstream.media import media_kind, open_audio, read_image

    try:
        if media_kind(file) == "image":
            return analyze_array(read_image(file), kind="image")
        with open_audio(file) as sound:
            return analyze_sound(sound)
    except InputError as error:
        if str(file) in str(error):
            raise
        raise InputError(f"{file}: {error}") from None


def _check_plot(plot: Path, count: int) -> None:
    from midstream.drawing.analysis import MAX_ROWS
    from midstream.drawing.canvas import check_target

    check_target(plot)
    if count > MAX_ROWS:
        raise InputError(f"--plot draws at most {MAX_ROWS} files, and there are {count}; give fewer of them")


def _draw(plot: Path, found: Sequence[tuple[Path, Analysis]]) -> None:
    from midstream.drawing.analysis import write_rows

    write_rows(plot, [_row(file, analysis) for file, analysis in found])


def _row(file: Path, analysis: Analysis) -> Row:
    from midstream.analysis.spectrogram import spectrogram
    from midstream.drawing.analysis import SPECTROGRAM_COLUMNS, Bar, Row
    from midstream.media import open_audio, read_image

    title = f"{file.name}: complexity {analysis.score:.1f} of 100"
    known = _catalogue(analysis)
    bars = [
        Bar(name, f"{value:.4g} {unit}".rstrip(), (value - known[name].low) / (known[name].high - known[name].low))
        for name, value, unit in _listed(analysis)
    ]
    if analysis.kind == "image":
        return Row(title, read_image(file), bars)
    with open_audio(file) as sound:
        levels = spectrogram(sound, SPECTROGRAM_COLUMNS)
        return Row(title, levels, bars, sound.length / sound.sample_rate, sound.sample_rate / 2)


def _listed(analysis: Analysis) -> list[tuple[str, float, str]]:
    known = _catalogue(analysis)
    return [(name, value, known[name].unit) for name, value in analysis.features.items()]


def _catalogue(analysis: Analysis) -> dict[str, Feature]:
    from midstream.analysis import catalogue

    return {"image": catalogue.IMAGE, "audio": catalogue.AUDIO, "tensor": catalogue.TENSOR}[analysis.kind]


def _json(file: Path, analysis: Analysis) -> dict[str, Any]:
    return {"file": str(file), "kind": analysis.kind, "score": analysis.score, "features": analysis.features}
