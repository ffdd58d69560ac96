"""What the claims of the minima study are judged by: one effect per seed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from lowland.studies.effects import mean
from lowland.studies.minima.columns import (
    FEATURES,
    FITS,
    LACKS,
    LEAVING,
    MATRICES,
    MINIMA,
    ONE_DIMENSION,
    RATE_EXAMPLES,
    RATE_RHO,
    rate_group,
)
from lowland.studies.minima.leaving import FACTORS
from lowland.studies.runs import NotMeasuredError, Run, Runs
from lowland.studies.study import Effects, Finding
from lowland.studies.toys.curves import LEAST, late_fall, slope

ROUNDING = 1e-26
"""Losses below are not fitted to a line."""


def each(runs: Runs, group: str, value: Callable[[Run], float], rho: float = 0.0) -> Effects:
    """One number for every seed of a group at one ρ.

    Raises:
        NotMeasuredError: there is none.
    """
    seeds = runs.whole_seeds(group, [rho])
    if not seeds:
        raise NotMeasuredError(f"the {group} runs are missing")
    return {seed: value(runs.run(group, rho, seed)) for seed in seeds}


def smaller(runs: Runs, method: str, column: str) -> Finding:
    """log10 of a quantity at SGD's weights over that at SAM's, where both first reach one loss."""
    group = MINIMA[method]
    rhos = runs.rhos(group)
    top = rhos[-1]
    beside = {f"ρ = {r:g}": _fall(runs, group, r, f"level/{column}") for r in rhos[1:-1]}
    beside["at the minimum nearby that fits every example"] = _fall(
        runs, group, top, f"fit/{column}"
    )
    beside["at the end"] = _fall(runs, group, top, f"end/{column}")
    if column.startswith("moment/"):
        k = int(column.removeprefix("moment/"))
        beside |= _other_measures(runs, group, top, k)
    return Finding(
        effects=_fall(runs, group, top, f"level/{column}"),
        detail=_where(runs, group, top),
        beside={label: effects for label, effects in beside.items() if effects},
    )


def _other_measures(runs: Runs, group: str, rho: float, k: int) -> dict[str, Effects]:
    return {
        f"over λ_max(H)^{k}": _scaled(runs, group, rho, k),
        "largest eigenvalue in size": _fall(runs, group, rho, f"level/size/{k}"),
    }


def _scaled(runs: Runs, group: str, rho: float, k: int, place: str = "level") -> Effects:
    """The same of λ_max(M_k − H^k)/λ_max(H)^k, which a scale of all Hessians does not change."""
    curvature = _fall(runs, group, rho, f"{place}/largest")
    moment = _fall(runs, group, rho, f"{place}/moment/{k}")
    return {seed: value - k * curvature[seed] for seed, value in moment.items()}


def beyond_flatness(runs: Runs, method: str) -> Finding:
    """log10 of moment 2 in units of λ_max(H)², of SGD over SAM."""
    group = MINIMA[method]
    top = runs.rhos(group)[-1]
    beside = {f"k = {k}": _scaled(runs, group, top, k) for k in (3, 4)}
    fit = "at the minimum nearby that fits every example"
    beside[fit] = _scaled(runs, group, top, 2, "fit")
    return Finding(
        effects=_scaled(runs, group, top, 2), detail=_where(runs, group, top), beside=beside
    )


def _fall(runs: Runs, group: str, rho: float, column: str) -> Effects:
    """log10 (at 0 / at ρ); NaN where one of them was not reached or is not positive."""

    def number(radius: float, seed: int) -> float:
        try:
            value = runs.final(group, radius, seed, column)
        except NotMeasuredError:
            return math.nan
        return value if value > 0 else math.nan

    return {seed: math.log10(number(0.0, seed) / number(rho, seed)) for seed in runs.seeds(group)}


def _where(runs: Runs, group: str, rho: float) -> str:
    losses = [
        runs.run(group, r, seed).history["level/loss"][-1]
        for seed in runs.seeds(group)
        for r in (0.0, rho)
        if "level/loss" in runs.run(group, r, seed).history
    ]
    reached = [loss for loss in losses if loss is not None]
    if not reached:
        return f"ρ = {rho:g}."
    return f"ρ = {rho:g}; mean losses there from {min(reached):.2g} to {max(reached):.2g}."


def usam_condition(runs: Runs) -> Finding:
    """1 − λ_max E(I − ηH_i − ηρH_i²)² on the span of the gradients, at USAM's minima."""
    group = MINIMA["usam"]
    rhos = runs.rhos(group)

    def room(run: Run) -> float:
        return -_maybe(run, "range")

    return Finding(
        effects=each(runs, group, room, rhos[-1]),
        detail=f"ρ = {rhos[-1]:g}, at the minimum next to the end that fits every example. On all "
        "weights the eigenvalue is at least 1, since nothing moves outside of the span. The "
        "condition is enough to stay, not necessary.",
        beside={
            **{f"ρ = {r:g}": each(runs, group, room, r) for r in rhos[:-1]},
            "1 − ηa(1 + ρa)/2, the published bound on a = λ_max(H)": each(
                runs, group, lambda run: 1 - _maybe(run, "bound/curvature"), rhos[-1]
            ),
        },
    )


