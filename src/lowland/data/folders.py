"""Image files in folders."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch

from lowland.core.errors import InputError
from lowland.data.decode import decode_image
from lowland.data.examples import Examples, Request, chosen_split, in_turn
from lowland.data.split import SPLIT_NAMES

ENDINGS = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".webp"})


def open_folder(request: Request) -> Examples:
    """Images of ``imagefolder:FOLDER``: one folder per class, and above those perhaps per split.

    Classes are numbered in alphabetical order of their folders, as torchvision's ImageFolder does,
    and take turns (the first image of each class, then the second, ...), so that a few examples
    are not all of one class. A folder of images alone has no labels. Folders named train, val,
    validation, valid or test are splits; all of them must have the same classes.

    Raises:
        InputError: no such folder, no images in it, or images beside class folders.
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
    classes = subfolders(folder)
    loose = image_files(folder)
    if classes and loose:
        raise InputError(f"{folder} has images beside folders, first {loose[0].name}: move them")
    found = [(path, label) for label, c in enumerate(classes) for path in image_files(c)]
    files = [path for path, _ in found] or loose
    if not files:
        raise InputError(f"{folder} has no images ({', '.join(sorted(ENDINGS))})")
    labels = torch.tensor([label for _, label in found]) if found else None
    whole = Examples(
        name=request.name,
        kind="images",
        split=split,
        read=lambda place: decode_image(str(files[place]), files[place].read_bytes()),
        labels=labels,
        classes=len(classes) if found else None,
        n=len(files),
        largest=255.0,
        order="by name",
        source={"sha256 of names and sizes": listing_hash(folder, files), "files": len(files)},
    )
    return whole if labels is None else whole.ordered(in_turn(labels), "classes in turn")


def subfolders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def image_files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_file() and p.suffix.lower() in ENDINGS)


def listing_hash(folder: Path, files: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.relative_to(folder).as_posix()} {path.stat().st_size}\n".encode())
    return digest.hexdigest()
