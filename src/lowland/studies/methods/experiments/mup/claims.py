"""The claims about muP², with their thresholds, fixed before anything runs."""

from __future__ import annotations

from lowland.studies.methods.experiments.mup.findings import (
    lasting,
    no_transfer,
    transfer,
    vanishing,
)
from lowland.studies.study import Claim
from lowland.studies.verdict import AtLeast, Within

STEP = 1.0
"""Optima that move by less than a step of the grid carry over."""
SHARE = 0.3
"""Smallest change of ε's effect on a layer that matters."""


def claims() -> tuple[Claim, ...]:
    """Transfer under muP², none under SAM, and which layers ε reaches."""
    source, published = "arXiv 2411.00075, abstract", "shape: optima stay in place only under muP²"
    step_reason = (
        "One step of the grid, a factor of 2: whoever tunes a small network over such a grid takes "
        "the neighbouring value otherwise."
    )
    return (
        Claim(
            name="mup2-transfers",
            sentence="Under muP² the best learning rate and the best ρ do not move with the width.",
            source=source,
            published=published,
            effect=(
                "steps of a factor of 2 by which the optimum of validation loss moves from the "
                "smallest to the largest width: of learning rate and ρ, the one that the other "
                "seeds say moves more"
            ),
            unit="",
            rule=Within(STEP),
            reason=step_reason,
            find=transfer,
        ),
        Claim(
            name="sam-does-not-transfer",
            sentence=(
                "Under the standard parametrisation with SAM they move: the best learning rate "
                "falls, or the best ρ rises."
            ),
            source=source,
            published=published,
            effect=(
                "the same for SAM, counted in the direction of each, the one that the other seeds "
                "say moves more"
            ),
            unit="",
            rule=AtLeast(STEP),
            reason=step_reason,
            find=no_transfer,
        ),
        Claim(
            name="sam-perturbs-last-layer-only",
            sentence=(
                "Standard SAM perturbs only the last layer of a wide network: beside what ε does "
                "there, what it does to the others vanishes."
            ),
            source="arXiv 2411.00075, abstract and §3",
            published="shape: the others' part vanishes as the width grows",
            effect=(
                "share by which ε's effect on a hidden layer's own output, relative to its effect "
                "on the last one's, falls from the smallest to the largest width, mean over "
                "start, middle and end of training; the layer where it falls least, told by the "
                "other seeds"
            ),
            unit="percent",
            rule=AtLeast(SHARE),
            reason="About half of what a fall like 1/√width makes over eight times the width.",
            find=vanishing,
        ),
        Claim(
            name="mup2-perturbs-every-layer",
            sentence="Under muP² ε changes every layer's output alike at all widths.",
            source="arXiv 2411.00075, abstract and §3",
            published="shape: every layer's part stays of order one",
            effect=(
                "relative change of ε's effect on a layer's own output from the smallest to the "
                "largest width, mean over start, middle and end of training; the layer where it "
                "changes most, told by the other seeds"
            ),
            unit="percent",
            rule=Within(SHARE),
            reason="The smallest fall that counts as vanishing in the claim before.",
            find=lasting,
        ),
    )
