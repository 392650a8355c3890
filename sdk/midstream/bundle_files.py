"""The files of a bundle, read whole and checked: each is what its manifest says, and belongs to this bundle."""

from __future__ import annotations

import errno
import hashlib
import math
import os
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

from midstream.communication.codecs import find_codec
from midstream.errors import BundleError, CodecError
from midstream.exits import EXITS_FILE, Exit
from midstream.exits_file import MAX_EXITS_BYTES, exit_from_bytes
from midstream.files import FileIdentity, regular_file
from midstream.ladder import LADDER_FILE, Ladder
from midstream.ladder_file import MAX_LADDER_BYTES, ladder_from_bytes
from midstream.manifest import COSTS_FILE, MANIFEST_FILE, MAX_MANIFEST_BYTES, Costs, Manifest
from midstream.seal import CONVERT
from midstream.sealed import costs_from_bytes, manifest_digest, manifest_from_bytes


@dataclass(frozen=True, slots=True)
class Parts:
    """What the files say: ``digest`` is the bundle's identity, and ``checked`` which files were read, by name."""

    manifest: Manifest
    digest: bytes
    costs: Costs
    checked: Mapping[str, FileIdentity]
    ladder: Ladder | None
    early_exit: Exit | None


def read_parts(folder: Path, *, calibrated: bool) -> Parts:
    """Read and check every byte of a bundle; without ``calibrated``, codec ladder and early exit are left alone.

    Raises BundleError.
    """
    content = _read(folder / MANIFEST_FILE, MAX_MANIFEST_BYTES)
    manifest = manifest_from_bytes(content, str(folder / MANIFEST_FILE))
    checked = {name: _check_file(folder / name, record.bytes, record.sha256) for name, record in manifest.files.items()}
    costs = costs_from_bytes(_read(folder / COSTS_FILE, MAX_MANIFEST_BYTES), str(folder / COSTS_FILE))
    if costs.recipe != manifest.recipe or set(costs.cuts) != {cut.id for cut in manifest.cuts}:
        raise BundleError(f"{folder / COSTS_FILE} belongs to another bundle; convert the model again")
    if not costs.coding.keys() <= manifest.slices.keys():
        raise BundleError(f"{folder / COSTS_FILE} has times of slices that are not there; convert the model again")
    digest = manifest_digest(content)
    ladder = _read_ladder(folder / LADDER_FILE, digest, manifest) if calibrated else None
    early_exit = _read_exit(folder / EXITS_FILE, digest, manifest) if calibrated else None
    return Parts(manifest, digest, costs, checked, ladder, early_exit)


def _read_ladder(path: Path, digest: bytes, manifest: Manifest) -> Ladder | None:
    if not path.is_symlink() and not path.exists():
        return None
    content = _read(path, MAX_LADDER_BYTES, "calibrate the bundle again, or delete the file")
    ladder = ladder_from_bytes(content, str(path))
    if ladder.bundle != digest.hex():
        raise BundleError(f"{path} belongs to another bundle; calibrate this one, or delete the file")
    problem = _unusable(ladder, {None, *(cut.id for cut in manifest.cuts)})
    if problem is not None:
        raise BundleError(f"{path} {problem}; calibrate the bundle again, or delete the file")
    return ladder


def _read_exit(path: Path, digest: bytes, manifest: Manifest) -> Exit | None:
    if not path.is_symlink() and not path.exists():
        return None
    remedy = "run `midstream exits` again, or delete the file"
    found = exit_from_bytes(_read(path, MAX_EXITS_BYTES, remedy), str(path))
    if found.bundle != digest.hex():
        raise BundleError(f"{path} belongs to another bundle; {remedy}")
    problem = _misfit(found, manifest)
    if problem is not None:
        raise BundleError(f"{path} {problem}; {remedy}")
    return found


def _misfit(early_exit: Exit, manifest: Manifest) -> str | None:
    """What an exit says that cannot be so of this bundle, None where there is nothing."""
    cut = next((cut for cut in manifest.cuts if cut.id == early_exit.cut), None)
    if cut is None:
        return f"has a cut {early_exit.cut!r}, which the bundle has not"
    if [spec.name for spec in manifest.outputs] != [early_exit.output]:
        return f"answers {early_exit.output!r}, which is not the model's one output"
    if set(early_exit.poolings) != {spec.name for spec in cut.tensors}:
        return f"takes other tensors than cross at {early_exit.cut!r}"
    counts = []
    for spec in cut.tensors:
        pooling = early_exit.poolings[spec.name]
        if pooling.axis is not None and len(spec.shape) not in (3, 4):
            return f"has channels in tensor {spec.name!r}, which has none"
        counts.append(pooling.count(spec.shape))
    if sum(count or 0 for count in counts) != len(early_exit.weights) or None in counts:
        return f"has weights for {len(early_exit.weights)} numbers, and others cross at {early_exit.cut!r}"
    output, scores = manifest.outputs[0], len(early_exit.bias)
    sizes = [1 if size is None else size for size in output.shape]
    if math.prod(sizes) != scores and not (output.shape[-1:] == (None,) and math.prod(sizes) == 1):
        return f"gives {scores} scores, and the model {output}"
    return None


def _unusable(ladder: Ladder, places: Set[str | None]) -> str | None:
    """What a ladder says that cannot be so of a bundle with these places, None where there is nothing."""
    for place in ladder.places:
        if place.cut not in places:
            return f"has a cut {place.cut!r}, which the bundle has not"
        if all(rung.codec != "raw" for rung in place.rungs):
            return f"lacks the codec raw {'for the whole input' if place.cut is None else f'at cut {place.cut!r}'}"
        for rung in place.rungs:
            try:
                known = find_codec(rung.codec)
            except CodecError as error:
                return f"cannot be used by this release: {error}"
            if rung.lossless != known.lossless:
                return f"says that codec {rung.codec!r} {'loses nothing' if rung.lossless else 'is lossy'}"
    return None


def _read(path: Path, limit: int, remedy: str = CONVERT) -> bytes:
    """A small file of a bundle, whole."""
    with _opened(path) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise BundleError(f"{path} is larger than {limit} bytes, and no part of a bundle; {remedy}")
    return content


def _check_file(path: Path, size: int, sha256: str) -> FileIdentity:
    with _opened(path) as file:
        identity = FileIdentity.of(os.fstat(file.fileno()))
        if identity.bytes != size:
            raise BundleError(
                f"{path} has {identity.bytes} bytes where its manifest says {size}; convert the model again"
            )
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != sha256:
        raise BundleError(
            f"{path} does not match its SHA-256 in the manifest: it was damaged or changed; convert the model again"
        )
    return identity


@contextmanager
def _opened(path: Path) -> Iterator[BufferedReader]:
    """A regular file, no link, pipe or device; errors while it is read are the bundle's."""
    try:
        with regular_file(path, follow_links=False) as file:
            yield file
    except NotADirectoryError:
        raise BundleError(f"{path.parent} is a file; a bundle is a folder that `midstream convert` wrote") from None
    except FileNotFoundError:
        raise BundleError(
            f"{path} is missing; {path.parent} is not a bundle, or lost a part: convert the model again"
        ) from None
    except OSError as error:
        reason = "it is a link" if error.errno == errno.ELOOP else error.strerror
        raise BundleError(f"cannot read {path}: {reason}; a bundle holds regular files only") from None
