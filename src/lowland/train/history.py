"""The history of a run: one row per evaluation, kept as Parquet."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lowland.core.errors import InputError
from lowland.core.files import write_atomically

Value = int | float | None
Row = dict[str, Value]
"""Column name to value; a column that a row lacks was not measured then."""


def write_history(path: Path, rows: Sequence[Mapping[str, Value]]) -> None:
    """Write rows as Parquet, atomically: one column per name, null where a row lacks it."""
    import pyarrow
    import pyarrow.parquet

    # the row with most columns says their order
    names = dict.fromkeys(name for row in sorted(rows, key=len, reverse=True) for name in row)
    table = pyarrow.table({name: [row.get(name) for row in rows] for name in names})
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(table, buffer)
    write_atomically(path, lambda file: file.write(buffer.getvalue()))


def read_history(path: Path) -> list[Row]:
    """The rows of a history file, without the columns that a row lacks.

    Raises:
        InputError: the file is missing, truncated or not Parquet.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        rows: list[Row] = pyarrow.parquet.read_table(path).to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"history {path} cannot be read ({reason}); nothing was changed") from None
    return [{name: v for name, v in row.items() if v is not None} for row in rows]


def encode_rows(rows: Sequence[Mapping[str, Value]]) -> list[dict[str, Any]]:
    """Rows as strict JSON; numbers that JSON has no word for become strings."""
    return [
        {name: v if v is None or math.isfinite(v) else repr(v) for name, v in row.items()}
        for row in rows
    ]


def decode_rows(rows: Sequence[Mapping[str, Any]]) -> list[Row]:
    """What `encode_rows` wrote, exactly."""
    return [{name: float(v) if isinstance(v, str) else v for name, v in r.items()} for r in rows]
