"""What changes when files do."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path


def stamp(places: Iterable[str]) -> tuple[object, ...]:
    """Path, size, time of change and inode of these files and of all files in these folders."""
    paths = [Path(place).expanduser() for place in places if place]
    files = [
        file for path in paths for file in ([path] if path.is_file() else sorted(path.rglob("*")))
    ]
    return tuple(
        (str(file.resolve()), seen.st_size, seen.st_mtime_ns, seen.st_ino)
        for file in files
        if file.is_file() and (seen := file.stat())
    )
