"""How much memory is free, as Linux says it."""

from __future__ import annotations

from pathlib import Path

from lowland.core.memory import free_memory


def test_free_memory(tmp_path: Path) -> None:
    listing = tmp_path / "meminfo"
    assert free_memory(listing) is None
    listing.write_text("MemTotal: 5 kB\nMemAvailable:   12 kB\n")
    assert free_memory(listing) == 12 * 1024
    listing.write_text("MemTotal: 5 kB\n")
    assert free_memory(listing) is None
