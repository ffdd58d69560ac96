"""Feature matrices of any origin, read in pieces of float64."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from lowland.core.errors import InputError

PIECE = 2**21
"""Elements converted to float64 at a time (16 MiB): bounds what is held beside the input."""


class Features(Protocol):
    """An n-by-d matrix that can be read several times, row piece by row piece."""

    def rows(self) -> Iterator[Tensor]:
        """All rows in order, in pieces (b, d) of their own type, b > 0."""
        ...

    def columns(self, start: int, stop: int) -> Tensor:
        """Columns start..stop of all rows (n, stop - start), float64, a fresh tensor."""
        ...


@dataclass(frozen=True)
class InMemory:
    """Features that lie in memory as one tensor (n, d) of any real type on any device."""

    matrix: Tensor

    def rows(self) -> Iterator[Tensor]:
        """Row pieces, without a copy: of `PIECE` elements, or d/4 rows where d is large."""
        width = self.matrix.shape[1]
        yield from self.matrix.split(max(1, PIECE // width, width // 4))

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
        """One pass, of which the columns are kept, as float64."""
        return torch.cat([double(rows[:, start:stop]) for rows in self.rows()])

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
        self._first: Tensor | None = None
        self._allowed = 0.0
        self._pass: list[Tensor] = []
        self._seen = 0

    def start(self) -> None:
        self._pass = []
        self._seen = 0

    def add(self, rows: Tensor) -> None:
        direction = torch.arange(rows.shape[1], dtype=torch.float64, device=rows.device).cos_()
        marks = (double(rows) @ direction).cpu()
        start, self._seen = self._seen, self._seen + len(marks)
        if self._first is None:
            self._pass.append(marks)
            return
        expected = self._first[start : self._seen]
        same = len(expected) == len(marks)
        if not same or bool(((marks - expected).abs() > self._allowed).any()):
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
        if self._first is None:
            self._first = torch.cat(self._pass)
            self._pass = []
            spread = float(self._first.std(correction=0))
            self._allowed = 0.1 * spread + 1e-5 * float(self._first.abs().max())
        elif self._seen != len(self._first):
            raise _other_rows()


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


def as_matrix(features: Any, what: str) -> Tensor:
    """The real matrix (n, d) of `features` (n, ...): flattened per example, detached, finite.

    Raises:
        InputError: not numbers, complex, without examples or features, or not finite.
    """
    tensor = _as_tensor(features, what)
    if tensor.ndim == 0:
        raise InputError(f"{what}: got a single number; give an array with one row per example")
    if tensor.numel() == 0:
        shape = tuple(tensor.shape)
        raise InputError(f"{what}: empty, shape {shape}; give at least one example and feature")
    if not math.isfinite(largest(tensor)):
        raise InputError(
            f"{what}: NaN or infinity among them; remove those examples, or check the model"
        )
    return tensor.reshape(tensor.shape[0], -1)


def largest(tensor: Tensor) -> float:
    """The largest magnitude; NaN or infinite if any element is. One read, no copy."""
    low, high = torch.aminmax(tensor)
    return max(abs(float(low)), abs(float(high)))


def _as_tensor(features: Any, what: str) -> Tensor:
    if isinstance(features, list | tuple) and any(isinstance(row, Tensor) for row in features):
        features = _stacked(features, what)
    if not isinstance(features, Tensor):
        features = torch.from_numpy(_as_array(features, what))
    if features.is_complex():
        raise InputError(f"{what}: of type {features.dtype}; give real numbers")
    tensor: Tensor = features.detach()
    if tensor.dtype.itemsize == 1 and tensor.is_floating_point():
        tensor = tensor.float()  # the 8-bit floats have hardly any operations of their own
    return tensor if tensor.layout == torch.strided else tensor.to_dense()


def _stacked(rows: list[Any] | tuple[Any, ...], what: str) -> Tensor:
    try:
        return torch.stack([torch.as_tensor(row) for row in rows])
    except (RuntimeError, TypeError, ValueError):
        raise InputError(f"{what}: tensors of different shapes; give one row per example") from None


def _as_array(features: Any, what: str) -> np.ndarray[Any, Any]:
    """A writable native NumPy array of a type that torch knows, copied only where it must be."""
    try:
        array = np.asarray(features)
    except (TypeError, ValueError):
        raise InputError(f"{what}: not an array; give one row per example, all equal") from None
    if array.dtype.kind not in "biuf":
        raise InputError(f"{what}: of type {array.dtype}; give real numbers, one row per example")
    known = array.dtype.newbyteorder("=") in map(np.dtype, _TORCH_KNOWS)
    plain = array.dtype.isnative and array.flags.writeable and min(array.strides, default=0) >= 0
    if known and plain:
        return array
    return np.array(array, dtype=array.dtype.newbyteorder("=") if known else np.float64, order="C")


_TORCH_KNOWS = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "?")


def double(matrix: Tensor) -> Tensor:
    """A fresh float64 copy, where the device has that type; otherwise on the CPU."""
    device = matrix.device if matrix.device.type in ("cpu", "cuda") else torch.device("cpu")
    return matrix.to(device, torch.float64, copy=True)


def resolution(dtype: torch.dtype) -> float:
    """Relative size below which differences between features of this type are rounding noise.

    4 units in the last place of float32 for it and for narrower floats (which networks compute in
    float32 or worse), 64 of float64 for that type and for integers.
    """
    if dtype.is_floating_point and dtype != torch.float64:
        return 4 * torch.finfo(torch.float32).eps
    return 64 * torch.finfo(torch.float64).eps


def unit_for(size: float) -> float:
    """What to divide features of magnitude `size` by, so that sums of their squares fit float64.

    1, except outside 1e-100 to 1e100: there a power of two, so that dividing is exact.
    """
    if size == 0 or 1e-100 <= size <= 1e100:
        return 1.0
    return 2.0 ** max(-1000, math.frexp(size)[1])
