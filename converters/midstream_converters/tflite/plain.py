"""A TFLite file as old programs read it: every weight in its buffer, none behind the flatbuffer."""

from __future__ import annotations

from midstream_converters.tflite.read import join_buffers
from midstream_converters.tflite.schema import IDENTIFIER, flatbuffers, schema


def with_weights_inside(content: bytes) -> bytes:
    """The same model with the buffers that lay behind it, as a slice's do, within; ``content`` was made here."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    join_buffers(model, content)
    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), IDENTIFIER)
    return bytes(builder.Output())
