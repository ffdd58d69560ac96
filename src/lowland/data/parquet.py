"""Encoded images in a Parquet file."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lowland.core.errors import InputError
from lowland.data.decode import decode
from lowland.data.files import read_source
from lowland.data.images import ImageData, Split, assemble
from lowland.data.split import SPLIT_NAMES, completed


def read_parquet(name: str, seed: int) -> ImageData:
    """Images and labels of ``parquet:PATH``.

    Columns: ``image``, encoded bytes or a struct with a field ``bytes``; ``label``, integers
    0, 1, ... without gaps; optionally ``split``, one of train, test, validation (also valid,
    val). A file that marks validation rows but no test rows is tested on its validation rows.
    Whatever is missing then is held out of train within each class: 20% for test, 10% of the
    rest for validation. Images stay grey if all are, else all become RGB; only RGB images are
    mirrored by the augmentation, since grey ones may be digits or letters.

    Raises:
        InputError: the file, or a row of it, is not that.
    """
    location = name.partition(":")[2]
    if not location:
        raise InputError("data set 'parquet:' lacks its path: parquet:PATH")
    path = Path(location).expanduser()
    splits, source = parquet_splits(path, seed)
    grey = splits["train"].images.shape[1] == 1
    return assemble(name, **splits, augmentation="shift" if grey else "shift-flip", source=source)


def parquet_splits(
    path: Path, seed: int, classes: Sequence[int] | None = None
) -> tuple[dict[str, Split], dict[str, Any]]:
    """The splits of a file for `read_parquet`, and the record of their source.

    Args:
        path: the file.
        seed: of what is held out, of all classes whichever are kept.
        classes: the labels whose images are decoded and kept; None for all.

    Raises:
        InputError: the file, or a row of it, is not that, or no row has such a label.
    """
    content, digest = read_source(path, "name a Parquet file: parquet:PATH")
    table = _read_table(path, content)
    labels = _labels(path, table.column("label"))
    splits, rule = _rows(path, table, labels, seed)
    kept = torch.arange(len(labels))
    if classes is not None:
        kept = kept[torch.isin(labels, torch.tensor(classes))]
        if not len(kept):
            raise InputError(f"{path} has no images of label {' or '.join(map(str, classes))}")
    encoded = encoded_images(path, table.column("image"))
    pixels = decode(
        path, [encoded[row] for row in kept.tolist()], where=lambda i: f"{path}: row {kept[i]}"
    )
    whole = Split(torch.from_numpy(pixels), labels[kept], kept)
    parts = {key: whole.select(torch.isin(kept, rows)) for key, rows in splits.items()}
    return parts, {"sha256": {path.name: digest}, "rule": rule, "split_seed": seed}


def _read_table(path: Path, content: bytes) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(io.BytesIO(content))
        names = file.schema_arrow.names
        for needed in ("image", "label"):
            if needed not in names:
                raise InputError(
                    f"{path} has no column {needed!r} (it has {', '.join(names)}): rename one"
                )
        return file.read(columns=[n for n in ("image", "label", "split") if n in names])
    except (pa.ArrowException, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"{path} is not a whole Parquet file ({reason}): fetch it again") from None


def _labels(path: Path, column: Any) -> Tensor:
    import pyarrow as pa

    if not pa.types.is_integer(column.type) or pa.types.is_uint64(column.type):
        raise InputError(f"{path}: column 'label' holds {column.type}: use int64 or smaller")
    if column.null_count:
        raise InputError(f"{path}: column 'label' has {column.null_count} empty rows: fill them")
    return torch.tensor(column.to_pylist(), dtype=torch.int64)


def encoded_images(path: Path, column: Any, name: str = "image") -> list[bytes | None]:
    """The bytes of a column of encoded images, None where there are none.

    Raises:
        InputError: it holds something else.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_struct(column.type) and column.type.get_field_index("bytes") >= 0:
        column = pc.struct_field(column, "bytes")
    if not (pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type)):
        raise InputError(
            f"{path}: column {name!r} holds {column.type}: use encoded bytes (JPEG, PNG, ...)"
        )
    encoded: list[bytes | None] = column.to_pylist()
    return encoded


def _rows(path: Path, table: Any, labels: Tensor, seed: int) -> tuple[dict[str, Tensor], str]:
    """Rows of train, validation and test, and how they were found."""
    n = len(labels)
    marked = table.column("split").to_pylist() if "split" in table.column_names else ["train"] * n
    if strange := [row for row, mark in enumerate(marked) if mark not in SPLIT_NAMES]:
        raise InputError(
            f"{path}: row {strange[0]} has split {marked[strange[0]]!r}: "
            f"use {', '.join(SPLIT_NAMES)}, or drop the column"
        )
    names = [SPLIT_NAMES[mark] for mark in marked]
    rows = {
        key: torch.tensor([row for row, mark in enumerate(names) if mark == key], dtype=torch.int64)
        for key in ("train", "validation", "test")
    }
    rule = "from the column 'split'" if len(set(names)) > 1 else "all rows are train"
    return completed(rows, labels, rule, seed=seed, name=str(path))
