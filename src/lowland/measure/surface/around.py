"""Standing at points around the weights, always from the same copy of them."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from lowland.core.perturbation import wide_dtype


class Around:
    """Puts weights at w + steps, in their own memory; every point starts from w, so none drifts.

    The sum is taken in float32 at least and rounded once to the type of the weights: steps below
    half a unit in the last place of a bfloat16 weight do not move it. Nothing is put back by
    itself: be inside `lowland.core.restore.preserved`.

    Cost: a copy of the weights; a read of weights and steps and a write for each point.
    """

    def __init__(self, weights: Sequence[Tensor]) -> None:
        self._weights = list(weights)
        self._home = [w.detach().clone() for w in weights]
        self._away = [False] * len(self._weights)

    @property
    def weights(self) -> list[Tensor]:
        """The weights, wherever they stand."""
        return self._weights

    def put(self, *terms: tuple[float, Sequence[Tensor | None]]) -> None:
        """Stand at w + Σ a·s over the terms (a, s); a step None is zero."""
        for i, (weight, home) in enumerate(zip(self._weights, self._home, strict=True)):
            steps = [(a, s[i]) for a, s in terms if s[i] is not None]
            if steps:
                weight.data.copy_(_sum(home, steps))
            elif self._away[i]:
                weight.data.copy_(home)
            self._away[i] = bool(steps)

    def back(self) -> None:
        """Stand at w."""
        self.put()


def _sum(home: Tensor, steps: Sequence[tuple[float, Tensor | None]]) -> Tensor:
    at = home.to(wide_dtype(home.dtype), copy=True)
    for a, step in steps:
        assert step is not None
        at.add_(step, alpha=a)
    return at
