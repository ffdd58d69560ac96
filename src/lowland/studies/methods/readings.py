"""What the runs say of an arm: the ρ that validation data choose, and the numbers there."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass

from lowland.studies.effects import choose_left_out, mean
from lowland.studies.methods.arms import ARMS, PLAIN, Arm
from lowland.studies.methods.columns import (
    EQUAL_COMPUTE,
    EQUAL_EPOCHS,
    PEAK,
    TEST_ERROR,
    VALIDATION_ERROR,
    Setup,
    footprint,
)
from lowland.studies.runs import NotMeasuredError, Runs
from lowland.studies.study import Effects


@dataclass(frozen=True)
class Readings:
    """The runs of a study by arm and protocol ("equal epochs" or "equal compute")."""

    runs: Runs
    setup: Setup

    def radii(self, arm: Arm, protocol: str) -> list[float]:
        """The arm's ρ that ran.

        Raises:
            NotMeasuredError: none did.
        """
        found = self.runs.radii(self.setup.group(arm, protocol))
        # plain runs stand in SAM's group too, as its ρ = 0
        radii = [rho for rho in found if rho > 0 or arm.name == PLAIN]
        if not radii:
            raise NotMeasuredError(f"{arm.name} did not run at {protocol}")
        return radii

    def seeds(self, arm: Arm, protocol: str) -> list[int]:
        """Seeds of which every ρ is there."""
        return self.runs.whole_seeds(self.setup.group(arm, protocol), self.radii(arm, protocol))

    def at(self, arm: Arm, protocol: str, rho: float, column: str) -> dict[int, float]:
        """The last value of a column at one ρ, by seed."""
        group = self.setup.group(arm, protocol)
        seeds = self.seeds(arm, protocol)
        return {seed: self.runs.final(group, rho, seed, column) for seed in seeds}

    def chosen(self, arm: Arm, protocol: str) -> dict[int, float]:
        """ρ by seed, chosen on the validation error of the other seeds (`choose_left_out`).

        Raises:
            NotMeasuredError: there is one seed, which cannot choose.
        """
        if arm.name == PLAIN:
            return dict.fromkeys(self.seeds(arm, protocol), 0.0)
        errors = {
            rho: self.at(arm, protocol, rho, VALIDATION_ERROR) for rho in self.radii(arm, protocol)
        }
        chosen = choose_left_out(errors)
        if not chosen:
            raise NotMeasuredError("one seed cannot choose ρ: the choice is made on the others")
        return chosen

    def tuned(self, arm: Arm, protocol: str, column: str = TEST_ERROR) -> dict[int, float]:
        """The last value of a column at the chosen ρ, by seed."""
        group = self.setup.group(arm, protocol)
        chosen = self.chosen(arm, protocol)
        return {seed: self.runs.final(group, rho, seed, column) for seed, rho in chosen.items()}

    def time_ratios(self, arm: Arm) -> list[float]:
        """Seconds of training per step over those of plain training, of every run.

        Each over the median of the plain runs with the same seed, which ran at about the same time.
        Other work runs beside, so that single numbers may be far off: take their median.
        """
        plain = self._seconds(ARMS[PLAIN])
        return [
            seconds / statistics.median(plain[seed])
            for seed, found in self._seconds(arm).items()
            if seed in plain
            for seconds in found
        ]

    def _seconds(self, arm: Arm) -> dict[int, list[float]]:
        """Seconds per step of every run of an arm, by seed."""
        found: dict[int, list[float]] = {}
        groups = {self.setup.group(arm, protocol) for protocol in (EQUAL_EPOCHS, EQUAL_COMPUTE)}
        for group in sorted(groups):
            rhos = [rho for rho in self.runs.radii(group) if rho > 0 or arm.name == PLAIN]
            for seed in self.runs.whole_seeds(group, rhos) if rhos else []:
                for rho in rhos:
                    steps = self.runs.final(group, rho, seed, "step")
                    seconds = self.runs.final(group, rho, seed, "seconds/train")
                    if steps > 0:
                        found.setdefault(seed, []).append(seconds / steps)
        return found

    def memory_ratio(self, arm: Arm) -> float | None:
        """Peak of live bytes in a step over that of plain training; None where not measured."""
        own, plain = self._peak(arm.name), self._peak(PLAIN)
        return None if own is None or plain is None else own / plain

    def _peak(self, name: str) -> float | None:
        group = footprint(name)
        radii = self.runs.radii(group)
        seeds = self.runs.whole_seeds(group, radii)
        if not (radii and seeds):
            return None
        return self.runs.final(group, radii[0], seeds[0], PEAK)


def less(low: Mapping[int, float], high: Mapping[int, float]) -> Effects:
    """high − low, for the seeds of both."""
    return {seed: high[seed] - low[seed] for seed in sorted(low) if seed in high}


def spread(by_place: Mapping[float, Mapping[int, float]]) -> dict[int, float]:
    """Per seed: the value at the worst place minus at the best, told by the *other* seeds' means.

    The largest minus the smallest value of a seed would be above zero by luck alone; places that
    the other seeds choose leave that out. NaN where a value is not finite.
    """
    seeds = next(iter(by_place.values()), {})
    found = {}
    for seed in seeds:
        means = {
            place: mean([value for other, value in values.items() if other != seed])
            for place, values in by_place.items()
        }
        if len(seeds) < 2:
            continue
        if not all(map(math.isfinite, means.values())):
            found[seed] = math.nan
            continue
        worst, best = max(means, key=lambda p: means[p]), min(means, key=lambda p: means[p])
        found[seed] = by_place[worst][seed] - by_place[best][seed]
    return found
