"""The runs of a study as its claims read them: by group, ρ and seed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


class NotMeasuredError(Exception):
    """What a claim needs is not in the runs; the text says what."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One trained network and its evaluations, or one experiment and its rows.

    Attributes:
        name: name of the run directory.
        group: the part of the grid that it belongs to, for example ``"main"``.
        method, rho, seed: its place in the grid.
        history: per column one number per evaluation, in order of time; None where the column was
            not measured then.
        diverged: training stopped at an evaluation whose loss was not finite, or the experiment
            gave a number that is not.
        seconds: wall time of training and evaluations.
        recipe: everything that was set.
        provenance: versions, hardware and time of the run.
    """

    name: str
    group: str
    method: str
    rho: float
    seed: int
    history: Mapping[str, Sequence[float | None]]
    diverged: bool = False
    seconds: float = 0.0
    recipe: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def curve(self, column: str) -> list[float]:
        """All evaluations of a column; what a diverged run could not measure is NaN.

        Raises:
            NotMeasuredError: some evaluation lacks it though the run did not diverge.
        """
        return [self._number(column, value) for value in self._values(column)]

    def start(self, column: str) -> float:
        """The evaluation at initialisation; raises as `curve` does."""
        return self._number(column, self._values(column)[0])

    def final(self, column: str) -> float:
        """The last evaluation; raises as `curve` does."""
        return self._number(column, self._values(column)[-1])

    def _values(self, column: str) -> Sequence[float | None]:
        return self.history.get(column) or [None]

    def _number(self, column: str, value: float | None) -> float:
        if value is not None:
            return value
        if self.diverged:
            return math.nan
        raise NotMeasuredError(f"{column} was not measured")


class Runs:
    """All runs of a study.

    Only whole seeds count: a seed of which some ρ is missing is left out everywhere, so that
    every comparison is paired and every mean over seeds is over the same seeds.
    """

    def __init__(self, runs: Sequence[Run]) -> None:
        self._runs = {(run.group, run.rho, run.seed): run for run in runs}

    def rhos(self, group: str) -> list[float]:
        """All ρ of a group, ascending, with at least two values and 0 among them.

        Raises:
            NotMeasuredError: there are fewer, or plain training is missing.
        """
        rhos = self.radii(group)
        if len(rhos) < 2 or rhos[0] != 0:
            raise NotMeasuredError(f"the {group} runs need ρ = 0 and another ρ")
        return rhos

    def radii(self, group: str) -> list[float]:
        """All ρ of a group, ascending, whichever they are; none if it has no runs."""
        return sorted({rho for name, rho, _ in self._runs if name == group})

    def seeds(self, group: str) -> list[int]:
        """Seeds of which every ρ of the group is there, ascending."""
        return self.whole_seeds(group, self.rhos(group))

    def whole_seeds(self, group: str, rhos: Sequence[float]) -> list[int]:
        """Seeds of which each of these ρ is there, ascending."""
        seeds = sorted({seed for name, _, seed in self._runs if name == group})
        return [seed for seed in seeds if all((group, rho, seed) in self._runs for rho in rhos)]

    def run(self, group: str, rho: float, seed: int) -> Run:
        """One run."""
        return self._runs[group, rho, seed]

    def curve(self, group: str, rho: float, seed: int, column: str) -> list[float]:
        """All evaluations of one column of one run."""
        return self.run(group, rho, seed).curve(column)

    def final(self, group: str, rho: float, seed: int, column: str) -> float:
        """The last evaluation of one column of one run."""
        return self.run(group, rho, seed).final(column)
