"""Images with captions in a Parquet file, or in a data set of Hugging Face ``datasets``."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lowland.core.errors import InputError
from lowland.data.files import read_source
from lowland.data.hub import hub_bytes, hub_splits
from lowland.data.pairs import Pairs, PairSplit, assemble_pairs, check_captions, random_rows
from lowland.data.parquet import encoded_images
from lowland.data.rows import split_of
from lowland.data.sized import sized_images

IMAGE = ("image", "img", "jpg")
CAPTION = ("captions", "caption", "sentences", "sentences_raw", "text", "texts")
SHARES = {"test": 0.2, "validation": 0.1}
"""What is held out of the training rows where a source has no such rows."""


@dataclass(frozen=True, kw_only=True)
class PairRequest:
    """Which pairs to read.

    Attributes:
        name: the whole name of the data set.
        location: what stands behind the colon.
        image_column, caption_column: columns; None finds the usual names.
        size: images become squares of so many pixels; None leaves them, of one size.
        seed: of what is held out where the source has no splits.
    """

    name: str
    location: str
    image_column: str | None = None
    caption_column: str | None = None
    size: int | None = None
    seed: int = 0


def read_parquet_pairs(request: PairRequest) -> Pairs:
    """Pairs of ``parquet:FILE``.

    Columns: encoded images (bytes, or a struct with a field ``bytes``); captions, strings or lists
    of strings; optionally ``split``, whose words begin with train, val or test. Without test rows
    the validation rows are the test; what is missing then is held out of train at random. Rows with
    the same bytes are one image with all their captions, so that none is in two splits, or twice in
    a batch.

    Raises:
        InputError: missing, damaged or foreign file, missing column, an image without captions, or
            one in two splits.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(request.location).expanduser()
    content, digest = read_source(path, "name a Parquet file: parquet:PATH")
    try:
        file = pq.ParquetFile(io.BytesIO(content))
        columns = found_columns(str(path), file.schema_arrow.names, request)
        marked = ["split"] if "split" in file.schema_arrow.names else []
        table = file.read(columns=[*columns, *marked])
    except (pa.ArrowException, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"{path} is not a whole Parquet file ({reason}): fetch it again") from None
    captions = [_listed(value) for value in table.column(columns[1]).to_pylist()]
    encoded = encoded_images(path, table.column(columns[0]), columns[0])
    check_captions(str(path), encoded, captions)
    marks = table.column("split").to_pylist() if marked else None
    source = {"sha256": {path.name: digest}, "columns": list(columns)}
    return built(request, str(path), encoded, captions, marks, source, join=True)


def read_hub_pairs(request: PairRequest) -> Pairs:
    """Pairs of ``hf:NAME`` or ``hf:NAME@CONFIGURATION``, as `lowland.data.load` finds data sets.

    Columns are as for Parquet; splits whose names begin with train, val or test are used.

    Raises:
        InputError: the data set cannot be had; else as for Parquet.
    """
    encoded: list[bytes | None] = []
    captions: list[Any] = []
    marks: list[str] = []
    for mark, part in hub_splits(request.location).items():
        image, caption = found_columns(request.name, list(part.features), request)
        encoded += hub_bytes(part, image)
        captions += [_listed(value) for value in part[caption]]
        marks += [mark] * (len(encoded) - len(marks))
    check_captions(request.name, encoded, captions)
    source = {"datasets": request.location}
    return built(request, request.name, encoded, captions, marks, source, join=True)


def found_columns(where: str, names: Sequence[str], request: PairRequest) -> tuple[str, str]:
    """Names of the columns with images and captions.

    Raises:
        InputError: one is missing.
    """
    found = []
    for kind, asked, usual in (
        ("image", request.image_column, IMAGE),
        ("caption", request.caption_column, CAPTION),
    ):
        wanted = (asked,) if asked else usual
        name = next((name for name in wanted if name in names), None)
        if name is None:
            raise InputError(
                f"{where} has no column {' or '.join(map(repr, wanted))} with {kind}s (it has "
                f"{', '.join(names)}): set {kind}_column"
            )
        found.append(name)
    return found[0], found[1]


