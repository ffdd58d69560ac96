"""The claims of the two-layer study about units that are never active."""

from __future__ import annotations

from functools import partial

from lowland.studies.study import Claim
from lowland.studies.two_layer import pruning
from lowland.studies.two_layer.columns import SAM
from lowland.studies.verdict import AtLeast

HALF = 0.5


def by_pruning(name: str, said: str) -> Claim:
    """That the low rank is due to units without activation, for one activation."""
    relu = name == "relu"
    return Claim(
        name=f"{name}-rank-by-pruning",
        sentence=f"The low rank of {said} networks is due to units without activation.",
        source="Fig. 5, §4.1" if relu else "§4.1; Fig. 12, App. D",
        published=(
            "10 active units, and fewer that contribute to a rank of 4"
            if relu
            else "none: attributed to zero activations, as for ReLU"
        ),
        effect="share of the fall of the rank from ρ = 0 to the largest ρ that the number of "
        "active units alone forces, since no more components than active units can be needed",
        unit="percent",
        rule=AtLeast(HALF),
        reason="Half: what is due to something else is less.",
        find=partial(pruning.forced_fall, group=SAM[name]),
    )


def of_pruned_units() -> tuple[Claim, ...]:
    """How few units contribute, and what has become of the others."""
    return (
        Claim(
            name="relu-fewer-components",
            sentence="Even fewer components than active units hold the variance.",
            source="§4.1",
            published="10 active units and a rank of 4 at ρ = 0.6, one seed",
            effect="share by which the rank (99.99%) is below the number of active units at the "
            "largest ρ, at the end",
            unit="percent",
            rule=AtLeast(0.05),
            reason="A twentieth, as of other numbers of units.",
            find=pruning.fewer_components,
        ),
        Claim(
            name="relu-not-shrunk",
            sentence="Units are pruned by the negative part of ReLU, not by shrinking their weight "
            "vectors to zero.",
            source="§4.1",
            published="none: stated",
            effect="mean norm of the inner weights of units that are inactive in the end at the "
            "largest ρ, over that of all units at initialisation, at most 1",
            unit="percent",
            rule=AtLeast(HALF),
            reason="Half of the norm is far from zero.",
            find=pruning.not_shrunk,
        ),
    )


def first_order_dominates() -> Claim:
    """That the first-order part gives most of the effect."""
    return Claim(
        name="gradient-norm-dominant",
        sentence="The first-order terms are dominant for the low-rank effect of SAM.",
        source="App. D",
        published="none: stated, from Fig. 13",
        effect="share by which the rank falls at the largest λ of the gradient's norm, over that "
        "at the largest ρ of SAM",
        unit="percent",
        rule=AtLeast(HALF),
        reason="What gives more than half is dominant.",
        find=pruning.first_order,
    )
