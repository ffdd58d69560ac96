"""When a run is read, and what is made of gains of several groups."""

from __future__ import annotations

from collections.abc import Sequence

from lowland.studies.effects import mean
from lowland.studies.overparam.columns import VALIDATION
from lowland.studies.overparam.slopes import slope
from lowland.studies.runs import NotMeasuredError, Run
from lowland.studies.study import Effects


def early_stopped(run: Run, column: str) -> float:
    """At the evaluation with the lowest validation error, the first of equal ones."""
    errors = run.curve(VALIDATION)
    finite = [i for i, error in enumerate(errors) if error == error]
    if not finite:
        return errors[-1]
    return run.curve(column)[min(finite, key=lambda i: errors[i])]


def average(effects: Sequence[Effects]) -> Effects:
    """Mean by seed, for the seeds of all.

    Raises:
        NotMeasuredError: there is nothing to take the mean of.
    """
    if not effects:
        raise NotMeasuredError("nothing was run")
    seeds = [s for s in effects[0] if all(s in other for other in effects)]
    return {s: mean([each[s] for each in effects]) for s in seeds}


def slopes(x: Sequence[float], effects: Sequence[Effects]) -> Effects:
    """Per seed the slope of an effect on x, for the seeds that all places have.

    Raises:
        NotMeasuredError: there are fewer than two places, or no such seed.
    """
    if len(effects) < 2:
        raise NotMeasuredError("fewer than two sizes ran")
    seeds = [s for s in effects[0] if all(s in other for other in effects)]
    if not seeds:
        raise NotMeasuredError("no seed ran at all sizes")
    return {s: slope(x, [each[s] for each in effects]) for s in seeds}
