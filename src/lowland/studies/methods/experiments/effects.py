"""Effects that several experiments are made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from lowland.studies.effects import choose_left_out, chosen_words, mean
from lowland.studies.runs import NotMeasuredError, Runs
from lowland.studies.study import Effects


@dataclass(frozen=True)
class Tuned:
    """A group of runs over ρ, with the ρ > 0 that validation data choose for each seed.

    Attributes:
        runs: all runs.
        group: the group; ρ = 0 is in it.
        chosen: ρ by seed, chosen on the other seeds (`choose_left_out`).
    """

    runs: Runs
    group: str
    chosen: Mapping[int, float]

    @classmethod
    def of(cls, runs: Runs, group: str, *, by: str = "validation/error") -> Tuned:
        """Choose ρ in a group of runs by the lowest final value of a column.

        Raises:
            NotMeasuredError: nothing can be chosen.
        """
        seeds = runs.seeds(group)
        errors = {
            rho: {seed: runs.final(group, rho, seed, by) for seed in seeds}
            for rho in runs.rhos(group)[1:]
        }
        chosen = choose_left_out(errors)
        if not chosen:
            raise NotMeasuredError("one seed cannot choose ρ: the choice is made on the others")
        return cls(runs, group, chosen)

    @property
    def rhos(self) -> list[float]:
        """All ρ > 0 of the grid."""
        return self.runs.rhos(self.group)[1:]

    def values(self, column: str) -> dict[int, float]:
        """The final value of a column at the chosen ρ, by seed."""
        return {s: self.runs.final(self.group, rho, s, column) for s, rho in self.chosen.items()}

    def at(self, rho: float, column: str) -> dict[int, float]:
        """The same at one ρ."""
        return {s: self.runs.final(self.group, rho, s, column) for s in self.chosen}

    def plain(self, column: str) -> dict[int, float]:
        """The same at ρ = 0."""
        return self.at(0.0, column)

    def words(self) -> str:
        """What was chosen, as a sentence to append."""
        return chosen_words(self.chosen)


def differences(before: Effects, after: Effects) -> Effects:
    """before − after, for the seeds of both."""
    return {seed: before[seed] - after[seed] for seed in sorted(before) if seed in after}


def told_by_others(
    by_label: Mapping[str, Effects],
    *,
    size: Callable[[float], float] = float,
    largest: bool = True,
) -> Effects:
    """Per seed, the effect of the label that is extreme in the mean over the *other* seeds.

    The extreme of a seed's own effects would be extreme by luck alone.

    Args:
        by_label: effects by label and seed.
        size: what is compared of a mean.
        largest: the largest, or the smallest.

    Raises:
        NotMeasuredError: there are no two seeds that all labels have.
    """
    choose = max if largest else min
    seeds = sorted(set.intersection(*(set(effects) for effects in by_label.values())))
    if len(seeds) < 2:
        raise NotMeasuredError("one seed cannot tell which is extreme")
    found = {}
    for seed in seeds:
        means = {
            label: size(mean([value for s, value in effects.items() if s != seed]))
            for label, effects in by_label.items()
        }
        found[seed] = by_label[choose(means, key=lambda label: means[label])][seed]
    return found
