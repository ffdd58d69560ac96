"""CIFAR-10 and CIFAR-100 in their official files."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lowland.core.errors import InputError
from lowland.data.files import read_source
from lowland.data.images import ImageData, Split, assemble
from lowland.data.split import completed

PIXELS = 3 * 32 * 32

_TEN = tuple(f"data_batch_{number}" for number in range(1, 6))
LAYOUTS: dict[str, tuple[tuple[str, ...], str, int]] = {
    "cifar-10-batches-py": (_TEN, "test_batch", 10),
    "cifar-10-batches-bin": (tuple(f"{name}.bin" for name in _TEN), "test_batch.bin", 10),
    "cifar-100-python": (("train",), "test", 100),
    "cifar-100-binary": (("train.bin",), "test.bin", 100),
}
"""Folder of each official archive -> its training files, its test file, its classes."""

_PLAIN = {
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("_codecs", "encode"),
}
"""All that a pickled array needs; anything else in such a file could run code."""


def read_cifar(name: str, seed: int) -> ImageData:
    """CIFAR-10 or CIFAR-100 of ``cifar:FOLDER``, in the order of the official files.

    FOLDER is one that an official archive unpacks to (python or binary version), or the folder
    around it. Train and test are as in the files; a stratified 10% of train is held out for
    validation. CIFAR-100 has its 100 fine labels. A row is counted through train, then test.

    The python version's files are pickles: they are read by an unpickler that makes arrays, lists
    and words alone, and refuses anything else.

    Source: A. Krizhevsky, Learning multiple layers of features from tiny images, 2009.

    Raises:
        InputError: a file is missing, damaged, or something else.
    """
    location = name.partition(":")[2]
    if not location:
        raise InputError("data set 'cifar:' lacks its folder: cifar:FOLDER")
    folder, (train_files, test_file, classes) = _find(Path(location).expanduser())
    digests: dict[str, str] = {}
    parts = [_read(folder / file, classes, digests) for file in (*train_files, test_file)]
    images = np.concatenate([pixels for pixels, _ in parts]).reshape(-1, 3, 32, 32)
    labels = torch.from_numpy(np.concatenate([marks for _, marks in parts]).astype(np.int64))
    n, tested = len(labels), len(parts[-1][1])
    rows = {
        "train": torch.arange(n - tested),
        "validation": torch.arange(0),
        "test": torch.arange(n - tested, n),
    }
    rows, rule = completed(rows, labels, "test from the files", seed=seed, name=str(folder))
    whole = Split(torch.from_numpy(images), labels, torch.arange(n))
    return assemble(
        name,
        **{split: whole.select(chosen) for split, chosen in rows.items()},
        augmentation="shift-flip",
        source={"sha256": digests, "rule": rule, "split_seed": seed},
    )


def _find(root: Path) -> tuple[Path, tuple[tuple[str, ...], str, int]]:
    """The folder that has the test file of a layout."""
    for folder, layout in LAYOUTS.items():
        for place in (root, root / folder):
            if (place / layout[0][0]).is_file() and (place / layout[1]).is_file():
                return place, layout
    raise InputError(
        f"{root} has no official archive of CIFAR ({', '.join(LAYOUTS)}): unpack one there"
    )


def _read(path: Path, classes: int, digests: dict[str, str]) -> tuple[NDArray[np.uint8], Any]:
    """Pixels (n, 3072), channel by channel, and labels (n,)."""
    content, digests[path.name] = read_source(path, "unpack the archive again")
    if path.suffix == ".bin":
        return _binary(path, content, classes)
    return _pickled(path, content, classes)


def _binary(path: Path, content: bytes, classes: int) -> tuple[NDArray[np.uint8], Any]:
    """Records of one label (CIFAR-100: a coarse one, then the fine one) and 3072 pixels."""
    marks = 1 if classes == 10 else 2
    if not content or len(content) % (marks + PIXELS):
        raise InputError(f"{path} has {len(content)} bytes, no whole records of {marks + PIXELS}")
    records = np.frombuffer(content, np.uint8).reshape(-1, marks + PIXELS)
    return records[:, marks:].copy(), records[:, marks - 1]


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _PLAIN:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it holds {module}.{name}")


def _pickled(path: Path, content: bytes, classes: int) -> tuple[NDArray[np.uint8], Any]:
    try:
        record = _ArraysOnly(io.BytesIO(content), encoding="bytes").load()
        pixels = np.asarray(record[b"data"])
        labels = np.asarray(record[b"labels" if classes == 10 else b"fine_labels"])
        if pixels.dtype != np.uint8 or pixels.shape != (len(labels), PIXELS):
            raise ValueError(f"its data are {pixels.dtype} of shape {pixels.shape}")
        if labels.dtype.kind not in "iu":
            raise ValueError(f"its labels are {labels.dtype}")
    except Exception as error:  # a damaged pickle raises anything
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise InputError(f"{path} is not a file of CIFAR ({reason}): unpack it again") from None
    return pixels, labels
