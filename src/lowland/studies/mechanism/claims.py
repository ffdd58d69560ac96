"""The claims of the study of the mechanism, with their thresholds, fixed before anything runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from lowland.studies.balance.claims import GAIN, NOT_HERE, SOURCE, UNDER_LEARNED
from lowland.studies.mechanism import findings
from lowland.studies.mechanism.arms import IMPORTANCE, LSAM, RATE
from lowland.studies.mechanism.columns import CORNER_LSAM, CORNER_SGD, WORDS, Place
from lowland.studies.study import Claim, Finding
from lowland.studies.verdict import AtLeast, Within

ROUND_OFF = 1e-9
EVENER = 0.01
TURNED = 0.005
ALIKE = 0.01

_ABSTRACT = f"{SOURCE}, abstract"
_TEXT = f"{SOURCE}, the analysis of last-layer SAM"


def claims(places: tuple[Place, ...]) -> tuple[Claim, ...]:
    """Every claim, in the order of the report."""
    return (*_corners(places), *(claim for place in places for claim in _of(place)))


def _corners(places: tuple[Place, ...]) -> Iterator[Claim]:
    for name, column, words in (
        ("corner-sgd", CORNER_SGD, "(λ, v) is plain SGD"),
        ("corner-lsam", CORNER_LSAM, "(λ̃, ṽ) is last-layer SAM"),
    ):
        yield Claim(
            name=name,
            sentence=f"The corner {words}, exactly.",
            source=_TEXT,
            published="an identity",
            effect="‖u_arm - u‖/‖u‖ against one step of the optimizer in float64, at the end of "
            "plain training, the largest over all networks",
            unit="",
            rule=Within(ROUND_OFF),
            reason="Round-off of sums in float64 is a thousand times smaller, a wrong sign or "
            "factor a thousand million times larger.",
            find=partial(findings.corner, places=places, column=column),
        )


def _of(place: Place) -> Iterator[Claim]:
    slug = place.name.replace(", ", "-").replace(" ", "-")

    def claim(
        name: str,
        sentence: str,
        effect: str,
        unit: str,
        rule: AtLeast | Within,
        reason: str,
        find: Callable[..., Finding],
        source: str = _TEXT,
    ) -> Claim:
        return Claim(
            name=f"{slug}-{name}",
            sentence=f"{sentence} ({place.words}).",
            source=source,
            published=NOT_HERE,
            effect=effect,
            unit=unit,
            rule=rule,
            reason=reason,
            find=partial(find, place=place),
        )

    half = "Half a point of probe error, as in the study balance."
    if place.network == "toy":
        yield claim(
            "under-learned",
            "Plain training leaves the hard feature under-learned",
            "hard-feature probe error of plain training on both features minus that on the hard "
            "one alone, at the end",
            "points",
            AtLeast(UNDER_LEARNED),
            "Two points, as in the study balance.",
            findings.under_learned,
            _ABSTRACT,
        )
    yield claim(
        "evener",
        "At the phantom head importance is spread more evenly over examples",
        "Gini coefficient of λ minus that of λ̃ over the train examples, mean over training with "
        "last-layer SAM, at the ρ chosen on validation data",
        "",
        AtLeast(EVENER),
        "0.01: half the mean fall in random two-feature logistic problems.",
        findings.evener,
    )
    yield claim(
        "scaled",
        "The phantom head leans more on the hard feature: ṽ_hard/ṽ_simple is above v_hard/v_simple",
        "share of the hard feature in ṽ minus that in v, mean over training with last-layer SAM, "
        "at the ρ chosen on validation data",
        "points",
        AtLeast(TURNED),
        "Half a point: a relative rise of the ratio by 2% where the shares are even.",
        findings.scaled,
    )
    for arm, name in ((IMPORTANCE, "importance"), (RATE, "rate"), (LSAM, "lsam")):
        yield claim(
            name,
            f"{WORDS[arm][0].upper()}{WORDS[arm][1:]} improves the hard feature",
            f"hard-feature probe error of plain SGD minus that of {WORDS[arm]}, at the ρ that "
            "validation data choose for last-layer SAM, at the end",
            "points",
            AtLeast(GAIN),
            half,
            partial(findings.gain, arm=arm),
        )
    yield claim(
        "as-sam",
        "Last-layer SAM does to the hard feature what SAM does",
        "gain of last-layer SAM minus gain of SAM on all parameters, each at the ρ that its own "
        "validation errors choose",
        "points",
        Within(ALIKE),
        "One point: twice the smallest gain that matters.",
        findings.as_sam,
    )
