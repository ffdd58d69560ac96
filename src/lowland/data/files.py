"""Source files: found, read and hashed, with one line for whatever goes wrong."""

from __future__ import annotations

import hashlib
from pathlib import Path

from lowland.core.errors import InputError


def read_source(path: Path, remedy: str) -> tuple[bytes, str]:
    """The bytes of a file and their SHA-256.

    Raises:
        InputError: missing, a folder, or unreadable; the message ends in `remedy`.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        reason = (error.strerror or "cannot be read").lower()
        raise InputError(f"data file {path}: {reason}: {remedy}") from None
    return content, hashlib.sha256(content).hexdigest()
