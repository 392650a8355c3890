"""Operators that decode what a slice takes.

Requires: a float32 tensor of a subgraph in the making. Ensures: codec ``int8``, (code − zero) · scale as the codec
computes it, from carriers of bytes and two numbers. DEQUANTIZE of scale 1 makes floats of bytes.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from midstream_converters.tflite.schema import schema

_HIGHEST_OLD_CODE = 127


class Decoder:
    """The operators that make tensor ``number`` of ``graph`` out of carriers of these names: codes, scale and zero.

    ``carriers`` are their numbers, in this order.
    """

    def __init__(self, model: Any, graph: Any, number: int, names: Sequence[str]) -> None:
        self._model = model
        self._graph = graph
        self.operators: list[Any] = []
        target = graph.tensors[number]
        scalar = schema.TensorT()
        scalar.shape, scalar.hasRank = [], True
        bytes_, floats = schema.TensorType.UINT8, schema.TensorType.FLOAT32
        codes, scale, zero = names
        self.carriers = (
            self._tensor(target, bytes_, codes),
            self._tensor(scalar, floats, scale),
            self._tensor(scalar, bytes_, zero),
        )
        counted = self._apply("DEQUANTIZE", self.carriers[:1], self._tensor(target, floats), "Dequantize")
        middle = self._apply("DEQUANTIZE", self.carriers[2:], self._tensor(scalar, floats), "Dequantize")
        moved = self._apply("SUB", (counted, middle), self._tensor(target, floats), "Sub")
        self._apply("MUL", (moved, self.carriers[1]), number, "Mul")

    def _tensor(self, like: Any, kind: int, name: str | None = None) -> int:
        """A tensor of the shape of another."""
        tensor = copy.copy(like)
        tensor.type, tensor.name, tensor.buffer, tensor.quantization = kind, name, 0, None
        if kind == schema.TensorType.UINT8:
            tensor.quantization = schema.QuantizationParametersT()
            tensor.quantization.scale, tensor.quantization.zeroPoint = [1.0], [0]
        self._graph.tensors.append(tensor)
        return len(self._graph.tensors) - 1

    def _apply(self, name: str, inputs: Sequence[int], output: int, options: str) -> int:
        operator = schema.OperatorT()
        operator.opcodeIndex = self._code(getattr(schema.BuiltinOperator, name))
        operator.inputs, operator.outputs = list(inputs), [output]
        operator.builtinOptionsType = getattr(schema.BuiltinOptions, f"{options}Options")
        operator.builtinOptions = getattr(schema, f"{options}OptionsT")()
        self.operators.append(operator)
        return output

    def _code(self, builtin: int) -> int:
        code = schema.OperatorCodeT()
        code.builtinCode, code.version = builtin, 1
        code.deprecatedBuiltinCode = min(builtin, _HIGHEST_OLD_CODE)
        self._model.operatorCodes.append(code)
        return len(self._model.operatorCodes) - 1
