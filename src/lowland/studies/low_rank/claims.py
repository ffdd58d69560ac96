"""The claims of the low-rank study, with their thresholds, fixed before anything runs."""

from __future__ import annotations

from functools import partial

from lowland.studies.low_rank import errors, ranks
from lowland.studies.low_rank.columns import TRANSFER, Measured
from lowland.studies.low_rank.setting_claims import POINTS, SHARE, setting_claims
from lowland.studies.study import Claim
from lowland.studies.verdict import AtLeast, Within

DISORDER = 0.2
"""1 − Kendall's τ of two orders that disagree on one pair in ten."""

_RANK_REASON = (
    "A twentieth: most of the falls in the paper's Table 1 are larger, and a smaller one saves "
    "next to nothing when features are stored or searched."
)
_ERROR_REASON = (
    "A quarter of a percentage point: about one image of the digits' test split, and less than "
    "anyone would double the cost of training for."
)


def claims(what: Measured) -> tuple[Claim, ...]:
    """Every claim, in the order of the report, for the rank at `what.block`."""
    return (
        *_rank_claims(what),
        *_error_claims(what),
        *_control_claims(what),
        *setting_claims(what),
    )


def _rank_claims(what: Measured) -> tuple[Claim, ...]:
    where = f"the rank at {what.block}"
    return (
        Claim(
            name="rank-at-end",
            sentence=(
                "The feature rank falls with ρ: at the end of training it is lower at the largest "
                "ρ than in plain training."
            ),
            source="Fig. 1 to 3 (right), §3.1",
            published=(
                "shape: falls with ρ on three data sets and in two settings; in numbers only for "
                "ViTs (Table 1), such as 412 → 346 (−16%) half-way up ViT-B/16"
            ),
            effect=f"share by which {where} is lower at the largest ρ than at ρ = 0",
            unit="percent",
            rule=AtLeast(SHARE),
            reason=_RANK_REASON,
            find=partial(ranks.rank_at_end, what=what),
        ),
        Claim(
            name="rank-throughout",
            sentence="It is lower throughout training, not only at the end.",
            source="Fig. 1 to 3 (right), §3.1",
            published="shape: the curves of larger ρ run lower over all of training",
            effect=(
                f"the same share of {where}, as the mean over the evaluations of the first half of "
                "training (initialisation left out) or of the second, the smaller one"
            ),
            unit="percent",
            rule=AtLeast(SHARE),
            reason=_RANK_REASON,
            find=partial(ranks.rank_throughout, what=what),
        ),
        Claim(
            name="rank-from-initialisation",
            sentence=(
                "Plain training already lowers the rank from initialisation, "
                "and SAM amplifies this."
            ),
            source="§1, after Huh et al. 2021; Fig. 1 to 3 (right)",
            published="shape: a fall, and a larger one with SAM",
            effect=(
                f"the weaker of two falls of {where}: from initialisation to the end of plain "
                "training, and from there to the largest ρ"
            ),
            unit="percent",
            rule=AtLeast(SHARE),
            reason=_RANK_REASON,
            find=partial(ranks.rank_from_initialisation, what=what),
        ),
        Claim(
            name="rank-at-other-blocks",
            sentence="The reduction happens at different layers: at the other blocks too.",
            source="Abstract, §4.2",
            published="none: stated of multiple layers",
            effect=(
                f"the smallest, over the blocks beside {what.block}, of the shares by which "
                "their rank is lower at the largest ρ than at ρ = 0"
            ),
            unit="percent",
            rule=AtLeast(SHARE),
            reason=_RANK_REASON,
            find=partial(ranks.rank_at_other_blocks, what=what),
        ),
    )


def _error_claims(what: Measured) -> tuple[Claim, ...]:
    unseen = "the classes left out of training"
    sentence = (
        "The features transfer better: nearest neighbours among classes never trained on are right "
        "more often."
    )
    if what.transfer != TRANSFER:
        unseen = "another data set"
        sentence = (
            "The features transfer better: nearest neighbours in another data set are right more "
            "often."
        )
    return (
        Claim(
            name="test-error",
            sentence="SAM lowers the test error, at the ρ chosen on validation data.",
            source="Fig. 1 to 3 (left), §3.1",
            published="shape: falls with ρ, then rises again at large ρ",
            effect="test error at ρ = 0 minus test error at the chosen ρ",
            unit="points",
            rule=AtLeast(POINTS),
            reason=_ERROR_REASON,
            find=partial(errors.error_at_chosen_rho, what=what),
        ),
        Claim(
            name="knn-error",
            sentence=sentence,
            source="Fig. 1 to 3 (middle), §3.1",
            published="shape: kNN error on another data set is lowest at middle ρ",
            effect=(
                f"10-NN error in the features of {what.block}, on test images of {unseen}, at "
                "ρ = 0 minus at the ρ chosen on their validation images"
            ),
            unit="points",
            rule=AtLeast(POINTS),
            reason=_ERROR_REASON,
            find=partial(errors.neighbor_error_at_chosen_rho, what=what),
        ),
    )


def _control_claims(what: Measured) -> tuple[Claim, ...]:
    where = f"the rank at {what.block}"
    return (
        Claim(
            name="rank-on-test",
            sentence="The rank on test images is the rank on train images.",
            source="Fig. 9, §3.1",
            published="very similar at every ρ, for two networks and two data sets",
            effect=(
                f"{where} on test images over that on equally many train images, minus 1, "
                "mean of magnitudes over ρ"
            ),
            unit="percent",
            rule=Within(SHARE),
            reason="The same twentieth within which a change of the rank does not matter.",
            find=partial(ranks.rank_on_test, what=what),
        ),
        Claim(
            name="rank-falls-on-test",
            sentence="The low-rank effect generalizes to unseen samples: the rank falls with ρ on "
            "test images too.",
            source="Fig. 9, App. B; §3.1",
            published="shape: falls with ρ on test images as on train images",
            effect=f"share by which {where} on test images is lower at the largest ρ than at ρ = 0",
            unit="percent",
            rule=AtLeast(SHARE),
            reason=_RANK_REASON,
            find=partial(ranks.rank_falls_on_test, what=what),
        ),
        Claim(
            name="order-across-thresholds",
            sentence="The order of the ρ does not depend on the variance threshold of the rank.",
            source="Fig. 10, §3.1",
            published="relative ranking unaffected at 95%, 99% and 99.9%",
            effect=(
                "1 − Kendall's τ between the order of all ρ by rank at 99% and at 95% and 99.9%, "
                "mean of the two"
            ),
            unit="",
            rule=Within(DISORDER),
            reason="0.2 is one pair of ρ in ten that changes places.",
            find=partial(ranks.order_across_thresholds, what=what),
        ),
        Claim(
            name="rank-at-matched-loss",
            sentence="SAM lowers the rank at the same train loss too: it is not mere underfitting.",
            source="not in the paper; its largest ρ underfit, which would explain a lower rank",
            published="none: every published comparison is at equal steps",
            effect=(
                f"share by which {where} is lower at the largest ρ than at ρ = 0, each where its "
                "train loss first reaches the lowest level that all ρ of that seed reach "
                "(interpolated in log loss)"
            ),
            unit="percent",
            rule=AtLeast(SHARE),
            reason=_RANK_REASON,
            find=partial(ranks.rank_at_matched_loss, what=what),
        ),
    )
