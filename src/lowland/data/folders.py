"""Folders and the image files in them."""

from __future__ import annotations

import hashlib
from pathlib import Path

ENDINGS = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".webp"})


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder by name, but for hidden ones and what macOS puts into archives."""
    return sorted(p for p in folder.iterdir() if p.is_dir() and _visible(p))


def image_files(folder: Path) -> list[Path]:
    """The image files in a folder by name, but for hidden ones (macOS has ``._a.jpg`` by a.jpg)."""
    found = (p for p in folder.iterdir() if p.is_file() and p.suffix.lower() in ENDINGS)
    return sorted(p for p in found if _visible(p))


def _visible(path: Path) -> bool:
    return not path.name.startswith(".") and path.name != "__MACOSX"


def listing_hash(folder: Path, files: list[Path]) -> str:
    """SHA-256 of names and sizes."""
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.relative_to(folder).as_posix()} {path.stat().st_size}\n".encode())
    return digest.hexdigest()
