"""What a tensor is called, and what it holds: the specification both ends of a cut agree on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from midstream.errors import InputError

CARRIED_DTYPES = frozenset(
    ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64")
)

Tensor = NDArray[np.generic]
Tensors = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Name, dtype and shape of one tensor.

    ``shape`` has None where a dimension is dynamic: then it is 1 or more, as runtimes crash on none, unless the tensor
    ``may_be_empty`` because its sizes follow from content, such as no boxes found. ``scale`` and ``zero_point`` are set
    for per-tensor quantised tensors: real = (stored - zero_point) * scale.
    """

    name: str
    dtype: np.dtype[np.generic]
    shape: tuple[int | None, ...]
    scale: float | None = None
    zero_point: int | None = None
    may_be_empty: bool = False

    def accepts(self, shape: Sequence[int]) -> bool:
        """Whether an array of this shape fits."""
        least = 0 if self.may_be_empty else 1
        return len(shape) == len(self.shape) and all(
            have >= least if want is None else want == have for want, have in zip(self.shape, shape, strict=True)
        )

    def hint(self, shape: Sequence[int]) -> str:
        """What to add to the message where this shape does not fit and one may wonder why."""
        return "; ? is 1 or more" if 0 in shape and None in self.shape and not self.may_be_empty else ""

    def loosened(self, *shapes: Sequence[int]) -> TensorSpec:
        """The specification with every size dynamic that one of these shapes, seen of the tensor, contradicts."""
        sizes = self.shape
        for shape in shapes:
            if len(shape) != len(sizes):
                sizes = (None,) * len(shape)
            sizes = tuple(want if want == have else None for want, have in zip(sizes, shape, strict=True))
        return replace(self, shape=sizes, may_be_empty=self.may_be_empty or sizes != self.shape)

    def __str__(self) -> str:
        dims = ", ".join("?" if size is None else str(size) for size in self.shape)
        return f"{self.name}: {self.dtype}[{dims}]"


def nbytes(dtype: np.dtype[np.generic], shape: Sequence[int]) -> int:
    """Bytes of a dense array."""
    return math.prod(shape) * dtype.itemsize


def named_tensors(tensors: object, of: str) -> Mapping[str, Tensor]:
    """The same, where it is a mapping; raises InputError where it is anything else."""
    if not isinstance(tensors, Mapping):
        raise InputError(f"{of} takes a dict of arrays by their names, not a {type(tensors).__name__}")
    return tensors


def check_tensors(specs: Sequence[TensorSpec], tensors: Mapping[str, Tensor], of: str) -> Tensors:
    """The tensors in the order of ``specs``, C-contiguous, after checking names, dtypes and shapes.

    ``of`` names the owner for the error message, such as ``"bundle face.bundle"``.

    Raises InputError naming the tensor, what was there and what is needed.
    """
    unknown = [name for name in tensors if name not in {spec.name for spec in specs}]
    if unknown:
        raise InputError(f"{of} has no input named {unknown[0]!r}; it takes {_listed(specs)}")
    checked: Tensors = {}
    for spec in specs:
        if spec.name not in tensors:
            raise InputError(f"input {spec.name!r} of {of} is missing; it takes {_listed(specs)}")
        value = tensors[spec.name]
        if not isinstance(value, np.ndarray):
            raise InputError(
                f"input {spec.name!r} of {of} is a {type(value).__name__}, not a numpy array of {spec.dtype}"
            )
        if value.dtype != spec.dtype:
            raise InputError(
                f"input {spec.name!r} of {of} has dtype {value.dtype}, needed {spec.dtype}; "
                f"convert it with .astype({spec.dtype.name!r})"
            )
        if not spec.accepts(value.shape):
            wanted = ", ".join("?" if size is None else str(size) for size in spec.shape)
            raise InputError(
                f"input {spec.name!r} of {of} has shape {list(value.shape)}, needed [{wanted}]" + spec.hint(value.shape)
            )
        checked[spec.name] = np.ascontiguousarray(value).reshape(value.shape)
    return checked


def _listed(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(str(spec) for spec in specs)