def built(
    request: PairRequest,
    where: str,
    encoded: Sequence[bytes | None],
    captions: Sequence[Sequence[str]],
    marks: Sequence[str] | None,
    source: dict[str, Any],
    *,
    join: bool = False,
) -> Pairs:
    """The data set of encoded images and their captions.

    Args:
        request: what was asked for.
        where: the source, for messages.
        encoded: bytes of each image.
        captions: of each image; they have been checked.
        marks: the split of each, in the source's words; None where it has none.
        source: record of where they come from.
        join: make one image of rows with the same bytes.
    """
    images = sized_images(where, encoded, request.size)
    texts = {row: tuple(of_image) for row, of_image in enumerate(captions)}
    if join:
        texts = joined(where, encoded, captions, marks)
    rows, rule = split_rows(where, marks, list(texts), request.seed)
    if left := len(encoded) - len(texts):
        rule += f"; {left} rows are joined to others of the same image"
    splits = {
        name: PairSplit(images[chosen], tuple(texts[i] for i in chosen.tolist()), chosen)
        for name, chosen in rows.items()
    }
    source = {**source, "rule": rule, "split_seed": request.seed, "size": request.size}
    return assemble_pairs(request.name, **splits, largest=255.0, source=source)


def joined(
    where: str,
    encoded: Sequence[bytes | None],
    captions: Sequence[Sequence[str]],
    marks: Sequence[str] | None,
) -> dict[int, tuple[str, ...]]:
    """For the first row of every image all its captions, each text once.

    Raises:
        InputError: an image is in two splits.
    """
    first: dict[bytes | None, int] = {}
    texts: dict[int, dict[str, None]] = {}
    for row, (content, of_row) in enumerate(zip(encoded, captions, strict=True)):
        own = first.setdefault(content, row)
        if marks is not None and marks[own] != marks[row]:
            raise InputError(
                f"{where}: rows {own} ({marks[own]}) and {row} ({marks[row]}) hold the same image: "
                "keep every image in one split"
            )
        texts.setdefault(own, {}).update(dict.fromkeys(of_row))
    return {  # an image of one row keeps its captions as they are, repeated ones too
        row: tuple(captions[row]) if len(found) == len(set(captions[row])) else tuple(found)
        for row, found in texts.items()
    }


def split_rows(
    where: str, marks: Sequence[str] | None, kept: Sequence[int], seed: int
) -> tuple[dict[str, Tensor], str]:
    """Rows of train, validation and test among those that are kept, and how they were found."""
    if marks is None:
        places = random_rows(len(kept), SHARES, seed=seed)
        rows = {name: torch.tensor(kept)[chosen] for name, chosen in places.items()}
        return rows, "at random: 20% test, then 10% of the rest validation"
    known = {mark: split_of(mark) for mark in set(marks)}
    if strange := [row for row, mark in enumerate(marks) if known[mark] is None]:
        raise InputError(
            f"{where}: row {strange[0]} has split {marks[strange[0]]!r}: use train, validation and "
            "test, or drop the column"
        )
    rows = {
        name: torch.tensor([i for i in kept if known[marks[i]] == name]).long()
        for name in ("train", "validation", "test")
    }
    rule = "as marked"
    if not len(rows["test"]) and len(rows["validation"]):
        rows["test"], rows["validation"] = rows["validation"], rows["test"]
        rule += "; its validation rows are test"
    missing = {name: share for name, share in SHARES.items() if not len(rows[name])}
    train = rows["train"]
    rows |= {
        name: train[drawn] for name, drawn in random_rows(len(train), missing, seed=seed).items()
    }
    rule += "".join(f"; {share:.0%} of train {name}" for name, share in missing.items())
    return rows, rule


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value
