"""Where a tensor's external data lies, if it lies where a model may point: in a file of its own folder.

Requires: a tensor of known type; it may say anything else. Ensures: a regular file inside the folder, symbolic links
followed, and a range inside that file, of just the bytes that the tensor's shape and type need.
"""

from __future__ import annotations

import re
import stat
from pathlib import Path

from midstream.errors import ModelError
from midstream_converters.onnx.content import content_bytes, short_name
from midstream_converters.onnx.proto import onnx

_MAX_LOCATION = 1000
_NUMBER = re.compile(r"[0-9]{1,19}")


def resolve_external(tensor: onnx.TensorProto, folder: Path) -> tuple[Path, int, int]:
    """File, offset and length of a tensor's external data. Raises ModelError where it is not wholly there."""
    fields = {entry.key: entry.value for entry in tensor.external_data}
    named = f"the external data of tensor {short_name(tensor)}"
    location = fields.get("location", "")
    if len(fields) < len(tensor.external_data) or not 0 < len(location) <= _MAX_LOCATION:
        raise ModelError(
            f"{named} is at {location[:_MAX_LOCATION]!r}, which is no file of {folder}; export the model again"
        )
    path = _inside(location, folder, named)
    wanted = content_bytes(tensor)
    offset = _number(fields.get("offset", "0"), "offset", named)
    length = _number(fields.get("length", str(wanted)), "length", named)
    there = path.stat().st_size
    if length != wanted or offset + length > there:
        raise ModelError(
            f"{named} is said to be {length} bytes at {offset} of {path}, which has {there}; its shape and type need "
            f"{wanted}: fetch both files again, or export the model again"
        )
    return path, offset, length


def _inside(location: str, folder: Path, named: str) -> Path:
    elsewhere = (
        f"{named} is at {location!r}, outside the model's folder {folder}; it is not read: put it into that folder"
    )
    # Before the file system is asked: a share of another machine would learn who asks.
    if Path(location).anchor or ".." in Path(location).parts:
        raise ModelError(elsewhere)
    try:
        path = (folder / location).resolve(strict=True)
        regular = stat.S_ISREG(path.stat().st_mode)
    except (OSError, ValueError, RuntimeError):
        raise ModelError(f"{named} is at {location!r}, which is not there; put that file into {folder}") from None
    if not path.is_relative_to(folder.resolve()):
        raise ModelError(elsewhere)
    if not regular:
        raise ModelError(f"{named} is at {location!r}, which is not a file; put the data into a file of {folder}")
    return path


def _number(text: str, key: str, named: str) -> int:
    if not _NUMBER.fullmatch(text):
        raise ModelError(f"{named} has the {key} {text[:40]!r}, which is not a number of bytes; export the model again")
    return int(text)
