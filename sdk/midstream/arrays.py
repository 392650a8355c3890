"""Reading named arrays from .npz files, within limits; nothing in them is unpickled."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from midstream.errors import InputError
from midstream.files import regular_file
from midstream.tensors import Tensor, Tensors, nbytes

MAX_ARRAYS_BYTES = 1 << 30
ARRAYS_SUFFIX = ".npz"
_MEMBER_SUFFIX = ".npy"


def read_arrays(path: Path, max_bytes: int = MAX_ARRAYS_BYTES) -> Tensors:
    """The arrays of an .npz file by their names.

    Raises InputError naming the file where it is missing, damaged, encrypted or anything else, holds other things than
    plain arrays, or unpacks to more than ``max_bytes``.
    """
    try:
        with regular_file(path) as file, zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            size = sum(member.file_size for member in members)
            if size > max_bytes:
                raise InputError(f"{path} holds {size} bytes; at most {max_bytes >> 20} MiB are read")
            return {member.filename.removesuffix(_MEMBER_SUFFIX): _read_member(archive, member) for member in members}
    except (InputError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001  zip, its codecs and numpy's parser of headers raise all kinds on damage
        if reason := getattr(error, "strerror", None):
            raise InputError(f"{path} cannot be read: {reason}") from None
        raise InputError(
            f"{path} is not an {ARRAYS_SUFFIX} archive of plain arrays, one for each input by its name"
        ) from None


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Tensor:
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read_header(file)
    if nbytes(dtype, shape) > member.file_size:
        raise ValueError("its header announces more than there is")
    with archive.open(member) as file:
        array: Tensor = np.lib.format.read_array(file, allow_pickle=False)
    return array
