"""What the claims about membership are judged by."""

from __future__ import annotations

import math
from collections.abc import Callable

from lowland.studies.runs import NotMeasuredError, Runs
from lowland.studies.study import Effects, Finding
from lowland.studies.toys.columns import (
    EXAMPLES,
    FEATURES,
    RIDGE,
    RIDGE_EXAMPLES,
    RIDGE_JUDGED,
    WIDTHS,
    network_group,
)
from lowland.studies.tuned import Tuned

Value = dict[float, float]
"""By p, or by nλ."""


def _by(runs: Runs, group: str, key: str, name: str, **where: float) -> dict[int, Value]:
    """Values of a column by another one, for every seed; those that were not measured are out."""
    found: dict[int, Value] = {}
    for seed in runs.whole_seeds(group, [0.0]):
        history = runs.run(group, 0.0, seed).history
        rows = range(len(history[key]))
        kept = [i for i in rows if all(history[k][i] == v for k, v in where.items())]
        values = {history[key][i]: history[name][i] for i in kept}
        found[seed] = {k: v for k, v in values.items() if k is not None and v is not None}
    if not found:
        raise NotMeasuredError(f"the {group} runs are missing")
    return found


def _effects(found: dict[int, Value], value: Callable[[Value], float]) -> Effects:
    return {seed: value(held) for seed, held in found.items()}


def formula(runs: Runs) -> Finding:
    """The largest |log| of a drawn variance of non-members over the closed form, p ≥ 2n."""
    drawn = _by(runs, FEATURES, "features", "other")
    said = _by(runs, FEATURES, "features", "theory/other")
    apart = {
        seed: max(
            abs(math.log(drawn[seed][p] / v)) for p, v in said[seed].items() if p >= 2 * EXAMPLES
        )
        for seed in said
    }
    theory = _by(runs, FEATURES, "features", "theory")

    def gap(name: str) -> Effects:
        values = _by(runs, FEATURES, "features", name)
        return {
            seed: sum(values[seed][p] - v for p, v in held.items() if p >= 2 * EXAMPLES)
            / sum(p >= 2 * EXAMPLES for p in held)
            for seed, held in theory.items()
        }

    return Finding(
        effects=apart,
        detail="Close to p = n the variance has a heavy tail over training sets: at p = n + 2 its "
        "mean is not reached by a few hundred of them.",
        beside={
            "advantage of the rule that is fixed, minus the closed form": gap("fixed"),
            "by histogram (biased upwards), minus the closed form": gap("binned"),
        },
    )


def grows(runs: Runs) -> Finding:
    """Advantage with all features minus that with 3n, by the closed form."""

    def rise(held: Value) -> float:
        return held[max(held)] - held[min(p for p in held if p >= 3 * EXAMPLES)]

    return Finding(
        effects=_effects(_by(runs, FEATURES, "features", "theory"), rise),
        beside={
            "drawn, rule that is fixed": _effects(_by(runs, FEATURES, "features", "fixed"), rise),
            "drawn, by histogram": _effects(_by(runs, FEATURES, "features", "binned"), rise),
            "all features minus the first p > n": _effects(
                _by(runs, FEATURES, "features", "theory"), lambda h: h[max(h)] - h[min(h)]
            ),
        },
    )


def dips(runs: Runs) -> Finding:
    """Advantage at the first p above n minus the least of all p above it."""

    def dip(held: Value) -> float:
        above = {p: v for p, v in held.items() if p > EXAMPLES + 1}
        return above[min(above)] - min(above.values())

    return Finding(
        effects=_effects(_by(runs, FEATURES, "features", "theory"), dip),
        beside={
            "drawn, rule that is fixed": _effects(_by(runs, FEATURES, "features", "fixed"), dip)
        },
    )


def ridge(runs: Runs) -> Finding:
    """Advantage at the strongest ridge minus that without, p = 3n."""

    def at(p: float) -> Effects:
        found = _by(runs, RIDGE, "ridge", "normal", features=p)
        return _effects(found, lambda held: held[max(held)] - held[0.0])

    places = sorted({p for run in [_first(runs, RIDGE)] for p in run if p is not None})
    return Finding(
        effects=at(RIDGE_JUDGED),
        detail=f"n = {RIDGE_EXAMPLES}; exact variances, mean over training inputs.",
        beside={f"p = {p:g}": at(p) for p in places if p != RIDGE_JUDGED},
    )


def _first(runs: Runs, group: str) -> list[float | None]:
    seeds = runs.whole_seeds(group, [0.0])
    if not seeds:
        raise NotMeasuredError(f"the {group} runs are missing")
    return list(runs.run(group, 0.0, seeds[0]).history["features"])


def wider(runs: Runs) -> Finding:
    """Advantage of the loss threshold on the widest plain networks minus the narrowest."""
    groups = [g for g in map(network_group, WIDTHS) if runs.whole_seeds(g, [0.0])]
    if len(groups) < 2:
        raise NotMeasuredError("the networks need two widths")
    seeds = set.intersection(*(set(runs.seeds(group)) for group in groups))

    def rise(rho: float) -> Effects:
        return {
            seed: runs.final(groups[-1], rho, seed, "advantage")
            - runs.final(groups[0], rho, seed, "advantage")
            for seed in sorted(seeds)
        }

    top = runs.rhos(groups[0])[-1]
    return Finding(effects=rise(0.0), beside={f"SAM, ρ = {top:g}": rise(top)})


def sam_tells(runs: Runs) -> Finding:
    """Advantage on plain networks minus that on SAM's, widest; ρ chosen on validation errors."""
    wide = [w for w in WIDTHS if runs.whole_seeds(network_group(w), [0.0])]
    if not wide:
        raise NotMeasuredError("the networks are missing")
    group = network_group(wide[-1])
    rhos, seeds = runs.rhos(group), runs.seeds(group)
    tuned = Tuned.of(runs, group, by="val_error")
    chosen = tuned.chosen

    def less(name: str, of: str) -> Effects:
        return {
            seed: runs.final(of, 0.0, seed, name) - runs.final(of, rho, seed, name)
            for seed, rho in chosen.items()
        }

    beside = {"area under the ROC curve": less("auc", group)}
    beside["at matched train loss"] = tuned.gain_at_equal_loss("advantage", loss="train_loss")
    for width in wide[:-1]:
        beside[f"width {width}"] = less("advantage", network_group(width))
    for rho in rhos[1:]:
        beside[f"ρ = {rho:g}"] = {
            s: runs.final(group, 0.0, s, "advantage") - runs.final(group, rho, s, "advantage")
            for s in seeds
        }
    return Finding(
        effects=less("advantage", group),
        detail=f"Width {wide[-1]}.{tuned.words()} The largest ρ that was trained is "
        f"{tuned.largest:g}.",
        beside=beside,
    )
