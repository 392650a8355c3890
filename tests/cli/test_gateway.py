"""``midstream gateway`` with options that mean nothing: one line, exit code 2."""

from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import Midstream


@pytest.mark.parametrize("option", ["--memory-mbytes", "--history-mbytes"])
@pytest.mark.parametrize("size", ["inf", "nan", "0", "-1", "1e300", "much"])
def test_sizes_are_numbers_that_memory_or_a_disk_can_have(
    midstream: Midstream, faces: Path, option: str, size: str
) -> None:
    ended = midstream("gateway", "--bundles", faces, "--broker", "mqtt://127.0.0.1:1", option, size)
    assert ended.code == 2
    assert option in ended.error


def test_a_forecast_model_that_is_none_is_refused_before_anything_starts(
    midstream: Midstream, faces: Path, tmp_path: Path
) -> None:
    ended = midstream(
        "gateway", "--bundles", faces, "--broker", "mqtt://127.0.0.1:1", "--forecast-model", str(tmp_path)
    )
    assert ended.code == 2
    assert f"there is no forecast model in {tmp_path}" in ended.error
