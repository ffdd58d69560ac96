"""Labelled images from the Hugging Face library `datasets`: from its hub, or from a folder."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lowland.core.errors import InputError
from lowland.data.decode import decode
from lowland.data.files import read_source
from lowland.data.images import ImageData, Split, assemble
from lowland.data.split import SPLIT_NAMES, completed

LABELS = ("label", "labels", "fine_label")
"""Names of the column of labels, the first one there is; else the only column of classes."""

WORDS = "words"

ON_DISK = ("dataset_dict.json", "state.json")
"""What ``save_to_disk`` leaves in a folder."""


def read_hub(name: str, seed: int) -> ImageData:
    """Images of ``hf:NAME`` or ``hf:NAME@CONFIGURATION``, in the order of the data set.

    NAME is one of the hub's (downloaded once and kept where the library keeps such things), a
    folder that ``datasets.load_dataset`` reads, or one that ``save_to_disk`` wrote. Splits named
    train, validation, valid, val or test are used, or else those whose names begin so, others not;
    what is missing is held out as for Parquet files. Images come from the first column of images,
    labels from a column named label, labels or fine_label, or else from the only column of classes:
    classes or whole numbers as they are, words numbered in alphabetical order. A split for testing
    that has no labels at all (all missing, or -1) is left out. Images stay grey if all are.

    Raises:
        InputError: no such data set, no network, no such columns, a row without a label, labels
            that are no classes or that splits number differently, images of different sizes.
    """
    location = name.partition(":")[2]
    if not location:
        raise InputError("data set 'hf:' lacks its name: hf:NAME")
    found = hub_splits(location)
    columns = {split: _columns(location, part) for split, part in found.items()}
    labelled = {split: (part, columns[split][1]) for split, part in found.items()}
    marks = hub_labels(
        location,
        {split: (part.features[label], part[label]) for split, (part, label) in labelled.items()},
    )
    encoded: list[bytes | None] = []
    rows = dict.fromkeys(("train", "validation", "test"), torch.arange(0))
    for split in marks:
        start = len(encoded)
        encoded += hub_bytes(found[split], columns[split][0])
        rows[split] = torch.arange(start, len(encoded))
    labels = torch.cat(list(marks.values()))
    rule = f"splits {', '.join(marks)}"
    if bare := [split for split in found if split not in marks]:
        rule += f"; {', '.join(bare)} has no labels and is left out"
    rows, rule = completed(rows, labels, rule, seed=seed, name=name)
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
    # a name that says it wholly counts before one that begins so: train before train_extra
    for split, part in sorted(given.items(), key=lambda pair: pair[0] not in SPLIT_NAMES):
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


def hub_labels(location: str, given: Mapping[str, tuple[Any, Sequence[Any]]]) -> dict[str, Tensor]:
    """The class of every row of each split that has labels, int64.

    Args:
        location: the data set, for messages.
        given: by split, train first, the feature (as the library calls a column's type) and values.

    Raises:
        InputError: labels are missing or no classes, or splits number them differently.
    """
    labelled = {
        split: (kind, list(values))
        for split, (kind, values) in given.items()
        if split == "train" or not all(value is None or value == -1 for value in values)
    }
    kinds = {split: _kind(f"data set 'hf:{location}'", k) for split, (k, _) in labelled.items()}
    for split, kind in kinds.items():
        if kind != kinds["train"]:
            raise InputError(
                f"data set 'hf:{location}': train has labels of {kinds['train']}, {split} of "
                f"{kind}: cast both to the same"
            )
        if None in labelled[split][1]:
            row = labelled[split][1].index(None)
            raise InputError(
                f"data set 'hf:{location}': row {row} of {split} has no label: fill it"
            )
    every = {value for _, values in labelled.values() for value in values}
    number = {word: i for i, word in enumerate(sorted(every))} if kinds["train"] == WORDS else {}
    return {
        split: torch.tensor([number.get(v, v) for v in values], dtype=torch.int64)
        for split, (_, values) in labelled.items()
    }


def _kind(where: str, feature: Any) -> str:
    """What labels are, in words; the same words where they mean the same classes."""
    datasets = _library()
    if isinstance(feature, datasets.ClassLabel):
        return f"classes {', '.join(map(str, feature.names))}"
    kind = str(getattr(feature, "dtype", type(feature).__name__))
    if isinstance(feature, datasets.Value) and kind.removeprefix("u").startswith("int"):
        return "whole numbers"
    if isinstance(feature, datasets.Value) and kind in ("string", "large_string"):
        return WORDS
    raise InputError(f"{where} has labels of type {kind}: use classes, whole numbers or words")


def hub_bytes(part: Any, column: str) -> Iterator[bytes | None]:
    """Every image as it is encoded; read from its own file where the table has but its place."""
    datasets = _library()
    for row in part.cast_column(column, datasets.Image(decode=False))[column]:
        content = None if row is None else row["bytes"]
        if content is None and row is not None and row["path"]:
            content, _ = read_source(Path(row["path"]), "the data set names it: put it there")
        yield content
