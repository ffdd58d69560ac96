"""What each network of a stack is trained with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lowland.core.errors import InputError, unknown
from lowland.train.schedule import SCHEDULES

PerNetwork = float | Sequence[float]


@dataclass(frozen=True, kw_only=True)
class StackPlan:
    """SGD, or SAM over it, for every network of a stack.

    A number that is given once holds for all networks; a sequence has one for each.

    Attributes:
        seeds: of the order of the examples, one for each network. Networks with the same seed see
            the same batches, which are those of a recipe with this seed and no augmentation.
        rho: radius ρ; 0 is plain SGD.
        lr: learning rate at the start.
        momentum: of SGD.
        weight_decay: of SGD, coupled: λ·w is added to the gradient at w.
        schedule: factor of the learning rate by name (`lowland.train.schedule.SCHEDULES`).
        epochs: passes over the examples.
        batch_size: examples in a batch; what is left at the end of a pass is left out.
        perturbed: glob over the names of parameters: those that ε moves, and whose norm counts.
    """

    seeds: Sequence[int]
    rho: PerNetwork = 0.0
    lr: PerNetwork = 0.1
    momentum: float = 0.9
    weight_decay: PerNetwork = 0.0
    schedule: str = "cosine"
    epochs: int = 30
    batch_size: int = 64
    perturbed: str = "*"

    def __post_init__(self) -> None:
        for name in ("rho", "lr", "weight_decay"):
            value = getattr(self, name)
            numbers = [value] if isinstance(value, int | float) else list(value)
            if not isinstance(value, int | float) and len(numbers) != len(self.seeds):
                raise InputError(
                    f"{name} has {len(numbers)} values for {len(self.seeds)} networks: give one "
                    "for each, or one number"
                )
            if wrong := [x for x in numbers if not (math.isfinite(x) and x >= 0)]:
                raise InputError(f"{name} must be finite and 0 or more, not {wrong[0]:g}")
        if not 0 <= self.momentum < 1:
            raise InputError(f"momentum must be in [0, 1), not {self.momentum:g}")
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be 1 or more, not {getattr(self, name)}")
        if self.schedule not in SCHEDULES:
            raise unknown("schedule", self.schedule, SCHEDULES)
