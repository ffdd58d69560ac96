"""Claims of the methods study that a grid of trainings does not answer, with runs of their own.

Each module has ``planned(size, seeds)``, its runs, and ``claims()``, what is said of them. The
runs are `lowland.train.Experiment`: small computed experiments on the CPU, on digits or a table.
Their settings were chosen, and thresholds fixed, on seeds from 1000 on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from lowland.studies.methods.experiments import (
    adversarial,
    federated,
    imbalance,
    mup,
    universal,
)
from lowland.studies.study import Claim, Planned


class Module(Protocol):
    """What a module of experiments has."""

    def planned(self, size: str, seeds: Sequence[int]) -> list[Planned]:
        """The runs of one size for these seeds, seed by seed."""

    def claims(self) -> tuple[Claim, ...]:
        """The claims that they answer."""


EXPERIMENTS: tuple[Module, ...] = (universal, mup, imbalance, federated, adversarial)
"""All of them, in the order of the report."""
