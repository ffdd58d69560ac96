"""What the claims of the two-layer study are judged by: one effect per seed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from statistics import median

from lowland.studies.effects import kendall, mean, relative_fall
from lowland.studies.matched import at_equal_loss
from lowland.studies.runs import NotMeasuredError, Runs
from lowland.studies.study import Effects, Finding
from lowland.studies.two_layer.columns import (
    ACTIVE,
    DECAYS,
    ITERATION,
    PULL,
    RANK,
    SAM,
    STEP,
    TEACHERS,
    TEST,
    TRAIN,
    decay_group,
    teacher_group,
)
from lowland.studies.two_layer.draws import TEACHER_UNITS
from lowland.studies.two_layer.experiment import CHECKED_AFTER

Find = Callable[[Runs], Finding]

SHARE = 0.5
"""Share of the steps in which SAM acts."""


def fall(runs: Runs, group: str, column: str) -> Finding:
    """1 - v(largest ρ) / v(0) at the end; 0 for a run that diverged."""
    top = runs.rhos(group)[-1]
    effects = {}
    for seed in runs.seeds(group):
        values = [runs.final(group, rho, seed, column) for rho in (0.0, top)]
        effects[seed] = relative_fall(*values) if all(map(math.isfinite, values)) else 0.0
    beside = {"order over all ρ (Kendall's τ)": _orders(runs, group, column, rising=False)}
    if matched := _matched(runs, group, column):
        beside["at matched train loss"] = matched
    return Finding(
        effects=effects,
        detail=_means(runs, group, column) + lost(runs, group),
        resolution=one_step(runs, group, column),
        beside=beside,
    )


def rise(runs: Runs, group: str, column: str) -> Finding:
    """log10 v(largest ρ) / v(0) at the end; 0 for a run that diverged."""
    top = runs.rhos(group)[-1]
    effects = {}
    for seed in runs.seeds(group):
        values = [runs.final(group, rho, seed, column) for rho in (0.0, top)]
        usable = all(math.isfinite(v) and v > 0 for v in values)
        effects[seed] = math.log10(values[1] / values[0]) if usable else 0.0
    return Finding(
        effects=effects,
        detail=_medians(runs, group, column) + lost(runs, group),
        beside={"order over all ρ (Kendall's τ)": _orders(runs, group, column, rising=True)},
    )


def order(runs: Runs, group: str, column: str, *, rising: bool) -> Finding:
    """Kendall's τ of the order of ρ and that of the values; a loss that diverged is the largest."""
    return Finding(
        effects=_orders(runs, group, column, rising=rising),
        detail=_medians(runs, group, column) + lost(runs, group),
        resolution=2 / math.comb(len(runs.rhos(group)), 2),
    )


def half_way(runs: Runs, group: str) -> Finding:
    """τ of ρ and the train loss where SAM has ended: the last point within its half."""
    rhos = runs.rhos(group)
    effects = {}
    for seed in runs.seeds(group):
        losses = []
        for rho in rhos:
            run = runs.run(group, rho, seed)
            losses.append(run.curve(TRAIN)[_last_of_sam(run.curve(ITERATION))])
        effects[seed] = kendall(rhos, ordered(losses))
    return Finding(effects=effects, resolution=2 / math.comb(len(rhos), 2))


def against_weight_decay(runs: Runs, column: str) -> Finding:
    """1 - v(largest ρ) / v(weight decay), v the lowest at no larger train loss than SAM's.

    Weight decays that end with a larger train loss than SAM are left out, as are none at all
    (plain training is always there); 0 for a run of SAM that diverged.
    """
    group = SAM["relu"]
    top = runs.rhos(group)[-1]
    effects = {}
    for seed in runs.seeds(group):
        loss, value = (runs.final(group, top, seed, name) for name in (TRAIN, column))
        if not (math.isfinite(loss) and math.isfinite(value)):
            effects[seed] = 0.0
            continue
        arms = [(group, 0.0), *((decay_group(decay), 0.0) for decay in DECAYS)]
        ends = [
            [runs.final(name, rho, seed, measured) for measured in (TRAIN, column)]
            for name, rho in arms
        ]
        effects[seed] = relative_fall(
            min([end[1] for end in ends if end[0] <= loss], default=math.nan), value
        )
    return Finding(
        effects={seed: 0.0 if math.isnan(effect) else effect for seed, effect in effects.items()},
        detail="By weight decay, mean over seeds: "
        + _listed(
            {
                d: [runs.final(decay_group(d), 0.0, s, column) for s in runs.seeds(group)]
                for d in DECAYS
            }
        )
        + lost(runs, group),
    )


