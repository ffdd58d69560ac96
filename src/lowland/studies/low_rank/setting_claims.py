"""The claims of the low-rank study that compare settings, step sizes, data and networks."""

from __future__ import annotations

from functools import partial

from lowland.studies.low_rank import errors, ranks, settings
from lowland.studies.low_rank.columns import POST, Measured
from lowland.studies.study import Claim
from lowland.studies.verdict import AtLeast, Within

SHARE = 0.05
"""Smallest relative change of a rank that matters, and the margin within which two are equal."""

POINTS = 0.0025
"""Smallest difference of errors that matters: a quarter of a percentage point."""

HALF = 0.5
"""Collapse has begun where half of the way is gone; an order is one where τ is so large."""

_REASON = "The same twentieth of a rank as in the claims above."
_DIFFERENCE = "The same twentieth: a difference of two falls is as hard to see as a fall."


def setting_claims(what: Measured) -> tuple[Claim, ...]:
    """Every claim that needs a group beside the main runs, or a third ρ."""
    return (*_shape_claims(what), *_start_claims(what), *_cause_claims(what), *_block_claims(what))


def _shape_claims(what: Measured) -> tuple[Claim, ...]:
    return (
        Claim(
            name="error-at-large-rho",
            sentence="Too large a ρ makes the test error worse again.",
            source="App. A; Fig. 1 to 3 (left)",
            published="shape: a U; grids include ρ, mostly above 0.5, that degrade the error",
            effect="test error at the largest ρ minus test error at the chosen ρ",
            unit="points",
            rule=AtLeast(POINTS),
            reason="The same quarter of a point by which a fall counts.",
            find=partial(errors.error_at_the_largest_rho, what=what),
        ),
        Claim(
            name="rank-in-both-settings",
            sentence="SAM lowers the rank in the minimal and in the state-of-the-art setting.",
            source="Fig. 1 to 3 (right), §3.1",
            published="very consistent over three data sets and both settings",
            effect=(
                f"the smaller of the two shares by which the rank at {what.block} is lower at the "
                "largest ρ than at ρ = 0; one data set"
            ),
            unit="percent",
            rule=AtLeast(SHARE),
            reason=_REASON,
            find=partial(settings.fall_in_both_settings, what=what),
        ),
        Claim(
            name="rank-on-test-post-activation",
            sentence=(
                "The rank on test images is the rank on train images in a post-activation network "
                "too."
            ),
            source="Fig. 9, App. B",
            published="very close at every ρ",
            effect=(
                f"the rank at {what.block} on test images over that on equally many train images, "
                "minus 1, mean over ρ"
            ),
            unit="percent",
            rule=Within(SHARE),
            reason="The same twentieth within which a change of the rank does not matter.",
            find=partial(ranks.rank_on_test, what=what, group=POST),
        ),
    )


def _start_claims(what: Measured) -> tuple[Claim, ...]:
    where = f"the rank at {what.block}"
    return (
        Claim(
            name="sudden-drop",
            sentence=(
                "In the state-of-the-art setting the rank drops suddenly at the beginning, in "
                "plain training and with SAM."
            ),
            source="Fig. 1 to 3 (right), §3.1",
            published="shape: a steep fall within the first epochs, at every ρ",
            effect=(
                f"share by which the lowest value of {where} in the first quarter of training is "
                "below that at initialisation, the smaller one of ρ = 0 and the largest ρ"
            ),
            unit="percent",
            rule=AtLeast(SHARE),
            reason=_REASON,
            find=partial(settings.drop_at_start, what=what),
        ),
        Claim(
            name="gradual-increase",
            sentence="After that drop the rank rises gradually, in plain training and with SAM.",
            source="Fig. 1 to 3 (right), §3.1",
            published="shape: a slow rise over the rest of training, at every ρ",
            effect=(
                f"share by which {where} at the end is above its lowest value in the first half of "
                "training, the smaller one of ρ = 0 and the largest ρ"
            ),
            unit="percent",
            rule=AtLeast(SHARE),
            reason=_REASON,
            find=partial(settings.rise_after, what=what),
        ),
        Claim(
            name="drop-with-large-steps",
            sentence="The drop at the start is there with a large learning rate only.",
            source="§3.1",
            published="only present when learning rates are large",
            effect=(
                f"the weaker of two, of {where} in the first quarter of plain training: its drop "
                f"with five times the learning rate, and {2 * settings.ONLY:.0%} minus its drop "
                "with the minimal setting's"
            ),
            unit="percent",
            rule=AtLeast(settings.ONLY),
            reason=(
                "The same twentieth of a rank: it is reached if there is such a drop with large "
                "steps and none with small ones."
            ),
            find=partial(settings.drop_with_large_steps, what=what),
        ),
        Claim(
            name="drop-by-rho-and-step",
            sentence="SAM and a high learning rate act together on the drop at the start.",
            source="§3.1, suggested there",
            published="none: an interaction is suggested",
            effect=(
                f"what the largest ρ adds to the drop of {where} with five times the learning "
                "rate, minus what it adds with the minimal setting's"
            ),
            unit="percent",
            rule=AtLeast(SHARE),
            reason=_DIFFERENCE,
            find=partial(settings.drop_by_rho_and_step, what=what),
        ),
    )


