"""The names of a TFLite model's inputs and outputs.

Converters call them after their own functions (``serving_default_image:0``, ``StatefulPartitionedCall:0``); what the
user knows are the names in the signature, or those the model had before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from midstream.errors import ModelError
from midstream.manifest import WEIGHT_ALIGNMENT
from midstream_converters.tflite.bounds import check_bounds
from midstream_converters.tflite.names import tensor_numbers
from midstream_converters.tflite.schema import IDENTIFIER, flatbuffers, schema


def name_by_signature(data: bytes, outputs: Mapping[str, str]) -> bytes:
    """The model with the ends of its only signature called as there; ``outputs`` has better names for some of them."""
    model = _parse(data)
    (signature,) = model.signatureDefs
    for end in signature.outputs or []:
        end.name = outputs.get(_text(end.name), _text(end.name)).encode()
    # What is handed through is called as it is where it comes in.
    ends = [*(signature.outputs or []), *(signature.inputs or [])]
    _rename(model.subgraphs[int(signature.subgraphIndex)], {int(end.tensorIndex): _text(end.name) for end in ends})
    return _pack(model)


def name_by_position(data: bytes, inputs: Sequence[str], outputs: Sequence[str]) -> bytes:
    """The model with the ends of its main subgraph under these names."""
    model = _parse(data)
    graph = model.subgraphs[0]
    names = dict(zip(tensor_numbers(graph.outputs), outputs, strict=True))
    names |= dict(zip(tensor_numbers(graph.inputs), inputs, strict=True))
    _rename(graph, names)
    return _pack(model)


def with_signature(data: bytes, key: str, inputs: Sequence[str], outputs: Sequence[str]) -> bytes:
    """The model with one signature: its main subgraph, its ends under these names."""
    model = _parse(data)
    graph = model.subgraphs[0]
    signature = schema.SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = key.encode(), 0
    signature.inputs = _ends(inputs, tensor_numbers(graph.inputs))
    signature.outputs = _ends(outputs, tensor_numbers(graph.outputs))
    model.signatureDefs = [signature]
    return _pack(model)


def ends_of(data: bytes) -> tuple[list[tuple[int, tuple[int, ...]]], ...]:
    """Type and shape of each of the main subgraph's inputs, and of its outputs.

    Raises ModelError where the bytes are no whole TFLite model, or it has no such tensors.
    """
    check_bounds(data, "the model")
    try:
        graph = _parse(data).subgraphs[0]
        return tuple(
            [(int(tensor.type), tuple(map(int, tensor.shape))) for tensor in (graph.tensors[i] for i in numbers)]
            for numbers in (tensor_numbers(graph.inputs), tensor_numbers(graph.outputs))
        )
    except (IndexError, TypeError):
        raise ModelError("the model has no main subgraph with tensors at its ends") from None


def _ends(names: Sequence[str], numbers: Sequence[int]) -> list[Any]:
    ends = []
    for name, number in zip(names, numbers, strict=True):
        end = schema.TensorMapT()
        end.name, end.tensorIndex = name.encode(), number
        ends.append(end)
    return ends


def _rename(graph: Any, names: Mapping[int, str]) -> None:
    """Another tensor that is called so gets another name."""
    taken = set(names.values())
    for number, tensor in enumerate(graph.tensors):
        if number in names:
            tensor.name = names[number].encode()
        elif tensor.name and _text(tensor.name) in taken:
            tensor.name += b"/inner"


def _text(name: bytes | None) -> str:
    return (name or b"").decode(errors="replace")


def _parse(data: bytes) -> Any:
    return schema.ModelT.InitFromObj(schema.Model.GetRootAs(data, 0))


def _pack(model: Any) -> bytes:
    builder = _aligned_builder()
    builder.Finish(model.Pack(builder), IDENTIFIER)
    return bytes(builder.Output())


def _aligned_builder() -> Any:
    """A builder that aligns bytes as the schema asks for; the generated code does not."""

    class Aligned(flatbuffers.Builder):  # type: ignore[misc]
        def StartVector(self, elemSize: int, numElems: int, alignment: int) -> Any:  # noqa: N802, N803
            return super().StartVector(elemSize, numElems, WEIGHT_ALIGNMENT if elemSize == 1 else alignment)

    return Aligned(1 << 20)
