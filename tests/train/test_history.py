from __future__ import annotations

import json
import math
from pathlib import Path

import pyarrow.parquet
import pytest

from lowland.core.errors import InputError
from lowland.train.history import decode_rows, encode_rows, read_history, write_history

ROWS = [
    {"step": 0, "loss": 2.5},
    {"step": 5, "loss": 0.1 + 0.2, "rank/train/block2/unit/0.99": 7, "late": 1e-300},
    {"step": 9, "loss": math.inf},
]


def test_rows_come_back_from_parquet_with_their_types_and_gaps(tmp_path: Path) -> None:
    path = tmp_path / "history.parquet"
    write_history(path, ROWS)
    assert read_history(path) == ROWS
    assert [type(value) for value in read_history(path)[1].values()] == [int, float, int, float]


def test_any_reader_of_parquet_finds_one_column_per_name(tmp_path: Path) -> None:
    path = tmp_path / "history.parquet"
    write_history(path, ROWS)
    table = pyarrow.parquet.read_table(path)
    assert table.column_names == ["step", "loss", "rank/train/block2/unit/0.99", "late"]
    assert table["rank/train/block2/unit/0.99"].to_pylist() == [None, 7, None]
    assert [str(kind) for kind in table.schema.types] == ["int64", "double", "int64", "double"]


def test_rows_come_back_from_strict_json() -> None:
    rows = [*ROWS, {"loss": -math.inf, "step": 10}]
    text = json.dumps(encode_rows(rows), allow_nan=False)
    assert decode_rows(json.loads(text)) == rows
    ((again,),) = (row.values() for row in decode_rows(encode_rows([{"loss": math.nan}])))
    assert math.isnan(again or 0)


@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "foreign"])
def test_a_file_that_is_no_history_is_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "history.parquet"
    if damage == "empty":
        path.touch()
    elif damage == "truncated":
        write_history(path, ROWS)
        path.write_bytes(path.read_bytes()[:-9])
    elif damage == "foreign":
        path.write_text("step,loss\n0,2.5\n" * 9)
    with pytest.raises(InputError, match=r"history \S+history.parquet cannot be read") as caught:
        read_history(path)
    assert "\n" not in str(caught.value)
