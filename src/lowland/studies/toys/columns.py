"""Names of the groups of the toys study, and the numbers that its claims fix."""

from __future__ import annotations

THRESHOLDS = "saddle/thresholds"
NEAR_BEALE = "saddle/near-beale"
HYPERBOLA = "saddle/hyperbola"
BEALE = "saddle/beale"
ESCAPE = "saddle/escape"
MOMENTUM = "saddle/momentum"
QUADRATICS = "normalization/quadratics"
DRIFT = "normalization/drift"
SENSING = "normalization/sensing"
FEATURES = "membership/features"
RIDGE = "membership/ridge"
PUBLISHED = {group: f"{group}/published" for group in (HYPERBOLA, BEALE, DRIFT)}
"""The published start of each, aside: a point of its own among the random ones."""

PL_QUADRATIC = {False: "pl/quadratic/constant", True: "pl/quadratic/decreasing"}
PL_SUMS = {
    (kind, decreasing): f"pl/{kind}/{'decreasing' if decreasing else 'constant'}"
    for kind in ("fits", "does-not-fit")
    for decreasing in (False, True)
}

HYPERBOLA_RADII = (0.0, 0.1, 0.3, 0.5, 0.6, 1.0)
HYPERBOLA_RHO = 0.5
BEALE_RADII = (0.0, 0.1, 0.5, 1.0)
BEALE_RHO = 1.0
DRIFT_RADII = (0.0, 0.03, 0.05, 0.1, 0.2, 0.3, 0.5)
DRIFT_RHO = 0.1
"""The published radii, with others beside; the claims are judged at the middle one of each."""

SENSING_RADII = (0.0, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
SENSING_RATES = (0.1, 0.2, 0.4)
"""ρ and η of matrix sensing; the published grid is not known."""

WIDTHS = (4, 32, 256)
NETWORK_RADII = (0.0, 0.1, 0.2, 0.4)

EXAMPLES, DIMENSION = 50, 400
OVER = (20, 52, 55, 60, 75, 100, 150, 200, 300, 400)
"""n, D and p of the linear model: from below n to 8n."""
RIDGE_EXAMPLES, RIDGE_DIMENSION = 100, 3000
RIDGE_FEATURES = (150, 300, 1000)
RIDGE_JUDGED = 300
RIDGES = (0.0, 30.0, 100.0, 200.0, 500.0)


def network_group(width: int) -> str:
    """The group of a width."""
    return f"membership/networks/{width}"
