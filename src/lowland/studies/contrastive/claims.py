"""The claims about image-text training, with their thresholds, fixed before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from lowland.studies.contrastive import findings
from lowland.studies.contrastive.columns import FROZEN, GROUPS, TUNED, WAYS, Measured
from lowland.studies.study import Claim
from lowland.studies.verdict import AtLeast

SHARE = 0.05
"""Smallest relative change of a rank that matters."""

POINTS = 0.005
"""Smallest fall of a retrieval error that matters: half a percentage point."""

MARGIN = 0.01
"""A retrieval error is no worse where it rose by less than this."""

RANK_REASON = (
    "A twentieth: a smaller fall saves next to nothing when embeddings are stored or searched."
)
ERROR_REASON = (
    "Half a percentage point: about one query of the digits' test pairs, and a sixth of the "
    "smallest improvement that the paper gives in numbers (3.0 points)."
)
MATCHED = (
    ", each where its train loss first reaches the lowest level that all ρ of that seed reach "
    "(interpolated in log loss)"
)
WHERE = "of the normalised {tower} embeddings of test pairs"

_FIGURE = {TUNED: "Fig. 4 (bottom), §3.3", FROZEN: "Fig. 11 (bottom), App. C, §3.3"}
_ERRORS = {TUNED: "Fig. 4 (top), §3.3", FROZEN: "Fig. 11 (top), App. C"}
_NAMES = {TUNED: "", FROZEN: "frozen-"}


def claims(what: Measured, groups: Sequence[str] = GROUPS) -> tuple[Claim, ...]:
    """Every claim about these groups of runs, in the order of the report."""
    found = (
        (
            TUNED,
            _rank(TUNED, "image", "SAM lowers the rank of the image embeddings at the last layer."),
        ),
        (TUNED, _rank(TUNED, "text", "It lowers the rank of the text embeddings too.")),
        *((TUNED, _error(TUNED, way, what)) for way in WAYS),
        (TUNED, _harmless(TUNED, what)),
        (TUNED, _no_collapse()),
        (
            FROZEN,
            _rank(
                FROZEN,
                "text",
                "SAM lowers the rank of the text embeddings where the text encoder is frozen and "
                "one linear layer alone is trained.",
                source="Fig. 11 (bottom), App. C, Fig. 15, App. E, §3.3",
            ),
        ),
        (
            FROZEN,
            _rank(
                FROZEN, "image", "With a frozen text encoder, image embeddings lose rank as well."
            ),
        ),
        *((FROZEN, _error(FROZEN, way, what)) for way in WAYS),
        *(
            (group, _matched(group, tower))
            for group, tower in ((TUNED, "image"), (TUNED, "text"), (FROZEN, "text"))
        ),
    )
    return tuple(claim for group, claim in found if group in groups)


def _rank(group: str, tower: str, sentence: str, *, source: str = "") -> Claim:
    return Claim(
        name=f"{_NAMES[group]}{tower}-rank",
        sentence=sentence,
        source=source or _FIGURE[group],
        published="shape: falls with ρ; no numbers",
        effect=(
            f"share by which the rank {WHERE.format(tower=tower)} is lower at the largest ρ than "
            f"at ρ = 0, text encoder {group}"
        ),
        unit="percent",
        rule=AtLeast(SHARE),
        reason=RANK_REASON,
        find=partial(findings.rank_falls, group=group, tower=tower),
    )


def _error(group: str, way: str, what: Measured) -> Claim:
    frozen = " with a frozen text encoder" if group == FROZEN else ""
    looked = {"imagewise": "a text finds its image", "textwise": "an image finds its text"}[way]
    published = {"imagewise": "4.7 points lower (§6)", "textwise": "3.0 points lower (§6)"}[way]
    return Claim(
        name=f"{_NAMES[group]}{way}-error",
        sentence=f"SAM improves retrieval{frozen}: {looked} more often.",
        source=_ERRORS[group],
        published=published if group == TUNED else "shape: lower at middle ρ; no numbers",
        effect=(
            f"{way} error inside batches of {what.batch} test pairs at ρ = 0 minus at the ρ chosen "
            f"on validation data, text encoder {group}"
        ),
        unit="points",
        rule=AtLeast(POINTS),
        reason=ERROR_REASON,
        find=partial(findings.error_falls, group=group, way=WAYS[way], what=what),
    )


def _harmless(group: str, what: Measured) -> Claim:
    return Claim(
        name="low-rank-is-harmless",
        sentence=(
            "Low rank, thought to be harmful in contrastive learning, is not so here: where the "
            "rank is lower, retrieval is no worse."
        ),
        source="§3.3",
        published="shape: lower rank and lower error together",
        effect=(
            f"{100 * MARGIN:g} point plus the fall of the retrieval error (mean of both ways) from "
            "ρ = 0 to the ρ chosen on validation data among those that lower the mean rank of both "
            f"towers by {findings.LEAST_FALL:.0%} or more"
        ),
        unit="points",
        rule=AtLeast(0.0),
        reason=f"No worse is: by less than {100 * MARGIN:g} percentage point.",
        find=partial(findings.harmless, group=group, what=what, margin=MARGIN),
    )


def _no_collapse() -> Claim:
    return Claim(
        name="no-collapse",
        sentence=(
            "Neural collapse is no issue in contrastive training: the rank at the last layer does "
            "not fall away towards the end of plain training."
        ),
        source="§3.3",
        published="stated; the reason why the last layer is measured",
        effect=(
            f"{SHARE:.0%} plus the relative change of the rank of normalised embeddings of test "
            "pairs from the middle of plain training to its end, mean of both towers"
        ),
        unit="percent",
        rule=AtLeast(0.0),
        reason="A fall of less than a twentieth is none.",
        find=partial(findings.no_collapse, group=TUNED, margin=SHARE),
    )


def _matched(group: str, tower: str) -> Claim:
    return Claim(
        name=f"{_NAMES[group]}{tower}-rank-at-matched-loss",
        sentence=(
            f"The rank of the {tower} embeddings is lower at the same train loss too (text encoder "
            f"{group}): it is not mere underfitting."
        ),
        source="not in the paper; larger ρ fit less, which would explain a lower rank",
        published="none: every published comparison is at equal steps",
        effect=(
            f"share by which the rank {WHERE.format(tower=tower)} is lower at the largest ρ than "
            f"at ρ = 0{MATCHED}"
        ),
        unit="percent",
        rule=AtLeast(SHARE),
        reason=RANK_REASON,
        find=partial(findings.rank_falls_at_matched_loss, group=group, tower=tower),
    )
