"""One name for every data set."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

from lowland.core.errors import InputError, unknown
from lowland.data.digits import read_digits
from lowland.data.fashion_mnist import read_fashion_mnist
from lowland.data.images import ImageData
from lowland.data.parquet import read_parquet

DATASETS = {
    "digits": "1,797 grey 8x8 digits from scikit-learn; no download",
    "fashion-mnist": "70,000 grey 28x28 images, from Debian's package dataset-fashion-mnist",
    "fashion-mnist:FOLDER": "the same four IDX files in another folder (MNIST works too)",
    "parquet:PATH": "encoded images and labels in a Parquet file",
}
"""Names that `load` accepts, and what they stand for."""

_READERS: dict[str, Callable[[str, int], ImageData]] = {
    "digits": read_digits,
    "fashion-mnist": read_fashion_mnist,
    "fashion-mnist:": read_fashion_mnist,
    "parquet:": read_parquet,
}


def load(
    name: str,
    *,
    seed: int = 0,
    labels: Sequence[int] | None = None,
    limit: int | None = None,
) -> ImageData:
    """Load a data set by name.

    Args:
        name: one of `DATASETS`.
        seed: decides which rows are held out where the source has no such split. It is not the
            seed of a run: all runs that are compared use the same split.
        labels: keep only these classes (`ImageData.keep_labels`).
        limit: keep at most so many training images (`ImageData.first`), after `labels`.

    Raises:
        InputError: unknown name, missing, corrupt or foreign file, or unusable labels or limit.
    """
    kind, separator, _ = name.partition(":")
    if kind + separator not in _READERS:
        raise unknown("data set", name, DATASETS)
    try:
        stamp = _stamp(name)
        data = _read(name, seed, stamp) if stamp else _READERS[kind + separator](name, seed)
    except ModuleNotFoundError as error:
        raise InputError(
            f"data set {name!r} needs {error.name}: pip install 'lowland[study]'"
        ) from None
    if labels is not None:
        data = data.keep_labels(labels)
    return data if limit is None else data.first(limit)


@functools.lru_cache(maxsize=1)
def _read(name: str, seed: int, stamp: object) -> ImageData:
    """The data of a name, kept for the next call: a study asks for the same file many times."""
    kind, separator, _ = name.partition(":")
    return _READERS[kind + separator](name, seed)


def _stamp(name: str) -> object:
    """What changes when the files behind a name do."""
    kind, _, location = name.partition(":")
    path = Path(location).expanduser()
    files = [path] if kind == "parquet" else sorted(path.glob("*")) if location else []
    return tuple(
        (str(file.resolve()), stat.st_size, stat.st_mtime_ns, stat.st_ino)
        for file in files
        if file.is_file() and (stat := file.stat())
    )
