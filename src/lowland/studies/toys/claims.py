"""The claims of the toys study, with their thresholds, fixed before anything runs."""

from __future__ import annotations

from functools import partial

from lowland.studies.study import Claim
from lowland.studies.toys import findings, privacy_findings
from lowland.studies.toys.columns import DRIFT_RHO
from lowland.studies.verdict import AtLeast, Within

SADDLES = "Kim et al., arXiv 2301.06308"
ROLE = "Dai et al., arXiv 2305.15287"
UNIFIED = "Oikonomou and Loizou, arXiv 2503.02225"
PRIVACY = "Tan et al., arXiv 2202.01243"
_EXACT = "One radius of those tried is more than a tenth of them: every one has to be right."
_TENFOLD = "A factor of ten, where plain descent goes away exponentially."
_HERE = "not published here"


def claims() -> tuple[Claim, ...]:
    """Every claim, in the order of the report."""
    return (
        *_saddles(),
        *_noise(),
        *_momentum(),
        *_normalization(),
        *_drift(),
        *_pl(),
        *_privacy(),
        *_networks(),
    )


def _saddles() -> tuple[Claim, ...]:
    names = {
        "usam": "USAM, the form that is analysed,",
        "sam": "SAM, normalized,",
        "sum": "SAM whose gradients are not zeroed between the passes (it descends along g + g̃)",
    }
    return (
        Claim(
            name="saddle-radius",
            sentence="A direction of negative curvature λ attracts USAM if and only if ρ > −1/λ.",
            source=f"{SADDLES}; §10.1 of the derivation",
            published="effective curvature λ(1 + ρλ)",
            effect="share of the radii on the right side, on random saddles, minus 1",
            unit="percent",
            rule=Within(0.05),
            reason=_EXACT,
            find=findings.attracted,
        ),
        *(
            Claim(
                name=f"saddle-trap-{arm}",
                sentence=f"On x² − y² gradient descent escapes where {words} gets stuck.",
                source=f"{SADDLES}, figure of the saddle",
                published="shape: |y| about 200 by descent, 0.01 or less by SAM, one start",
                effect="log10 of |y| of descent over that of the arm after 500 steps, ρ = 0.5",
                unit="",
                rule=AtLeast(1.0),
                reason=_TENFOLD,
                find=partial(findings.trapped, arm=arm),
            )
            for arm, words in names.items()
        ),
        Claim(
            name="saddle-trap-beale",
            sentence="On Beale's function SAM with a large ρ stays at the saddle that descent "
            "leaves.",
            source=f"{SADDLES}, figure of Beale's function",
            published="shape, one start",
            effect="log10 of the distance from the saddle by descent over that by SAM, ρ = 1",
            unit="",
            rule=AtLeast(1.0),
            reason="A factor of ten.",
            find=findings.beale_trapped,
        ),
    )


def _noise() -> tuple[Claim, ...]:
    return (
        Claim(
            name="escape-slower",
            sentence="Noise carries SAM away from a saddle more slowly than SGD.",
            source=f"{SADDLES}, escape variance",
            published="Δ_SGD − Δ_SAM ≈ 2ηt²|λ|³ρ/b > 0",
            effect="share by which the variance along λ is smaller, one batch for both passes",
            unit="percent",
            rule=AtLeast(0.05),
            reason="A twentieth is more than the error of the simulation.",
            find=findings.slower,
        ),
        Claim(
            name="escape-formula",
            sentence="The variance along λ is η|λ|/(2bλ(1+ρλ)²)·(1 − exp(−2λ(1+ρλ)²t)).",
            source=f"{SADDLES}, escape variance",
            published="the formula",
            effect="simulated variance of USAM's step over the formula, minus 1",
            unit="percent",
            rule=Within(0.05),
            reason="The simulation is right to 3% for a draw and to 1% over ten.",
            find=findings.escape_formula,
        ),
        Claim(
            name="escape-derived",
            sentence="With the batch's noise in both passes it is that of drift λ(1+ρλ) and noise "
            "(1+ρλ)ξ.",
            source="derived here",
            published=_HERE,
            effect="simulated variance over η|λ|(1+ρλ)/(2bλ)·(1 − exp(−2λ(1+ρλ)t)), minus 1",
            unit="percent",
            rule=Within(0.05),
            reason="As for the published formula.",
            find=findings.escape_derived,
        ),
    )


