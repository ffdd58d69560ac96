"""Labelled images of one size, in folders for each class or in Tiny ImageNet's own layout."""

from __future__ import annotations

from pathlib import Path

import torch

from lowland.core.errors import InputError
from lowland.data.class_layout import ANNOTATIONS, Found, annotated, is_labelled, of_classes
from lowland.data.decode import decode
from lowland.data.examples import in_turn
from lowland.data.files import read_source
from lowland.data.folders import listing_hash, subfolders
from lowland.data.images import ImageData, Split, assemble
from lowland.data.sized import Lazy
from lowland.data.split import SPLIT_NAMES, completed


def read_class_folders(name: str, seed: int) -> ImageData:
    """Images of ``imagefolder:FOLDER``, all of one size.

    ``FOLDER/SPLIT/CLASS/IMAGE``, with splits named train, test and validation (also valid, val), or
    ``FOLDER/CLASS/IMAGE`` without any. Classes are numbered in alphabetical order of their folders,
    as torchvision's ImageFolder does. The images of a class may lie one folder deeper, in
    ``images``, as Tiny ImageNet's do; and a validation folder may have ``images`` and
    ``val_annotations.txt`` in place of folders for classes (a line for each image: its file, its
    class, and more, between tabs). Tiny ImageNet's test images, which have no labels, are left out.

    Rows are counted through train, then validation, then test. Within each the classes take turns
    (the first image of each by name, then the second, ...): in alphabetical order the first
    thousands would be of a few classes only.

    What is missing is held out as for Parquet files: 20% of train for test, 10% of the rest for
    validation; a folder with validation and no test is tested on its validation images. Only RGB
    images are mirrored by the augmentation.

    Raises:
        InputError: no such folder, no images in it, a class that train has not got, images of
            different sizes, or damaged ones; the file is named.
    """
    location = name.partition(":")[2]
    if not location:
        raise InputError("data set 'imagefolder:' lacks its folder: imagefolder:FOLDER")
    root = Path(location).expanduser()
    if not root.is_dir():
        raise InputError(f"data folder {root}: no such folder: imagefolder:FOLDER")
    found = _by_split(root)
    files = [path for part in found.values() for path, _ in part]
    labels = torch.tensor([label for part in found.values() for _, label in part])
    ends = torch.tensor([len(part) for part in found.values()]).cumsum(0).tolist()
    rows = {
        split: torch.arange(end - len(part), end)
        for (split, part), end in zip(found.items(), ends, strict=True)
    }
    rows, rule = completed(rows, labels, "from the folders", seed=seed, name=str(root))
    encoded = Lazy(lambda row: read_source(files[row], "put it back")[0], len(files))
    pixels = torch.from_numpy(decode(root, encoded, where=lambda row: str(files[row])))
    whole = Split(pixels, labels, torch.arange(len(labels)))
    return assemble(
        name,
        **{split: whole.select(chosen) for split, chosen in rows.items()},
        augmentation="shift-flip" if pixels.shape[1] == 3 else "shift",
        source={
            "sha256 of names and sizes": listing_hash(root, files),
            "files": len(files),
            "order": "classes in turn",
            "rule": rule,
            "split_seed": seed,
        },
    )


def _by_split(root: Path) -> dict[str, Found]:
    """Files and labels of each split, in the order of their rows."""
    folders = {SPLIT_NAMES[f.name]: f for f in subfolders(root) if f.name in SPLIT_NAMES}
    train = folders.get("train", root)
    if folders and "train" not in folders:
        raise InputError(f"{root} has no folder 'train' beside {', '.join(sorted(folders))}")
    classes = [folder.name for folder in subfolders(train)]
    found: dict[str, Found] = {"train": of_classes(train, classes), "validation": [], "test": []}
    if not found["train"]:
        raise InputError(f"{train} has no folders with images: store them as CLASS/IMAGE")
    for split in set(folders) - {"train"}:
        folder = folders[split]
        if (folder / ANNOTATIONS).is_file():
            found[split] = annotated(folder, classes)
        elif is_labelled(folder):
            found[split] = of_classes(folder, classes)
    return {split: _taking_turns(part) for split, part in found.items()}


def _taking_turns(part: Found) -> Found:
    """The first of each class, the second of each, ..."""
    if not part:
        return part
    order = in_turn(torch.tensor([label for _, label in part])).tolist()
    return [part[place] for place in order]
