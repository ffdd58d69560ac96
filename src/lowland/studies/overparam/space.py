"""Effects per seed of the claims on why: the space of solutions, and the bias within it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable

from lowland.studies.effects import kendall, mean
from lowland.studies.overparam.arms import Arm, Hidden, Measured, shown
from lowland.studies.overparam.columns import (
    DISTANCE,
    LAMBDA,
    LEVEL_LAMBDA,
    TRAVELLED,
)
from lowland.studies.overparam.findings import growth
from lowland.studies.overparam.gains import slopes
from lowland.studies.overparam.slopes import deviations, interquartile
from lowland.studies.runs import NotMeasuredError, Run, Runs
from lowland.studies.study import Effects, Finding
from lowland.studies.tuned import Tuned


def solutions(runs: Runs, what: Measured, hidden: Hidden) -> dict[int, Run]:
    """Every plain training of a dense network on clean labels, by seed."""
    groups = (Arm(hidden=hidden).group, what.extra(hidden))
    return {s: runs.run(g, 0.0, s) for g in groups for s in runs.whole_seeds(g, [0.0])}


def log_sharpness(runs: Runs, what: Measured, hidden: Hidden) -> dict[int, float]:
    """ln λ_max by seed at the common train loss; nothing where some solution is not at it."""
    found = {}
    for seed, run in solutions(runs, what, hidden).items():
        try:
            value = run.final(LEVEL_LAMBDA)
        except NotMeasuredError:
            return {}
        found[seed] = math.log(value) if value > 0 else math.nan
    return found


def _at_level(runs: Runs, what: Measured) -> dict[Hidden, dict[int, float]]:
    found = {hidden: log_sharpness(runs, what, hidden) for hidden in what.sizes}
    return {hidden: values for hidden, values in found.items() if len(values) > 1}


def solution_space(runs: Runs, what: Measured) -> Finding:
    """Slope on size of the spread of ln λ_max over plain solutions at one train loss."""
    there = _at_level(runs, what)
    places = [math.log10(what.count(hidden)) for hidden in there]
    spreads = [deviations(values) for values in there.values()]
    words = ", ".join(f"{shown(h)} {statistics.stdev(v.values()):.2f}" for h, v in there.items())
    left = [shown(h) for h in what.sizes if h not in there]
    more = f" Not at that loss with every seed: {', '.join(left)}." if left else ""
    return Finding(
        effects=slopes(places, spreads),
        detail=f"Standard deviations of ln λ_max: {words}.{more}",
        beside={"at the end of training": _spread_at_end(runs, what)},
    )


def _spread_at_end(runs: Runs, what: Measured) -> Effects:
    def of(hidden: Hidden) -> Effects:
        values = {s: run.final(LAMBDA) for s, run in solutions(runs, what, hidden).items()}
        return deviations({s: math.log(v) if v > 0 else math.nan for s, v in values.items()})

    places = [math.log10(what.count(hidden)) for hidden in what.sizes]
    return slopes(places, [of(hidden) for hidden in what.sizes])


def variability_and_gain(runs: Runs, what: Measured) -> Finding:
    """Kendall's τ over sizes between the spread of ln λ_max and a seed's gain."""
    there = _at_level(runs, what)
    spreads = [interquartile(list(values.values())) for values in there.values()]
    gains = [Tuned.of(runs, Arm(hidden=hidden).group).gain() for hidden in there]
    if len(gains) < 3:
        raise NotMeasuredError("an order needs three sizes or more")
    seeds = [s for s in gains[0] if all(s in gain for gain in gains)]
    return Finding(
        effects={s: kendall(spreads, [gain[s] for gain in gains]) for s in seeds},
        detail="Quartile distances of ln λ_max: "
        + ", ".join(f"{shown(h)} {v:.2f}" for h, v in zip(there, spreads, strict=True))
        + ".",
        resolution=4 / (len(gains) * (len(gains) - 1)),
    )


def relative_distance(run: Run) -> float:
    """Distance to the end of plain training, over the distance that one travelled."""
    return run.final(DISTANCE) / run.final(TRAVELLED)


def distance_grows(runs: Runs, what: Measured) -> Finding:
    """Slope on size of the distance between SAM's and SGD's ends."""
    places = what.dense(0.0)

    def at_one(rho: float) -> Callable[[str], Effects]:
        return lambda group: {
            s: relative_distance(runs.run(group, rho, s)) for s in runs.seeds(group)
        }

    def chosen(group: str) -> Effects:
        tuned = Tuned.of(runs, group)
        return {s: relative_distance(runs.run(group, rho, s)) for s, rho in tuned.chosen.items()}

    return Finding(
        effects=growth(runs, places, chosen),
        detail=_by_size(runs, what, chosen),
        beside={
            f"ρ = {rho:g} at every size": growth(runs, places, at_one(rho)) for rho in _middle(what)
        },
    )


def sharpness_gap_grows(runs: Runs, what: Measured) -> Finding:
    """Slope on size of ln of SGD's over SAM's λ_max."""
    places = what.dense(0.0)

    def chosen(group: str) -> Effects:
        tuned = Tuned.of(runs, group)
        return {s: _gap(runs, group, rho, s, LAMBDA) for s, rho in tuned.chosen.items()}

    def at_one(rho: float, column: str) -> Callable[[str], Effects]:
        return lambda g: {s: _gap(runs, g, rho, s, column) for s in runs.seeds(g)}

    beside = {}
    for rho in _middle(what):
        beside[f"ρ = {rho:g} at every size"] = growth(runs, places, at_one(rho, LAMBDA))
        level = [p for p in places if _reached(runs, p[1], rho)]
        if len(level) > 1:
            beside[f"at equal train loss, ρ = {rho:g}"] = growth(
                runs, level, at_one(rho, LEVEL_LAMBDA)
            )
    return Finding(
        effects=growth(runs, places, chosen), detail=_by_size(runs, what, chosen), beside=beside
    )


def _by_size(runs: Runs, what: Measured, of: Callable[[str], Effects]) -> str:
    places = [(h, Arm(hidden=h).group) for h in what.sizes]
    words = [f"{shown(h)} {mean(list(of(g).values())):.2f}" for h, g in places if runs.radii(g)]
    return f"Means by hidden layers: {', '.join(words)}."


def _middle(what: Measured) -> list[float]:
    """One ρ of the lower half of the grid, with which all sizes train."""
    return [what.radii[(len(what.radii) - 1) // 2]] if what.radii else []


def _reached(runs: Runs, group: str, rho: float) -> bool:
    try:
        for seed in runs.seeds(group):
            for radius in (0.0, rho):
                runs.final(group, radius, seed, LEVEL_LAMBDA)
    except NotMeasuredError:
        return False
    return True


def _gap(runs: Runs, group: str, rho: float, seed: int, column: str) -> float:
    plain, sam = (runs.final(group, radius, seed, column) for radius in (0.0, rho))
    return math.log(plain / sam) if plain > 0 and sam > 0 else math.nan
