"""The claims of the study, with their thresholds, fixed before anything runs."""

from __future__ import annotations

from functools import partial

from lowland.studies.overparam import findings, space
from lowland.studies.overparam.arms import MASKS, RANDOM, SNIP, Measured, shown
from lowland.studies.study import Claim
from lowland.studies.verdict import AtLeast

POINTS = 0.002
"""0.2 points for ten times the parameters."""
NOISE_POINTS = 0.01
RADIUS = 0.1
SPREAD = 0.05
DISTANCE = 0.05
GAP = 0.1
ORDER = 0.2

ABSTRACT = "abstract"
NOT_HERE = "not published here: only the abstract is at hand"

_CHOSEN = "the ρ of each size with the lowest validation error over the other seeds"
_POINTS_REASON = (
    "0.2 points for ten times the parameters: 0.4 over the grid, about a tenth of SGD's error."
)


def claims(what: Measured) -> tuple[Claim, ...]:
    """Every claim, in the order of the report."""
    return (*_size(what), *_settings(what), *_regularisation(what), *_why(what))


def _size(what: Measured) -> tuple[Claim, ...]:
    return (
        Claim(
            name="gain-grows",
            sentence="SAM gains more over SGD the more parameters the network has.",
            source=ABSTRACT,
            published=f"shape: consistently benefits from overparameterization; {NOT_HERE}",
            effect=(
                "slope on log₁₀ of the number of parameters of SGD's validation error minus "
                f"SAM's at {_CHOSEN}; clean labels"
            ),
            unit="points",
            rule=AtLeast(POINTS),
            reason=_POINTS_REASON,
            find=partial(findings.gain_grows, what=what),
        ),
        Claim(
            name="radius-grows",
            sentence="The best ρ grows with the number of parameters.",
            source="methods of the paper's code",
            published=f"shape: larger networks are best at a larger ρ; {NOT_HERE}",
            effect=(
                "slope on log₁₀ of the number of parameters of log₁₀ ρ*, the lowest validation "
                "error of a parabola through the lowest grid point and its neighbours; clean labels"
            ),
            unit="",
            rule=AtLeast(RADIUS),
            reason="0.1: over a hundredfold grid ρ* grows by more than half.",
            find=partial(findings.radius_grows, what=what),
        ),
    )


def _settings(what: Measured) -> tuple[Claim, ...]:
    most = f"{what.noises[-1]:.0%}"
    return (
        Claim(
            name="label-noise",
            sentence="The benefit is particularly pronounced under label noise.",
            source=ABSTRACT,
            published=f"shape: particularly pronounced; {NOT_HERE}",
            effect=(
                f"gain in validation error of the network {shown(what.widest)} with {most} wrong "
                f"labels minus that with none, at {_CHOSEN}"
            ),
            unit="points",
            rule=AtLeast(NOISE_POINTS),
            reason="One point, more than the whole gain on clean labels.",
            find=partial(findings.noise_gain, what=what),
        ),
        Claim(
            name="label-noise-growth",
            sentence="Under label noise the gain grows faster with the number of parameters.",
            source=ABSTRACT,
            published=f"shape: particularly pronounced; {NOT_HERE}",
            effect=(
                "slope of the gain on log₁₀ of the number of parameters with "
                f"{most} wrong labels minus that with none"
            ),
            unit="points",
            rule=AtLeast(POINTS),
            reason=_POINTS_REASON,
            find=partial(findings.noise_growth, what=what),
        ),
        *(_sparse(what, mask) for mask in (RANDOM, SNIP)),
    )


def _sparse(what: Measured, mask: str) -> Claim:
    shares = ", ".join(f"{s:.0%}" for s in what.sparsities)
    return Claim(
        name=f"sparse-{mask}",
        sentence=(
            "A large network made sparse gains more than a dense one with as many active weights "
            f"({MASKS[mask]})."
        ),
        source=ABSTRACT,
        published=f"shape: particularly pronounced under sparsity; {NOT_HERE}",
        effect=(
            f"gain in validation error of the network {shown(what.widest)} with masks at "
            f"initialisation minus that of the dense one of equal active size, mean over "
            f"sparsities {shares}; each at {_CHOSEN}"
        ),
        unit="points",
        rule=AtLeast(POINTS),
        reason="0.2 points, what matters for ten times the parameters.",
        find=partial(findings.sparse_gain, what=what, mask=mask),
    )


