"""Functions for experiments: workers import them by the name of this file."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from lowland.core.errors import InputError


def walk(*, seed: int, rho: float, steps: int = 3, drift: float = 0.0) -> Iterator[dict[str, Any]]:
    """Rows from every global generator, and of as many threads as there are."""
    for step in range(steps):
        yield {
            "step": step,
            "torch": float(torch.randn(())) + drift,
            "numpy": float(np.random.rand()),
            "python": random.random(),
            "threads": torch.get_num_threads(),
            "rho": rho,
            "sometimes": None if step else 1,
            "seed": seed,
        }


def fixed(*, seed: int, rho: float, rows: Sequence[float]) -> list[dict[str, Any]]:
    return [{"value": value, "large": value > 1} for value in rows]


def refuses(*, seed: int, rho: float) -> list[dict[str, Any]]:
    raise InputError("this cannot be: do that")


def breaks(*, seed: int, rho: float) -> Iterator[dict[str, Any]]:
    yield {"value": 1.0}
    raise RuntimeError("a bug\nof theirs")


def strange(*, seed: int, rho: float) -> list[dict[str, Any]]:
    return [{"value": torch.ones(())}]


def infinite(*, seed: int, rho: float) -> list[dict[str, Any]]:
    return [{"value": 1.0}, {"value": float("inf")}]


NO_FUNCTION = 1


def where(*, seed: int, rho: float, device: str) -> list[dict[str, Any]]:
    return [{"cuda": device == "cuda"}]
