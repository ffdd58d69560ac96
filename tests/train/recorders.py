"""Loggers in memory, and readers of what loggers have written."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lowland.train import read_record


class Recorder:
    """A logger in memory, with only what the interface demands."""

    def __init__(self) -> None:
        self.points: list[tuple[int, dict[str, float]]] = []
        self.saved: list[int] = []

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        assert step is not None
        self.points.append((step, dict(metrics)))

    def save(self) -> None:
        self.saved.append(len(self.points))

    def finalize(self, status: str) -> None:
        raise AssertionError("the caller's loggers stay open")


def events(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """All scalars, as TensorBoard itself reads them."""
    reader = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    reader.Reload()
    names = reader.Tags()["scalars"]
    return {name: [(e.step, e.value) for e in reader.Scalars(name)] for name in names}


def table(file: Path) -> list[dict[str, str]]:
    """A CSV file without empty cells and without wall times."""
    with open(file, newline="", encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    return [{k: v for k, v in row.items() if v and "seconds" not in k} for row in rows]


def lasting(folder: Path) -> Any:
    """The sealed record, apart from what tells time and process."""
    record = read_record(folder)
    del record["seconds"], record["sessions"], record["files"]["history.parquet"]
    return record
