"""What the study of public checkpoints measures: groups of runs, and columns of their rows."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

from lowland.studies.checkpoints.published import RELEASED, SHARES

INVENTORY = "inventory"
"""Group of the one run that is there even where no checkpoint is: it counts what was found."""
PLACE = 0.0
"""ρ of every run: the radii of the public networks are not ours, and groups tell them apart."""
DEPTHS = (*SHARES, *RELEASED.values())
CONVENTIONS: Mapping[str, str] = {
    "unit/0.99": "",
    "unit/0.95": "at 95% of the variance",
    "unit/0.999": "at 99.9% of the variance",
    "published/0.99": "published convention",
}
"""Conventions of the rank and what they are called; the first is the one that is judged."""
USUAL = next(iter(CONVENTIONS))
PUBLISHED = "published/0.99"
FACTS = ("images", "size", "blocks", "width", "classes")
"""Columns with what a network is and what it was measured on."""


def rank(share: Fraction, token: str, convention: str = USUAL) -> str:
    """Column of the rank after a share of the blocks; `token` is "class" (the first) or "mean"."""
    return f"rank/after {share}/{token}/{convention}"
