"""What the folders hold that encoders come from: runs are named by that, not by the place."""

from __future__ import annotations

import hashlib
from pathlib import Path

from lowland.train.contrastive.recipe import ContrastiveRecipe


def contents(recipe: ContrastiveRecipe) -> dict[str, str]:
    """SHA-256 of the folder of each tower's encoder, by tower; nothing for names on a hub."""
    found = {}
    for tower in ("image", "text"):
        kind, _, place = getattr(recipe, tower).partition(":")
        folder = Path(place).expanduser()
        if kind == "hf" and folder.is_dir():
            found[tower] = folder_digest(folder)
    return found


def folder_digest(folder: Path) -> str:
    """SHA-256 over the files of a folder, their names included."""
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.iterdir() if path.is_file()):
        digest.update(f"{file.name}\0{file.stat().st_size}\0".encode())
        with open(file, "rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()
