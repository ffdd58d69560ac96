"""How many bytes of tensors are alive, and how many were at the worst moment.

`LiveBytes` follows every storage from the operation that makes it to its end, wherever the
operation was called from: forward, backward, optimizer. What a kernel takes and gives back inside
one operation is not a tensor and not seen; `Allocator` sees that too, from the log of torch's own
CPU allocator, but cannot say where. The benchmark reports both.
"""

from __future__ import annotations

import gc
import sys
import weakref
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.profiler import record_function
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

OURS = Path("lowland", "optim").as_posix()
PASSES = ("evaluators.py", "sharpness_aware.py")
"""Where lowland calls the user's forward and backward: what is made there is not its own doing."""


class LiveBytes(TorchDispatchMode):
    """Counts the storages that come alive while it is entered, until they die.

    Attributes:
        now: bytes alive.
        peak: the most there were since the last `reset`.
        where: the line of lowland's optimizers that ran at that moment; None in passes and
            elsewhere.
    """

    def __init__(self) -> None:
        super().__init__()
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


class Allocator:
    """Bytes that torch's CPU allocator has given out and not taken back, from its own log.

    Everything has to happen inside the block, since the end of what began before is not logged.
    """

    _MARK = "lowland: reset"

    def __init__(self) -> None:
        self._profile = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
        self.now = self.peak = self.before = 0

    def __enter__(self) -> Allocator:
        self._profile.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        """Reads the log: `before` is what was alive at the last `reset`."""
        self._profile.__exit__(*error)
        if any(error):
            return
        log = self._profile.profiler.kineto_results.events()
        for event in sorted(log, key=lambda event: event.start_ns()):
            if event.name() == "[memory]":
                self.now += event.nbytes()
                self.peak = max(self.peak, self.now)
            elif event.name() == self._MARK:
                self.before = self.peak = self.now

    def reset(self) -> None:
        """Forget the peak."""
        gc.collect()
        with record_function(self._MARK):
            pass
