"""What the claims about saddles, normalization and PL are judged by: one effect per draw."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from lowland.studies.effects import mean
from lowland.studies.runs import NotMeasuredError, Run, Runs
from lowland.studies.study import Effects, Finding
from lowland.studies.toys.columns import (
    BEALE,
    BEALE_RHO,
    DRIFT,
    DRIFT_RHO,
    ESCAPE,
    HYPERBOLA,
    HYPERBOLA_RHO,
    MOMENTUM,
    NEAR_BEALE,
    PL_QUADRATIC,
    PL_SUMS,
    QUADRATICS,
    THRESHOLDS,
)
from lowland.studies.toys.curves import LEAST, late_fall, slope
from lowland.studies.toys.escape import NOISES
from lowland.studies.toys.momentum import LARGE, SMALL


def each(runs: Runs, group: str, value: Callable[[Run], float], rho: float = 0.0) -> Effects:
    """One number for every draw of a group at one ρ.

    Raises:
        NotMeasuredError: there is none.
    """
    seeds = runs.whole_seeds(group, [rho])
    if not seeds:
        raise NotMeasuredError(f"the {group} runs are missing")
    return {seed: value(runs.run(group, rho, seed)) for seed in seeds}


def column(name: str, less: float = 0.0) -> Callable[[Run], float]:
    """The last value of a column, less a number."""
    return lambda run: run.final(name) - less


def attracted(runs: Runs) -> Finding:
    """The share of radii at which USAM is attracted if and only if ρ > −1/λ, minus 1."""
    return Finding(
        effects=each(runs, THRESHOLDS, column("right", 1.0)),
        detail="Radii from half to twice −1/λ.",
        beside={
            "where the growth is 0, over −1/λ, minus 1": each(runs, THRESHOLDS, column("boundary")),
            "the same share near Beale's saddle, minus 1": each(
                runs, NEAR_BEALE, column("right", 1.0)
            ),
        },
    )


def trapped(runs: Runs, arm: str) -> Finding:
    """log10 of |y| of gradient descent over that of an arm, at the end on x² − y²."""
    rhos = runs.rhos(HYPERBOLA)
    ways = {rho: _further(runs, HYPERBOLA, rho, f"{arm}/y") for rho in rhos if rho > 0}
    judged = _nearest(list(ways), HYPERBOLA_RHO)
    return Finding(
        effects=ways[judged],
        detail=f"ρ = {judged:g}. Stuck (|y| < 1 at the end), by ρ: "
        + ", ".join(f"{rho:g}: {_stuck(runs, rho, f'{arm}/y')}" for rho in rhos)
        + ".",
        beside={f"ρ = {rho:g}": found for rho, found in ways.items() if rho != judged},
    )


def beale_trapped(runs: Runs) -> Finding:
    """log10 of the distance from Beale's saddle by gradient descent over that by SAM."""
    rhos = runs.rhos(BEALE)
    top = _nearest(rhos[1:], BEALE_RHO)
    beside = {
        f"{name}, ρ = {rho:g}": _further(runs, BEALE, rho, f"{arm}/away")
        for arm, name in (("sam", "SAM"), ("sum", "g + g̃"))
        for rho in rhos[1:]
        if (arm, rho) != ("sam", top)
    }
    lasts = [
        runs.final(BEALE, rho, seed, "usam/steps") for rho in rhos[1:] for seed in runs.seeds(BEALE)
    ]
    return Finding(
        effects=_further(runs, BEALE, top, "sam/away"),
        detail=f"ρ = {top:g}. USAM, the form that is analysed, is not finite after "
        f"{max(lasts):.0f} steps or fewer from every start at every ρ.",
        beside=beside,
    )


def slower(runs: Runs) -> Finding:
    """1 − V_USAM/V_SGD: the share by which noise carries USAM less far from a saddle."""
    return Finding(effects=each(runs, ESCAPE, column("slower")))


def escape_formula(runs: Runs) -> Finding:
    """Simulated variance over the printed formula, minus 1, with one batch for both passes."""
    beside = {
        "noise in the second pass alone": each(runs, ESCAPE, column("printed/second")),
        "another batch in the second pass": each(runs, ESCAPE, column("printed/fresh")),
        "SGD (ρ = 0)": each(runs, ESCAPE, column("sgd")),
    }
    for noise, words in zip(
        NOISES, ("one batch", "second pass alone", "another batch"), strict=True
    ):
        gap = each(runs, ESCAPE, column(f"gap/{noise}"))
        beside[f"Δ_SGD − Δ_SAM over 2ηt²|λ|³ρ/b, minus 1: {words}"] = {
            seed: value - 1 for seed, value in gap.items()
        }
    return Finding(
        effects=each(runs, ESCAPE, column("printed/same")),
        detail="The printed formula is that of a step −η(λ(1+ρλ)²w + ξ), descent along the whole "
        "gradient of f(w + ρ∇f(w)); SAM takes ε as a constant, and its drift is λ(1+ρλ). The "
        "difference is by the exact recursion at |λ|t = 0.1, ρ|λ| = 0.01.",
        beside=beside,
    )


