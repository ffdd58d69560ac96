"""Plain training and SAM side by side: the ρ that is judged, ends, and equal train losses."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from lowland.studies.balance import columns
from lowland.studies.effects import chosen_words, common_level, mean, value_at_level
from lowland.studies.runs import NotMeasuredError, Run, Runs
from lowland.studies.study import Effects
from lowland.studies.tuned import choose_rho

TIE = 1e-4
"""Weight of the validation loss beside the error: less than one image, so that it decides between
equal errors alone. Where the simple feature tells the whole label, all errors are equal."""

LEVELS = 5


@dataclass(frozen=True)
class Pairs:
    """A group of runs over ρ, with one ρ > 0 for every seed.

    Attributes:
        runs: all runs.
        group: the group; ρ = 0 is in it.
        rho: ρ by seed.
        how: how it was chosen, as a sentence.
    """

    runs: Runs
    group: str
    rho: Mapping[int, float]
    how: str

    @property
    def seeds(self) -> list[int]:
        """The seeds that have a ρ."""
        return list(self.rho)

    def plain(self, seed: int) -> Run:
        """Plain training of a seed."""
        return self.runs.run(self.group, 0.0, seed)

    def sam(self, seed: int) -> Run:
        """SAM of the same seed, at its ρ."""
        return self.runs.run(self.group, self.rho[seed], seed)

    def fall(self, column: str) -> Effects:
        """Plain minus SAM, at the end."""
        return {s: self.plain(s).final(column) - self.sam(s).final(column) for s in self.seeds}

    def fall_at_equal_loss(self, column: str, *, train: str = columns.TRAIN) -> Effects:
        """Plain minus SAM where each first has the lowest train loss that both reach.

        NaN where there is no such loss: a mean over the other seeds would be one of survivors.

        Args:
            column: what falls.
            train: the column of the train loss.
        """
        found = {}
        for seed in self.seeds:
            values = values_at_equal_loss(self.plain(seed), self.sam(seed), column, train)
            found[seed] = math.nan if values is None else values[0] - values[1]
        return found


def chosen(runs: Runs, group: str, criterion: Callable[[Run], float], words: str) -> Pairs:
    """The ρ > 0 of each seed with the lowest mean criterion over the other seeds.

    Raises:
        NotMeasuredError: the runs are not there, lack what is chosen by, or are of one seed.
    """
    rho = choose_rho(runs, group, criterion)
    return Pairs(runs, group, rho, chosen_words(rho).replace("validation data", words))


def by_validation(runs: Runs, group: str) -> Pairs:
    """By the error on validation data that are distributed as those of training, then the loss."""

    def criterion(run: Run) -> float:
        return run.final(columns.VALIDATION) + TIE * run.final(columns.VALIDATION_LOSS)

    return chosen(runs, group, criterion, "validation data")


def by_oracle(runs: Runs, group: str, column: str) -> Pairs:
    """By a column of validation data in which all groups are equally frequent."""
    return chosen(runs, group, lambda run: run.final(column), "balanced validation data")


def at_rho(runs: Runs, group: str, rho: float) -> Pairs:
    """One ρ for all seeds."""
    return Pairs(runs, group, dict.fromkeys(runs.seeds(group), rho), f" ρ = {rho:g}.")


def equal_losses(first: Run, second: Run, train: str = columns.TRAIN) -> float | None:
    """The lowest train loss that both runs reach, or None."""
    return common_level([first.curve(train), second.curve(train)])


def values_at_equal_loss(
    first: Run, second: Run, column: str, train: str = columns.TRAIN
) -> tuple[float, float] | None:
    """A column of both runs where they first have the lowest train loss that both reach."""
    level = equal_losses(first, second, train)
    if level is None:
        return None
    return _value(first, column, level, train), _value(second, column, level, train)


def means_at_equal_losses(first: Run, second: Run, column: str) -> tuple[float, float] | None:
    """The mean of a column of both runs over `LEVELS` train losses that both reach.

    The losses are evenly spread in their logarithm, from nine tenths of the smaller loss at the
    beginning down to the lowest that both reach.
    """
    lowest = equal_losses(first, second)
    if lowest is None:
        return None
    highest = max(0.9 * min(run.curve(columns.TRAIN)[0] for run in (first, second)), lowest)
    levels = [lowest * (highest / lowest) ** (k / (LEVELS - 1)) for k in range(LEVELS)]
    one, other = (mean([_value(run, column, level) for level in levels]) for run in (first, second))
    return one, other


def _value(run: Run, column: str, level: float, train: str = columns.TRAIN) -> float:
    values = run.curve(column)
    if not all(math.isfinite(value) for value in values):
        raise NotMeasuredError(f"{column} was not measured over training")
    # the last level can be missed by rounding
    return value_at_level(run.curve(train), values, level * (1 + 1e-12))


def or_none(find: Callable[[], Effects]) -> Effects:
    """What was found, or no effects where that was not measured."""
    try:
        return find()
    except NotMeasuredError:
        return {}


def without_empty(beside: Mapping[str, Effects]) -> dict[str, Effects]:
    """Those that have effects."""
    return {label: effects for label, effects in beside.items() if effects}
