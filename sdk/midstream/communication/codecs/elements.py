"""A tensor's elements as bytes, ordered by place in the element before they are packed."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from midstream.communication.codecs.entropy import STORED, Buffer, pack, unpack
from midstream.communication.wire import EncodedTensor
from midstream.errors import CodecError
from midstream.ladder import Entropy
from midstream.tensors import Tensor, nbytes


def element_bytes(tensor: Tensor) -> NDArray[np.uint8]:
    """The elements in C order, one after the other; a view of them where they lie so."""
    return np.ascontiguousarray(tensor).reshape(-1).view(np.uint8)


def from_bytes(data: Buffer, tensor: EncodedTensor, name: str) -> Tensor:
    """The array that these bytes are; a view of them where they lie aligned. Raises CodecError."""
    needed = nbytes(tensor.dtype, tensor.shape)
    if len(data) != needed:
        raise CodecError(f"tensor {name!r} came with {len(data)} bytes, needed {needed}")
    if needed == 0:
        return np.empty(tensor.shape, tensor.dtype)
    flat = np.frombuffer(data, np.uint8)
    if tensor.dtype == np.bool_ and flat.max() > 1:
        raise CodecError(f"tensor {name!r} is of bool, but holds the byte {flat.max()}; only 0 and 1 are bool")
    value: Tensor = flat.view(tensor.dtype).reshape(tensor.shape)
    return value if value.flags.aligned else value.copy()


def pack_elements(tensor: Tensor, entropy: Entropy) -> tuple[int, Buffer]:
    """The method and the bytes, shuffled where they are packed and as they lie where they are not."""
    plain = element_bytes(tensor)
    method, packed = pack(_shuffled(plain, tensor.dtype.itemsize).data, entropy)
    return (method, plain.data) if method == STORED else (method, packed)


def unpack_elements(method: int, packed: Buffer, tensor: EncodedTensor, name: str) -> Tensor:
    """The reverse of `pack_elements`. Raises CodecError."""
    plain = unpack(method, packed, nbytes(tensor.dtype, tensor.shape), name)
    if method != STORED:
        plain = _unshuffled(np.frombuffer(plain, np.uint8), tensor.dtype.itemsize).data
    return from_bytes(plain, tensor, name)


def _shuffled(plain: NDArray[np.uint8], itemsize: int) -> NDArray[np.uint8]:
    """Byte 0 of every element, then byte 1 of every element, and so on."""
    if itemsize == 1 or not plain.size:
        return plain
    return np.concatenate([plane.reshape(-1) for plane in cv2.split(plain.reshape(1, -1, itemsize))])


def _unshuffled(planes: NDArray[np.uint8], itemsize: int) -> NDArray[np.uint8]:
    if itemsize == 1 or not planes.size:
        return planes
    return np.asarray(cv2.merge(list(planes.reshape(itemsize, 1, -1))), np.uint8).reshape(-1)
