"""How many bytes of tensors are alive, and how many were at the worst moment.

`LiveBytes` (`lowland.measure`) follows every storage from the operation that makes it to its end.
What a kernel takes and gives back inside one operation is not a tensor and not seen; `Allocator`
sees that too, from the log of torch's own CPU allocator, but cannot say where. The benchmark
reports both.
"""

from __future__ import annotations

import gc
from typing import Any

from torch.autograd.profiler import record_function
from torch.profiler import ProfilerActivity, profile

from lowland.measure.live_bytes import LiveBytes

__all__ = ["Allocator", "LiveBytes"]


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
