"""The recipe of a bundle: one hash of all that decides what a conversion makes, and the cache of bundles by recipe."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from midstream.bundle import Bundle
from midstream.errors import BundleError, MissingExtraError
from midstream.inputs import semantics_to_json
from midstream.manifest import BUNDLE_FILES, FORMAT_VERSION, MANIFEST_FILE, Manifest
from midstream.profiles import load_profile, profile_names
from midstream_converters.edgetpu import find_compiler
from midstream_converters.keras.source import KerasModel
from midstream_converters.opening import ModelFile, Options

MAX_CACHE_BYTES = 2 << 30
_CACHE_VARIABLE = "MIDSTREAM_CACHE"
_PACKAGES = ("midstream", "ai-edge-litert", "onnxruntime", "onnx", "numpy", "scipy")


def recipe_of(model: ModelFile | KerasModel, options: Options) -> str:
    """The SHA-256, in hexadecimal digits, of the model, the options, the code, the profiles and the runtimes."""
    content = {
        "format": FORMAT_VERSION,
        "model": [model.path.stem, model.sha256],
        "calibration": None if options.calibration is None else _tree_digest(options.calibration),
        "max_cuts": options.max_cuts,
        "tolerance": options.tolerance,
        "semantics": {name: semantics_to_json(value) for name, value in options.semantics.items()},
        "shapes": {name: list(shape) for name, shape in options.shapes.items()},
        "values": dict(options.values),
        "to": options.to,
        "quantize": options.quantize,
        "edgetpu": compiler.version if options.edgetpu and (compiler := find_compiler()) else None,
        "packages": {name: _version(name) for name in _packages(model, options)},
        "code": _tree_digest(Path(__file__).parent, "*.py"),
        "profiles": {name: repr(load_profile(name)) for name in profile_names()},
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def made_by(target: Path, recipe: str) -> Manifest | None:
    """The manifest of the bundle at ``target`` if it is intact and of this recipe."""
    try:
        bundle = Bundle.open(target)
    except BundleError:
        return None
    return bundle.manifest if bundle.manifest.recipe == recipe else None


class BundleCache:
    """Finished bundles by their recipe, in a folder of the user's; what was used longest ago goes when it is full.

    The folder is the system's place for caches, or what the environment variable MIDSTREAM_CACHE says.
    """

    def __init__(self, folder: Path | None = None, max_bytes: int = MAX_CACHE_BYTES) -> None:
        self._folder = folder or _default_folder() / "bundles"
        self._max_bytes = max_bytes

    def fetch(self, recipe: str, into: Path) -> Manifest | None:
        """Put the bundle of this recipe into an empty folder; None where there is none that is intact."""
        entry = self._folder / recipe
        if made_by(entry, recipe) is None:
            shutil.rmtree(entry, ignore_errors=True)
            return None
        _copy(entry, into)
        (entry / MANIFEST_FILE).touch()
        return made_by(into, recipe)

    def keep(self, recipe: str, bundle: Path) -> None:
        """Add a bundle, if it fits. A cache that cannot be written is no reason to fail."""
        if _size(bundle) > self._max_bytes:
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".", dir=self._folder) as stage:
                fresh = Path(stage) / recipe
                fresh.mkdir()
                _copy(bundle, fresh)
                if not (self._folder / recipe).exists():
                    fresh.rename(self._folder / recipe)
            self._prune()
        except OSError:
            return

    def _prune(self) -> None:
        entries = [entry for entry in self._folder.iterdir() if (entry / MANIFEST_FILE).is_file()]
        entries.sort(key=lambda entry: (entry / MANIFEST_FILE).stat().st_mtime)
        excess = sum(map(_size, entries)) - self._max_bytes
        for entry in entries:
            if excess <= 0:
                return
            excess -= _size(entry)
            shutil.rmtree(entry, ignore_errors=True)


def _default_folder() -> Path:
    if named := os.environ.get(_CACHE_VARIABLE):
        return Path(named)
    if not find_spec("platformdirs"):
        raise MissingExtraError("platformdirs", "convert", "keeping bundles in the user's cache")
    import platformdirs

    return platformdirs.user_cache_path("midstream", appauthor=False)


def _copy(source: Path, target: Path) -> None:
    for name in BUNDLE_FILES:
        shutil.copyfile(source / name, target / name)


def _size(bundle: Path) -> int:
    return sum(file.stat().st_size for file in bundle.iterdir())


def _packages(model: ModelFile | KerasModel, options: Options) -> tuple[str, ...]:
    """The packages whose release may change what comes out."""
    if isinstance(model, KerasModel):
        return (*_PACKAGES, "tensorflow", "keras", *(["tf2onnx"] if options.to == "onnx" else []))
    return (*_PACKAGES, *(["ai-edge-quantizer"] if options.quantize and model.is_tflite else []))


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _tree_digest(path: Path, pattern: str = "*") -> str:
    """The SHA-256 of a file, or of all files in a folder with their names."""
    digest = hashlib.sha256()
    for file in _files(path, pattern):
        digest.update(str(file.relative_to(path)).encode() + b"\0")
        with file.open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()


def _files(path: Path, pattern: str) -> Iterator[Path]:
    if path.is_dir():
        yield from sorted(file for file in path.rglob(pattern) if file.is_file())
    elif path.is_file():
        yield path
