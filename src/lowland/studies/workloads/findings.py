"""Effects of the width sweeps: slopes over the widths of one workload, one for each seed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

from lowland.studies.effects import mean
from lowland.studies.matched import at_equal_loss
from lowland.studies.runs import NotMeasuredError, Runs
from lowland.studies.study import Effects, Finding
from lowland.studies.tuned import Tuned, differences
from lowland.studies.workloads.kinds import (
    TEST_ERROR,
    TRAIN_LOSS,
    VALIDATION_ERROR,
    VALIDATION_LOSS,
    Sweep,
)

NO_GAMES = (
    "reinforcement learning needs the games' emulator and days of play, and neither comes with "
    "lowland; DQN-like training is no loss on fixed examples, so a recipe would not do"
)


def gain_grows(runs: Runs, sweep: Sweep) -> Finding:
    """Slope of the paired gap in validation error, plain minus SAM, on log10 of the parameters."""
    tuned = tunings(runs, sweep)
    gaps = [gap(one, VALIDATION_ERROR) for one in tuned]
    beside = {
        "of the test error": slopes(sweep, [gap(one, TEST_ERROR) for one in tuned]),
        "of the validation loss, in nats": slopes(
            sweep, [gap(one, VALIDATION_LOSS) for one in tuned]
        ),
        "widest minus narrowest": differences(gaps[-1], gaps[0]),
        "the gap itself, in the widest": gaps[-1],
    }
    if (matched := at_matched_loss(runs, sweep, tuned)) is not None:
        beside["at matched train loss"] = matched
    words = ", ".join(
        f"{mean(list(of_width.values())) * 100:+.2f} points at {count:,} parameters"
        for of_width, count in zip(gaps, sweep.parameters.values(), strict=True)
    )
    chosen = ", ".join(f"{_usual(one.chosen):g}" for one in tuned)
    return Finding(
        effects=slopes(sweep, gaps),
        detail=f"Gap in validation error: {words}. ρ, chosen on the other seeds, mostly {chosen}.",
        resolution=1 / sweep.judged / _spread(sweep),
        beside=beside,
    )


def best_radius_grows(runs: Runs, sweep: Sweep) -> Finding:
    """Slope of log10 ρ* on log10 of the parameters, ρ* the best of a seed's own runs.

    A choice that leaves the seed out is nearly the same for all seeds, and an interval over such
    choices would be far too narrow. Own choices are as noisy as one run is, and independent. Ties
    count with the mean of their log10 ρ.
    """
    tunings(runs, sweep)  # every width is there
    radii = [math.log10(rho) for rho in runs.rhos(sweep.groups[0])[1:]]
    if len(radii) < 2:
        raise NotMeasuredError("which ρ is best needs two values above 0")
    found = [best_radii(runs, name, VALIDATION_ERROR) for name in sweep.groups]
    by_loss = [best_radii(runs, name, VALIDATION_LOSS) for name in sweep.groups]
    step = min(b - a for a, b in itertools.pairwise(radii))
    edges = [sum(value in (radii[0], radii[-1]) for value in of.values()) for of in found]
    words = ", ".join(f"{10 ** mean(list(of.values())):.3f}" for of in found)
    return Finding(
        effects=slopes(sweep, found),
        detail=f"Best ρ, geometric mean over seeds, from the narrowest network to the widest: "
        f"{words}; at an end of the grid in {sum(edges)} of {sum(map(len, found))} cases.",
        resolution=step / _spread(sweep),
        beside={"by validation loss": slopes(sweep, by_loss)},
    )


def no_games(runs: Runs) -> Finding:
    """There are no data of reinforcement learning here."""
    raise NotMeasuredError(NO_GAMES)


def tunings(runs: Runs, sweep: Sweep) -> list[Tuned]:
    """ρ > 0 for each width and seed, chosen on validation error over the other seeds."""
    if len(sweep.groups) < 2:
        raise NotMeasuredError("a slope needs two widths or more")
    return [Tuned.of(runs, name, by=VALIDATION_ERROR) for name in sweep.groups]


def gap(tuned: Tuned, column: str) -> Effects:
    """Plain training minus SAM, per seed: positive where SAM is better."""
    return tuned.gain(column)


def best_radii(runs: Runs, name: str, column: str) -> dict[int, float]:
    """log10 of the ρ > 0 with the lowest final value, per seed; ties count with their mean.

    Runs that diverged are never best; NaN where all did.
    """
    found = {}
    for seed in runs.seeds(name):
        values = {
            rho: value
            for rho in runs.rhos(name)[1:]
            if math.isfinite(value := runs.final(name, rho, seed, column))
        }
        least = min(values.values(), default=math.nan)
        found[seed] = mean([math.log10(rho) for rho, value in values.items() if value == least])
    return found


def at_matched_loss(runs: Runs, sweep: Sweep, tuned: Sequence[Tuned]) -> Effects | None:
    """The slope of gaps where both runs first reach the lowest train loss that both reach."""
    gaps = []
    for one in tuned:
        found = {}
        for seed, rho in one.chosen.items():
            pair = [runs.run(one.group, radius, seed) for radius in (0.0, rho)]
            errors = at_equal_loss(pair, VALIDATION_ERROR, loss=TRAIN_LOSS)
            if errors is None:
                return None
            found[seed] = errors[0] - errors[1]
        gaps.append(found)
    return slopes(sweep, gaps)


def slopes(sweep: Sweep, by_width: Sequence[Effects]) -> Effects:
    """Least-squares slope on log10 of the parameters, for each seed that all widths have."""
    x = _logs(sweep)
    center = mean(x)
    weights = [(value - center) / _spread(sweep) ** 2 for value in x]
    seeds = sorted(set.intersection(*(set(effects) for effects in by_width)))
    return {
        seed: math.fsum(w * of[seed] for w, of in zip(weights, by_width, strict=True))
        for seed in seeds
    }


def _logs(sweep: Sweep) -> list[float]:
    return [math.log10(count) for count in sweep.parameters.values()]


def _spread(sweep: Sweep) -> float:
    """√Σ(x - x̄)²: rounding of each value by a step moves the slope by step/√12 over this."""
    x = _logs(sweep)
    return math.sqrt(math.fsum((value - mean(x)) ** 2 for value in x))


def _usual(chosen: Mapping[int, float]) -> float:
    values = list(chosen.values())
    return max(sorted(set(values)), key=values.count)
