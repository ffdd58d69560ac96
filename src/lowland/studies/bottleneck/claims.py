"""The claims about bottlenecks, with their thresholds, fixed before anything runs."""

from __future__ import annotations

from functools import partial

from lowland.studies.bottleneck import findings
from lowland.studies.bottleneck.findings import Setup
from lowland.studies.contrastive.claims import ERROR_REASON, POINTS, RANK_REASON, SHARE
from lowland.studies.contrastive.columns import WAYS
from lowland.studies.study import Claim
from lowland.studies.verdict import AtLeast, Within

MARGINAL = 0.02
"""A retrieval error that changes by less than this changes marginally."""

_SOURCE = "Fig. 8, §6"
_GAINS = {"imagewise": "4.7 points lower", "textwise": "3.0 points lower"}


def claims(setup: Setup) -> tuple[Claim, ...]:
    """Every claim, in the order of the report."""
    inside = f"inside batches of {setup.what.batch} test pairs"
    at_width = "the width h chosen on validation data"
    at_rho = "the ρ chosen on validation data"
    return (
        Claim(
            name="bottleneck-lowers-rank",
            sentence="A linear bottleneck at the last layer lowers the rank of the embeddings.",
            source=_SOURCE,
            published="shape: the rank falls with h",
            effect=(
                f"share by which the rank at h = {setup.widths[0]} is lower than without, mean of "
                "both towers, normalised embeddings of test pairs"
            ),
            unit="percent",
            rule=AtLeast(SHARE),
            reason=RANK_REASON,
            find=partial(findings.bottleneck_rank, setup=setup),
        ),
        Claim(
            name="bottleneck-imagewise-marginal",
            sentence="Bottlenecks change the imagewise retrieval error only marginally.",
            source=_SOURCE,
            published="23.3% → 22.7%: 0.6 points lower",
            effect=f"imagewise error {inside} without bottleneck minus at {at_width}",
            unit="points",
            rule=Within(MARGINAL),
            reason=(
                "Two percentage points: more than three times the published change, and less than "
                "half of what SAM gains there."
            ),
            find=partial(findings.bottleneck_gain, setup=setup, way=WAYS["imagewise"]),
        ),
        Claim(
            name="bottleneck-textwise-worse",
            sentence="Bottlenecks make the textwise retrieval error worse.",
            source=_SOURCE,
            published="22.2% → 22.9%: 0.7 points higher",
            effect=f"textwise error {inside} at {at_width} minus without bottleneck",
            unit="points",
            rule=AtLeast(0.0),
            reason="Any rise counts: the claim is about the direction.",
            find=partial(findings.bottleneck_gain, setup=setup, way=WAYS["textwise"], sign=-1),
        ),
        Claim(
            name="bottleneck-does-not-enhance",
            sentence=(
                "Inducing low-rank features directly does not improve generalization: over both "
                "ways bottlenecks lower the retrieval error by next to nothing."
            ),
            source="Fig. 8, §6; §1, §7",
            published="23.3% → 22.7% and 22.2% → 22.9%: 0.05 points higher in the mean",
            effect=(
                f"{100 * POINTS:g} points minus the fall of the retrieval error (mean of both "
                f"ways, {inside}) from no bottleneck to {at_width}"
            ),
            unit="points",
            rule=AtLeast(0.0),
            reason=f"No improvement is: by less than counts for SAM. {ERROR_REASON}",
            find=partial(findings.no_gain, setup=setup, least=POINTS),
        ),
        *(
            Claim(
                name=f"sam-{way}",
                sentence=f"SAM lowers the {way} retrieval error.",
                source=_SOURCE,
                published=_GAINS[way],
                effect=f"{way} error {inside} at ρ = 0 minus at {at_rho}",
                unit="points",
                rule=AtLeast(POINTS),
                reason=ERROR_REASON,
                find=partial(findings.sam_gain, setup=setup, way=WAYS[way]),
            )
            for way in WAYS
        ),
        *(
            Claim(
                name=f"sam-beats-bottleneck-{way}",
                sentence=f"SAM lowers the {way} retrieval error more than any bottleneck does.",
                source=_SOURCE,
                published={"imagewise": "4.1 points", "textwise": "3.7 points"}[way],
                effect=f"{way} error {inside} at {at_width} minus at {at_rho}",
                unit="points",
                rule=AtLeast(POINTS),
                reason=ERROR_REASON,
                find=partial(findings.sam_against_bottleneck, setup=setup, way=WAYS[way]),
            )
            for way in WAYS
        ),
        Claim(
            name="sam-lowers-rank-there",
            sentence="At the ρ at which SAM is best it selects features of lower rank as well.",
            source="§6",
            published="stated: both at once, in a data-adaptive manner",
            effect=(
                f"share by which the rank at {at_rho} is lower than at ρ = 0, mean of both towers, "
                "normalised embeddings of test pairs"
            ),
            unit="percent",
            rule=AtLeast(SHARE),
            reason=RANK_REASON,
            find=partial(findings.sam_rank, setup=setup),
        ),
    )
