"""What can be run: one interface for recipes and experiments, so that launchers need not know."""

from __future__ import annotations

from typing import Any, Protocol


class Runnable(Protocol):
    """Something that leaves a run directory: a `Recipe`, an `Experiment` or a `Reading`.

    Frozen, hashable and picklable; equal ones are equal runs, and are done once.
    """

    @property
    def method(self) -> str:
        """The method, as a label."""

    @property
    def rho(self) -> float:
        """Its radius; 0 is the base optimizer alone."""

    @property
    def seed(self) -> int:
        """What effects are paired by."""

    @property
    def device(self) -> str:
        """``cpu``, ``cuda``, or ``auto`` for whichever is there."""

    @property
    def files(self) -> tuple[str, ...]:
        """Files and folders that it reads, which every machine must see."""

    def to_dict(self) -> dict[str, Any]:
        """Everything that was set, as plain JSON values."""
