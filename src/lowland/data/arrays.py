"""Examples in a NumPy ``.npz`` file."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lowland.core.errors import InputError
from lowland.data.examples import Examples, Request, chosen_split
from lowland.data.images import ImageData, Split, assemble
from lowland.data.split import completed

_ALL = ("x", "y")
_PAIRS = {
    "train": ("xtr", "ytr"),
    "test": ("xte", "yte"),
}
_LONG = {
    "train": ("x_train", "y_train"),
    "validation": ("x_val", "y_val"),
    "test": ("x_test", "y_test"),
}


def open_arrays(request: Request) -> Examples:
    """Images of ``npz:FILE``, in the order of the array.

    Arrays: ``x`` and perhaps ``y``; or ``x_train``, ``y_train``, ``x_val``, ``y_val``, ``x_test``,
    ``y_test`` (also ``xtr``, ``ytr``, ``xte``, ``yte``). Images are (n, h, w), (n, h, w, c) or
    (n, c, h, w) with 1 or 3 channels, bytes or floating-point values in [0, 1]; labels are whole
    numbers (n,). Files with pickled objects are refused.

    Raises:
        InputError: the file is not that.
    """
    path = request.path
    arrays, digest = read_npz(path)
    split, (x, y) = _names(request, set(arrays))
    values, largest = _images(path, x, arrays[x])
    targets = _labels(path, y, arrays[y], len(values)) if y in arrays else None
    return Examples(
        name=request.name,
        kind="images",
        split=split,
        read=lambda place: values[place],
        labels=targets,
        classes=None if targets is None else int(targets.max()) + 1,
        n=len(values),
        largest=largest,
        order="as in the file",
        source={"sha256": {path.name: digest}, "arrays": [x] if targets is None else [x, y]},
    )


def read_arrays(name: str, seed: int) -> ImageData:
    """Labelled images of ``npz:FILE``, arrays named as for `open_arrays`, in the order of the file.

    Rows are counted through train, then validation, then test. What is missing is held out of
    train within each class: 20% for test, 10% of the rest for validation.

    Raises:
        InputError: the file is not that, has no labels, or images that are not bytes.
    """
    location = name.partition(":")[2]
    if not location:
        raise InputError("data set 'npz:' lacks its file: npz:FILE")
    path = Path(location).expanduser()
    arrays, digest = read_npz(path)
    rows = dict.fromkeys(_LONG, torch.arange(0))
    parts: list[tuple[Tensor, Tensor]] = []
    n = 0
    for split, (x, y) in _scheme(path, set(arrays)).items():
        images, largest = _images(path, x, arrays[x])
        if largest != 255:
            raise InputError(f"{path}: {x} holds floating-point values: store bytes to train on")
        if y not in arrays:
            raise InputError(f"{path} has no array {y!r} with the labels of {x!r}: store them")
        parts.append((images, _labels(path, y, arrays[y], len(images))))
        rows[split] = torch.arange(n, n := n + len(images))
    images, labels = (torch.cat(part) for part in zip(*parts, strict=True))
    rows, rule = completed(rows, labels, "from the arrays", seed=seed, name=str(path))
    whole = Split(images, labels, torch.arange(n))
    return assemble(
        name,
        **{split: whole.select(chosen) for split, chosen in rows.items()},
        augmentation="shift-flip" if images.shape[1] == 3 else "shift",
        source={"sha256": {path.name: digest}, "rule": rule, "split_seed": seed},
    )


def read_npz(path: Path) -> tuple[dict[str, Any], str]:
    """All arrays of an ``.npz`` file by name, and its SHA-256. Nothing is unpickled.

    Raises:
        InputError: it is no such file, or holds pickled objects.
    """
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        file = np.load(path, allow_pickle=False)
        if not hasattr(file, "files"):
            raise InputError(f"{path} holds one bare array: store named ones by numpy.savez")
        with file:
            return {name: file[name] for name in file.files}, digest
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"{path} cannot be read as an .npz file: {reason}") from None


def _names(request: Request, names: set[str]) -> tuple[str, tuple[str, str]]:
    scheme = _scheme(request.path, names)
    there = None if scheme.get("train") == _ALL else list(scheme)
    split, _ = chosen_split(str(request.path), there, request.split, len(scheme))
    return split, scheme["train" if split == "all" else split]


def _scheme(path: Path, names: set[str]) -> dict[str, tuple[str, str]]:
    """Split -> its arrays, for the splits that are there; ``x`` and ``y`` alone are train."""
    for scheme in (_LONG, _PAIRS, {"train": _ALL}):
        if there := {split: pair for split, pair in scheme.items() if pair[0] in names}:
            _check_one_scheme(path, there, names)
            return there
    raise InputError(
        f"{path} has no array 'x' or 'x_train' (it has {', '.join(sorted(names))}): "
        "store images as x, labels as y"
    )


def _check_one_scheme(path: Path, chosen: dict[str, tuple[str, str]], names: set[str]) -> None:
    """Images under names of another kind would be left out without a word."""
    every = {pair[0] for scheme in (_LONG, _PAIRS) for pair in scheme.values()}
    known = {pair[0] for pair in chosen.values()}
    if left := sorted((every & names) - known):
        raise InputError(
            f"{path} has {', '.join(sorted(known))} and {left[0]}: name all of one kind, x_train, "
            "x_val and x_test, or xtr and xte"
        )


def _images(path: Any, name: str, images: Any) -> tuple[Tensor, float]:
    if images.ndim == 3:
        images = images[:, None]
    elif images.ndim == 4 and images.shape[1] not in (1, 3) and images.shape[3] in (1, 3):
        images = images.transpose(0, 3, 1, 2)
    if images.ndim != 4 or not images.size or images.shape[1] not in (1, 3):
        raise InputError(
            f"{path}: {name} has shape {images.shape}: store (n, h, w), (n, h, w, c) or "
            "(n, c, h, w) with 1 or 3 channels"
        )
    if images.dtype == np.uint8:
        return torch.from_numpy(np.ascontiguousarray(images)), 255.0
    if images.dtype.kind == "f" and images.min() >= 0 and images.max() <= 1:
        return torch.from_numpy(np.ascontiguousarray(images, dtype=np.float32)), 1.0
    raise InputError(
        f"{path}: {name} holds {images.dtype} from {images.min():g} to {images.max():g}: store "
        "bytes, or floating-point values in [0, 1]"
    )


def _labels(path: Any, name: str, labels: Any, n: int) -> Tensor:
    if labels.shape != (n,) or labels.dtype.kind not in "iu":
        raise InputError(
            f"{path}: {name} has shape {labels.shape} and type {labels.dtype}: store one whole "
            f"number for each of {n} images"
        )
    if labels.min() < 0:
        raise InputError(f"{path}: {name} has label {labels.min()}: labels start at 0")
    return torch.from_numpy(labels.astype(np.int64))
