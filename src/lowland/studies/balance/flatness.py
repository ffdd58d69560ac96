"""Does flatness explain the gain? λ_max and the hard feature among runs of one ρ."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lowland.studies.balance import columns
from lowland.studies.balance.columns import Setup, group_of
from lowland.studies.effects import kendall, mean
from lowland.studies.runs import NotMeasuredError, Runs
from lowland.studies.study import Effects, Finding

Stratum = tuple[list[float], list[float]]
"""Of each seed, in order: how much flatter SAM's minimum is, and the gain."""


def predicts(runs: Runs, setup: Setup, network: str) -> Finding:
    """Kendall's τ over seeds between flattening and gain, the mean over settings and ρ.

    Flattening is log λ_max of plain training minus log λ_max of SAM of the same seed. A τ over
    seeds is one number; its jackknife pseudo-values, one per seed, have its mean and its variance.
    Settings and ρ in which λ_max or the gain is the same for all seeds are left out: that there is
    no order says nothing for or against the claim. NaN if none is left.
    """
    strata: dict[tuple[str, float], Stratum] = {}
    seeds: list[int] = []
    for setting in setup.settings:
        group = group_of(network, setting)
        seeds = runs.seeds(group)
        for rho in runs.rhos(group)[1:]:
            strata[group, rho] = _stratum(runs, group, rho, seeds)
    if len(seeds) < 4:
        raise NotMeasuredError("an order over seeds needs four of them or more")
    telling = [stratum for stratum in strata.values() if not _tied(*stratum)]
    values = pseudo_values(telling) if telling else [math.nan] * len(seeds)
    falls = {rho: [] for _, rho in strata}  # type: dict[float, list[float]]
    for (_, rho), (flatter, _) in strata.items():
        falls[rho] += flatter
    words = ", ".join(f"{math.exp(-mean(held)):.2g} at ρ = {rho:g}" for rho, held in falls.items())
    silent = len(strata) - len(telling)
    left = (
        f" Nothing differs over seeds, so that there is no order, in {silent} of {len(strata)} "
        "combinations of setting and ρ, which are left out."
    )
    return Finding(
        effects=dict(zip(seeds, values, strict=True)),
        detail=f"λ_max of SAM's minimum over that of plain training, geometric means: {words}."
        + (left if silent else ""),
        beside={"over ρ, within each seed": _over_rho(strata, seeds)},
    )


def pseudo_values(strata: Sequence[Stratum]) -> list[float]:
    """Jackknife pseudo-values n·θ - (n - 1)·θ₍₋ₛ₎ of θ, the mean τ of the strata, seed by seed."""
    n = len(strata[0][0])
    whole = _tau(strata)
    return [
        n * whole - (n - 1) * _tau([(_without(x, s), _without(y, s)) for x, y in strata])
        for s in range(n)
    ]


def _tau(strata: Sequence[Stratum]) -> float:
    """The mean of Kendall's τ-b over strata; 0 in one where nothing differs without a seed."""
    return mean([_or_zero(*stratum) for stratum in strata])


def _or_zero(x: list[float], y: list[float]) -> float:
    return 0.0 if _tied(x, y) else kendall(x, y)


def _tied(x: list[float], y: list[float]) -> bool:
    """Whether all of one are equal, so that there is no order; numbers that are none are not."""
    return all(map(math.isfinite, (*x, *y))) and (len(set(x)) == 1 or len(set(y)) == 1)


def _without(values: list[float], place: int) -> list[float]:
    return values[:place] + values[place + 1 :]


def _stratum(runs: Runs, group: str, rho: float, seeds: Sequence[int]) -> Stratum:
    flatter, gains = [], []
    for seed in seeds:
        plain, sam = runs.run(group, 0.0, seed), runs.run(group, rho, seed)
        flatter.append(_log(plain.final(columns.SHARPNESS)) - _log(sam.final(columns.SHARPNESS)))
        gains.append(plain.final(columns.HARD) - sam.final(columns.HARD))
    return flatter, gains


def _log(value: float) -> float:
    return math.log(value) if value > 0 else math.nan


def _over_rho(strata: dict[tuple[str, float], Stratum], seeds: Sequence[int]) -> Effects:
    """Per seed, τ over the ρ of a setting: what ρ itself does is in it."""
    groups = sorted({group for group, _ in strata})
    found = {}
    for place, seed in enumerate(seeds):
        taus = []
        for group in groups:
            own = [held for (name, _), held in strata.items() if name == group]
            taus.append(_or_zero([x[place] for x, _ in own], [y[place] for _, y in own]))
        found[seed] = mean(taus)
    return found
