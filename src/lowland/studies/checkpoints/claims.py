"""The claims about public checkpoints, with their thresholds, fixed before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import partial

from lowland.studies.checkpoints import findings
from lowland.studies.checkpoints.published import (
    ARCHITECTURES,
    HALF,
    LAST,
    MIXER,
    THREE_QUARTERS,
)
from lowland.studies.effects import relative_fall
from lowland.studies.study import Claim
from lowland.studies.verdict import AtLeast

SHARE = 0.05
"""Smallest relative fall of a rank that matters."""

_TWENTIETH = (
    "A twentieth: most of the published falls are larger, and a smaller one saves next to nothing "
    "when features are stored or searched."
)
_ALL = tuple(range(len(ARCHITECTURES)))
_VITS = tuple(place for place in _ALL if place != MIXER)


def claims() -> tuple[Claim, ...]:
    """Every claim, in the order of the report."""
    return (
        _falls("last", LAST, "after the last block", _ALL),
        _falls("three-quarters", THREE_QUARTERS, "after 3/4 of the blocks", _VITS),
        _falls("half", HALF, "after 1/2 of the blocks", _ALL),
        Claim(
            name="rank-falls-everywhere",
            sentence="The reduction is consistent: it is there for each network and each place.",
            source="Table 1, §3.2",
            published=(
                f"every pair falls, by {_least_fall():.1%} at least, but for the Mixer after 3/4"
            ),
            effect=(
                "smallest of the falls of an architecture, after the last, 3/4 and 1/2 of the "
                "blocks (the Mixer's after 3/4 left out), mean over architectures"
            ),
            unit="percent",
            rule=AtLeast(0.0),
            reason="Any fall counts where the claim is that there is one.",
            find=findings.smallest_fall,
        ),
        Claim(
            name="mixer-exception",
            sentence="The only exception is the Mixer after 3/4 of the blocks: there it rises.",
            source="Table 1, §3.2",
            published="301 → 477 (+58%)",
            effect="share by which the rank there is higher with SAM",
            unit="percent",
            rule=AtLeast(SHARE),
            reason=(
                "A twentieth, as for the falls. There is one such pair, and one is never a result: "
                "the pair can be measured, not judged."
            ),
            find=findings.exception,
        ),
    )


def _least_fall() -> float:
    """The smallest of the published falls, the exception left out."""
    return min(
        relative_fall(*architecture.ranks[share])
        for place, architecture in enumerate(ARCHITECTURES)
        for share in architecture.ranks
        if (place, share) != (MIXER, THREE_QUARTERS)
    )


def _falls(name: str, share: Fraction, where: str, places: Sequence[int]) -> Claim:
    networks = "ViTs and the Mixer" if MIXER in places else "ViTs"
    falls = ", ".join(
        "{} → {}".format(*ARCHITECTURES[place].ranks[share]) + f" ({ARCHITECTURES[place].name})"
        for place in places
    )
    return Claim(
        name=f"rank-falls-after-{name}",
        sentence=f"Public {networks} trained with SAM have features of lower rank {where}.",
        source="Table 1, §3.2",
        published=falls,
        effect="share by which the rank is lower with SAM, mean over architectures",
        unit="percent",
        rule=AtLeast(SHARE),
        reason=_TWENTIETH,
        find=partial(findings.fall, share=share, places=places),
    )
