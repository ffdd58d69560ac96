"""Functions for readings; found by name."""

from __future__ import annotations

from lowland.train import Trained


def distances(trained: Trained, scale: float = 1.0) -> dict[str, float | int | None]:
    """What a reading is given, as numbers."""
    fresh = trained.untrained()
    pairs = zip(trained.module.parameters(), fresh.parameters(), strict=True)
    moved = sum(float((p - q).detach().square().sum()) for p, q in pairs)
    norm = sum(float(p.detach().square().sum()) for p in trained.module.parameters()) ** 0.5
    return {
        "moved": scale * moved**0.5,
        "norm": norm,
        "training": int(trained.module.training),
        "images": len(trained.data.train),
        "nothing": None,
    }


def clash(trained: Trained) -> dict[str, float]:
    """A column that the training has."""
    return {"train/loss": 0.0}


def words(trained: Trained) -> dict[str, str]:
    """No numbers."""
    return {"a": "b"}
