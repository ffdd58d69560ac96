"""Images with captions in a Parquet file, or in a data set of Hugging Face ``datasets``."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
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
    the validation rows are the test; what is missing then is held out of train at random. A file
    may have a row for each caption: rows whose images are equal stay in one split.

    Raises:
        InputError: missing, damaged or foreign file, missing column, an image without captions.
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
    return built(request, str(path), encoded, captions, marks, source)


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
    return built(request, request.name, encoded, captions, marks, {"datasets": request.location})


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
) -> Pairs:
    """The data set of encoded images and their captions.

    Args:
        request: what was asked for.
        where: the source, for messages.
        encoded: bytes of each image.
        captions: of each image; they have been checked.
        marks: the split of each, in the source's words; None where it has none.
        source: record of where they come from.
    """
    images = sized_images(where, encoded, request.size)
    rows, rule = split_rows(where, marks, images, request.seed)
    splits = {
        name: PairSplit(images[chosen], tuple(tuple(captions[i]) for i in chosen.tolist()), chosen)
        for name, chosen in rows.items()
    }
    source = {**source, "rule": rule, "split_seed": request.seed, "size": request.size}
    return assemble_pairs(request.name, **splits, largest=255.0, source=source)


def split_rows(
    where: str, marks: Sequence[str] | None, images: Tensor, seed: int
) -> tuple[dict[str, Tensor], str]:
    """Rows of train, validation and test, and how they were found.

    What is drawn at random are images, with all the rows that have the same pixels: a source with a
    row for each caption would have an image in train and in test otherwise. Where no two rows have
    the same, the draw is one of rows.
    """
    number = same_images(images)
    n = len(images)
    if marks is None:
        rows, said = _drawn(torch.arange(n), number, SHARES, seed)
        return rows, f"at random: 20% test, then 10% of the rest validation{said}"
    known = {mark: split_of(mark) for mark in set(marks)}
    if strange := [row for row, mark in enumerate(marks) if known[mark] is None]:
        raise InputError(
            f"{where}: row {strange[0]} has split {marks[strange[0]]!r}: use train, validation and "
            "test, or drop the column"
        )
    rows = {
        name: torch.tensor([i for i, mark in enumerate(marks) if known[mark] == name]).long()
        for name in ("train", "validation", "test")
    }
    rule = "as marked"
    if not len(rows["test"]) and len(rows["validation"]):
        rows["test"], rows["validation"] = rows["validation"], rows["test"]
        rule += "; its validation rows are test"
    missing = {name: share for name, share in SHARES.items() if not len(rows[name])}
    drawn, said = _drawn(rows["train"], number, missing, seed)
    rule += "".join(f"; {share:.0%} of train {name}" for name, share in missing.items())
    return rows | drawn, f"{rule}{said if missing else ''}"


def _drawn(
    among: Tensor, number: Tensor, shares: Mapping[str, float], seed: int
) -> tuple[dict[str, Tensor], str]:
    """Some rows by split, each image with all its rows, and what to say of that."""
    own = number[among]
    different: Tensor = torch.unique(own)
    said = "" if len(different) == len(own) else f", of {len(different)} different images"
    chosen = random_rows(len(different), shares, seed=seed)
    return {key: among[torch.isin(own, different[part])] for key, part in chosen.items()}, said


def same_images(images: Tensor) -> Tensor:
    """A number for each image, int64 (n,), counted in order; equal for equal pixels.

    >>> same_images(torch.tensor([[7], [9], [7]])).tolist()
    [0, 1, 0]
    """
    seen: dict[bytes, int] = {}
    return torch.tensor(
        [
            seen.setdefault(hashlib.blake2b(image.numpy().tobytes()).digest(), len(seen))
            for image in images
        ],
        dtype=torch.int64,
    )


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value
