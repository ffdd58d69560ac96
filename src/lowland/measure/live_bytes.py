"""Bytes of tensors that are alive, and the most there were in a step of training.

`LiveBytes` follows every storage from the operation that makes it to its end, wherever the
operation was called from: forward, backward, optimizer. What a kernel takes and gives back inside
one operation is not a tensor and not seen.
"""

from __future__ import annotations

import gc
import sys
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lowland.core.errors import InputError
from lowland.core.records import Measurement
from lowland.core.restore import preserved_randomness

OURS = Path("lowland", "optim").as_posix()
PASSES = ("evaluators.py", "sharpness_aware.py")
"""Where lowland calls the user's forward and backward: what is made there is not its own doing."""


@dataclass(frozen=True, kw_only=True)
class StepBytes(Measurement):
    """Bytes alive at the worst moment of a step; the same in every run of the same code.

    Attributes:
        resting: bytes alive between steps.
        warm_up: steps before those that count.
        steps: steps that count.
    """

    resting: int
    warm_up: int
    steps: int


def step_bytes(
    make: Callable[[], Callable[[int], object]], *, warm_up: int = 2, steps: int = 6
) -> StepBytes:
    """The most bytes of tensors that are alive at a time in some steps of training.

    Counted is what `make` and the steps have made and still hold: parameters, gradients, state,
    activations; not the data that were there before. Random generators are as they were afterwards.

    Args:
        make: builds network and optimizer, and returns the step: it is called with the step's
            number from 0 on.
        warm_up: steps before those that count, so that state is there.
        steps: steps that count: at least the period of a method that does not do the same in each.

    Cost: the steps, a few times slower.

    Raises:
        InputError: fewer than no or one step.
    """
    if warm_up < 0 or steps < 1:
        raise InputError(f"warm_up={warm_up}, steps={steps}: give 0 or more, and 1 or more")
    begun = time.perf_counter()
    with preserved_randomness(), LiveBytes() as live:
        step = make()
        for number in range(warm_up):
            step(number)
        live.reset()
        for number in range(warm_up, warm_up + steps):
            step(number)
        peak = live.peak
        gc.collect()
        resting = live.now
        del step
    return StepBytes(
        name="step_bytes",
        value=peak,
        definition=(
            "bytes of all tensor storages alive at the worst moment of a training step, network, "
            "optimizer and activations, without the data set and without work space inside kernels"
        ),
        n=steps,
        dtype="int64",
        seconds=time.perf_counter() - begun,
        resting=resting,
        warm_up=warm_up,
        steps=steps,
    )


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the storages that come alive while it is entered, until they die.

    Attributes:
        now: bytes alive.
        peak: the most there were since the last `reset`.
        where: the line of lowland's optimizers that ran at that moment; None in passes and
            elsewhere.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self.where: str | None = None
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._meet(leaf.untyped_storage())
        if self.now > self.peak:
            self.peak, self.where = self.now, _line()
        return out

    def reset(self) -> None:
        """Forget the peak."""
        gc.collect()
        self.peak, self.where = self.now, None

    def _meet(self, storage: torch.UntypedStorage) -> None:
        # a storage's Python object lives as long as the storage, so its finalizer tells the end
        key, size = storage._cdata, storage.nbytes()
        if key not in self._sizes:
            weakref.finalize(storage, self._part, key)
        self.now += size - self._sizes.get(key, 0)
        self._sizes[key] = size

    def _part(self, key: int) -> None:
        self.now -= self._sizes.pop(key)


def _line() -> str | None:
    """File and line of the innermost caller in lowland's optimizers; None for a pass."""
    frame: Any = sys._getframe(2)
    while frame is not None:
        file = Path(frame.f_code.co_filename)
        if file.parent.as_posix().endswith(OURS):
            return None if file.name in PASSES else f"{file.name}:{frame.f_lineno}"
        frame = frame.f_back
    return None
