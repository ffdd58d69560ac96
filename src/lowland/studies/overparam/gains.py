"""What SAM gains over plain training in a group of runs, with ρ chosen on other seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from lowland.studies.effects import choose_left_out, mean
from lowland.studies.matched import at_equal_loss
from lowland.studies.overparam.columns import TRAIN_LOSS, VALIDATION
from lowland.studies.overparam.slopes import slope
from lowland.studies.runs import NotMeasuredError, Run, Runs
from lowland.studies.study import Effects

Read = Callable[[Run, str], float]
"""A column of a run as one number."""


def at_end(run: Run, column: str) -> float:
    """After the last update."""
    return run.final(column)


def early_stopped(run: Run, column: str) -> float:
    """At the evaluation with the lowest validation error, the first of equal ones."""
    errors = run.curve(VALIDATION)
    finite = [i for i, error in enumerate(errors) if error == error]
    if not finite:
        return errors[-1]
    return run.curve(column)[min(finite, key=lambda i: errors[i])]


@dataclass(frozen=True)
class Tuned:
    """A group of runs with the ρ > 0 that validation errors of the other seeds choose.

    Attributes:
        runs: all runs.
        group: their name.
        read: when a run is read; validation errors that choose are read then too.
        chosen: ρ by seed.
    """

    runs: Runs
    group: str
    read: Read
    chosen: Mapping[int, float]

    @classmethod
    def of(
        cls,
        runs: Runs,
        group: str,
        read: Read = at_end,
        *,
        or_none: bool = False,
        among: Collection[float] | None = None,
    ) -> Tuned:
        """Choose.

        Args:
            runs: all runs.
            group: their name.
            read: when a run is read.
            or_none: let ρ = 0 be chosen too.
            among: the ρ > 0 that may be chosen; None for all.

        Raises:
            NotMeasuredError: a ρ or a second seed is missing.
        """
        rhos = runs.rhos(group)
        errors = {
            rho: {s: read(runs.run(group, rho, s), VALIDATION) for s in runs.seeds(group)}
            for rho in rhos
            if (or_none if rho == 0 else among is None or rho in among)
        }
        chosen = choose_left_out(errors)
        if not chosen:
            raise NotMeasuredError("one seed cannot choose ρ: the choice is made on the others")
        return cls(runs, group, read, chosen)

    def plain(self, column: str) -> Effects:
        """A column of plain training, by seed."""
        return {s: self.read(self.runs.run(self.group, 0.0, s), column) for s in self.chosen}

    def sam(self, column: str) -> Effects:
        """The same at the chosen ρ."""
        return {
            s: self.read(self.runs.run(self.group, rho, s), column)
            for s, rho in self.chosen.items()
        }

    def gain(self, column: str = VALIDATION) -> Effects:
        """Plain training minus the chosen ρ."""
        return minus(self.plain(column), self.sam(column))

    def gain_at_equal_loss(self) -> Effects:
        """Validation errors where both first reach the lowest train loss that both reach.

        NaN where there is no such loss.
        """
        found = {}
        for seed, rho in self.chosen.items():
            both = [self.runs.run(self.group, r, seed) for r in (0.0, rho)]
            errors = at_equal_loss(both, VALIDATION, loss=TRAIN_LOSS)
            found[seed] = math.nan if errors is None else errors[0] - errors[1]
        return found


def minus(first: Effects, second: Effects) -> Effects:
    """first - second, for the seeds of both."""
    return {seed: first[seed] - second[seed] for seed in first if seed in second}


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
