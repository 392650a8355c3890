"""``midstream analyze``: how complex pictures and sounds are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from midstream.cli.output import JsonOption, print_json, print_table
from midstream.errors import InputError

if TYPE_CHECKING:
    from midstream.analysis import Analysis


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(analyze)


def analyze(
    files: Annotated[list[Path], typer.Argument(help="Pictures, sounds, or folders of them.")],
    as_json: JsonOption = False,
) -> None:
    """Show the features and the complexity score (0–100) of image and audio files."""
    from midstream.media import media_files

    found = [(file, analyze_file(file)) for path in files for file in media_files(path)]
    if as_json:
        print_json([_json(file, analysis) for file, analysis in found])
        return
    rows = [
        [
            str(file),
            analysis.kind,
            f"{analysis.score:.1f}",
            "  ".join(f"{name} {value:.3g}" for name, value in analysis.features.items()),
        ]
        for file, analysis in found
    ]
    print_table("complexity", ["file", "kind", "score", "features"], rows)


def analyze_file(file: Path) -> Analysis:
    """Read and analyse one file; raises InputError naming it."""
    from midstream.analysis import analyze as analyze_array
    from midstream.media import media_kind, read_audio, read_image

    try:
        if media_kind(file) == "image":
            return analyze_array(read_image(file), kind="image")
        sound, sample_rate = read_audio(file)
        return analyze_array(sound, kind="audio", sample_rate=sample_rate)
    except InputError as error:
        if str(file) in str(error):
            raise
        raise InputError(f"{file}: {error}") from None


def _json(file: Path, analysis: Analysis) -> dict[str, Any]:
    return {"file": str(file), "kind": analysis.kind, "score": analysis.score, "features": analysis.features}
