"""The claims of the methods study, with their thresholds, fixed before anything runs.

A published number is marked "not verified" where it was not seen in a source.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lowland.studies.methods import findings
from lowland.studies.methods.arms import PLAIN, SAM
from lowland.studies.methods.columns import EQUAL_COMPUTE, EQUAL_EPOCHS, Setup
from lowland.studies.runs import Runs
from lowland.studies.study import Claim, Finding
from lowland.studies.verdict import AtLeast, Within

POINTS = 0.0025
"""Smallest difference of errors that matters: a quarter of a percentage point."""

MARGIN = 0.005
"""Errors closer than half a point are equal."""

INSENSITIVE = 0.01
"""A method whose error moves by less than a point over a range of ρ does not mind which."""

SHARPER = 0.05
"""Smallest relative difference of sharpness that matters."""

_GAIN_REASON = (
    "A quarter of a percentage point: about one image of the digits' test split, and less than "
    "anyone would change an optimizer for."
)
_EQUAL_REASON = (
    "Half a point, twice the smallest difference that matters, and less than what SAM is said to "
    "gain: with a wider margin plain training would reach SAM's error too."
)
_UNSEEN = "number not verified"
LIGHT = ("lightsam I", "lightsam II", "lightsam III")
SMALLEST = "m-sam m=4"


@dataclass(frozen=True)
class _Spec:
    """A claim and the arms that it is about."""

    arms: tuple[str, ...]
    claim: Callable[[Setup], Claim]


def claims(setup: Setup) -> tuple[Claim, ...]:
    """Every claim whose arms run, in the order of the report."""
    specs = (*_sam(), *_better_than_sam(), *_parts(), *_cheaper())
    return tuple(spec.claim(setup) for spec in specs if setup.names.issuperset(spec.arms))


def _sam() -> list[_Spec]:
    published = "accuracy 81.55 → 83.25%, WRN-28-10 on CIFAR-100, as run again in arXiv 2509.18001"
    longer = "none at equal compute here: the paper trains twice as long beside it, " + _UNSEEN
    return [
        _gain("sam-equal-epochs", "SAM lowers the test error, at equal epochs.", SAM, PLAIN,
              "arXiv 2010.01412, abstract", published),
        _gain("sam-equal-compute",
              "SAM lowers the test error at equal compute too: against twice as many epochs.",
              SAM, PLAIN, "arXiv 2010.01412, §3", longer, protocol=EQUAL_COMPUTE),
    ]  # fmt: skip


def _better_than_sam() -> list[_Spec]:
    rows = (
        ("asam", "ASAM", "a ball that scales with the weights", "2102.11600", _UNSEEN),
        ("f-sam", "F-SAM", "a perturbation without the full gradient's share", "2403.12350",
         _UNSEEN),
        ("gsam", "GSAM", "narrowing the surrogate gap", "2203.08065",
         "+3.2 points of top-1 accuracy over SAM, ViT-B/32 on ImageNet"),
        ("wsam", "WSAM", "sharpness as a weighted term", "2305.15817", _UNSEEN),
        ("gcsam", "GCSAM", "a centralized gradient in the ascent", "2501.11584", _UNSEEN),
        ("rw-sam", "RW-SAM", "steep examples weighing more", "2509.18001",
         "accuracy 95.99 → 96.24% (ResNet-18, CIFAR-10), 83.25 → 83.52% (WRN, CIFAR-100)"),
        ("agnostic-sam", "Agnostic-SAM (a reconstruction)",
         "moving away from other data's ascent direction", "2406.07107", _UNSEEN),
        ("sam-on", "SAM-ON", "perturbing normalization layers alone", "2306.04226",
         "better accuracy from 0.1% of the parameters; numbers of two networks are not named"),
    )  # fmt: skip
    return [
        _gain(f"{arm}-on-sam", f"{title} lowers SAM's test error, by {how}.", arm, SAM,
              f"arXiv {source}, abstract", published)
        for arm, title, how, source, published in rows
    ]  # fmt: skip


def _parts() -> list[_Spec]:
    return [
        _Spec((SAM, SMALLEST), _m_sam),
        _gain("f-sam-full-gradient",
              "The full gradient's share of the ascent is what harms: along it alone the error is "
              "higher than along the batch's gradient.",
              SAM, "f-sam full gradient", "arXiv 2403.12350, abstract", _UNSEEN),
        _Spec(("sam-on", SAM), _sam_on_sharpness),
        _Spec(LIGHT, _lightsam),
        _gain("n-sam-on-plain",
              "The full gradient in the ascent gains nothing: n-SAM's error is that of plain "
              "training.",
              "n-sam", PLAIN, "arXiv 2206.06232", "no gain in generalization", equal=True),
    ]  # fmt: skip


def _cheaper() -> list[_Spec]:
    rows = (
        ("looksam", "LookSAM", "2203.02714", f"similar accuracy at a lower cost, {_UNSEEN}"),
        ("esam", "ESAM", "2110.03141", "overhead over the base 100% → 40%"),
        ("saf", "SAF", "2205.14083", "sharpness-aware at nearly zero cost"),
        ("mesa", "MESA", "2205.14083", f"the same with an average in place of a record, {_UNSEEN}"),
        ("sl-sam", "SL-SAM", "2602.09395", "47, 22 and 21% of the parameters active"),
    )  # fmt: skip
    return [
        _gain(f"{arm}-reaches-sam", f"{title} reaches SAM's test error at its lower cost.",
              arm, SAM, f"arXiv {source}, abstract", published, equal=True)
        for arm, title, source, published in rows
    ]  # fmt: skip


def _gain(
    name: str,
    sentence: str,
    arm: str,
    over: str,
    source: str,
    published: str,
    *,
    protocol: str = EQUAL_EPOCHS,
    equal: bool = False,
) -> _Spec:
    """The test error of one arm against another's."""

    def claim(setup: Setup) -> Claim:
        return Claim(
            name=name,
            sentence=sentence,
            source=source,
            published=published,
            effect=(
                f"test error of {over} minus that of {arm} at {protocol}, each at the ρ that the "
                "validation error of the other seeds chooses"
            ),
            unit="points",
            rule=Within(MARGIN) if equal else AtLeast(POINTS),
            reason=_EQUAL_REASON if equal else _GAIN_REASON,
            find=_on(findings.gain(arm, over, protocol), setup),
        )

    return _Spec((arm, over), claim)


