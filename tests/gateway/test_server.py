"""What a gateway refuses before it connects."""

from __future__ import annotations

from pathlib import Path

import pytest

from midstream.errors import AcceleratorError, InputError
from midstream.gateway import Gateway


def test_only_heads_run_on_the_edge_tpu(tmp_path: Path) -> None:
    with pytest.raises(
        AcceleratorError, match=r"runs tails, .* on cpu, .* cuda or tensorrt, and give edgetpu to the dev"
    ):
        Gateway([tmp_path], "mqtt://127.0.0.1:1", accelerator="edgetpu")


def test_a_pool_needs_a_name_and_with_accounts_a_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MIDSTREAM_POOL_SECRET", raising=False)
    with pytest.raises(InputError, match="a pool cannot be called so"):
        Gateway([tmp_path], "mqtt://127.0.0.1:1", pool="the attic")
    with pytest.raises(InputError, match="nothing says what the secret of pool 'attic' is"):
        Gateway([tmp_path], "mqtts://user:word@127.0.0.1:1", pool="attic")
