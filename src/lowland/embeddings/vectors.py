"""Vectors wherever they lie, read in pieces of float32: arrays, .npy, .safetensors and Parquet.

Nothing here holds more than a piece, so a file may be larger than memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from lowland.core.errors import InputError, unknown
from lowland.embeddings.parquet import open_parquet
from lowland.embeddings.tensors import open_tensors

Floats = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.int64]

PIECE = 2**22
"""Elements that are read at a time: 16 MiB of float32."""

LARGEST_INTEGER = 2
"""Bytes of the widest integers that are taken for values and not for identifiers."""


class Stored(Protocol):
    """Rows of numbers as they are stored."""

    n: int
    dimension: int
    dtype: str

    def pieces(self, rows: int) -> Iterator[npt.NDArray[Any]]:
        """All rows in order, at most so many at a time."""
        ...

    def take(self, ids: Numbers) -> npt.NDArray[Any]:
        """Those rows; `ids` ascend."""
        ...


class Vectors:
    """Vectors (n, dimension) as float32, checked as they are read.

    Attributes:
        name: what to call them in a message.
        path: their file, None for arrays.
        n: how many.
        dimension: numbers in each.
        dtype: type that they are stored in.
        direct: single rows can be read without reading the others.
    """

    def __init__(self, stored: Stored, name: str, path: Path | None, *, direct: bool) -> None:
        self._stored = stored
        self.name, self.path, self.direct = name, path, direct
        self.n, self.dimension, self.dtype = stored.n, stored.dimension, stored.dtype
        _check_dtype(name, self.dtype)
        if self.n < 1 or self.dimension < 1:
            raise InputError(f"{name}: empty, shape ({self.n}, {self.dimension}): give vectors")

    def pieces(self) -> Iterator[tuple[int, Floats]]:
        """(place of the first row, rows) over all rows in order; rows are fresh and finite.

        Raises:
            InputError: NaN or infinity, with the row's place.
        """
        start = 0
        for piece in self._stored.pieces(max(1, PIECE // self.dimension)):
            yield start, self._float32(piece, np.arange(start, start + len(piece)))
            start += len(piece)

    def take(self, ids: Numbers) -> Floats:
        """The rows with these places, in the order given."""
        order = np.argsort(ids, kind="stable")
        rows = self._stored.take(ids[order])
        out = np.empty((len(ids), self.dimension), np.float32)
        out[order] = self._float32(rows, ids[order])
        return out

    def _float32(self, rows: npt.NDArray[Any], places: Numbers) -> Floats:
        with np.errstate(over="ignore"):
            found = np.array(rows, dtype=np.float32, order="C").reshape(len(rows), -1)
        # the sum is not finite if an element is not; elements are looked at only then
        with np.errstate(over="ignore", invalid="ignore"):
            suspect = not np.isfinite(found.sum(dtype=np.float64))
        if suspect and len(bad := np.flatnonzero(~np.isfinite(found).all(1))):
            raise InputError(
                f"{self.name}: row {places[bad[0]]} has NaN or infinity: remove or mend it"
            )
        return found


class _Array:
    """Rows of an array, in memory or mapped from a file."""

    def __init__(self, array: npt.NDArray[Any]) -> None:
        self._array = array
        self.n, self.dimension = len(array), int(np.prod(array.shape[1:], dtype=np.int64))
        self.dtype = array.dtype.name

    def pieces(self, rows: int) -> Iterator[npt.NDArray[Any]]:
        for start in range(0, self.n, rows):
            yield self._array[start : start + rows].reshape(-1, self.dimension)

    def take(self, ids: Numbers) -> npt.NDArray[Any]:
        return np.asarray(self._array[ids]).reshape(len(ids), self.dimension)


def open_vectors(source: Any, *, what: str = "features", column: str | None = None) -> Vectors:
    """Vectors from an array, a tensor or the path of a file.

    Args:
        source: (n, ...) array or tensor, flattened per row, or path of a .npy, .safetensors or
            Parquet file.
        what: what to call an array in a message.
        column: name of the tensor (.safetensors) or column (Parquet) where a file has several.

    Raises:
        InputError: not there, no such file type, or no real numbers in rows.
    """
    if isinstance(source, Vectors):
        return source
    if isinstance(source, str | Path):
        return _open_file(Path(source), column)
    if isinstance(source, torch.Tensor):
        source = source.detach().cpu()
        source = (source.float() if source.dtype == torch.bfloat16 else source).numpy()
    return Vectors(_Array(_rows(np.asarray(source), what)), what, None, direct=True)


def _open_file(path: Path, column: str | None) -> Vectors:
    openers = {".npy": _open_npy, ".safetensors": _open_safetensors, ".parquet": _open_parquet}
    opener = openers.get(path.suffix.lower())
    if opener is None:
        raise unknown("file type", path.suffix or path.name, openers)
    if not path.is_file():
        raise InputError(f"features {path}: {'a folder' if path.is_dir() else 'no such file'}")
    try:
        return opener(path, column)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None


def _open_npy(path: Path, column: str | None) -> Vectors:
    if column is not None:
        raise InputError(f"{path} holds one array: leave --column out")
    try:
        array = np.load(path, mmap_mode="r")
    except (ValueError, EOFError) as error:
        raise InputError(
            f"{path} is not a whole .npy file of numbers ({' '.join(str(error).split())})"
        ) from None
    return Vectors(_Array(_rows(array, str(path))), str(path), path, direct=True)


def _open_safetensors(path: Path, column: str | None) -> Vectors:
    return Vectors(
        _Array(_rows(open_tensors(path, column), str(path))), str(path), path, direct=True
    )


def _open_parquet(path: Path, column: str | None) -> Vectors:
    return Vectors(open_parquet(path, column), str(path), path, direct=False)


def _rows(array: npt.NDArray[Any], name: str) -> npt.NDArray[Any]:
    if array.ndim < 2:
        raise InputError(f"{name}: shape {array.shape}: give one row per vector")
    return array


def _check_dtype(name: str, dtype: str) -> None:
    kind = np.dtype(dtype) if dtype != "bfloat16" else np.dtype(np.float32)
    if kind.kind in "iu" and kind.itemsize > LARGEST_INTEGER:
        raise InputError(
            f"{name}: holds {dtype}, which looks like labels or identifiers: give embeddings, or "
            "save as float32 if these are their values"
        )
    if kind.kind not in "fiu":
        raise InputError(f"{name}: holds {dtype}: give real numbers")
