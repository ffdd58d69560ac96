"""Records: what every instrument returns, instead of a bare number."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One measured value with all that is needed to read it.

    Attributes:
        name: what was measured, for example ``"feature_rank"``.
        value: the number.
        definition: the exact definition used, in words, options included.
        n: number of examples behind the value.
        dtype: the floating-point type of the arithmetic.
        seconds: wall time that it took.
        uncertainty: standard error of the value, or None where the value is exact for its data.
        converged: False where an iteration stopped before its tolerance.
        seed: seed of whatever was drawn, or None where nothing was.
    """

    name: str
    value: float | int
    definition: str
    n: int
    dtype: str
    seconds: float
    uncertainty: float | None = None
    converged: bool = True
    seed: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """The record as plain Python values, ready for JSON."""
        return {field.name: _plain(getattr(self, field.name)) for field in dataclasses.fields(self)}


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)
        }
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