def weight_decay_prunes(runs: Runs) -> Finding:
    """The share by which the strongest weight decay lowers the number of active units."""
    group, strongest = SAM["relu"], decay_group(DECAYS[-1])
    return Finding(
        effects={
            seed: relative_fall(
                runs.final(group, 0.0, seed, ACTIVE), runs.final(strongest, 0.0, seed, ACTIVE)
            )
            for seed in runs.seeds(group)
        },
        beside={
            "its fall of the rank": {
                seed: relative_fall(
                    runs.final(group, 0.0, seed, RANK), runs.final(strongest, 0.0, seed, RANK)
                )
                for seed in runs.seeds(group)
            }
        },
    )


def stronger_at_first(runs: Runs) -> Finding:
    """The share of the active units pruned by SAM that is gone after a tenth of its steps."""
    group = SAM["relu"]
    top = runs.rhos(group)[-1]

    def share(run_rho: float, seed: int) -> float:
        run = runs.run(group, run_rho, seed)
        times, units = run.curve(ITERATION), run.curve(ACTIVE)
        end = _last_of_sam(times)
        early = max(i for i, time in enumerate(times) if time <= 0.1 * times[end])
        gone = units[0] - units[end]
        return (units[0] - units[early]) / gone if gone > 0 else math.nan

    effects = {seed: share(top, seed) for seed in runs.seeds(group)}
    return Finding(
        effects={seed: 0.0 if math.isnan(v) else v for seed, v in effects.items()},
        detail="A run that diverged, or pruned nothing, counts as 0." + lost(runs, group),
    )


def follows_the_loss(runs: Runs) -> Finding:
    """Slope of log pull on log √(train loss) over the points at which SAM acts, largest ρ."""
    group = SAM["relu"]
    top = runs.rhos(group)[-1]
    effects = {}
    for seed in runs.seeds(group):
        run = runs.run(group, top, seed)
        end = _last_of_sam(run.curve(ITERATION))
        pairs = [
            (0.5 * math.log(loss), math.log(pull))
            for loss, pull in zip(
                run.curve(TRAIN)[: end + 1], run.curve(PULL)[: end + 1], strict=True
            )
            if loss > 0 and pull > 0 and math.isfinite(loss) and math.isfinite(pull)
        ]
        effects[seed] = _slope(pairs)
    return Finding(effects=effects, detail="1 is proportional." + lost(runs, group))


def shifted(find: Find, by: float) -> Find:
    """The same finding with `by` added to every effect."""

    def found(runs: Runs) -> Finding:
        before = find(runs)
        return replace(before, effects={s: e + by for s, e in before.effects.items()})

    return found


def data_adaptive(runs: Runs) -> Finding:
    """τ over teachers of their units and the rank of students trained with SAM at ρ = 0.2."""
    return _over_teachers(runs, lambda group, seed, rho: runs.final(group, rho, seed, RANK))


def helps_low_rank_targets(runs: Runs) -> Finding:
    """τ over teachers of their units and of log10 (test loss of SAM / of plain training)."""

    def change(group: str, seed: int, rho: float) -> float:
        losses = [runs.final(group, r, seed, TEST) for r in (rho, 0.0)]
        if not all(math.isfinite(v) and v > 0 for v in losses):
            return math.inf
        return math.log10(losses[0] / losses[1])

    return _over_teachers(runs, change)


def remainder_order(runs: Runs) -> Finding:
    """The exponent of ρ in what the two terms of Proposition 1 leave, minus 2."""
    return _of_step(runs, lambda steps: f"order/{steps}", 2.0)


def printed_constant(runs: Runs) -> Finding:
    """Measured multiple of σ_j·x over ρ·√ℓ/‖∇f‖, minus 1, with ℓ = r²/2."""
    return _of_step(runs, lambda steps: f"constant/loss/{steps}", 1.0)


def residual_constant(runs: Runs) -> Finding:
    """Measured multiple of σ_j·x over ρ·|r|/‖∇f‖, minus 1."""
    return _of_step(runs, lambda steps: f"constant/residual/{steps}", 1.0)


def lowered(runs: Runs) -> Finding:
    """The share of examples whose step has the lowering component, minus 1."""
    return _of_step(runs, lambda steps: f"lowered/{steps}", 1.0)


def _of_step(runs: Runs, column: Callable[[int], str], expected: float) -> Finding:
    seeds = runs.whole_seeds(STEP, [0.0])
    if not seeds:
        raise NotMeasuredError("no step was looked at")
    first, *later = (
        {seed: runs.final(STEP, 0.0, seed, column(steps)) - expected for seed in seeds}
        for steps in CHECKED_AFTER
    )
    names = [f"after {steps} steps" for steps in CHECKED_AFTER[1:]]
    return Finding(effects=first, beside=dict(zip(names, later, strict=True)))


