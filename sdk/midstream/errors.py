"""Every error midstream raises on purpose, in one tree.

A message says what failed, on which file or tensor, what was there, what was needed and what to do. The command line
prints it as one line and exits with ``exit_code``.

==================  =========  ==========================================================================
error               exit code  raised when
==================  =========  ==========================================================================
MidstreamError      2          the root; never raised itself
InputError          2          an input's name, dtype, shape or content is not what the model takes
ModelError          2          a model file cannot be read, or uses what cannot be sliced
BundleError         2          a bundle is damaged, incomplete, tampered with or of an unknown version
ProfileError        2          a device profile is unknown or wrong
AcceleratorError    2          the accelerator asked for is not there, or the bundle has nothing for it
PlanError           2          a plan cannot be made or is not possible with this bundle
MissingExtraError   2          an optional dependency is not installed
CodecError          2          bytes cannot be decoded into the tensor that was announced
WireError           2          a frame from the network is damaged, hostile or of an unknown version
WireVersionError    2          a frame of a wire version that is not spoken here
VerificationError   3          a slice does not give what the whole model gives
PeerError           4          the broker or the gateway cannot be reached, or refuses
==================  =========  ==========================================================================
"""

from __future__ import annotations

from typing import ClassVar


def printable(text: str, limit: int = 500) -> str:
    """Text that a file or a peer has chosen, cut to ``limit`` and without what could make a terminal do things."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:limit])


class MidstreamError(Exception):
    """The root of everything midstream raises on purpose."""

    exit_code: ClassVar[int] = 2


class InputError(MidstreamError):
    """An input's name, dtype, shape or content is not what the model takes."""


class ModelError(MidstreamError):
    """A model file cannot be read, or uses what cannot be sliced."""


class BundleError(MidstreamError):
    """A bundle is damaged, incomplete, tampered with or of an unknown format version."""


class ProfileError(MidstreamError):
    """A device profile is unknown or wrong."""


class AcceleratorError(MidstreamError):
    """The accelerator asked for is not there, or the bundle has nothing for it."""


class PlanError(MidstreamError):
    """A plan cannot be made, or is not possible with this bundle."""


class CodecError(MidstreamError):
    """Bytes cannot be decoded into the tensor that was announced."""


class WireError(MidstreamError):
    """A frame from the network is damaged, hostile or of an unknown version."""


class WireVersionError(WireError):
    """A frame has a wire version that is not spoken here."""


class VerificationError(MidstreamError):
    """A slice does not give what the whole model gives."""

    exit_code = 3


class PeerError(MidstreamError):
    """The broker or the gateway cannot be reached, or refuses."""

    exit_code = 4


class MissingExtraError(MidstreamError):
    """An optional dependency is not installed; the message holds the pip command that installs it."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        self.package = package
        self.extra = extra
        super().__init__(
            f"{purpose} needs the package {package!r}, which is not installed. "
            f"Install the extra [{extra}]: pip install 'midstream[{extra}]'"
        )