def _momentum() -> tuple[Claim, ...]:
    return (
        Claim(
            name="momentum-sooner",
            sentence="Momentum carries SAM away from a saddle sooner.",
            source=f"{SADDLES}, abstract",
            published="shape: momentum mitigates the instability; a ResNet-18 gains about 20 "
            "points from 0 to 0.9 with SAM, 5 with SGD",
            effect="log10 of USAM's steps until |w| has grown a hundredfold along λ without "
            "momentum over those with 0.9, at equal η and a ρ below −1/λ",
            unit="",
            rule=AtLeast(0.3),
            reason="A factor of two.",
            find=findings.momentum_sooner,
        ),
        Claim(
            name="momentum-radius",
            sentence="With momentum too a direction of negative curvature λ attracts USAM if and "
            "only if ρ > −1/λ: it frees nothing that is trapped.",
            source="derived here",
            published=_HERE,
            effect="share of the radii on the right side with momentum 0.9, on random saddles, "
            "minus 1",
            unit="percent",
            rule=Within(0.05),
            reason=_EXACT,
            find=findings.momentum_radius,
        ),
        Claim(
            name="batch-sooner",
            sentence="A smaller batch carries SAM away from a saddle sooner.",
            source=f"{SADDLES}, abstract",
            published="shape: the batch size mitigates the instability",
            effect="share of the steps until the root mean square distance is 1 that batches of 16 "
            "save over 128, one batch for both passes",
            unit="percent",
            rule=AtLeast(0.05),
            reason="A twentieth, as for the variance.",
            find=findings.batch_sooner,
        ),
    )


def _normalization() -> tuple[Claim, ...]:
    return (
        Claim(
            name="normalization-stable",
            sentence="On a quadratic with top eigenvalue β USAM diverges if and only if "
            "η(β + ρβ²) > 2.",
            source=f"{ROLE}; §10.2 of the derivation",
            published="the condition",
            effect="share of the radii on the right side, on random quadratics, minus 1",
            unit="percent",
            rule=Within(0.05),
            reason=_EXACT,
            find=findings.diverges,
        ),
        Claim(
            name="normalization-bounded",
            sentence="SAM with η < 2/β stays bounded whatever ρ is.",
            source=ROLE,
            published=_HERE + "; the bound ‖w₀‖ + ηρβ/(1 − max|1 − ηλ|) is derived here",
            effect="share of draws within the bound at all radii at which USAM diverges, minus 1",
            unit="percent",
            rule=Within(0.05),
            reason="It is a bound.",
            find=findings.bounded,
        ),
    )


def _drift() -> tuple[Claim, ...]:
    return (
        Claim(
            name="drift-descent",
            sentence="Along the valley of ℓ(xy) descent settles where y² < 2/(ηℓ″).",
            source=f"{ROLE}; §10.2 of the derivation",
            published="the bound",
            effect="1 − ηℓ″y²/2 at the end",
            unit="",
            rule=AtLeast(0.0),
            reason="It is a bound.",
            find=partial(findings.settles, rho=0.0),
        ),
        Claim(
            name="drift-usam",
            sentence="USAM settles where ℓ″y²(1 + ρℓ″y²) < 2/η.",
            source=f"{ROLE}; §10.2 of the derivation",
            published="the bound",
            effect="1 − ηℓ″y²(1 + ρℓ″y²)/2 at the end, ρ = 0.1",
            unit="",
            rule=AtLeast(0.0),
            reason="It is a bound.",
            find=partial(findings.settles, rho=DRIFT_RHO),
        ),
        Claim(
            name="drift-sam",
            sentence="SAM, normalized, goes on drifting along the minima to ever flatter ones.",
            source=f"{ROLE}; §10.2 of the derivation",
            published="ratio below 0.1 in one run (η = 0.4, start (0.5, 3), ρ = 0.1)",
            effect="log10 of y of USAM over |y| of SAM after all steps, ρ = 0.1",
            unit="",
            rule=AtLeast(1.0),
            reason="A factor of ten.",
            find=findings.drifts,
        ),
    )


