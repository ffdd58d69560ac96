"""Examples in a Parquet file: encoded images of any size, or texts, with labels or without."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lowland.core.errors import InputError
from lowland.data.decode import decode_image
from lowland.data.examples import Examples, Request, chosen_split
from lowland.data.files import read_source
from lowland.data.split import SPLIT_NAMES

COLUMNS = {
    "images": ("image", "img"),
    "texts": ("text", "caption", "captions", "sentence"),
}
"""Names under which images and texts are found, the first one there is."""


def open_rows(request: Request) -> Examples:
    """Rows of ``parquet:FILE``, in file order.

    Columns: images (encoded bytes, or a struct with a field ``bytes``) or texts (strings, or lists
    of strings, of which the first counts); optionally ``label`` (whole numbers from 0, or words,
    numbered in alphabetical order) and ``split``.

    Raises:
        InputError: the file is not that.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = request.path
    content, digest = read_source(path, "name a Parquet file: parquet:PATH")
    try:
        file = pq.ParquetFile(io.BytesIO(content))
        names = file.schema_arrow.names
        column = _column(path, names, request)
        table = file.read(
            columns=[n for n in dict.fromkeys((column, "label", "split")) if n in names]
        )
    except (pa.ArrowException, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"{path} is not a whole Parquet file ({reason}): fetch it again") from None
    if not table.num_rows:
        raise InputError(f"{path} has no rows")
    marked = _marks(path, table) if "split" in names and column != "split" else None
    split, rows = chosen_split(str(path), marked, request.split, table.num_rows)
    labels = _labels(path, table.column("label")) if "label" in names else None
    read = _texts if request.kind == "texts" else _images
    whole = Examples(
        name=request.name,
        kind=request.kind,
        split=split,
        read=read(path, table.column(column)),
        labels=labels,
        classes=None if labels is None else int(labels.max()) + 1,
        n=table.num_rows,
        largest=255.0,
        order="",
        source={"sha256": {path.name: digest}, "column": column, "rows": table.num_rows},
    )
    return whole.ordered(rows, "as in the file")


def _column(path: Path, names: list[str], request: Request) -> str:
    wanted = (request.column,) if request.column else COLUMNS[request.kind]
    for name in wanted:
        if name in names:
            return name
    raise InputError(
        f"{path} has no column {' or '.join(map(repr, wanted))} with {request.kind} (it has "
        f"{', '.join(names)}): name one with --column"
    )


def _marks(path: Path, table: Any) -> list[str]:
    """The split of each row; whatever begins with train, val or test is that (``train2017``)."""
    marks = table.column("split").to_pylist()
    known = {mark: split_of(mark) for mark in set(marks)}
    for row, mark in enumerate(marks):
        if known[mark] is None:
            raise InputError(
                f"{path}: row {row} has split {mark!r}: use {', '.join(SPLIT_NAMES)}, or drop the "
                "column"
            )
    return [str(known[mark]) for mark in marks]


def split_of(mark: Any) -> str | None:
    """The split that a word means, by how it begins (``train2017``); None for none."""
    words = str(mark).lower()
    return next((split for name, split in SPLIT_NAMES.items() if words.startswith(name)), None)


def _labels(path: Path, column: Any) -> Tensor:
    import pyarrow as pa

    if column.null_count:
        raise InputError(f"{path}: column 'label' has {column.null_count} empty rows: fill them")
    values = column.to_pylist()
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        number = {word: i for i, word in enumerate(sorted(set(values)))}
        values = [number[word] for word in values]
    elif not pa.types.is_integer(column.type):
        raise InputError(f"{path}: column 'label' holds {column.type}: use whole numbers or words")
    labels = torch.tensor(values, dtype=torch.int64)
    if int(labels.min()) < 0:
        raise InputError(f"{path}: a label is {int(labels.min())}: labels start at 0")
    return labels


def _images(path: Path, column: Any) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_struct(column.type) and column.type.get_field_index("bytes") >= 0:
        column = pc.struct_field(column, "bytes")
    if not (pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type)):
        raise InputError(f"{path}: the images are of type {column.type}: use encoded bytes")

    def read(row: int) -> Tensor:
        return decode_image(f"{path}: row {row}", column[row].as_py())

    return read


def _texts(path: Path, column: Any) -> Any:
    import pyarrow as pa

    kind = column.type.value_type if pa.types.is_list(column.type) else column.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise InputError(f"{path}: the texts are of type {column.type}: use strings")

    def read(row: int) -> str:
        value = column[row].as_py()
        text = value[0] if isinstance(value, list) and value else value
        if not isinstance(text, str):
            raise InputError(f"{path}: row {row} holds no text: fill it")
        return text

    return read
