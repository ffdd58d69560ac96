"""One name for every data set of images with captions."""

from __future__ import annotations

import functools
from collections.abc import Callable

from lowland.core.errors import InputError, unknown
from lowland.data.coco import read_coco
from lowland.data.digit_captions import read_digit_captions
from lowland.data.pairs import Pairs
from lowland.data.pairs_parquet import PairRequest, read_hub_pairs, read_parquet_pairs
from lowland.data.stamp import stamp

PAIRS = {
    "digits-captions": "1,797 grey 8x8 digits with captions made from their pixels; no download",
    "parquet:FILE": "encoded images and captions in a Parquet file",
    "coco:FOLDER": "MS-COCO as it is distributed: annotations/captions_*.json and image folders",
    "hf:NAME": "a data set of Hugging Face datasets, or a folder that it loads",
}
"""Names that `load_pairs` accepts, and what they stand for."""


def _digits(request: PairRequest) -> Pairs:
    for key in ("image_column", "caption_column", "size"):
        if getattr(request, key) is not None:
            raise InputError(f"{request.name} takes no {key}: leave it out")
    return read_digit_captions(request.name, request.seed)


_READERS: dict[str, Callable[[PairRequest], Pairs]] = {
    "digits-captions": _digits,
    "parquet:": read_parquet_pairs,
    "coco:": read_coco,
    "hf:": read_hub_pairs,
}


def load_pairs(
    name: str,
    *,
    image_column: str | None = None,
    caption_column: str | None = None,
    size: int | None = None,
    limit: int | None = None,
    seed: int = 0,
) -> Pairs:
    """Load images with captions by name.

    Args:
        name: one of `PAIRS`.
        image_column, caption_column: columns of ``parquet:`` and ``hf:``; None finds the usual
            names.
        size: images become squares of so many pixels; None for images of one size as they are.
        limit: keep at most so many training pairs, the first.
        seed: decides which rows are held out where the source has no such split.

    Raises:
        InputError: unknown name; a missing, damaged or foreign file; images without captions.
    """
    kind, separator, location = name.partition(":")
    if kind + separator not in _READERS:
        raise unknown("data set of pairs", name, PAIRS)
    if separator and not location:
        raise InputError(f"data {name!r} lacks its place: write {name}PLACE")
    request = PairRequest(
        name=name,
        location=location,
        image_column=image_column,
        caption_column=caption_column,
        size=size,
        seed=seed,
    )
    try:
        data = _read(request, stamp((location.partition("@")[0],)))
    except ModuleNotFoundError as error:
        raise InputError(
            f"data set {name!r} needs {error.name}: pip install 'lowland[study]'"
        ) from None
    return data if limit is None else data.first(limit)


@functools.lru_cache(maxsize=1)
def _read(request: PairRequest, stamp: object) -> Pairs:
    """The pairs of a request, kept for the next call: a study asks for the same many times."""
    kind, separator, _ = request.name.partition(":")
    return _READERS[kind + separator](request)