def escape_derived(runs: Runs) -> Finding:
    """Simulated variance over that of USAM's own step, minus 1."""
    return Finding(
        effects=each(runs, ESCAPE, column("derived/same")),
        detail="η|λ|s²/(2ba)·(1 − exp(−2at)), a = λ(1+ρλ), s = 1+ρλ.",
        beside={
            "noise in the second pass alone, s = 1": each(runs, ESCAPE, column("derived/second")),
            "another batch in the second pass, s² = 1+(ρλ)²": each(
                runs, ESCAPE, column("derived/fresh")
            ),
        },
    )


def momentum_sooner(runs: Runs) -> Finding:
    """log10 of the steps that USAM takes to leave without momentum over those with it."""

    def sooner(arm: str, way: str = "kept") -> Effects:
        return each(
            runs,
            MOMENTUM,
            lambda run: math.log10(run.final(f"{arm}/plain") / run.final(f"{arm}/{way}")),
        )

    usam, descent = sooner("usam"), sooner("descent")
    return Finding(
        effects=usam,
        detail="Momentum μ makes the effective step size η/(1 − μ); beside, at an equal one.",
        beside={
            "gradient descent": descent,
            "USAM's less descent's": {seed: usam[seed] - descent[seed] for seed in usam},
            "at equal η/(1 − μ)": sooner("usam", "equal"),
        },
    )


def momentum_radius(runs: Runs) -> Finding:
    """The share of radii at which USAM with momentum is attracted if and only if ρ > −1/λ."""
    return Finding(
        effects=each(runs, MOMENTUM, column("right", 1.0)),
        detail="Radii from half to twice −1/λ, momentum 0.9.",
    )


def batch_sooner(runs: Runs) -> Finding:
    """The share of USAM's steps that a small batch saves, by the exact second moments."""

    def saved(prefix: str) -> Effects:
        def share(run: Run) -> float:
            return 1 - run.final(f"{prefix}batch/{SMALL}") / run.final(f"{prefix}batch/{LARGE}")

        return each(runs, MOMENTUM, share)

    return Finding(effects=saved(""), beside={"with momentum 0.9": saved("kept/")})


def diverges(runs: Runs) -> Finding:
    """The share of radii at which USAM diverges if and only if η(β + ρβ²) > 2, minus 1."""
    return Finding(
        effects=each(runs, QUADRATICS, column("right", 1.0)),
        detail="η(β + ρβ²)/2 from 0.8 to 2.",
    )


def bounded(runs: Runs) -> Finding:
    """Where SAM keeps within its bound at all the radii, minus 1; a bound is kept or it is not."""
    return Finding(
        # NaN is no number within the bound
        effects=each(runs, QUADRATICS, lambda run: float(run.final("room") >= 0) - 1.0),
        detail="At the same radii; sup ‖w‖ against ‖w₀‖ + ηρβ/(1 − max|1 − ηλ|).",
        beside={"least share of the bound that is left": each(runs, QUADRATICS, column("room"))},
    )


def settles(runs: Runs, rho: float) -> Finding:
    """1 − ηκ/2 at the minimum that GD (ρ = 0) or USAM ends at."""
    rhos = runs.rhos(DRIFT)
    judged = _nearest(rhos, rho)
    others = [r for r in rhos if r > 0 and r != judged] if judged else []
    return Finding(
        effects=each(runs, DRIFT, column("usam/stays"), judged),
        detail=f"ρ = {judged:g}; final y, mean over starts: "
        + _listed({r: each(runs, DRIFT, column("usam/y"), r) for r in rhos}),
        beside={f"ρ = {r:g}": each(runs, DRIFT, column("usam/stays"), r) for r in others},
    )


