"""Write a bundle: all files into a temporary folder beside it, then one rename."""

from __future__ import annotations

import hashlib
import io
import lzma
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from midstream.errors import BundleError
from midstream.exits import EXITS_FILE
from midstream.files import is_part
from midstream.ladder import LADDER_FILE
from midstream.manifest import (
    BUNDLE_FILES,
    COSTS_FILE,
    GRAPH_MEMBER,
    MANIFEST_FILE,
    SLICES_FILE,
    WEIGHTS_FILE,
    Costs,
    FileRecord,
    Graph,
    Manifest,
)
from midstream.sealed import costs_to_bytes, graph_to_bytes, manifest_to_bytes
from midstream_converters.staging import replacing


def check_target(target: Path) -> None:
    """Raise BundleError where a bundle may not be written: over anything that is not wholly a bundle."""
    place = target.resolve()
    if place == Path.cwd() or place in Path.cwd().parents:
        raise BundleError(
            f"{target} is the folder you are in, or one around it; choose another -o, nothing was written"
        )
    if not place.exists():
        return
    names = sorted(file.name for file in place.iterdir()) if place.is_dir() else [place.name]
    foreign = [name for name in names if name not in (*BUNDLE_FILES, LADDER_FILE, EXITS_FILE) and not is_part(name)]
    if not foreign and names and not _is_ours(place / MANIFEST_FILE):
        foreign = names
    if foreign:
        raise BundleError(
            f"{target} exists and is not a bundle alone, it has {foreign[0]!r}; choose another -o, nothing was written"
        )


@contextmanager
def staging(target: Path) -> Iterator[Path]:
    """A temporary folder that becomes ``target`` if the block ends well, and vanishes if it does not.

    An older bundle at ``target`` is replaced by two renames; anything else there is left alone. Raises BundleError.
    """
    check_target(target)
    place = target.resolve()
    try:
        with replacing(place) as folder:
            yield folder
    except OSError as error:
        raise BundleError(f"cannot write bundle {target}: {error.strerror or error}") from None


def write_bundle(
    folder: Path, manifest: Manifest, graph: Graph, programs: Mapping[str, bytes], costs: Costs
) -> Manifest:
    """Write everything but the weights, which are there already, into ``folder``; returns the manifest as written."""
    members = {GRAPH_MEMBER: graph_to_bytes(graph), **programs}
    archive = _tar(members)
    packed = lzma.compress(archive, format=lzma.FORMAT_XZ, check=lzma.CHECK_CRC32)
    (folder / SLICES_FILE).write_bytes(packed)
    files = {name: _record(folder / name) for name in (WEIGHTS_FILE, SLICES_FILE)}
    complete = replace(manifest, files=files, unpacked_bytes=len(archive))
    (folder / MANIFEST_FILE).write_bytes(manifest_to_bytes(complete))
    (folder / COSTS_FILE).write_bytes(costs_to_bytes(costs))
    return complete


def _is_ours(manifest: Path) -> bool:
    """Whether a manifest begins like one, damaged further on or not."""
    start = b'{"body":{"created_by":'
    try:
        with manifest.open("rb") as file:
            return file.read(len(start)) == start
    except OSError:
        return False


def _record(path: Path) -> FileRecord:
    with path.open("rb") as file:
        return FileRecord(path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())


def _tar(members: Mapping[str, bytes]) -> bytes:
    """A tar archive that depends on nothing but its members."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()
