"""The claims about ReLUs, with their thresholds, fixed before anything runs."""

from __future__ import annotations

from functools import partial

from lowland.studies.relu import findings
from lowland.studies.relu.columns import Setup
from lowland.studies.study import Claim
from lowland.studies.verdict import AtLeast, Within

POINTS = 0.05
"""Smallest fall of a share of units that matters, and the margin for none: five points."""
SHARE = 0.05
"""Smallest relative change of a rank that matters."""
MORE = 0.02
"""Smallest difference between later and earlier blocks that matters: two points."""

_UNITS = "Five units in a hundred; the paper reports a fall from 100% to 77%."
_TWENTIETH = (
    "A twentieth: most of the falls in the paper's Table 1 are larger, and a smaller one saves "
    "next to nothing when features are stored or searched."
)
_MORE = "Two points: less than half of the smallest fall that matters."
_SHAPE = "shape: falls with ρ, particularly at later blocks"
_FIGURE = "Fig. 6, §5"


def claims(setup: Setup) -> tuple[Claim, ...]:
    """Every claim, in the order of the report."""
    return (*_falls(setup), *_where(setup), *_together(setup), *_matched(setup))


def _falls(setup: Setup) -> tuple[Claim, ...]:
    later, last = " and ".join(setup.later), setup.blocks[-1]
    return (
        Claim(
            name="active-falls",
            sentence="The number of active ReLUs falls with ρ at later blocks.",
            source=_FIGURE,
            published="100% at ρ = 0, 77% at ρ = 0.6 (block 4)",
            effect=(
                f"share of active ReLUs at ρ = 0 minus at the largest ρ, mean over {later}; active "
                "is above 5% of the block's largest value on at least one training image"
            ),
            unit="points",
            rule=AtLeast(POINTS),
            reason=_UNITS,
            find=partial(findings.active_falls, setup=setup),
        ),
        Claim(
            name="all-active-in-plain-training",
            sentence="In plain training all ReLUs of the last block are active.",
            source="§5",
            published="100%",
            effect=f"share of ReLUs at {last} that are not active at ρ = 0",
            unit="percent",
            rule=Within(POINTS),
            reason=_UNITS,
            find=partial(findings.all_active_in_plain_training, setup=setup),
        ),
        Claim(
            name="rank-falls",
            sentence="The feature rank falls with ρ at later blocks of a post-activation ResNet.",
            source=_FIGURE,
            published=_SHAPE,
            effect=f"share by which the rank is lower at the largest ρ than at 0; mean of {later}",
            unit="percent",
            rule=AtLeast(SHARE),
            reason=_TWENTIETH,
            find=partial(findings.rank_falls, setup=setup),
        ),
    )


def _where(setup: Setup) -> tuple[Claim, ...]:
    blocks = f"{' and '.join(setup.later)} minus that over {' and '.join(setup.earlier)}"
    return (
        Claim(
            name="active-falls-more-later",
            sentence="Active ReLUs fall more at later blocks than at earlier ones.",
            source=_FIGURE,
            published=_SHAPE,
            effect=f"fall of the active share to the largest ρ, mean over {blocks}",
            unit="points",
            rule=AtLeast(MORE),
            reason=_MORE,
            find=partial(findings.active_falls_later, setup=setup),
        ),
        Claim(
            name="rank-falls-more-later",
            sentence="The rank falls more at later blocks than at earlier ones.",
            source=_FIGURE,
            published=_SHAPE,
            effect=f"relative fall of the rank to the largest ρ, mean over {blocks}",
            unit="points",
            rule=AtLeast(MORE),
            reason=_MORE,
            find=partial(findings.rank_falls_later, setup=setup),
        ),
    )


def _together(setup: Setup) -> tuple[Claim, ...]:
    return (
        Claim(
            name="pruning-lowers-rank",
            sentence="Fewer active ReLUs contribute to the lower rank directly.",
            source="§5",
            published="none: given as the reason",
            effect=(
                "share by which the rank of the plain network at later blocks falls if a random "
                "subset of its units is kept, as large as the active share at the largest ρ is of "
                "that at ρ = 0 (interpolated between subsets of 25%, 50%, 75%, 90% and 100%)"
            ),
            unit="percent",
            rule=AtLeast(SHARE),
            reason=_TWENTIETH,
            find=partial(findings.pruning_lowers_rank, setup=setup),
        ),
        Claim(
            name="trends-differ",
            sentence="The trends of rank and active ReLUs do not perfectly agree.",
            source="§5",
            published="shape: the two curves of Fig. 6 differ",
            effect=(
                "absolute difference of two relative falls to the largest ρ, that of the rank and "
                "that of the active share, mean over all blocks"
            ),
            unit="percent",
            rule=AtLeast(SHARE),
            reason="Falls that differ by a twentieth of the whole are not the same fall.",
            find=partial(findings.trends_differ, setup=setup),
        ),
    )


def _matched(setup: Setup) -> tuple[Claim, ...]:
    each = (
        "each where its train loss first reaches the lowest level that all ρ of that seed reach "
        "(interpolated in log loss)"
    )
    source, published = "not in the paper, whose comparison is at equal steps", "none"
    return (
        Claim(
            name="active-at-matched-loss",
            sentence="Active ReLUs fall at the same train loss too.",
            source=source,
            published=published,
            effect=f"the fall of the active share at later blocks, {each}",
            unit="points",
            rule=AtLeast(POINTS),
            reason=_UNITS,
            find=partial(findings.active_at_matched_loss, setup=setup),
        ),
        Claim(
            name="rank-at-matched-loss",
            sentence="The rank falls at the same train loss too.",
            source=source,
            published=published,
            effect=f"the relative fall of the rank at later blocks, {each}",
            unit="percent",
            rule=AtLeast(SHARE),
            reason=_TWENTIETH,
            find=partial(findings.rank_at_matched_loss, setup=setup),
        ),
    )
