"""How much memory there is."""

from __future__ import annotations

from pathlib import Path


def free_memory(listing: Path = Path("/proc/meminfo")) -> int | None:
    """Bytes that can be had without swapping; None where the system does not say.

    Args:
        listing: where Linux says it.
    """
    try:
        lines = listing.read_text("utf-8").splitlines()
    except OSError:
        return None
    sizes = [int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    return sizes[0] * 1024 if sizes else None
