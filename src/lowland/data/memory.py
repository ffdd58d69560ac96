"""Whether images fit into memory, before they are read."""

from __future__ import annotations

from lowland.core.errors import InputError
from lowland.core.memory import free_memory


def check_memory(where: str, n: int, height: int, width: int, *, remedy: str) -> None:
    """Refuse images that would not fit: 3·h·w bytes each, twice while they are put in order.

    Raises:
        InputError: less than that is free; the message ends in `remedy`.
    """
    need, free = 2 * n * 3 * height * width, free_memory()
    if free is not None and need > free:
        raise InputError(
            f"{where}: {n} images of {height}x{width} pixels take {need / 2**30:.1f} GiB to read, "
            f"{free / 2**30:.1f} GiB are free: {remedy}"
        )
