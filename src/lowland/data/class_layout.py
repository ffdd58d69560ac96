"""Which image file is of which class, in folders for each class or by Tiny ImageNet's list."""

from __future__ import annotations

from pathlib import Path

from lowland.core.errors import InputError
from lowland.data.folders import image_files, subfolders

ANNOTATIONS = "val_annotations.txt"
"""Tiny ImageNet says here which class each validation image is of."""

Found = list[tuple[Path, int]]


def is_labelled(folder: Path) -> bool:
    """Whether a split has folders for classes; Tiny ImageNet's test images have none."""
    return [f.name for f in subfolders(folder)] != ["images"]


def of_classes(folder: Path, classes: list[str]) -> Found:
    """The images in the folders of classes, sorted by name.

    Raises:
        InputError: images beside the folders, or a class that is none of `classes`.
    """
    if loose := image_files(folder):
        raise InputError(f"{folder} has images beside folders, first {loose[0].name}: move them")
    found: Found = []
    for part in subfolders(folder):
        if part.name not in classes:
            raise InputError(f"{part}: the train images have no such class: remove it")
        inner = part / "images"
        images = image_files(inner if inner.is_dir() else part)
        found += [(path, classes.index(part.name)) for path in images]
    return found


def annotated(folder: Path, classes: list[str]) -> Found:
    """The images that Tiny ImageNet's own list names, sorted by name.

    Raises:
        InputError: it names a class that is none of `classes`, or an image that is not there.
    """
    listing = folder / ANNOTATIONS
    found: Found = []
    for number, line in enumerate(listing.read_text("utf-8").splitlines(), start=1):
        file, _, rest = line.partition("\t")
        label = rest.partition("\t")[0].strip()
        if label not in classes:
            raise InputError(f"{listing}: line {number} has class {label!r}, which train has not")
        path = folder / "images" / file
        if not path.is_file():
            raise InputError(f"{listing}: line {number} names {file}, which is not in images")
        found.append((path, classes.index(label)))
    return sorted(found)
