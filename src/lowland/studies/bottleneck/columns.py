"""Groups of runs of the bottleneck study; its columns are those of the contrastive study."""

from __future__ import annotations

from lowland.studies.contrastive.columns import TUNED

SAM = TUNED
"""Runs without bottleneck, ρ = 0 and above; at ρ = 0 they are what both are compared with."""


def bottleneck(width: int) -> str:
    """The group of runs with linear bottlenecks of this width, at ρ = 0."""
    return f"bottleneck {width}"
