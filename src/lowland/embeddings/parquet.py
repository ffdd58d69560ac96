"""A column of lists of numbers in a Parquet file, read a few rows at a time."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lowland.core.errors import InputError

SHOWN = 5
"""Names of columns in a message."""


class ParquetColumn:
    """Rows of a column of lists, all of one length.

    Attributes:
        n: rows.
        dimension: length of the lists.
        dtype: type of their elements.
    """

    def __init__(self, path: Path, column: str, dtype: str) -> None:
        self._path, self._column = path, column
        self.dtype = dtype
        with _opened(path) as file:
            self.n = file.metadata.num_rows
        self.dimension = 0
        self.dimension = next((piece.shape[1] for piece in self.pieces(1)), 0)

    def pieces(self, rows: int) -> Iterator[npt.NDArray[Any]]:
        """All rows in order, at most so many at a time."""
        start = 0
        with _opened(self._path) as file:
            for batch in file.iter_batches(batch_size=rows, columns=[self._column]):
                yield self._matrix(batch.column(self._column), start)
                start += batch.num_rows

    def take(self, ids: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        """Those rows, `ids` ascending: one pass over the file."""
        out, start = [], 0
        for piece in self.pieces(4096):
            low, high = np.searchsorted(ids, (start, start + len(piece)))
            if high > low:
                out.append(piece[ids[low:high] - start])
            start += len(piece)
        return np.concatenate(out)

    def _matrix(self, column: Any, start: int) -> npt.NDArray[Any]:
        column = getattr(column, "storage", column)
        if column.null_count:
            row = start + int(np.flatnonzero(np.asarray(column.is_null()))[0])
            raise InputError(f"{self._path}: row {row} of {self._column!r} is empty: fill it")
        lengths = np.asarray(_lengths(column))
        width = self.dimension or int(lengths[0])
        if len(wrong := np.flatnonzero(lengths != width)):
            row = int(wrong[0])
            raise InputError(
                f"{self._path}: row {start + row} of {self._column!r} has {lengths[row]} numbers, "
                f"the first has {width}: give vectors of one size"
            )
        values = column.flatten()
        if values.null_count:
            at = int(np.flatnonzero(np.asarray(values.is_null()))[0]) // max(width, 1)
            raise InputError(f"{self._path}: row {start + at} has an empty number: fill it")
        flat = values.to_numpy(zero_copy_only=False)
        return np.asarray(flat).reshape(len(lengths), width)


def open_parquet(path: Path, column: str | None) -> ParquetColumn:
    """The column of that name, or the only one that holds lists of numbers.

    Raises:
        InputError: no Parquet file, or no such column.
    """
    import pyarrow as pa

    with _opened(path) as file:
        schema = file.schema_arrow
    stored = {field.name: getattr(field.type, "storage_type", field.type) for field in schema}
    lists = {
        name: kind.value_type
        for name, kind in stored.items()
        if _is_list(pa, kind) and _is_number(pa, kind.value_type)
    }
    if column is None and len(lists) == 1:
        column = next(iter(lists))
    if column is None or column not in lists:
        known = _some(lists) or f"none; it has {_some(schema.names)}"
        wanted = "several columns of lists of numbers" if column is None and lists else "no column"
        wanted += f" {column!r} of lists of numbers" * (column is not None)
        wanted += " of lists of numbers" * (column is None and not lists)
        raise InputError(f"{path} has {wanted} (such are: {known}): name one with --column")
    kind = lists[column]
    return ParquetColumn(path, column, np.dtype(kind.to_pandas_dtype()).name)


def _some(names: Collection[str]) -> str:
    more = f" and {len(names) - SHOWN} more" * (len(names) > SHOWN)
    return ", ".join(list(names)[:SHOWN]) + more


def _is_list(pa: Any, kind: Any) -> bool:
    of = pa.types
    return bool(of.is_list(kind) or of.is_large_list(kind) or of.is_fixed_size_list(kind))


def _is_number(pa: Any, kind: Any) -> bool:
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind))


def _lengths(column: Any) -> Any:
    import pyarrow.compute as pc

    return pc.list_value_length(column)


def _opened(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # mapped, and not read ahead: a row group may be larger than memory
        return pq.ParquetFile(path, memory_map=True, pre_buffer=False)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"{path} is not a whole Parquet file ({reason})") from None