def _regularisation(what: Measured) -> tuple[Claim, ...]:
    where = f"with {what.noises[-1]:.0%} wrong labels"
    sizes = "log₁₀ of the number of parameters"
    return (
        Claim(
            name="regularisation-growth",
            sentence="Sufficient regularisation is necessary for the gain to grow with size.",
            source=ABSTRACT,
            published=f"sufficient regularization is necessary; {NOT_HERE}",
            effect=(
                f"slope of the gain on {sizes} with weight decay or early stopping, mean of the "
                f"two, minus that with neither; {where}"
            ),
            unit="points",
            rule=AtLeast(POINTS),
            reason=_POINTS_REASON,
            find=partial(findings.regularised_growth, what=what),
        ),
        Claim(
            name="regularisation-gain",
            sentence="A large network gains more with sufficient regularisation.",
            source=ABSTRACT,
            published=f"sufficient regularization is necessary; {NOT_HERE}",
            effect=(
                f"gain of the network {shown(what.regularised[-1])} with weight decay or early "
                f"stopping, mean of the two, minus that with neither; {where}"
            ),
            unit="points",
            rule=AtLeast(NOISE_POINTS),
            reason="One point, as for label noise.",
            find=partial(findings.regularised_gain, what=what),
        ),
    )


def _why(what: Measured) -> tuple[Claim, ...]:
    return (
        Claim(
            name="solution-space",
            sentence="Overparameterisation enlarges the space of solutions: their flatness varies "
            "more.",
            source=ABSTRACT,
            published=f"shape: enlarged solution space; {NOT_HERE}",
            effect=(
                "slope on log₁₀ of the number of parameters of |ln λ_max - median of the other "
                "solutions|, over SGD solutions of different seeds at one train loss"
            ),
            unit="",
            rule=AtLeast(SPREAD),
            reason="0.05: λ_max spreads by 5% more for ten times the parameters.",
            find=partial(space.solution_space, what=what),
        ),
        Claim(
            name="bias-distance",
            sentence="Overparameterisation increases SAM's implicit bias: it ends farther from "
            "where SGD ends.",
            source=ABSTRACT,
            published=f"shape: increased implicit bias; {NOT_HERE}",
            effect=(
                "slope on log₁₀ of the number of parameters of the distance between the ends of "
                "SAM and SGD from one start, over the distance that SGD travelled; at "
                f"{_CHOSEN}; clean labels"
            ),
            unit="",
            rule=AtLeast(DISTANCE),
            reason="0.05: a twentieth of SGD's way for ten times the parameters.",
            find=partial(space.distance_grows, what=what),
        ),
        Claim(
            name="bias-sharpness",
            sentence="Overparameterisation increases SAM's implicit bias: the gap in sharpness "
            "grows.",
            source=ABSTRACT,
            published=f"shape: increased implicit bias; {NOT_HERE}",
            effect=(
                "slope on log₁₀ of the number of parameters of ln of SGD's λ_max over SAM's at "
                f"the end; at {_CHOSEN}; clean labels"
            ),
            unit="",
            rule=AtLeast(GAP),
            reason="0.1: the ratio grows by a tenth for ten times the parameters.",
            find=partial(space.sharpness_gap_grows, what=what),
        ),
        Claim(
            name="needs-variability",
            sentence="SAM's success relies on sufficient variability of flatness.",
            source=ABSTRACT,
            published=f"an assumption, stated; {NOT_HERE}",
            effect=(
                "Kendall's τ over sizes between the quartile distance of ln λ_max over SGD "
                "solutions at one train loss and a seed's gain; clean labels"
            ),
            unit="",
            rule=AtLeast(ORDER),
            reason="τ = 0.2: three pairs of sizes in five are in the order that is claimed.",
            find=partial(space.variability_and_gain, what=what),
        ),
    )