def sgd_bounds(runs: Runs) -> Finding:
    """1 minus the larger of ηa/2 and ηs₂ at SGD's minima."""
    group = MINIMA["usam"]

    def room(run: Run) -> float:
        return 1 - max(_maybe(run, "bound/curvature"), _maybe(run, "bound/spread"))

    return Finding(
        effects=each(runs, group, room),
        detail="At the minimum next to the end that fits every example; s₂² = λ_max(M₂ − H²).",
        beside={
            "1 − ηa/2": each(runs, group, lambda run: 1 - _maybe(run, "bound/curvature")),
            "1 − ηs₂": each(runs, group, lambda run: 1 - _maybe(run, "bound/spread")),
        },
    )


def _last(column: str) -> Callable[[Run], float]:
    return lambda run: _maybe(run, column)


def _maybe(run: Run, column: str) -> float:
    """The last value; NaN where no minimum that fits was found."""
    try:
        return run.final(column)
    except NotMeasuredError:
        return math.nan


def stays(runs: Runs) -> Finding:
    """The share of radii below the critical one at which USAM comes back, minus 1."""
    grown = {f: each(runs, LEAVING, _last(f"grown/{f:g}")) for f in FACTORS}
    critical = each(runs, LEAVING, lambda run: _maybe(run, "critical"))
    return Finding(
        effects=each(runs, LEAVING, lambda run: _maybe(run, "below") - 1),
        detail=f"Critical ρ {mean(list(critical.values())):.3g} on the mean; it leaves at "
        + ", ".join(
            f"{f:g} times that in {sum(v > 0 for v in held.values())} of {len(held)}"
            for f, held in grown.items()
        )
        + ".",
        beside={
            "share of radii above it at which USAM leaves, minus 1": each(
                runs, LEAVING, lambda run: _maybe(run, "above") - 1
            )
        },
    )


def boundary(runs: Runs) -> Finding:
    """Simulated critical η over the one of the formula, minus 1, in one dimension."""
    return Finding(effects=each(runs, ONE_DIMENSION, lambda run: run.final("boundary")))


def one_dimension_bounds(runs: Runs) -> Finding:
    """1 minus the largest share of a published bound just below the critical η."""
    wide = each(runs, ONE_DIMENSION, lambda run: run.final("critical") - 2 * run.final("radius"))
    return Finding(
        effects=each(runs, ONE_DIMENSION, lambda run: run.final("bounds")),
        detail="Stability implies the bounds on moments 3 and 4 only for η > 2ρ, as in "
        f"{sum(value > 0 for value in wide.values())} of {len(wide)} draws.",
    )


def sufficient(runs: Runs) -> Finding:
    """The η at which the second moment grows over that of the condition, minus 1."""
    least = {
        k: mean(list(each(runs, MATRICES, _last(f"indefinite/{k}")).values())) for k in (2, 3, 4)
    }
    return Finding(
        effects=each(runs, MATRICES, lambda run: run.final("room")),
        detail="Least eigenvalue of M_k − H^k over the largest in size, mean over draws: "
        + ", ".join(f"k = {k}: {value:.3g}" for k, value in least.items())
        + ".",
    )


