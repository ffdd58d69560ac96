"""Names of the groups of the minima study, and the numbers that its claims fix."""

from __future__ import annotations

MINIMA = {"usam": "minima/usam", "sam": "minima/sam"}
LEAVING = "stability/leaving"
ONE_DIMENSION = "stability/one-dimension"
MATRICES = "stability/matrices"

RADII = {"usam": (0.0, 0.05, 0.1, 0.2), "sam": (0.0, 0.01, 0.02, 0.05)}
"""ρ of each, in its own scale; claims are judged at the largest (chosen on seeds from 1000 on, as
the largest that reach the level)."""
LR = 0.1
LEVEL = 1e-3
"""Of the mean ½(f − y)², where labels have a variance of about 1."""
UNITS, EXAMPLES = 12, 16

FEATURES = (10, 20, 80, 160, 320, 640)
RATE_EXAMPLES = 40
RATE_RADII = (0.0, 0.1, 0.5)
RATE_RHO = 0.1
FITS, LACKS = 320, 20
"""d of the problems that the claims about fitting and not fitting are judged on."""


def rate_group(features: int) -> str:
    """The group of a number of features."""
    return f"rate/{features}"
