"""The claims of the minima study, with their thresholds, fixed before anything runs."""

from __future__ import annotations

from functools import partial

from lowland.studies.minima import findings
from lowland.studies.minima.columns import FITS, RADII
from lowland.studies.study import Claim
from lowland.studies.verdict import AtLeast, Within

PAPER = "Shin et al., arXiv 2311.17539"
_NAMES = {"usam": "USAM", "sam": "SAM"}
_QUOTE = "abstract: minima with more uniform Hessian moments; no number here"


def claims() -> tuple[Claim, ...]:
    """Every claim, in the order of the report."""
    return (*_moments(), *_found(), *_quadratics(), *_rates())


def _moments() -> tuple[Claim, ...]:
    found = []
    for method, name in _NAMES.items():
        rho = RADII[method][-1]
        found.append(
            Claim(
                name=f"flatter-{method}",
                sentence=f"{name} finds minima with a smaller λ_max(H) than SGD.",
                source=f"{PAPER}, theory",
                published="a(1 + ρa) ≤ 2/η against a ≤ 2/η",
                effect=f"log10 of λ_max(H) of SGD over {name}'s, ρ = {rho:g}, where both first "
                "reach one loss",
                unit="",
                rule=AtLeast(0.02),
                reason="0.02 in log10: a twentieth.",
                find=partial(findings.smaller, method=method, column="largest"),
            )
        )
        for k in (2, 3, 4):
            found.append(
                Claim(
                    name=f"moment-{k}-{method}",
                    sentence=f"{name} finds minima with a more uniform moment {k} of the "
                    "examples' Hessians.",
                    source=f"{PAPER}, abstract and theory",
                    published=_QUOTE,
                    effect=f"log10 of λ_max(M_{k} − H^{k}) of SGD over {name}'s, ρ = {rho:g}, "
                    "where both first reach one loss",
                    unit="",
                    rule=AtLeast(0.02),
                    reason="0.02 in log10: a twentieth.",
                    find=partial(findings.smaller, method=method, column=f"moment/{k}"),
                )
            )
        found.append(
            Claim(
                name=f"uniform-{method}",
                sentence=f"The minima of {name} are more uniform beyond being flatter: moment 2 "
                "is smaller in units of λ_max(H)² too.",
                source=f"asked here, of {PAPER}",
                published="not published here",
                effect="log10 of λ_max(M_2 − H²)/λ_max(H)² of SGD over "
                f"{name}'s, ρ = {rho:g}, where both first reach one loss",
                unit="",
                rule=AtLeast(0.02),
                reason="As above.",
                find=partial(findings.beyond_flatness, method=method),
            )
        )
    return tuple(found)


def _found() -> tuple[Claim, ...]:
    return (
        Claim(
            name="stable-usam",
            sentence="The minima that USAM finds satisfy the condition of its linear stability.",
            source=f"{PAPER}, theory; §10.3 of the derivation",
            published="λ_max E(I − ηH_ξ − ηρH_ξ²)² ≤ 1",
            effect="1 − that eigenvalue, on the span of the examples' gradients, largest ρ",
            unit="",
            rule=AtLeast(0.0),
            reason="It is a bound.",
            find=findings.usam_condition,
        ),
        Claim(
            name="stable-sgd",
            sentence="The minima that SGD finds satisfy a ≤ 2/η and s₂ ≤ 1/η.",
            source=f"{PAPER}, theory; after Wu et al. 2018",
            published="both bounds",
            effect="1 minus the larger of ηa/2 and ηs₂",
            unit="",
            rule=AtLeast(0.0),
            reason="They are bounds.",
            find=findings.sgd_bounds,
        ),
        Claim(
            name="stable-enough",
            sentence="Next to a minimum of SGD, USAM comes back to it with every ρ that satisfies "
            "the condition.",
            source="§10.3 of the derivation: sufficient",
            published="not published here",
            effect="share of the radii below the critical one at which the distance shrinks, "
            "minus 1",
            unit="percent",
            rule=Within(0.05),
            reason="One radius of three is more: every one has to be right.",
            find=findings.stays,
        ),
    )


def _quadratics() -> tuple[Claim, ...]:
    return (
        Claim(
            name="boundary-1d",
            sentence="In one dimension E w² of USAM grows if and only if E(1 − ηh − ηρh²)² > 1.",
            source="§10.3 of the derivation",
            published="necessary and sufficient",
            effect="critical η of the simulated optimizer over the formula's, minus 1",
            unit="percent",
            rule=Within(0.02),
            reason="The simulation finds it to about 1%.",
            find=findings.boundary,
        ),
        Claim(
            name="bounds-1d",
            sentence="Where it does not grow, each of the separate bounds holds.",
            source=f"{PAPER}, theory; §10.3 of the derivation",
            published="a(1 + ρa) ≤ 2/η and three bounds on moments",
            effect="1 minus the largest share of a bound, just below the critical η",
            unit="",
            rule=AtLeast(0.0),
            reason="They are bounds.",
            find=findings.one_dimension_bounds,
        ),
        Claim(
            name="sufficient-matrix",
            sentence="With matrices the condition is sufficient: the second moment does not grow "
            "before it is violated.",
            source="§10.3 of the derivation",
            published="sufficient",
            effect="η at which the second moment grows over the η up to which the condition "
            "holds, minus 1",
            unit="percent",
            rule=AtLeast(0.0),
            reason="It is a bound.",
            find=findings.sufficient,
        ),
        Claim(
            name="identity",
            sentence="The condition in the moments is the condition in the Hessians.",
            source="§10.3 of the derivation",
            published="exact, 3e-16",
            effect="largest element of the difference of the two matrices",
            unit="",
            rule=Within(1e-10),
            reason="Rounding in float64.",
            find=findings.identity,
        ),
    )


def _rates() -> tuple[Claim, ...]:
    found = []
    for arm, name in _NAMES.items():
        found += [
            Claim(
                name=f"linear-{arm}",
                sentence=f"Stochastic {name} with constant η and ρ converges linearly where all "
                "examples can be fitted.",
                source=f"{PAPER}, abstract and theory",
                published="abstract: a linear rate; a straight line in the logarithm",
                effect=f"R² of a straight line through log10 of the loss, d = {FITS} = 8n, ρ = 0.1",
                unit="",
                rule=AtLeast(0.98),
                reason="0.98: a straight line with 2% of its variance left.",
                find=partial(findings.straight, arm=arm),
            ),
            Claim(
                name=f"fits-{arm}",
                sentence=f"The loss of {name} goes on falling where all examples can be fitted, "
                "and stops where there are fewer features than examples.",
                source=f"{PAPER}, theory",
                published="shape",
                effect="decades fallen from the second to the last quarter of the steps: d = 8n "
                "minus d = n/2",
                unit="",
                rule=AtLeast(1.0),
                reason="A decade over half of all steps.",
                find=partial(findings.fits_or_not, arm=arm),
            ),
        ]
    found.append(
        Claim(
            name="faster-with-size",
            sentence="The rate grows with overparameterisation.",
            source=f"{PAPER}, abstract: overparameterisation helps, much faster",
            published="no number here",
            effect="slope of log10 of USAM's rate on log10 of d, from d = 2n to 16n, ρ = 0.1",
            unit="",
            rule=AtLeast(0.1),
            reason="A quarter more for every tenfold of features.",
            find=findings.faster,
        )
    )
    return tuple(found)
