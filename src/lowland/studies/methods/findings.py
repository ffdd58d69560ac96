"""Effects of the methods study, one per seed, signed so that the claim says positive.

Every error is the test error at the end, at the ρ that the validation error of the *other* seeds
chooses; comparisons are at equal epochs, with the same at equal compute beside it.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping

from lowland.studies.effects import chosen_words, mean
from lowland.studies.methods.arms import ARMS, SAM, Arm
from lowland.studies.methods.columns import (
    EQUAL_COMPUTE,
    EQUAL_EPOCHS,
    SHARPNESS,
    TEST_ERROR,
    Setup,
)
from lowland.studies.methods.readings import Readings, less, spread
from lowland.studies.runs import NotMeasuredError, Runs
from lowland.studies.study import Effects, Finding

Find = Callable[[Runs, Setup], Finding]


def gain(name: str, over: str, protocol: str = EQUAL_EPOCHS) -> Find:
    """Error of the arm `over` minus error of the arm `name`."""
    arm, other = ARMS[name], ARMS[over]

    def find(runs: Runs, setup: Setup) -> Finding:
        read = Readings(runs, setup)
        effects = less(read.tuned(arm, protocol), read.tuned(other, protocol))
        beside = EQUAL_COMPUTE if protocol == EQUAL_EPOCHS else EQUAL_EPOCHS
        return Finding(
            effects=effects,
            detail=_errors(read, (arm, other), protocol) + _cost(read, arm),
            resolution=1 / setup.test_images,
            beside=_where_measured(
                {
                    f"at {beside}": lambda: less(
                        read.tuned(arm, beside), read.tuned(other, beside)
                    ),
                    **_at_each_rho(read, arm, other, protocol),
                }
            ),
        )

    return find


def growth_as_m_falls(runs: Runs, setup: Setup) -> Finding:
    """Fall of the error from the largest to the smallest m, along the line fitted in log m."""
    read = Readings(runs, setup)
    by_m = {m: read.tuned(arm, EQUAL_EPOCHS) for m, arm in shards(setup).items()}
    seeds = sorted(set.intersection(*(set(errors) for errors in by_m.values())))
    m = [math.log(size) for size in by_m]
    reach = max(m) - min(m)
    words = ", ".join(f"{mean(list(errors.values())):.2%} at {k}" for k, errors in by_m.items())
    return Finding(
        effects={
            seed: reach * slope(m, [errors[seed] for errors in by_m.values()]) for seed in seeds
        },
        detail=f"Mean test error by m: {words}. Normalization layers see m examples at a time too.",
        resolution=1 / setup.test_images,
    )


def shards(setup: Setup) -> dict[int, Arm]:
    """The arms by m, largest first; SAM's is the batch."""
    found = {setup.batch_size: ARMS[SAM]}
    for arm in setup.arms:
        m = arm.options.get("m")
        if arm.method == "m-sam" and isinstance(m, int) and m < setup.batch_size:
            found[m] = arm
    if len(found) < 3:
        raise NotMeasuredError("fewer than three m ran")
    return dict(sorted(found.items(), reverse=True))


def slope(x: list[float], y: list[float]) -> float:
    """Of the least-squares line.

    >>> slope([0.0, 1.0, 2.0], [1.0, 3.0, 5.0])
    2.0
    """
    center = mean(x)
    spread = math.fsum((value - center) ** 2 for value in x)
    return math.fsum((a - center) * b for a, b in zip(x, y, strict=True)) / spread


def spread_over_rho(names: tuple[str, ...]) -> Find:
    """Error at the worst ρ minus at the best, of the arm where that is largest."""

    def find(runs: Runs, setup: Setup) -> Finding:
        read = Readings(runs, setup)
        by_arm = {name: _spread(read, ARMS[name]) for name in names}
        seeds = sorted(set.intersection(*(set(found) for found in by_arm.values())))
        if not seeds:
            raise NotMeasuredError("one seed cannot tell the worst ρ from an unlucky one")
        effects = {}
        for seed in seeds:
            others = {
                name: mean([value for s, value in found.items() if s != seed])
                for name, found in by_arm.items()
            }
            lost = [name for name, value in others.items() if not math.isfinite(value)]
            effects[seed] = by_arm[lost[0] if lost else max(others, key=lambda n: others[n])][seed]
        words = (f"{name}: {_by_rho(read, ARMS[name])}" for name in names)
        return Finding(
            effects=effects,
            detail=f"Mean test error by ρ. {'; '.join(words)}.",
            resolution=1 / setup.test_images,
            beside=dict(by_arm),
        )

    return find


def sharper(name: str, than: str) -> Find:
    """Sharpness of one arm over that of the other, minus 1."""
    arm, other = ARMS[name], ARMS[than]

    def find(runs: Runs, setup: Setup) -> Finding:
        read = Readings(runs, setup)
        top, bottom = (read.tuned(each, EQUAL_EPOCHS, SHARPNESS) for each in (arm, other))
        shown = ", ".join(
            f"{mean(list(values.values())):.4f} {each.name}"
            for each, values in ((arm, top), (other, bottom))
        )
        return Finding(
            effects={
                seed: top[seed] / bottom[seed] - 1 if bottom[seed] > 0 else math.nan
                for seed in top
                if seed in bottom
            },
            detail=f"Mean one-step sharpness: {shown}.",
        )

    return find


def _spread(read: Readings, arm: Arm) -> Effects:
    radii = read.radii(arm, EQUAL_EPOCHS)
    if len(radii) < 2:
        raise NotMeasuredError(f"{arm.name} ran at one ρ")
    return spread({rho: read.at(arm, EQUAL_EPOCHS, rho, TEST_ERROR) for rho in radii})


def _by_rho(read: Readings, arm: Arm) -> str:
    errors = {
        rho: list(read.at(arm, EQUAL_EPOCHS, rho, TEST_ERROR).values())
        for rho in read.radii(arm, EQUAL_EPOCHS)
    }
    return ", ".join(f"{mean(values):.2%} at {rho:g}" for rho, values in errors.items())


def _errors(read: Readings, arms: tuple[Arm, Arm], protocol: str) -> str:
    means = ", ".join(
        f"{mean(list(read.tuned(arm, protocol).values())):.2%} {arm.name}" for arm in arms
    )
    return f"Mean test error: {means}.{chosen_words(read.chosen(arms[0], protocol))}"


def _cost(read: Readings, arm: Arm) -> str:
    ratios = read.time_ratios(arm)
    if not ratios:
        return ""
    ratio = statistics.median(ratios)
    return f" A step takes {ratio:.2f} times a plain one here ({arm.passes:.3g} passes)."


def _at_each_rho(
    read: Readings, arm: Arm, other: Arm, protocol: str
) -> dict[str, Callable[[], Effects]]:
    return {
        f"at ρ = {rho:g}": lambda rho=rho: less(  # type: ignore[misc]
            read.at(arm, protocol, rho, TEST_ERROR), read.tuned(other, protocol)
        )
        for rho in read.radii(arm, protocol)
    }


def _where_measured(effects: Mapping[str, Callable[[], Effects]]) -> dict[str, Effects]:
    found = {}
    for label, effect in effects.items():
        try:
            found[label] = effect()
        except NotMeasuredError:
            continue
    return found
