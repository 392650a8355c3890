"""What a gateway refuses before it connects."""

from __future__ import annotations

from pathlib import Path

import pytest

from midstream.errors import AcceleratorError
from midstream.gateway import Gateway


def test_only_heads_run_on_the_edge_tpu(tmp_path: Path) -> None:
    with pytest.raises(
        AcceleratorError, match=r"runs tails, .* on cpu, .* cuda or tensorrt, and give edgetpu to the dev"
    ):
        Gateway([tmp_path], "mqtt://127.0.0.1:1", accelerator="edgetpu")
