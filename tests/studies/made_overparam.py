"""Runs of the study of overparameterisation, made by hand."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from made_runs import make_runs

from lowland.studies.overparam.arms import MASKS, Arm, Measured
from lowland.studies.runs import Run, Runs

WHAT = Measured(
    inputs=64,
    classes=10,
    validation=100,
    sizes=((4, 4), (20, 20), (100, 100)),
    noises=(0.0, 0.2, 0.4),
    regularised=((4, 4), (100, 100)),
    sparsities=(0.5, 0.9),
    radii=(0.1, 0.2, 0.4),
    sparse_radii=(0.1, 0.2),
)
Columns = Callable[[Arm, float, int], Mapping[str, float]]


def arms(what: Measured = WHAT) -> list[Arm]:
    """Every kind of network of the made study."""
    found = [Arm(hidden=h, noise=n) for n in what.noises for h in what.sizes]
    found += [Arm(hidden=what.twin(s)) for s in what.sparsities]
    found += [Arm(hidden=h, noise=what.noises[-1], decay=True) for h in what.regularised]
    found += [
        Arm(hidden=what.widest, mask=mask, sparsity=s) for mask in MASKS for s in what.sparsities
    ]
    return list(dict.fromkeys(found))


def study(columns: Columns, *, seeds: tuple[int, ...] = (0, 1, 2)) -> Runs:
    """Every arm, three evaluations: errors fall to half at the middle one, then to the end's.

    `columns` gives values at the end; ``stopped`` among them is the validation error half-way.
    """
    found: list[Run] = []
    for arm in arms():
        rhos = (0.0, *(WHAT.sparse_radii if arm.mask else WHAT.radii))

        def values(rho: float, seed: int, step: int, arm: Arm = arm) -> dict[str, float]:
            end = {"validation/error": 0.1, "test/error": 0.1, **columns(arm, rho, seed)}
            half = end.pop("stopped", end["validation/error"] + 0.01)
            error = (0.9, half, end["validation/error"])[step]
            losses = {"train/loss": 10.0**-step, "train/error": 0.0}
            return {**losses, **end, "validation/error": error}

        found += make_runs(values, group=arm.group, rhos=rhos, seeds=seeds, evaluations=3)
    return Runs(found)


def tens(arm: Arm) -> float:
    """log₁₀ of the number of parameters."""
    return math.log10(WHAT.count(arm.hidden))
