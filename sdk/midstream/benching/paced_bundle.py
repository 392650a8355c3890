"""A bundle whose encoding is stretched as its runs are: all of the board is slower."""

from __future__ import annotations

from collections.abc import Mapping

from midstream.bundle import Bundle
from midstream.communication.codecs.steps import Stepped
from midstream.communication.wire import EncodedTensor
from midstream.engines.paced import Stretched
from midstream.tensors import Tensors


class PacedBundle(Bundle):
    """As `Bundle`, but that ``slowdown`` stretches what `encode` takes, too."""

    _stretched: Stretched | None = None

    def encode(
        self,
        cut_id: str | None,
        codec: str,
        tensors: Tensors,
        zstd: bool = True,
        made: Mapping[str, Stepped] | None = None,
    ) -> tuple[EncodedTensor, ...]:
        """As `Bundle.encode`, then wait."""
        if self._stretched is None:
            self._stretched = Stretched(self._pace)
        with self._stretched.run((cut_id, codec)):
            return super().encode(cut_id, codec, tensors, zstd, made)
