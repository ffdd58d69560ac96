"""How much of a step goes into forward and backward passes, whoever calls them.

What is left is the optimizer's own work: norms, moves, copies, what it remembers, the base step.
It is a few milliseconds beside passes that vary by more, so it is told apart while the step runs
rather than by subtracting times of two steps.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

CALLS: tuple[tuple[Any, str], ...] = (
    (nn.Module, "__call__"),
    (torch.autograd, "backward"),  # what Tensor.backward calls
    (torch.autograd, "grad"),
)


class PassTimes:
    """Adds up the seconds spent in modules and in autograd while it is entered.

    A pass inside a pass (a module in a module, a checkpointed one in a backward) counts once. The
    loss function itself is not a module here and counts as outside.

    Attributes:
        seconds: inside passes, since it was made.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._inside = False
        self._plain: list[tuple[Any, str, Any]] = []

    def __enter__(self) -> PassTimes:
        for owner, name in CALLS:
            original = getattr(owner, name)
            self._plain.append((owner, name, original))
            setattr(owner, name, self._timed(original))
        return self

    def __exit__(self, *error: object) -> None:
        while self._plain:
            setattr(*self._plain.pop())

    def _timed(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            if self._inside:
                return call(*args, **kwargs)
            self._inside, began = True, time.perf_counter()
            try:
                return call(*args, **kwargs)
            finally:
                self.seconds += time.perf_counter() - began
                self._inside = False

        return timed
