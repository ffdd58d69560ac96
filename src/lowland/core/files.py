"""Files that are whole or absent: atomic writes, and a lock that dies with its process."""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from lowland.core.errors import InputError


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Create or replace `path` with what `write` puts into the open file it is given.

    The bytes go to a temporary file in the same folder, are flushed to disk and renamed over
    `path`; the folder is flushed too. At every moment `path` is either the old file or the new
    one, whole. If anything fails (a full disk, an interrupt) the old file stays and the temporary
    one is removed.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_text(path: Path, text: str) -> None:
    """`write_atomically` for UTF-8 text."""
    write_atomically(path, lambda file: file.write(text.encode()))


def _plain(value: Any) -> Any:
    """What JSON has no word for: non-finite floats become strings, paths and tuples plain."""
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return value


def write_json(path: Path, value: Any) -> None:
    """Write strict JSON atomically; non-finite floats are written as strings ('nan', 'inf')."""
    text = json.dumps(_plain(value), indent=1, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


def read_json(path: Path, what: str = "file") -> Any:
    """Read JSON. A missing, truncated or foreign file is an `InputError` that names it."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{what} {path} does not exist") from None
    except OSError as error:
        raise InputError(f"{what} {path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise InputError(
            f"{what} {path} is not valid JSON ({error}); nothing was changed"
        ) from None


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process alone; a folder in use elsewhere is an `InputError`.

    The lock is the operating system's (`flock` on `folder/.lock`), so a process that is killed
    lets go of it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"{folder} is in use by another process: wait for it, or choose another folder"
            ) from None
        yield
