"""One name for every source of examples."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lowland.core.errors import InputError, unknown
from lowland.data.arrays import open_arrays
from lowland.data.examples import SPLITS, Examples, Request, of_data
from lowland.data.folder_examples import open_folder
from lowland.data.load import DATASETS, load
from lowland.data.rows import open_rows

_OPENERS: dict[str, Callable[[Request], Examples]] = {
    "parquet:": open_rows,
    "imagefolder:": open_folder,
    "npz:": open_arrays,
}
NAMES = tuple(sorted(DATASETS))
"""What `open_examples` opens."""


def open_examples(
    name: str, *, split: str | None = None, column: str | None = None, kind: str = "images"
) -> Examples:
    """The examples of a data set by name.

    Args:
        name: a name that `lowland.data.load` knows (``digits``, ``digit-dominoes``,
            ``cifar:FOLDER``, ``hf:NAME``); or
            ``parquet:FILE`` with encoded images or texts; ``imagefolder:FOLDER``; ``npz:FILE``.
            Sources of the latter kinds need no labels, and images need not be of one size.
        split: "train", "validation" or "test"; None for train where the source has splits, and for
            everything where it has not.
        kind: "images" or "texts": what to look for.
        column: column of a Parquet file with them; None finds the usual names.

    Raises:
        InputError: an unknown name or split, or a source that cannot be read.
    """
    if split is not None and split not in SPLITS:
        raise unknown("split", split, SPLITS)
    source, separator, location = name.partition(":")
    if source + separator in _OPENERS:
        if not location:
            raise InputError(f"data {name!r} lacks its path: {name}PATH")
        if column is not None and source != "parquet":
            raise InputError("--column is for parquet:FILE: leave it out")
        if kind != "images" and source != "parquet":
            raise InputError(f"data {name!r} holds images, the model reads texts: use parquet:FILE")
        request = Request(name, Path(location).expanduser(), split, kind, column)
        try:
            return _OPENERS[source + separator](request)
        except ModuleNotFoundError as error:
            raise InputError(
                f"data {name!r} needs {error.name}: pip install 'lowland[study]'"
            ) from None
    if source not in {known.partition(":")[0] for known in DATASETS}:
        raise unknown("data", name, NAMES)
    if kind != "images" or column is not None:
        raise InputError(f"data {name!r} has images and labels alone: use parquet:FILE for texts")
    return of_data(load(name), split)
