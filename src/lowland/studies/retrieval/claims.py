"""The claims about retrieval and quantization, with their thresholds, fixed before anything ran."""

from __future__ import annotations

from functools import partial

from lowland.studies.retrieval import findings
from lowland.studies.retrieval.columns import ERROR, NEIGHBORS, RECALL, Setup
from lowland.studies.study import Claim
from lowland.studies.verdict import AtLeast, Within

SHARE = 0.05
"""Smallest relative saving that matters."""
THREE = 3.0
"""The published reduction."""

_SAVED = "A twentieth: a smaller saving does not pay for twice the cost of training."
_POINT = "One point: about two images of the digits' unseen test classes."
_RETRIEVAL = "§7, More efficient retrieval"
_QUANTIZATION = "§7, More efficient feature quantization"


def claims(setup: Setup) -> tuple[Claim, ...]:
    """Every claim, in the order of the report."""
    return (*_effectiveness(setup), *_savings(setup), *_quantization(setup), *_controls(setup))


def _effectiveness(setup: Setup) -> tuple[Claim, ...]:
    return (
        Claim(
            name="effectiveness-preserved",
            sentence=(
                "Despite their lower rank, SAM's features are as effective for nearest neighbours."
            ),
            source=_RETRIEVAL,
            published="preserved or even improved (by the kNN error of §3)",
            effect=(
                f"{NEIGHBORS}-NN error at {setup.block} on classes left out of training, at ρ = 0 "
                "plus one point, minus at the ρ chosen on their validation images"
            ),
            unit="points",
            rule=AtLeast(0.0),
            reason=f"{_POINT} So much higher an error still counts as preserved.",
            find=partial(findings.labels_preserved, setup=setup),
        ),
        Claim(
            name="components-suffice",
            sentence="The top components are enough: the neighbours' vote is as right as in full.",
            source=_RETRIEVAL,
            published="none: suggested",
            effect=(
                f"{NEIGHBORS}-NN error on classes left out of training at the largest ρ by the "
                "components of 99% of the variance, minus that by all features"
            ),
            unit="points",
            rule=Within(findings.MARGIN),
            reason=_POINT,
            find=partial(findings.components_suffice, setup=setup),
        ),
    )


def _savings(setup: Setup) -> tuple[Claim, ...]:
    found = f"recall@{NEIGHBORS} = {RECALL:g} of the true neighbours"
    where = f"of {setup.database} train images for {setup.queries} test images"
    return (
        Claim(
            name="fewer-dimensions",
            sentence="SAM's features need fewer dimensions for the same recall.",
            source=_RETRIEVAL,
            published="none: faster retrieval by the top-k components of PCA is suggested",
            effect=(
                f"share by which the components for {found} (cosine, exact search {where}) are "
                "fewer at the largest ρ than at ρ = 0"
            ),
            unit="percent",
            rule=AtLeast(SHARE),
            reason=_SAVED,
            find=partial(findings.fewer_dimensions, setup=setup),
        ),
        Claim(
            name="fewer-operations",
            sentence="Approximate search among the components takes less work for the same recall.",
            source=_RETRIEVAL,
            published="none: faster retrieval is suggested",
            effect=(
                f"share by which the multiply-adds of a query for {found}, its turn to components "
                "and inverted lists of them, are fewer at the largest ρ than at ρ = 0"
            ),
            unit="percent",
            rule=AtLeast(SHARE),
            reason=_SAVED,
            find=partial(findings.fewer_operations, setup=setup),
        ),
        Claim(
            name="data-adaptive",
            sentence=(
                "The low rank adapts to the data and is no fixed dimension: with fewer classes it "
                "is lower."
            ),
            source=f"{_RETRIEVAL}; §1, §6",
            published="none: stated",
            effect=(
                f"share by which the rank at {setup.block} at the largest ρ is lower for networks "
                f"trained on {setup.few} classes than on {setup.trained}, in as many steps, both "
                "on as many images of their classes"
            ),
            unit="percent",
            rule=AtLeast(SHARE),
            reason=_SAVED,
            find=partial(findings.adapts, setup=setup),
        ),
    )


def _quantization(setup: Setup) -> tuple[Claim, ...]:
    return (
        Claim(
            name="fewer-bits",
            sentence="SAM's features need fewer bits for the same recall.",
            source=_QUANTIZATION,
            published="none: helpful to speed up quantization is stated",
            effect=(
                f"share by which the bits of a vector for recall@{NEIGHBORS} = {RECALL:g}, "
                "components × bits at the best quantizer, are fewer at the largest ρ than at ρ = 0"
            ),
            unit="percent",
            rule=AtLeast(SHARE),
            reason=_SAVED,
            find=partial(findings.fewer_bits, setup=setup),
        ),
        Claim(
            name="fewer-tokens",
            sentence="They need fewer components × bits for the same error of reconstruction.",
            source=f"{_QUANTIZATION}, after Ramesh et al. 2022",
            published="3× fewer tokens, with SAM and PCA together",
            effect=(
                f"share by which components × bits that reconstruct test images with {ERROR:.0%} "
                "relative squared error, at the best number of bits, are fewer at the largest ρ "
                "than at ρ = 0"
            ),
            unit="percent",
            rule=AtLeast(SHARE),
            reason=_SAVED,
            find=partial(findings.fewer_tokens, setup=setup),
        ),
        Claim(
            name="threefold",
            sentence="With SAM and PCA together a third of the tokens is enough.",
            source=f"{_QUANTIZATION}, after Ramesh et al. 2022",
            published="3×: 319 of 1,024 components of CLIP's features at under 1% error",
            effect=(
                f"number of features over components for {ERROR:.0%} relative squared error on "
                "test images, at the largest ρ"
            ),
            unit="",
            rule=AtLeast(THREE),
            reason="The published factor; what plain training alone gives stands beside it.",
            find=partial(findings.threefold, setup=setup),
        ),
    )


def _controls(setup: Setup) -> tuple[Claim, ...]:
    return (
        Claim(
            name="components-at-matched-loss",
            sentence="Fewer components are needed at the same train loss too.",
            source="not in the paper, whose comparison is at equal steps",
            published="none",
            effect=(
                f"share by which the components of 99% of the variance at {setup.block} are fewer "
                "at the largest ρ than at ρ = 0, each where its train loss first reaches the "
                "lowest level that all ρ of that seed reach (interpolated in log loss)"
            ),
            unit="percent",
            rule=AtLeast(SHARE),
            reason=_SAVED,
            find=partial(findings.at_matched_loss, setup=setup),
        ),
    )