def _m_sam(setup: Setup) -> Claim:
    return Claim(
        name="m-sam-grows",
        sentence="The benefit of m-SAM grows as m falls.",
        source="arXiv 2010.01412, §3; 2302.09693",
        published="shape: smaller m generalizes better; numbers not verified",
        effect=(
            "fall of the test error from the largest m (the batch) to the smallest, along the line "
            "fitted in log m, each m at its own ρ"
        ),
        unit="points",
        rule=AtLeast(POINTS),
        reason=_GAIN_REASON,
        find=_on(findings.growth_as_m_falls, setup),
    )


def _sam_on_sharpness(setup: Setup) -> Claim:
    return Claim(
        name="sam-on-is-sharper",
        sentence="Sharpness need not fall with the error: SAM-ON's minima are sharper than SAM's.",
        source="arXiv 2306.04226, abstract",
        published="shape: better accuracy while measured sharpness can increase",
        effect="one-step sharpness of SAM-ON over SAM's at the same radius, minus 1",
        unit="percent",
        rule=AtLeast(SHARPER),
        reason="A twentieth, about what a radius that differs by as much would make.",
        find=_on(findings.sharper("sam-on", SAM), setup),
    )


def _lightsam(setup: Setup) -> Claim:
    return Claim(
        name="lightsam-any-rho",
        sentence="LightSAM I, II and III do not mind ρ over a 100-fold range.",
        source="arXiv 2505.24399, abstract",
        published="converges for any ρ and η, at the rate O(ln T/√T)",
        effect=(
            "test error at the worst ρ minus at the best, as the other seeds tell them, of the "
            "variant where that is largest"
        ),
        unit="points",
        rule=Within(INSENSITIVE),
        reason="A point: what a grid of ρ is usually searched for.",
        find=_on(findings.spread_over_rho(LIGHT), setup),
    )


def _on(find: findings.Find, setup: Setup) -> Callable[[Runs], Finding]:
    return lambda runs: find(runs, setup)
