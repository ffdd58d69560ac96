"""Metrics of a run as one CSV file that is whole at every moment, and that a resumed run extends.

Lightning's own `CSVLogger` starts a new file whenever it is made, and empties one that it finds.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lowland.core.files import write_atomically


class CSVLog:
    """The part of Fabric's logger interface that a run uses, over ``FOLDER/metrics.csv``.

    One row per step, ``step`` first; a cell is empty where nothing was measured.

    Args:
        folder: made if it is not there.
        first: rows of this step and later ones are dropped: they are about to come again.
    """

    def __init__(self, folder: Path, first: int = 0) -> None:
        self._path = folder / "metrics.csv"
        self._rows: list[dict[str, Any]] = []
        folder.mkdir(parents=True, exist_ok=True)
        if self._path.exists():
            with open(self._path, newline="", encoding="utf-8") as file:
                self._rows = [row for row in csv.DictReader(file) if int(row["step"]) < first]

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Take in a row; `save` writes it."""
        self._rows.append({"step": step, **metrics})

    def save(self) -> None:
        """Replace the file by one with all rows so far."""
        names = sorted({name for row in self._rows for name in row} - {"step"})
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, ["step", *names], restval="")
        writer.writeheader()
        writer.writerows(self._rows)
        write_atomically(self._path, lambda file: file.write(text.getvalue().encode()))

    def finalize(self, status: str) -> None:
        """Nothing is open between two calls."""
