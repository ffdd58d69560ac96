"""The claims about transformer blocks, with their thresholds, fixed before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from functools import partial

from lowland.studies.study import Claim
from lowland.studies.verdict import AtLeast, Within
from lowland.studies.vit_blocks import depths, inside
from lowland.studies.vit_blocks.columns import MIXER, SHARES, VIT, Setup

SHARE = 0.05
"""Smallest relative change of a rank that matters, and the margin within which two are equal."""
MOST = 0.8
"""Almost every one: four in five."""
SOME = 0.1
"""Some: one in ten."""
POINTS = 0.05
"""Margin for shares of units: five percentage points."""
HALF = 0.5
LEAST = 0.0025
"""Smallest difference of test errors that matters."""

_TWENTIETH = (
    "A twentieth: most of the falls in the paper's Table 1 are larger, and a smaller one saves "
    "next to nothing when features are stored or searched."
)
_MARGIN = "Five units in a hundred; the paper reports a fall from 100% to 77% of ReLUs."
_TABLE: Mapping[str, Mapping[str, str]] = {
    VIT: {
        "the last": "680 → 617 (B/16), 672 → 654 (B/32), 903 → 820 and 898 → 844 (L): −3% to −9%",
        "3/4 of": "467 → 426 (B/16), 484 → 440 (B/32), 595 → 314 and 595 → 442 (L): −9% to −47%",
        "1/2 of": "412 → 346 (B/16), 390 → 362 (B/32), 387 → 250 and 469 → 318 (L): −7% to −35%",
    },
    MIXER: {
        "the last": "695 → 620 (B/16): −11%",
        "3/4 of": "301 → 477 (B/16): +58%",
        "1/2 of": "425 → 369 (B/16): −13%",
    },
}
_NAMES = {"the last": "last", "3/4 of": "three-quarters", "1/2 of": "half"}
_PLAIN = {VIT: "ViT", MIXER: "MLP-Mixer"}
_WHAT = {VIT: "ViT (class token)", MIXER: "MLP-Mixer (mean token)"}


def claims(setup: Setup) -> tuple[Claim, ...]:
    """Every claim, in the order of the report."""
    return (*_depth_claims(setup), *_stream_claims(setup), *_unit_claims(setup))


def _depth_claims(setup: Setup) -> tuple[Claim, ...]:
    return (
        *(_depth(setup, VIT, words) for words in SHARES),
        *(_depth(setup, MIXER, words) for words in ("the last", "1/2 of")),
        _exception(setup),
        Claim(
            name="vit-larger-rho-lower-rank",
            sentence="A larger ρ lowers the rank of the ViT further.",
            source="§3.2 (as an expectation)",
            published="none: the public networks have one small ρ each, such as 0.2 for ViT-B/16",
            effect=(
                "share by which the rank of the class token after the last block falls at the "
                "largest ρ, minus that at the smallest ρ > 0"
            ),
            unit="points",
            rule=AtLeast(SHARE),
            reason=_TWENTIETH,
            find=partial(depths.fall_of_largest, setup=setup, group=VIT),
        ),
        *(_matched(setup, group) for group in (VIT, MIXER)),
        *(_error(group) for group in (VIT, MIXER)),
    )


def _depth(setup: Setup, group: str, words: str) -> Claim:
    blocks = "the last block" if words == "the last" else f"{words} the blocks"
    return Claim(
        name=f"{group}-rank-after-{_NAMES[words]}",
        sentence=f"SAM lowers the feature rank of the {_WHAT[group]} after {blocks}.",
        source="Table 1, §3.2",
        published=_TABLE[group][words],
        effect=f"share by which the rank after {blocks} is lower at the largest ρ than at ρ = 0",
        unit="percent",
        rule=AtLeast(SHARE),
        reason=_TWENTIETH,
        find=partial(depths.fall, setup=setup, group=group, share=SHARES[words]),
    )


def _exception(setup: Setup) -> Claim:
    return Claim(
        name="mixer-rank-after-three-quarters",
        sentence="The only exception is the MLP-Mixer after 3/4 of the blocks: there it rises.",
        source="Table 1, §3.2",
        published=_TABLE[MIXER]["3/4 of"],
        effect="share by which the rank there is higher at the largest ρ than at ρ = 0",
        unit="percent",
        rule=AtLeast(SHARE),
        reason=_TWENTIETH,
        find=partial(depths.fall, setup=setup, group=MIXER, share=Fraction(3, 4), sign=-1),
    )


def _matched(setup: Setup, group: str) -> Claim:
    return Claim(
        name=f"{group}-rank-at-matched-loss",
        sentence=f"SAM lowers the rank of the {_WHAT[group]} at the same train loss too.",
        source="not in the paper, whose comparisons are at equal steps",
        published="none",
        effect=(
            "share by which the rank of what the head is given, after the final LayerNorm, is "
            "lower at the largest ρ than at ρ = 0, each where its train loss first reaches the "
            "lowest level that all ρ of that seed reach (interpolated in log loss)"
        ),
        unit="percent",
        rule=AtLeast(SHARE),
        reason=_TWENTIETH,
        find=partial(depths.fall_at_matched_loss, setup=setup, group=group),
    )


def _error(group: str) -> Claim:
    return Claim(
        name=f"{group}-test-error",
        sentence=f"SAM improves the generalization of the {_PLAIN[group]}.",
        source="§2.1, after Chen et al. 2022",
        published="none in this paper: said of others' work, as particularly helpful there",
        effect="test error at ρ = 0 minus at the ρ chosen on validation data",
        unit="points",
        rule=AtLeast(LEAST),
        reason="A quarter of a percentage point, as in the study low-rank.",
        find=partial(depths.error_falls, group=group),
    )


def _stream_claims(setup: Setup) -> tuple[Claim, ...]:
    unit = "over the rank after the last block in plain training"
    return (
        Claim(
            name="attention-raises-rank",
            sentence="Almost each attention block increases the rank of the residual stream.",
            source="Fig. 7 (left), §5",
            published="shape: the difference is above zero in almost each of 12 blocks at every ρ",
            effect="share of attention blocks, over blocks and ρ, after which the rank is higher",
            unit="percent",
            rule=AtLeast(MOST),
            reason="Four in five: of twelve blocks two may be otherwise.",
            find=partial(inside.attention_raises, setup=setup),
        ),
        Claim(
            name="attention-raises-less",
            sentence="The increase is smaller for larger ρ.",
            source="Fig. 7 (left), §5",
            published="shape: the difference after attention is smaller for larger ρ",
            effect=(
                "sum over blocks of the differences across attention at ρ = 0, minus that at the "
                f"largest ρ, {unit}"
            ),
            unit="percent",
            rule=AtLeast(SHARE),
            reason=_TWENTIETH,
            find=partial(inside.change_of_sum, setup=setup, across=inside.ATTENTION, sign=-1),
        ),
        Claim(
            name="mlp-goes-both-ways",
            sentence="MLP blocks both increase and decrease the rank of the residual stream.",
            source="Fig. 7 (middle), §5",
            published="shape: the difference across the MLP is above and below zero",
            effect=(
                "the smaller of two shares of MLP sub-blocks, over blocks and ρ: those after which "
                "the rank is higher, and lower"
            ),
            unit="percent",
            rule=AtLeast(SOME),
            reason="One in ten of each kind: neither is a chance.",
            find=partial(inside.mlp_goes_both_ways, setup=setup),
        ),
        Claim(
            name="mlp-difference-larger",
            sentence="The difference of the rank after and before the MLP is larger at larger ρ.",
            source="Fig. 7 (middle), §5",
            published="shape: the difference across the MLP tends to be larger for larger ρ",
            effect=(
                "sum over blocks of the differences across the MLP at the largest ρ, minus that "
                f"at ρ = 0, {unit}"
            ),
            unit="percent",
            rule=AtLeast(SHARE),
            reason=_TWENTIETH,
            find=partial(inside.change_of_sum, setup=setup, across=inside.MLP, sign=1),
        ),
        Claim(
            name="reduction-by-attention",
            sentence="The reduction of the rank comes primarily from the attention blocks.",
            source="§5",
            published="shape: a conclusion from Fig. 7 (left and middle)",
            effect=(
                "the weaker of two, at the largest ρ against ρ = 0: the fall of the rank after the "
                f"last block, and its part across attention minus that across the MLPs, {unit}"
            ),
            unit="percent",
            rule=AtLeast(SHARE),
            reason=_TWENTIETH,
            find=partial(inside.reduction_by_attention, setup=setup),
        ),
        Claim(
            name="rank-grows-over-blocks",
            sentence="The rank grows over the residual blocks.",
            source="Fig. 14, App. E",
            published="shape: grows over 12 blocks at every ρ",
            effect="share of steps from a block to the next, over blocks and ρ, with a higher rank",
            unit="percent",
            rule=AtLeast(MOST),
            reason="Four in five: of eleven steps two may be otherwise.",
            find=partial(inside.grows_over_blocks, setup=setup),
        ),
        Claim(
            name="rank-starts-small",
            sentence="It starts from very small values in the first blocks.",
            source="Fig. 14, App. E",
            published="shape: 1 to 3 in the first blocks, with the mean example in the spectrum",
            effect="1 − the rank after the first block over that after the last, mean over ρ",
            unit="percent",
            rule=AtLeast(HALF),
            reason="Less than half of what it becomes.",
            find=partial(inside.starts_small, setup=setup),
        ),
        Claim(
            name="class-token-starts-alike",
            sentence="The reason is that at the start the token is the same for all inputs.",
            source="App. E, which names the identical positional encoding",
            published="none: given as the reason",
            effect=(
                "share of the energy of the class token after the first block that the mean over "
                "images holds, mean over ρ"
            ),
            unit="percent",
            rule=AtLeast(HALF),
            reason="More is common to all images than tells them apart.",
            find=partial(inside.starts_alike, setup=setup),
        ),
    )


def _unit_claims(setup: Setup) -> tuple[Claim, ...]:
    return (
        Claim(
            name="no-sparse-coordinates",
            sentence="There is no coordinate-aligned sparsity in the residual stream.",
            source="§5",
            published="none observed",
            effect=(
                "share of coordinates of the stream whose largest |value| over images is below 5% "
                "of that of the largest coordinate, mean over blocks, at the largest ρ"
            ),
            unit="percent",
            rule=Within(POINTS),
            reason=_MARGIN,
            find=partial(inside.sparse_coordinates, setup=setup),
        ),
        Claim(
            name="gelus-stay-active",
            sentence="The number of active GELUs in the MLPs does not decrease with ρ.",
            source="Fig. 7 (right), §5",
            published="shape: no decrease",
            effect=(
                "5 points minus the fall, from ρ = 0 to the largest ρ, of the share of GELUs above "
                "10% of the largest on at least one image (class token), mean over blocks"
            ),
            unit="points",
            rule=AtLeast(0.0),
            reason=f"A fall of less than five points is none. {_MARGIN}",
            find=partial(inside.gelus_stay, setup=setup, margin=POINTS),
        ),
        *(_branch(setup, place, words) for place, words in _PLACES.items()),
    )


_PLACES = {"attention-branch": "attention", "after-activation": "the GELUs"}


def _branch(setup: Setup, place: str, words: str) -> Claim:
    return Claim(
        name=f"no-trend-after-{words.rpartition(' ')[2].lower()}",
        sentence=f"Within the branches, after {words}, the rank has no clear trend with ρ.",
        source="Fig. 14, App. E",
        published="shape: no clear trend",
        effect=(
            f"share by which the rank of the branch after {words} is lower at the largest ρ than "
            "at ρ = 0, mean over blocks"
        ),
        unit="percent",
        rule=Within(SHARE),
        reason="The same twentieth within which a change of the rank does not matter.",
        find=partial(inside.fall_in_branch, setup=setup, place=place),
    )
