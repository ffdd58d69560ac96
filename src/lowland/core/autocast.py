"""Autocast that somebody else has switched on around us."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def own_precision(device_type: str) -> Iterator[None]:
    """Inside, operations run in the types of their tensors, as they do outside autocast.

    Autocast that was entered around a whole step would round products in the backward pass that
    the forward pass has not rounded, and those of optimizers.

    Args:
        device_type: "cpu", "cuda" and the like.
    """
    on = torch.amp.is_autocast_available(device_type) and torch.is_autocast_enabled(device_type)
    with torch.autocast(device_type, enabled=False) if on else contextlib.nullcontext():
        yield


@contextlib.contextmanager
def casts_not_kept() -> Iterator[None]:
    """Inside, autocast casts weights anew each time.

    Its cache does not see that a weight was moved, neither inside nor when it has been put back.
    Autocast that is entered inside brings a cache of its own with it, which goes when that is left:
    as it does outside autocast, and would not within one.
    """
    before = torch.is_autocast_cache_enabled()
    depth = torch.autocast_increment_nesting() - 1
    _nest(depth + 1, 0)
    torch.clear_autocast_cache()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(before)
        torch.clear_autocast_cache()
        _nest(0, depth)


def _nest(now: int, wanted: int) -> None:
    """How many autocasts torch believes to be inside of, from `now` to `wanted`."""
    for _ in range(wanted - now):
        torch.autocast_increment_nesting()
    for _ in range(now - wanted):
        torch.autocast_decrement_nesting()
