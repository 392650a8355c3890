"""midstream: run one TFLite or ONNX model on a small board and a gateway at once, cut where it pays, over MQTT 5."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from midstream.errors import (
    AcceleratorError,
    BundleError,
    CodecError,
    InputError,
    MidstreamError,
    MissingExtraError,
    ModelError,
    PeerError,
    PlanError,
    ProfileError,
    VerificationError,
    WireError,
    WireVersionError,
)
from midstream.version import __version__ as __version__

if TYPE_CHECKING:
    from midstream.analysis import Analysis
    from midstream.bundle import Bundle
    from midstream.complexity import analyze
    from midstream.device import Device, Result
    from midstream.gateway import Gateway
    from midstream.manifest import Cut
    from midstream.partitioning import Plan
    from midstream.tensors import TensorSpec

__all__ = [
    "AcceleratorError",
    "Analysis",
    "Bundle",
    "BundleError",
    "CodecError",
    "Cut",
    "Device",
    "Gateway",
    "InputError",
    "MidstreamError",
    "MissingExtraError",
    "ModelError",
    "PeerError",
    "Plan",
    "PlanError",
    "ProfileError",
    "Result",
    "TensorSpec",
    "VerificationError",
    "WireError",
    "WireVersionError",
    "analyze",
]

# Imported when first asked for: a gateway needs no analysis, a converter no MQTT client.
_LAZY = {
    "Analysis": "midstream.analysis",
    "Bundle": "midstream.bundle",
    "Cut": "midstream.manifest",
    "Device": "midstream.device",
    "Gateway": "midstream.gateway",
    "Plan": "midstream.partitioning",
    "Result": "midstream.device",
    "TensorSpec": "midstream.tensors",
    "analyze": "midstream.complexity",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'midstream' has no attribute {name!r}")
    value = getattr(import_module(_LAZY[name]), name)
    globals()[name] = value
    return value
