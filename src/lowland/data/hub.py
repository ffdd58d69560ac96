"""Labelled images from the Hugging Face library `datasets`: from its hub, or from a folder."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from lowland.core.errors import InputError
from lowland.data.decode import decode
from lowland.data.images import ImageData, Split, assemble
from lowland.data.split import SPLIT_NAMES, completed

LABELS = ("label", "labels", "fine_label")
"""Names of the column of labels, the first one there is; else the only column of classes."""

ON_DISK = ("dataset_dict.json", "state.json")
"""What ``save_to_disk`` leaves in a folder."""


def read_hub(name: str, seed: int) -> ImageData:
    """Images of ``hf:NAME`` or ``hf:NAME@CONFIGURATION``, in the order of the data set.

    NAME is one of the hub's (downloaded once and kept where the library keeps such things), a
    folder that ``datasets.load_dataset`` reads, or one that ``save_to_disk`` wrote. Splits whose
    names begin with train, val or test are used, others not; what is missing is held out as for
    Parquet files. Images come from the first column of images, labels from a column named label,
    labels or fine_label, or else from the only column of classes. Images stay grey if all are.

    Raises:
        InputError: no such data set, no network, no such columns, or images of different sizes.
    """
    location = name.partition(":")[2]
    if not location:
        raise InputError("data set 'hf:' lacks its name: hf:NAME")
    found = hub_splits(location)
    encoded: list[bytes | None] = []
    marks: list[int] = []
    rows = dict.fromkeys(("train", "validation", "test"), torch.arange(0))
    for split, part in found.items():
        image, label = _columns(location, part)
        start = len(marks)
        encoded += hub_bytes(part, image)
        marks += [-1 if value is None else int(value) for value in part[label]]
        rows[split] = torch.arange(start, len(marks))
    labels = torch.tensor(marks, dtype=torch.int64)
    rows, rule = completed(rows, labels, f"splits {', '.join(found)}", seed=seed, name=name)
    pixels = torch.from_numpy(decode(Path(location), encoded))
    whole = Split(pixels, labels, torch.arange(len(labels)))
    return assemble(
        name,
        **{split: whole.select(chosen) for split, chosen in rows.items()},
        augmentation="shift-flip" if pixels.shape[1] == 3 else "shift",
        source={"rule": rule, "split_seed": seed},
    )


def _library() -> Any:
    return importlib.import_module("datasets")


def hub_splits(location: str) -> dict[str, Any]:
    """The splits of a data set by our names, in our order.

    Raises:
        InputError: no such data set, no network, or no split train.
    """
    datasets = _library()
    place, _, configuration = location.partition("@")
    folder = Path(place).expanduser()
    try:
        if any((folder / file).is_file() for file in ON_DISK):
            found = datasets.load_from_disk(str(folder))
        else:
            path = str(folder) if folder.is_dir() else place
            found = datasets.load_dataset(path, configuration or None)
    except Exception as error:  # the library, the network and the disk raise many kinds
        reason = str(error).partition("\n")[0].rstrip(". ") or type(error).__name__
        raise InputError(f"data set 'hf:{location}' cannot be had: {reason}") from None
    given = found if isinstance(found, Mapping) else {"train": found}
    named: dict[str, Any] = {}
    for split, part in given.items():
        ours = next((s for word, s in SPLIT_NAMES.items() if split.startswith(word)), None)
        if ours is not None and ours not in named:
            named[ours] = part
    if "train" not in named:
        raise InputError(f"data set 'hf:{location}' has no split train (it has {', '.join(given)})")
    return {split: named[split] for split in ("train", "validation", "test") if split in named}


def _columns(location: str, part: Any) -> tuple[str, str]:
    datasets = _library()
    features: Mapping[str, Any] = part.features
    images = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
    images += [name for name in ("image", "img") if name in features and name not in images]
    classes = [name for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    labels = [name for name in LABELS if name in features] or (classes if len(classes) == 1 else [])
    for kind, columns in (("images", images), ("labels", labels)):
        if not columns:
            raise InputError(
                f"data set 'hf:{location}' has no column of {kind} (it has {', '.join(features)})"
            )
    return images[0], labels[0]


def hub_bytes(part: Any, column: str) -> Iterator[bytes | None]:
    """Every image as it is encoded; read from its own file where the table has but its place."""
    datasets = _library()
    for row in part.cast_column(column, datasets.Image(decode=False))[column]:
        content = row["bytes"]
        yield Path(row["path"]).read_bytes() if content is None and row["path"] else content