def _pl() -> tuple[Claim, ...]:
    return (
        Claim(
            name="pl-usam",
            sentence="Under PL USAM with constant ρ and η converges to the minimum, linearly.",
            source=UNIFIED,
            published="f to 0, one quadratic",
            effect="decades that f falls by from the second to the last quarter of the steps",
            unit="",
            rule=AtLeast(1.0),
            reason="In a neighbourhood it would be 0.",
            find=findings.usam_to_zero,
        ),
        Claim(
            name="pl-neighbourhood",
            sentence="SAM with constant ρ and η reaches a neighbourhood of it and no more.",
            source=UNIFIED,
            published="f stops at 1.6e-5, one quadratic at half the step size",
            effect="decades that f falls by from the second to the last quarter of the steps",
            unit="",
            rule=Within(0.1),
            reason="A tenth of a decade over half of all steps.",
            find=findings.to_a_neighbourhood,
        ),
        Claim(
            name="pl-decreasing",
            sentence="With decreasing ρ and η all of them converge to it, at O(1/k) or faster.",
            source=UNIFIED,
            published="rate O(1/k)",
            effect="minus the slope of log(f − f*) on log k over the last tenfold, batches of ten, "
            "no interpolation, λ = 1",
            unit="",
            rule=AtLeast(0.75),
            reason="The rate is 1; the first steps of the tenfold still forget the start.",
            find=findings.decreasing,
        ),
    )


def _privacy() -> tuple[Claim, ...]:
    return (
        Claim(
            name="membership-formula",
            sentence="The closed form of the variance of non-members holds for p > n + 1.",
            source=PRIVACY,
            published="the formula",
            effect="largest |log| of drawn over closed form, over p from 2n on",
            unit="",
            rule=Within(0.1),
            reason="A tenth: means over a few hundred training sets.",
            find=privacy_findings.formula,
        ),
        Claim(
            name="membership-grows",
            sentence="More parameters make membership easier to tell.",
            source=f"{PRIVACY}, abstract",
            published="shape",
            effect="advantage at p = 8n minus p = 3n, in closed form",
            unit="points",
            rule=AtLeast(0.1),
            reason="Ten points of TPR − FPR.",
            find=privacy_findings.grows,
        ),
        Claim(
            name="membership-dips",
            sentence="Just above p = n it is not so: the advantage first falls.",
            source="derived from the formulas, §10.5",
            published=_HERE,
            effect="advantage at p = n + 2 minus the least over p, in closed form",
            unit="points",
            rule=AtLeast(0.1),
            reason="As above.",
            find=privacy_findings.dips,
        ),
        Claim(
            name="membership-ridge",
            sentence="With many parameters ridge regularization makes membership easier to tell.",
            source=f"{PRIVACY}, abstract",
            published="increases, no number here",
            effect="advantage at nλ = 500 minus nλ = 0, n = 100, p = 300 of D = 3000 features",
            unit="points",
            rule=AtLeast(0.02),
            reason="Two points: a small change of a number between 0 and 1.",
            find=privacy_findings.ridge,
        ),
    )


def _networks() -> tuple[Claim, ...]:
    return (
        Claim(
            name="membership-wider",
            sentence="The loss tells members of wider networks more easily.",
            source=f"{PRIVACY}, carried over to networks",
            published=_HERE,
            effect="advantage at the widest minus the narrowest, plain training",
            unit="points",
            rule=AtLeast(0.05),
            reason="Five points: more than the standard error of one attack.",
            find=privacy_findings.wider,
        ),
        Claim(
            name="membership-sam",
            sentence="SAM, which looks for flat minima, tells less about its training examples.",
            source="asked here; no claim of the paper",
            published=_HERE,
            effect="advantage on plain networks minus that on SAM's, widest, ρ chosen on "
            "validation error",
            unit="points",
            rule=AtLeast(0.02),
            reason="Two points: paired by data, initialisation and batches.",
            find=privacy_findings.sam_tells,
        ),
    )
