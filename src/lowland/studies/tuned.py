"""Runs over ρ at the ρ that validation data of the other seeds choose: one rule for all studies."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from lowland.studies.effects import choose_left_out, chosen_words
from lowland.studies.matched import TRAIN_LOSS, at_equal_loss
from lowland.studies.runs import NotMeasuredError, Run, Runs
from lowland.studies.study import Effects

VALIDATION_ERROR = "validation/error"

Read = Callable[[Run, str], float]
"""A column of a run as one number."""


def at_end(run: Run, column: str) -> float:
    """After the last update."""
    return run.final(column)


def choose_rho(
    runs: Runs, group: str, criterion: Callable[[Run], float], rhos: Collection[float] | None = None
) -> dict[int, float]:
    """For every seed the ρ with the lowest mean criterion over the *other* seeds.

    No run takes part in the choice of the ρ that it is judged at (`choose_left_out`).

    Args:
        runs: all runs.
        group: those that are looked at; ρ = 0 is among them.
        criterion: what is lowest.
        rhos: those that may be chosen; None for all ρ > 0.

    Raises:
        NotMeasuredError: runs, ρ or a second seed are missing.
    """
    able = runs.rhos(group)[1:] if rhos is None else rhos
    values = {
        rho: {seed: criterion(runs.run(group, rho, seed)) for seed in runs.seeds(group)}
        for rho in able
    }
    if not values:
        raise NotMeasuredError(f"no ρ of the {group} runs may be chosen")
    chosen = choose_left_out(values)
    if not chosen:
        raise NotMeasuredError("one seed cannot choose ρ: the choice is made on the others")
    return chosen


@dataclass(frozen=True)
class Tuned:
    """A group of runs over ρ, with the ρ that validation data choose for each seed.

    Attributes:
        runs: all runs.
        group: the group; ρ = 0 is in it.
        chosen: ρ by seed, chosen on the other seeds (`choose_rho`).
        largest: the largest ρ that could be chosen.
        read: when a run is read; the column that chooses is read then too.
    """

    runs: Runs
    group: str
    chosen: Mapping[int, float]
    largest: float
    read: Read = at_end

    @classmethod
    def of(
        cls,
        runs: Runs,
        group: str,
        read: Read = at_end,
        *,
        by: str = VALIDATION_ERROR,
        or_none: bool = False,
        among: Collection[float] | None = None,
    ) -> Tuned:
        """Choose.

        Args:
            runs: all runs.
            group: their name.
            read: when a run is read.
            by: the column that is lowest.
            or_none: let ρ = 0 be chosen too.
            among: the ρ > 0 that may be chosen; None for all.

        Raises:
            NotMeasuredError: a ρ or a second seed is missing.
        """
        able = [
            rho
            for rho in runs.rhos(group)
            if (or_none if rho == 0 else among is None or rho in among)
        ]
        chosen = choose_rho(runs, group, lambda run: read(run, by), able)
        return cls(runs, group, chosen, max(able), read)

    @property
    def rhos(self) -> list[float]:
        """All ρ > 0 of the grid."""
        return self.runs.rhos(self.group)[1:]

    @property
    def at_edge(self) -> int:
        """How many seeds chose the largest ρ that they could: a larger one may be better."""
        return sum(rho == self.largest for rho in self.chosen.values())

    def values(self, column: str) -> dict[int, float]:
        """A column at the chosen ρ, by seed."""
        return {
            s: self.read(self.runs.run(self.group, rho, s), column)
            for s, rho in self.chosen.items()
        }

    def at(self, rho: float, column: str) -> dict[int, float]:
        """The same at one ρ."""
        return {s: self.read(self.runs.run(self.group, rho, s), column) for s in self.chosen}

    def plain(self, column: str) -> dict[int, float]:
        """The same at ρ = 0."""
        return self.at(0.0, column)

    def gain(self, column: str = VALIDATION_ERROR) -> Effects:
        """Plain training minus the chosen ρ."""
        return differences(self.plain(column), self.values(column))

    def gain_at_equal_loss(
        self, column: str = VALIDATION_ERROR, *, loss: str = TRAIN_LOSS
    ) -> Effects:
        """The same where both first reach the lowest train loss that both reach.

        NaN where there is no such loss.
        """
        found = {}
        for seed, rho in self.chosen.items():
            both = [self.runs.run(self.group, r, seed) for r in (0.0, rho)]
            values = at_equal_loss(both, column, loss=loss)
            found[seed] = math.nan if values is None else values[0] - values[1]
        return found

    def words(self) -> str:
        """What was chosen, as a sentence to append."""
        return chosen_words(self.chosen)


def differences(before: Effects, after: Effects) -> Effects:
    """before − after, for the seeds of both."""
    return {seed: before[seed] - after[seed] for seed in sorted(before) if seed in after}