def _cause_claims(what: Measured) -> tuple[Claim, ...]:
    where = f"the rank at {what.block}"
    return (
        Claim(
            name="augmentation-reveals",
            sentence="Augmentation is crucial for the rank to fall with ρ.",
            source="§3.1",
            published="none: said of the minimal setting with and without",
            effect=(
                f"share by which {where} is lower at the largest ρ than at ρ = 0 with "
                "augmentation, minus that share without"
            ),
            unit="percent",
            rule=AtLeast(SHARE),
            reason=_DIFFERENCE,
            find=partial(settings.augmentation_reveals, what=what),
        ),
        Claim(
            name="decay-is-not-enough",
            sentence="Weight decay alone, without augmentation, does not make the rank fall so.",
            source="§3.1",
            published="none: insufficient for a similar trend",
            effect=(
                f"share by which {where} is lower at the largest ρ than at ρ = 0 with "
                "augmentation, minus that share with weight decay in its place"
            ),
            unit="percent",
            rule=AtLeast(SHARE),
            reason=_DIFFERENCE,
            find=partial(settings.decay_is_not_enough, what=what),
        ),
    )


def _block_claims(what: Measured) -> tuple[Claim, ...]:
    return (
        Claim(
            name="collapse-at-last-block",
            sentence="The rank before the classifier converges to the number of classes.",
            source="§3.1, after Papyan et al. 2020",
            published="the reason why the last superblock is left out",
            effect=(
                f"share of the way from its rank at initialisation to the number of classes that "
                f"the rank at {what.last} has gone at the end of plain training, "
                "state-of-the-art setting"
            ),
            unit="percent",
            rule=AtLeast(HALF),
            reason="Half of the way: less is no convergence.",
            find=partial(settings.collapse, what=what),
        ),
        Claim(
            name="collapse-interferes",
            sentence=(
                "Neural collapse interferes with the trend: before the classifier the rank falls "
                "less with ρ."
            ),
            source="§3.1",
            published="none: the reason why the last superblock is left out",
            effect=(
                f"share by which the rank at {what.block} is lower at the largest ρ than at ρ = 0, "
                f"minus that share at {what.last}"
            ),
            unit="percent",
            rule=AtLeast(SHARE),
            reason=_DIFFERENCE,
            find=partial(settings.interferes, what=what),
        ),
        Claim(
            name="collapse-in-a-cascade",
            sentence="The collapse comes in a cascade: the deeper the block, the further it goes.",
            source="§3.1, after Hui et al. 2022",
            published="none: said of neural collapse in general",
            effect=(
                "Kendall's τ between the depth of a block and the share by which its rank falls "
                "from initialisation to the end of plain training, state-of-the-art setting"
            ),
            unit="",
            rule=AtLeast(HALF),
            reason="τ = 0.5 is three pairs of blocks in four in that order.",
            find=partial(settings.cascade, what=what),
        ),
    )
