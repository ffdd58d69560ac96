"""Feature matrices of any origin, read in pieces of float64."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from lowland.core.errors import InputError
from lowland.measure.features.matrices import as_matrix, double

PIECE = 2**21
"""Elements converted to float64 at a time (16 MiB): bounds what is held beside the input."""

TALL = 512
"""Rows of wide features in memory that are worth multiplying at a time."""


class Rows(Protocol):
    """An n-by-d matrix that can be read several times, row piece by row piece."""

    def rows(self) -> Iterator[Tensor]:
        """All rows in order, in pieces (b, d) of their own type, b > 0."""
        ...


class Features(Rows, Protocol):
    """One of which columns can be read too."""

    def columns(self, start: int, stop: int) -> Tensor:
        """Columns start..stop of all rows (n, stop - start), float64, a fresh tensor."""
        ...


@dataclass(frozen=True)
class InMemory:
    """Features that lie in memory as one tensor (n, d) of any real type on any device."""

    matrix: Tensor

    def rows(self) -> Iterator[Tensor]:
        """Row pieces, without a copy: of `PIECE` elements, or `TALL` rows if that is more.

        `TALL` rows only as far as they have fewer than min(n, d)²/4 elements.
        """
        n, width = self.matrix.shape
        step = max(1, PIECE // width, min(TALL, min(n, width) ** 2 // (4 * width)))
        yield from torch.split(self.matrix, step)

    def columns(self, start: int, stop: int) -> Tensor:
        """A float64 copy of the columns."""
        return double(self.matrix[:, start:stop])


class Streamed:
    """Features that a callable yields in chunks, as often as it is called.

    Every pass must give the same rows in the same order: a product of columns from two passes
    means nothing otherwise. So the first whole pass leaves one number per row, a projection on a
    fixed direction, and later passes are compared with it.
    """

    def __init__(self, chunks: Callable[[], Iterable[Any]]) -> None:
        self._chunks = chunks
        self._order = _RowOrder()

    def rows(self) -> Iterator[Tensor]:
        """The chunks of one pass, flattened per example and checked against the first pass.

        Raises:
            InputError: no chunks, chunks of different width, or other rows than in the first pass.
        """
        chunks = self._open()
        self._order.start()
        width = None
        try:
            for chunk in chunks:
                rows = as_matrix(chunk, "chunk of features")
                width = rows.shape[1] if width is None else width
                if rows.shape[1] != width:
                    raise InputError(
                        f"features: a chunk has {rows.shape[1]} features per example after chunks "
                        f"of {width}; give every example the same shape"
                    )
                self._order.add(rows)
                yield rows
        finally:  # at once, not when collected: an open stream may hold a model in eval mode
            close = getattr(chunks, "close", None)
            if close is not None:
                close()
        self._order.finish()

    def columns(self, start: int, stop: int) -> Tensor:
        """One pass, of which the columns are kept; not the first one, for n must be known."""
        columns: Tensor | None = None
        filled = 0
        for rows in self.rows():
            part = double(rows[:, start:stop])
            if columns is None:
                columns = part.new_empty(self._order.n, stop - start)
            columns[filled : filled + len(part)] = part
            filled += len(part)
        assert columns is not None  # a pass without chunks is refused
        return columns

    def _open(self) -> Iterator[Any]:
        source = self._chunks()
        if isinstance(source, Tensor | np.ndarray) or not isinstance(source, Iterable):
            raise InputError(
                f"features: the callable returned {type(source).__name__}; it must return an "
                "iterator of chunks (or pass the array itself)"
            )
        return iter(source)


class _RowOrder:
    """Whether every pass gives the rows of the first pass, in its order."""

    def __init__(self) -> None:
        self._marks = array("d")  # grows in place: small tensors would fragment the heap
        self._complete = False
        self._allowed = 0.0
        self._direction: Tensor | None = None
        self._seen = 0

    @property
    def n(self) -> int:
        """The number of rows of the first pass."""
        return len(self._marks)

    def start(self) -> None:
        """Begin a pass; a first pass that was broken off does not count."""
        self._seen = 0
        if not self._complete:
            self._direction = None
            del self._marks[:]

    def add(self, rows: Tensor) -> None:
        """Note the next rows of the first pass, or compare them with it."""
        values = double(rows)
        if self._direction is None:
            self._direction = torch.arange(rows.shape[1]).to(values).cos_()
        if len(self._direction) != rows.shape[1]:
            raise _other_rows()
        marks = (values @ self._direction).cpu().numpy()
        start, self._seen = self._seen, self._seen + len(marks)
        if not self._complete:
            self._marks.frombytes(marks.tobytes())
            return
        expected = np.array(self._marks[start : self._seen])
        if len(expected) != len(marks) or (np.abs(marks - expected) > self._allowed).any():
            raise _other_rows()

    def finish(self) -> None:
        """End a whole pass. The first one sets what later passes must repeat.

        A row may differ by a tenth of the spread between rows (what kernels that vary from run to
        run may do is far less, what shuffling does is more), or by rounding in float32.
        """
        if self._seen == 0:
            raise InputError(
                "features: no chunks; give at least one, and a function that returns a fresh "
                "iterator at every call"
            )
        if self._seen != self.n:
            raise _other_rows()
        if not self._complete:
            marks = np.frombuffer(self._marks)
            self._allowed = 0.1 * float(marks.std()) + 1e-5 * float(np.abs(marks).max())
            self._complete = True


def _other_rows() -> InputError:
    return InputError(
        "features: a second pass gave other rows than the first; read the data without shuffling "
        "and augmentation, and return a fresh iterator at every call"
    )


def open_features(features: Any) -> InMemory | Streamed:
    """Features from what a user has: a tensor, an array, nested lists, or a callable of chunks."""
    if isinstance(features, nn.Module):
        raise InputError("features: got a model; use stream(model, batches, block=...) to read one")
    if isinstance(features, Iterator):
        raise InputError(
            "features: an iterator can be read only once; pass the array, or a function of no "
            "arguments that returns a fresh iterator of chunks"
        )
    if callable(features):
        return Streamed(features)
    return InMemory(as_matrix(features, "features"))