def identity(runs: Runs) -> Finding:
    """Largest difference between the two forms of E(I − ηH_ξ − ηρH_ξ²)²."""
    beside = {}
    if runs.radii(MINIMA["usam"]):
        top = runs.rhos(MINIMA["usam"])[-1]
        beside["λ_max at USAM's minima"] = each(
            runs, MINIMA["usam"], lambda run: _maybe(run, "identity"), top
        )
    return Finding(effects=each(runs, MATRICES, lambda run: run.final("identity")), beside=beside)


def straight(runs: Runs, arm: str) -> Finding:
    """R² of a straight line through log10 (f − f*) over the steps, where all can be fitted."""
    group = rate_group(FITS)
    rho = _near(runs.rhos(group), RATE_RHO)
    radii = [r for r in runs.rhos(group) if r > 0 and r != rho]
    beside = {f"ρ = {r:g}": each(runs, group, lambda run: line(run, arm)[1], r) for r in radii}
    beside["SGD"] = each(runs, group, lambda run: line(run, arm)[1])
    beside["largest distance from the line, decades"] = each(
        runs, group, lambda run: line(run, arm)[2], rho
    )
    falls = each(
        runs, group, lambda run: math.log10(run.start(arm) / max(run.final(arm), LEAST)), rho
    )
    return Finding(
        effects=each(runs, group, lambda run: line(run, arm)[1], rho),
        detail=f"d = {FITS}, n = {RATE_EXAMPLES}, ρ = {rho:g}; decades that the loss fell by: "
        f"{mean(list(falls.values())):.3g} on the mean.",
        beside=beside,
    )


def fits_or_not(runs: Runs, arm: str) -> Finding:
    """Decades fallen in the second half: fitting all examples, minus not."""
    rho = _near(runs.rhos(rate_group(FITS)), RATE_RHO)

    def halves(features: int) -> Effects:
        return each(
            runs,
            rate_group(features),
            lambda run: late_fall(run.curve("step"), run.curve(arm)),
            rho,
        )

    over, under = halves(FITS), halves(LACKS)
    return Finding(
        effects={seed: over[seed] - under[seed] for seed in over if seed in under},
        detail=f"d = {FITS} and {LACKS}, n = {RATE_EXAMPLES}, ρ = {rho:g}.",
        beside={"where all can be fitted": over, "where not": under},
    )


def faster(runs: Runs) -> Finding:
    """Slope of log10 of USAM's rate on log10 of the number of features, from 2n on."""
    sizes = [d for d in FEATURES if d >= 2 * RATE_EXAMPLES and runs.radii(rate_group(d))]
    if len(sizes) < 2:
        raise NotMeasuredError("the rates need two sizes")

    def slopes(rho: float) -> Effects:
        rates = [each(runs, rate_group(d), lambda run: -line(run, "usam")[0], rho) for d in sizes]
        return {
            seed: slope(
                [math.log10(d) for d in sizes],
                [math.log10(r[seed]) if r[seed] > 0 else math.nan for r in rates],
            )
            for seed in rates[0]
        }

    rho = _near(runs.rhos(rate_group(sizes[0])), RATE_RHO)
    means = {
        d: mean(list(each(runs, rate_group(d), lambda r: -line(r, "usam")[0], rho).values()))
        for d in sizes
    }
    return Finding(
        effects=slopes(rho),
        detail="Decades per 1000 steps: "
        + ", ".join(f"d = {d}: {1000 * rate:.3g}" for d, rate in means.items())
        + ".",
        beside={"SGD": slopes(0.0)},
    )


def line(run: Run, arm: str) -> tuple[float, float, float]:
    """Slope, R² and largest distance of a line through log10 of the loss, above rounding."""
    pairs = [
        (step, math.log10(loss))
        for step, loss in zip(run.curve("step"), run.curve(arm), strict=True)
        if loss > ROUNDING
    ]
    if len(pairs) < 3:
        return math.nan, math.nan, math.nan
    x, y = ([pair[i] for pair in pairs] for i in (0, 1))
    steep = slope(x, y)
    middle = mean(y)
    left = [b - middle - steep * (a - mean(x)) for a, b in pairs]
    whole = math.fsum((b - middle) ** 2 for b in y)
    share = 1 - math.fsum(v * v for v in left) / whole if whole else math.nan
    return steep, share, max(map(abs, left))


def _near(values: Sequence[float], wanted: float) -> float:
    return min(values, key=lambda value: abs(value - wanted))
