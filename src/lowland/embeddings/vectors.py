"""Vectors read in pieces of float32, wherever they are stored; `files` opens them.

Nothing here holds more than a piece, so a file may be larger than memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from lowland.core.errors import InputError

Floats = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.int64]

PIECE = 2**20
"""Elements that are read at a time: 4 MiB of float32."""

LARGEST_INTEGER = 2
"""Bytes of the widest integers that are taken for values and not for identifiers."""

MARKS = 64
"""Rows that a fingerprint is made from."""


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
        paths: their files; none for arrays.
        n: how many.
        dimension: numbers in each.
        dtype: type that they are stored in.
        direct: single rows can be read without reading the others.
    """

    def __init__(
        self, stored: Stored, name: str, paths: tuple[Path, ...] = (), *, direct: bool
    ) -> None:
        self._stored = stored
        self.name, self.paths, self.direct = name, paths, direct
        self.n, self.dimension, self.dtype = stored.n, stored.dimension, stored.dtype
        check_dtype(name, self.dtype)
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
        out = np.empty((len(ids), self.dimension), np.float32)
        # all at once where every look at a row is a pass over the file
        step = max(1, PIECE // self.dimension) if self.direct else max(1, len(ids))
        for start in range(0, len(ids), step):
            some = order[start : start + step]
            out[some] = self._float32(self._stored.take(ids[some]), ids[some])
        return out

    def fingerprint(self) -> str:
        """SHA-256 of the shape and of some rows, evenly spaced, by which vectors are known again.

        Cost: up to `MARKS` rows; where vectors are not `direct`, a pass over the file.
        """
        places = np.unique(np.linspace(0, self.n - 1, MARKS).astype(np.int64))
        shape = f"{self.n} {self.dimension} "
        return sha256(shape.encode() + self.take(places).astype("<f4").tobytes()).hexdigest()

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


def check_dtype(name: str, dtype: str) -> None:
    """Refuse what is no number, or looks like an identifier.

    Raises:
        InputError: so.
    """
    try:
        kind = np.dtype("float32" if dtype == "bfloat16" else dtype)
    except TypeError:  # text and raw bytes have no dtype of their printed name
        kind = np.dtype("V")
    if kind.kind == "V":
        raise InputError(
            f"{name}: holds {dtype}, of which NumPy knows no numbers (bfloat16 is saved so): save "
            "float16 or float32, or .safetensors"
        )
    if kind.kind in "iu" and kind.itemsize > LARGEST_INTEGER:
        raise InputError(
            f"{name}: holds {dtype}, which looks like labels or identifiers: give embeddings, or "
            "save as float32 if these are their values"
        )
    if kind.kind not in "fiu":
        raise InputError(f"{name}: holds {dtype}: give real numbers")
