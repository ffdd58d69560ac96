"""Activation checkpoints of the reentrant kind, which `torch.autograd.grad` does not see into."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from torch.utils import checkpoint


class _Plain:
    """Stands for ``torch.utils.checkpoint.CheckpointFunction``: calls, and keeps what it made."""

    @staticmethod
    def apply(function: Callable[..., Any], preserve: bool, *args: Any) -> Any:
        return function(*args)


@contextlib.contextmanager
def activations_kept() -> Iterator[None]:
    """Inside, ``checkpoint(..., use_reentrant=True)`` calls its function and recomputes nothing.

    A reentrant checkpoint has a backward pass of its own, which `torch.autograd.grad` for weights
    does not reach: those inside would silently have no gradient. Activations take the memory that
    the checkpoints would have saved. The other kind of checkpoint needs no such help.
    """
    name = "CheckpointFunction"
    before = getattr(checkpoint, name)
    setattr(checkpoint, name, _Plain)
    try:
        yield
    finally:
        setattr(checkpoint, name, before)
