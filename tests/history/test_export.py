"""A history as CSV and Parquet."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from usages import usage

from midstream.allocation.usage import Outcome, Usage
from midstream.errors import InputError
from midstream.history.export import COLUMNS, export

GIVEN = [
    usage(0),
    usage(
        1,
        device_id='=cmd|"a, b"\r\n',
        features={"nan": math.nan, "one": 1.5},
        plan={"stages": ["device"], "predicted_ms": math.inf},
        score=None,
        peak_bytes=None,
        outcome=Outcome.FALLBACK,
        machine="device",
    ),
]


def test_csv_has_a_column_for_every_field(tmp_path: Path) -> None:
    target = tmp_path / "out.CSV"
    assert export(GIVEN, target) == 2
    with target.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS == tuple(Usage.__dataclass_fields__)
    first, second = rows
    assert (first["request_id"], first["outcome"], float(first["time_s"])) == ("0" * 32, "ok", 1.7e9)
    assert json.loads(first["cpu_ms"]) == {"decode": 0.5, "run": 2.25}
    assert second["device_id"] == GIVEN[1].device_id
    assert json.loads(second["features"], parse_constant=pytest.fail) == {"nan": None, "one": 1.5}
    assert json.loads(second["plan"]) == {"stages": ["device"], "predicted_ms": None}
    assert (second["score"], second["peak_bytes"]) == ("", "")


def test_parquet_has_typed_columns_and_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr("midstream.history.parquet._GROUP_ROWS", 2)
    target = tmp_path / "out.parquet"
    assert export([*GIVEN, usage(2)], target) == 3
    file = parquet.ParquetFile(target)
    assert file.metadata.num_row_groups == 2
    table = file.read()
    assert tuple(table.column_names) == COLUMNS
    types = {field.name: str(field.type) for field in table.schema}
    assert types["time_s"] == types["score"] == "double"
    assert types["peak_bytes"] == types["batch"] == "int64"
    assert types["features"].startswith("map<string, double")
    assert types["outcome"] == types["plan"] == types["request_id"] == "string"
    first, second, third = table.to_pylist()
    assert first | {"features": dict(first["features"])} == first | {"features": {"entropy": 5.25, "motion": 0.125}}
    assert (first["request_id"], first["time_s"], first["outcome"]) == ("0" * 32, 1.7e9, "ok")
    assert math.isnan(dict(second["features"])["nan"])
    assert (second["score"], second["peak_bytes"], second["device_id"]) == (None, None, GIVEN[1].device_id)
    assert json.loads(second["plan"]) == {"stages": ["device"], "predicted_ms": None}
    assert third["time_s"] == 1.7e9 + 2


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_nothing_and_everything_at_once(tmp_path: Path, ending: str) -> None:
    target = tmp_path / f"out.{ending}"
    assert export([], target) == 0
    assert target.stat().st_mode & 0o777 == 0o600
    before = target.read_bytes()

    def broken() -> Iterator[Usage]:
        yield from GIVEN
        raise InputError("the history is damaged")

    with pytest.raises(InputError, match="the history is damaged"):
        export(broken(), target)
    assert target.read_bytes() == before
    assert list(tmp_path.iterdir()) == [target]


def test_other_endings_and_places_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"exported as \.csv or \.parquet"):
        export(GIVEN, tmp_path / "out.xlsx")
    (tmp_path / "folder.csv").mkdir()
    for wrong in (tmp_path / "none" / "out.csv", tmp_path / "folder.csv", tmp_path / "a\0b.csv"):
        with pytest.raises(InputError, match=r"cannot be written there: .*; give another"):
            export(GIVEN, wrong)
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(InputError, match="no regular file"):
        export(GIVEN, tmp_path / "pipe.csv")
    assert {each.name for each in tmp_path.iterdir()} == {"folder.csv", "pipe.csv"}