def drifts(runs: Runs) -> Finding:
    """log10 of y of USAM over |y| of SAM, at the end."""
    rhos = runs.rhos(DRIFT)[1:]
    judged = _nearest(rhos, DRIFT_RHO)

    def ratio(run: Run) -> float:
        usam, sam = (abs(run.final(f"{arm}/y")) for arm in ("usam", "sam"))
        return 0.0 if usam == 0 else math.log10(usam / max(sam, LEAST))

    found = {rho: each(runs, DRIFT, ratio, rho) for rho in rhos}
    return Finding(
        effects=found[judged],
        detail=f"ρ = {judged:g}; final y of SAM, mean over starts: "
        + _listed({r: each(runs, DRIFT, column("sam/y"), r) for r in rhos}),
        beside={f"ρ = {rho:g}": effects for rho, effects in found.items() if rho != judged},
    )


def falls_on(
    runs: Runs, group: str, share: float, beside: Mapping[str, tuple[str, float]]
) -> Finding:
    """Decades that f − f* falls by between the second and the last quarter of a run.

    Args:
        runs: all runs.
        group, share: which run and λ.
        beside: label -> (group, λ).
    """
    return Finding(
        effects=each(runs, group, partial(_second_half, share=share)),
        beside={
            label: each(runs, other, partial(_second_half, share=s))
            for label, (other, s) in beside.items()
        },
    )


def usam_to_zero(runs: Runs) -> Finding:
    """Decades that USAM's f falls by in the second half, constant ρ and η, on the quadratic."""
    return falls_on(
        runs,
        PL_QUADRATIC[False],
        0.0,
        {"finite sum that fits": (PL_SUMS["fits", False], 0.0)},
    )


def to_a_neighbourhood(runs: Runs) -> Finding:
    """The same of SAM, whose ε does not shrink."""
    found = falls_on(
        runs,
        PL_QUADRATIC[False],
        1.0,
        {
            "λ = ½": (PL_QUADRATIC[False], 0.5),
            "finite sum that fits": (PL_SUMS["fits", False], 1.0),
            "finite sum that does not fit": (PL_SUMS["does-not-fit", False], 1.0),
            "USAM, finite sum that does not fit": (PL_SUMS["does-not-fit", False], 0.0),
        },
    )
    ends = each(runs, PL_QUADRATIC[False], column("loss/1"))
    return Finding(
        effects=found.effects,
        detail=f"f ends at {mean(list(ends.values())):.3g} on the quadratic.",
        beside=found.beside,
    )


def decreasing(runs: Runs) -> Finding:
    """Minus the slope of log (f − f*) on log k over the last tenfold of steps, λ = 1."""
    noisy, quadratic = PL_SUMS["does-not-fit", True], PL_QUADRATIC[True]
    beside = {
        f"λ = {share:g}": each(runs, noisy, partial(_slope, share=share)) for share in (0.0, 0.5)
    }
    for share in (0.0, 0.5, 1.0):
        beside[f"quadratic, λ = {share:g}"] = each(runs, quadratic, partial(_slope, share=share))
    return Finding(effects=each(runs, noisy, partial(_slope, share=1.0)), beside=beside)


def _second_half(run: Run, share: float) -> float:
    return late_fall(run.curve("step"), run.curve(f"loss/{share:g}"))


def _slope(run: Run, share: float) -> float:
    """Minus the slope of log f on log k over the last tenfold of steps."""
    steps, losses = run.curve("step"), run.curve(f"loss/{share:g}")
    pairs = [
        (math.log(step), math.log(max(loss, LEAST)))
        for step, loss in zip(steps, losses, strict=True)
        if step >= 0.1 * steps[-1]
    ]
    return -slope([x for x, _ in pairs], [y for _, y in pairs])


def _further(runs: Runs, group: str, rho: float, name: str) -> Effects:
    """log10 |value at ρ = 0| / |value at ρ|, at the end."""
    plain = {seed: runs.final(group, 0.0, seed, name) for seed in runs.seeds(group)}
    return {
        seed: math.log10(abs(value) / max(abs(runs.final(group, rho, seed, name)), LEAST))
        for seed, value in plain.items()
    }


def _stuck(runs: Runs, rho: float, name: str) -> str:
    seeds = runs.seeds(HYPERBOLA)
    near = sum(abs(runs.final(HYPERBOLA, rho, seed, name)) < 1 for seed in seeds)
    return f"{near} of {len(seeds)}"


def _listed(values: Mapping[float, Effects]) -> str:
    return ", ".join(f"ρ = {r:g}: {mean(list(v.values())):.3g}" for r, v in values.items()) + "."


def _nearest(values: Sequence[float], wanted: float) -> float:
    return min(values, key=lambda value: abs(value - wanted))
