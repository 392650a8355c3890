"""A history as Parquet, in row groups: the only module that imports its library, and only when it is asked to."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import islice
from typing import IO, Any

from midstream.allocation.usage import Usage
from midstream.errors import MissingExtraError
from midstream.history.rows import plain

# So many rows are in memory at once.
_GROUP_ROWS = 20_000
_TYPES = {
    "time_s": "double", "request_id": "string", "machine": "string", "device_id": "string", "bundle": "string",
    "cut": "string", "codec": "string", "outcome": "string", "next_cut": "string", "priority": "int64",
    "deadline_ms": "double", "score": "double", "features": "map", "plan": "string", "cpu_ms": "map",
    "timings_ms": "map", "peak_bytes": "int64", "received_bytes": "int64", "sent_bytes": "int64", "batch": "int64",
    "latency_ms": "double", "reason": "string",
}  # fmt: skip


def write_parquet(usages: Iterable[Usage], file: IO[bytes]) -> int:
    """Write a table of typed columns: numbers by name are maps of text to double, the plan is JSON; returns the rows.

    Raises MissingExtraError where pyarrow is not installed.
    """
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        raise MissingExtraError("pyarrow", "parquet", "Exporting a history as Parquet") from None
    types = {
        "double": pa.float64(),
        "int64": pa.int64(),
        "string": pa.string(),
        "map": pa.map_(pa.string(), pa.float64()),
    }
    schema = pa.schema([pa.field(name, types[kind]) for name, kind in _TYPES.items()])
    rest, rows = iter(usages), 0
    with parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        while group := list(islice(rest, _GROUP_ROWS)):
            columns = [[_value(getattr(usage, name), kind) for usage in group] for name, kind in _TYPES.items()]
            arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
            rows += len(group)
    return rows


def _value(value: Any, kind: str) -> Any:
    if kind == "map":
        return list(value.items())
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return json.dumps(plain(value), separators=(",", ":"))
    return str(value) if kind == "string" else value