def _over_teachers(runs: Runs, value: Callable[[str, int, float], float]) -> Finding:
    sizes = sorted({*TEACHERS, TEACHER_UNITS})
    groups = [teacher_group(units) for units in sizes]
    radii = [rho for rho in set.intersection(*(set(runs.rhos(g)) for g in groups)) if rho > 0]
    if not radii:
        raise NotMeasuredError("the teachers have no ρ in common")
    seeds = set.intersection(*(set(runs.seeds(group)) for group in groups))

    def orders(rho: float) -> Effects:
        return {
            seed: kendall(sizes, ordered([value(group, seed, rho) for group in groups]))
            for seed in sorted(seeds)
        }

    middle = min(radii, key=lambda rho: abs(rho - 0.2))
    return Finding(
        effects={seed: 0.0 if math.isnan(tau) else tau for seed, tau in orders(middle).items()},
        detail=f"Teachers of {', '.join(map(str, sizes))} units; ρ = {middle:g}.",
        beside={f"ρ = {rho:g}": orders(rho) for rho in sorted(radii) if rho != middle},
    )


def _orders(runs: Runs, group: str, column: str, *, rising: bool) -> Effects:
    rhos, sign = runs.rhos(group), 1 if rising else -1
    orders = {}
    for seed in runs.seeds(group):
        tau = kendall(rhos, ordered([runs.final(group, rho, seed, column) for rho in rhos]))
        orders[seed] = 0.0 if math.isnan(tau) else sign * tau
    return orders


def ordered(values: Sequence[float]) -> list[float]:
    """Places of the values in their order, those that are not finite last; ties share a place."""
    finite = sorted({v for v in values if math.isfinite(v)})
    return [finite.index(v) if math.isfinite(v) else len(finite) for v in values]


def _matched(runs: Runs, group: str, column: str) -> Effects:
    """The fall where each run first reaches a train loss that all reach; seeds without are out."""
    rhos = runs.rhos(group)
    effects = {}
    for seed in runs.seeds(group):
        values = at_equal_loss([runs.run(group, rho, seed) for rho in rhos], column, loss=TRAIN)
        if values is not None:
            effects[seed] = relative_fall(values[0], values[-1])
    return effects


def _last_of_sam(times: Sequence[float]) -> int:
    return max(i for i, time in enumerate(times) if time <= SHARE * times[-1])


def _slope(pairs: Sequence[tuple[float, float]]) -> float:
    """Least squares; NaN of fewer than three points or of one x."""
    if len(pairs) < 3:
        return math.nan
    x, y = (mean(column) for column in zip(*pairs, strict=True))
    spread = math.fsum((a - x) ** 2 for a, _ in pairs)
    return math.fsum((a - x) * (b - y) for a, b in pairs) / spread if spread else math.nan


def one_step(runs: Runs, group: str, column: str) -> float:
    """The share that one component or unit is at ρ = 0."""
    values = [runs.final(group, 0.0, seed, column) for seed in runs.seeds(group)]
    return 1 / max(mean(values), 1.0) if values else 0.0


def _means(runs: Runs, group: str, column: str) -> str:
    values = {
        r: [runs.final(group, r, s, column) for s in runs.seeds(group)] for r in runs.rhos(group)
    }
    return f"By ρ, mean over seeds that did not diverge: {_listed(values)}"


def _medians(runs: Runs, group: str, column: str) -> str:
    parts = []
    for rho in runs.rhos(group):
        values = [_infinite(runs.final(group, rho, s, column)) for s in runs.seeds(group)]
        parts.append(f"{rho:g}: {median(values):.3g}" if values else f"{rho:g}: none")
    return f"By ρ, median over seeds: {', '.join(parts)}."


def _infinite(value: float) -> float:
    return value if math.isfinite(value) else math.inf


def _listed(values: Mapping[float, Sequence[float]]) -> str:
    kept = {at: [v for v in held if math.isfinite(v)] for at, held in values.items()}
    return ", ".join(f"{at:g}: {mean(held):.3g}" for at, held in kept.items()) + "."


def lost(runs: Runs, group: str) -> str:
    """How many runs diverged or have lost every unit."""
    diverged = dead = 0
    for rho in runs.rhos(group):
        for seed in runs.seeds(group):
            run = runs.run(group, rho, seed)
            diverged += run.diverged
            dead += not run.diverged and run.final(RANK) == 0
    said = f" Diverged: {diverged} runs." if diverged else ""
    return said + (f" Lost every unit (rank 0): {dead} runs." if dead else "")
