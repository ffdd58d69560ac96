"""Small recipes, and what two runs must have in common to count as the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lowland.train import Recipe, read_history
from lowland.train.directory import HISTORY, WEIGHTS

TINY: dict[str, Any] = {
    "model": "mlp",
    "width": 8,
    "limit": 60,
    "batch_size": 20,
    "epochs": 2,
    "evaluations": 2,
    "rank_examples": 40,
    "momentum": 0.9,
    "rho": 0.1,
    "device": "cpu",
}
"""Six updates of 20 images, evaluated after 0, 3 and 6."""


@pytest.fixture(scope="session")
def tiny() -> Callable[..., Recipe]:
    """A recipe that takes a tenth of a second, with the given changes."""

    def make(**changes: Any) -> Recipe:
        return Recipe.from_mapping({**TINY, **changes})

    return make


@pytest.fixture
def result() -> Callable[[Path], Any]:
    """What must be the same, bit for bit, however often a run was interrupted."""

    def read(folder: Path) -> Any:
        rows = [
            {name: repr(value) for name, value in row.items() if not name.startswith("seconds/")}
            for row in read_history(folder / HISTORY)
        ]
        return (folder / WEIGHTS).read_bytes(), rows

    return read
