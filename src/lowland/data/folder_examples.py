"""Images in folders, of any size, one by one."""

from __future__ import annotations

from pathlib import Path

import torch

from lowland.core.errors import InputError
from lowland.data.class_layout import ANNOTATIONS, Found, annotated, is_labelled, of_classes
from lowland.data.decode import decode_image
from lowland.data.examples import Examples, Request, chosen_split, in_turn
from lowland.data.files import read_source
from lowland.data.folders import ENDINGS, image_files, listing_hash, subfolders
from lowland.data.split import SPLIT_NAMES


def open_folder(request: Request) -> Examples:
    """Images of ``imagefolder:FOLDER``: one folder per class, and above those perhaps per split.

    Classes are numbered in alphabetical order of their folders, as torchvision's ImageFolder does,
    and take turns (the first image of each class, then the second, ...), so that a few examples
    are not all of one class. A folder of images alone has no labels. Folders named train, val,
    validation, valid or test are splits, and where train is there, its classes are those of all.
    Tiny ImageNet's own layout is read as by `lowland.data.load`; its test images have no labels.

    Raises:
        InputError: no such folder, no images in it, images beside class folders, or a class that
            train has not got.
    """
    root = request.path
    if not root.is_dir():
        raise InputError(f"data folder {root}: no such folder: imagefolder:FOLDER")
    splits = {SPLIT_NAMES[f.name]: f for f in subfolders(root) if f.name in SPLIT_NAMES}
    if splits:
        split, _ = chosen_split(str(root), list(splits), request.split, len(splits))
        folder = splits[split]
    else:
        split, _ = chosen_split(str(root), None, request.split, 0)
        folder = root
    classes = [part.name for part in subfolders(splits.get("train", folder))]
    found, loose = _images(folder, classes)
    files = [path for path, _ in found] or loose
    if not files:
        raise InputError(f"{folder} has no images ({', '.join(sorted(ENDINGS))})")
    labels = torch.tensor([label for _, label in found]) if found else None
    whole = Examples(
        name=request.name,
        kind="images",
        split=split,
        read=lambda place: decode_image(str(files[place]), _bytes(files[place])),
        labels=labels,
        classes=len(classes) if found else None,
        n=len(files),
        largest=255.0,
        order="by name",
        source={"sha256 of names and sizes": listing_hash(folder, files), "files": len(files)},
    )
    return whole if labels is None else whole.ordered(in_turn(labels), "classes in turn")


def _images(folder: Path, classes: list[str]) -> tuple[Found, list[Path]]:
    """The images of a folder with their classes, or those that have none."""
    if (folder / ANNOTATIONS).is_file():
        return annotated(folder, classes), []
    if not is_labelled(folder):
        return [], image_files(folder / "images")
    if subfolders(folder):
        return of_classes(folder, classes), []
    return [], image_files(folder)


def _bytes(path: Path) -> bytes:
    return read_source(path, "put it back")[0]
