"""What lies where in a TFLite flatbuffer: the fields of each table that point to something else.

Slots and types are those of LiteRT's ``schema.fbs``; a table that is not listed holds plain numbers only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from midstream_converters.tflite.schema import schema


@dataclass(frozen=True, slots=True)
class Numbers:
    """A vector of numbers, each of so many bytes."""

    item_bytes: int
    at_most: int | None = None


@dataclass(frozen=True, slots=True)
class Text:
    """A string."""


@dataclass(frozen=True, slots=True)
class Tables:
    """Another table, or a vector of them."""

    name: str
    many: bool = False


@dataclass(frozen=True, slots=True)
class Union:
    """One of several tables; the slot before tells which."""

    choices: Mapping[int, str]


@dataclass(frozen=True, slots=True)
class Behind:
    """Where data behind the flatbuffer lies in the file, an offset of 64 bits; the slot after it tells its size."""


Field = Numbers | Text | Tables | Union | Behind
Layout = Mapping[int, Field]


def _union(enumeration: Any) -> Union:
    return Union({number: name for name, number in vars(enumeration).items() if isinstance(number, int) and number})


# numpy has no arrays of more axes.
_AXES = Numbers(4, at_most=32)
_BYTE, _INT, _LONG, _TEXT = Numbers(1), Numbers(4), Numbers(8), Text()

LAYOUTS: Mapping[str, Layout] = {
    "Model": {
        1: Tables("OperatorCode", many=True),
        2: Tables("SubGraph", many=True),
        3: _TEXT,
        4: Tables("Buffer", many=True),
        5: _INT,
        6: Tables("Metadata", many=True),
        7: Tables("SignatureDef", many=True),
        8: Tables("ExternalBufferGroup", many=True),
        9: Tables("ExternalBuffer", many=True),
    },
    "OperatorCode": {1: _TEXT},
    "SubGraph": {0: Tables("Tensor", many=True), 1: _INT, 2: _INT, 3: Tables("Operator", many=True), 4: _TEXT},
    "Tensor": {
        0: _AXES,
        3: _TEXT,
        4: Tables("QuantizationParameters"),
        6: Tables("SparsityParameters"),
        7: _AXES,
        9: Tables("VariantSubType", many=True),
    },
    "VariantSubType": {0: _AXES},
    "QuantizationParameters": {0: _INT, 1: _INT, 2: _INT, 3: _LONG, 5: _union(schema.QuantizationDetails)},
    "CustomQuantization": {0: _BYTE},
    "BlockwiseQuantization": {3: _INT},
    "MultiAxisQuantization": {3: _INT},
    "SparsityParameters": {0: _INT, 1: _INT, 2: Tables("DimensionMetadata", many=True)},
    "DimensionMetadata": {3: _union(schema.SparseIndexVector), 5: _union(schema.SparseIndexVector)},
    "Int32Vector": {0: _INT},
    "Uint16Vector": {0: Numbers(2)},
    "Uint8Vector": {0: _BYTE},
    "Operator": {
        1: _INT,
        2: _INT,
        4: _union(schema.BuiltinOptions),
        5: _BYTE,
        7: _BYTE,
        8: _INT,
        9: Behind(),
        12: _union(schema.BuiltinOptions2),
    },
    "Buffer": {0: _BYTE, 1: Behind()},
    "Metadata": {0: _TEXT},
    "SignatureDef": {0: Tables("TensorMap", many=True), 1: Tables("TensorMap", many=True), 2: _TEXT},
    "TensorMap": {0: _TEXT},
    "ExternalBufferGroup": {0: _TEXT},
    "ExternalBuffer": {4: _TEXT},
    "BucketizeOptions": {0: _INT},
    "ConcatEmbeddingsOptions": {1: _INT, 2: _INT},
    "FullyConnectedOptions": {5: _BYTE},
    "ReshapeOptions": {0: _INT},
    "SqueezeOptions": {0: _INT},
    "VarHandleOptions": {0: _TEXT, 1: _TEXT},
    "StableHLOCompositeOptions": {0: _TEXT, 2: _BYTE},
    "StablehloBroadcastInDimOptions": {0: _LONG},
    "StablehloCaseOptions": {0: _INT},
    "StablehloConvolutionOptions": {
        0: _LONG,
        1: _LONG,
        2: _LONG,
        3: _LONG,
        4: _BYTE,
        7: _LONG,
        10: _LONG,
        13: _LONG,
        16: _INT,
    },
    "StablehloCustomCallOptions": {0: _TEXT, 2: _TEXT, 4: _INT, 5: _BYTE},
    "StablehloDotGeneralOptions": {0: _LONG, 1: _LONG, 2: _LONG, 3: _LONG, 4: _INT},
    "StablehloDynamicSliceOptions": {0: _LONG},
    "StablehloGatherOptions": {0: _LONG, 1: _LONG, 2: _LONG, 4: _LONG},
    "StablehloPadOptions": {0: _LONG, 1: _LONG, 2: _LONG},
    "StablehloReduceOptions": {0: _LONG},
    "StablehloReduceWindowOptions": {0: _LONG, 1: _LONG, 2: _LONG, 3: _LONG, 4: _LONG},
    "StablehloScatterOptions": {1: _LONG, 2: _LONG, 3: _LONG},
    "StablehloSliceOptions": {0: _LONG, 1: _LONG, 2: _LONG},
    "StablehloTransposeOptions": {0: _LONG},
}
