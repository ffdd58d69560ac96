"""Vectors from arrays, tensors, .npy, .safetensors and Parquet, and from several files in a row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from lowland.core.errors import InputError, one_line, unknown
from lowland.embeddings.parquet import open_parquet
from lowland.embeddings.tensors import open_tensors
from lowland.embeddings.vectors import Floats, Numbers, Vectors

ARCHIVE = b"PK\x03\x04"
"""How .npz files begin, whatever they are called."""


def open_vectors(source: Any, *, what: str = "features", column: str | None = None) -> Vectors:
    """Vectors from an array, a tensor, the path of a file or folder, or several paths.

    Args:
        source: (n, ...) array or tensor, flattened per row; path of a .npy, .safetensors or
            Parquet file; path of a folder, whose files of one of these types are read in the order
            of their names; or a list of such paths, which are read one after the other.
        what: what to call them in a message.
        column: name of the tensor (.safetensors) or column (Parquet) where a file has several.

    Raises:
        InputError: not there, no such file type, or no real numbers in rows.
    """
    if isinstance(source, Vectors):
        return source
    if isinstance(source, str | Path):
        return _open_path(Path(source), what, column)
    if isinstance(source, list | tuple) and any(isinstance(one, str | Path) for one in source):
        if not all(isinstance(one, str | Path) for one in source):
            raise InputError(f"{what}: a list of paths and of other things: give paths alone")
        return joined([_open_path(Path(one), what, column) for one in source])
    return Vectors(_Array(_rows(_as_array(source, what), what)), what, direct=True)


def joined(parts: Sequence[Vectors]) -> Vectors:
    """Several vectors one after the other.

    Raises:
        InputError: they have different dimensions.
    """
    if len(parts) == 1:
        return parts[0]
    for part in parts[1:]:
        if part.dimension != parts[0].dimension:
            raise InputError(
                f"{part.name}: {part.dimension} dimensions, {parts[0].name} has "
                f"{parts[0].dimension}: give files of the same network"
            )
    return _Joined(parts)


class _Joined(Vectors):
    """Each part is checked, and named in messages, where it is read."""

    def __init__(self, parts: Sequence[Vectors]) -> None:
        self._parts = parts
        self._starts = np.cumsum([0, *(part.n for part in parts)])
        self.name = f"{parts[0].name} and {len(parts) - 1} more"
        self.paths = tuple(path for part in parts for path in part.paths)
        self.n, self.dimension = int(self._starts[-1]), parts[0].dimension
        self.dtype = ", ".join(sorted({part.dtype for part in parts}))
        self.direct = all(part.direct for part in parts)

    def pieces(self) -> Iterator[tuple[int, Floats]]:
        for first, part in zip(self._starts.tolist(), self._parts, strict=False):
            for start, rows in part.pieces():
                yield first + start, rows

    def take(self, ids: Numbers) -> Floats:
        out = np.empty((len(ids), self.dimension), np.float32)
        for (low, high), part in zip(pairwise(self._starts), self._parts, strict=True):
            inside = np.flatnonzero((ids >= low) & (ids < high))
            if len(inside):
                out[inside] = part.take(ids[inside] - low)
        return out


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


def _as_array(source: Any, what: str) -> npt.NDArray[Any]:
    if np.ma.isMaskedArray(source) and np.ma.is_masked(source):
        raise InputError(
            f"{what}: {int(np.ma.getmaskarray(source).sum())} numbers are masked: fill them"
        )
    try:
        if isinstance(source, torch.Tensor):
            source = source.detach().resolve_neg().cpu()
            if source.dtype.is_floating_point and source.dtype not in _NUMPY:
                source = source.float()
            return np.asarray(source.numpy())
        return np.asarray(source)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{what}: no dense array of numbers, one row per vector ({one_line(error, 80)})"
        ) from None


def _open_path(path: Path, what: str, column: str | None) -> Vectors:
    if path.is_dir():
        return _open_folder(path, what, column)
    opener = _OPENERS.get(path.suffix.lower())
    if opener is None:
        if not path.exists():
            raise InputError(f"{what} {path}: no such file or folder")
        raise unknown("file type", path.suffix or path.name, _OPENERS)
    if not path.is_file():
        raise InputError(f"{what} {path}: no such file")
    try:
        return opener(path, column)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None


def _open_folder(folder: Path, what: str, column: str | None) -> Vectors:
    files = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    types = sorted({p.suffix.lower() for p in files} & set(_OPENERS))
    if not types:
        raise InputError(f"{what} {folder}: a folder without {', '.join(_OPENERS)} files")
    if len(types) > 1:
        raise InputError(f"{what} {folder}: a folder of {' and '.join(types)} files: name some")
    chosen = [path for path in files if path.suffix.lower() == types[0]]
    return joined([_open_path(path, what, column) for path in chosen])


def _open_npy(path: Path, column: str | None) -> Vectors:
    if column is not None:
        raise InputError(f"{path} holds one array: leave --column out")
    with path.open("rb") as file:
        if file.read(4) == ARCHIVE:
            raise InputError(f"{path} is an archive of arrays (.npz): save one of them as .npy")
    try:
        array = np.load(path, mmap_mode="r")
    except (ValueError, EOFError) as error:
        raise InputError(
            f"{path} is not a whole .npy file of numbers ({' '.join(str(error).split())})"
        ) from None
    return Vectors(_Array(_rows(array, str(path))), str(path), (path,), direct=True)


def _open_safetensors(path: Path, column: str | None) -> Vectors:
    array = _Array(_rows(open_tensors(path, column), str(path)))
    return Vectors(array, str(path), (path,), direct=True)


def _open_parquet(path: Path, column: str | None) -> Vectors:
    return Vectors(open_parquet(path, column), str(path), (path,), direct=False)


_NUMPY = (torch.float16, torch.float32, torch.float64)
"""Floats that NumPy has too."""

_OPENERS = {".npy": _open_npy, ".safetensors": _open_safetensors, ".parquet": _open_parquet}


def _rows(array: npt.NDArray[Any], name: str) -> npt.NDArray[Any]:
    if array.ndim < 2:
        raise InputError(f"{name}: shape {array.shape}: give one row per vector")
    return array
