"""The sharpness-aware optimizer inside a trainer's wrapper."""

from __future__ import annotations

from typing import Any

from lowland.core.errors import InputError
from lowland.optim import SharpnessAware


def find(optimizer: Any) -> SharpnessAware | None:
    """The innermost sharpness-aware optimizer of a wrapped one; None if there is none.

    Wrappers of Fabric and Lightning are of the wrapped class too, so the walk goes on to the end.
    """
    found = None
    while optimizer is not None:
        if isinstance(optimizer, SharpnessAware):
            found = optimizer
        optimizer = getattr(optimizer, "optimizer", None)
    return found


def sharpness_aware(optimizer: Any) -> SharpnessAware:
    """The sharpness-aware optimizer that Accelerate, Fabric, Lightning or `Trainer` has wrapped.

    Args:
        optimizer: what the trainer handed back, or the optimizer itself.

    Raises:
        InputError: it wraps another kind of optimizer.
    """
    found = find(optimizer)
    if found is None:
        raise InputError(
            f"{type(optimizer).__name__} holds no sharpness-aware optimizer: build it with "
            "lowland.SAM, or another of lowland's methods"
        )
    return found


def at_perturbed_weights(optimizer: Any) -> bool:
    """Whether the weights are at w+ε now: true in the second of a step's two passes.

    For code that a trainer runs in both passes and that should act in one, such as ``self.log`` in
    Lightning's ``training_step``.
    """
    return sharpness_aware(optimizer).at_perturbed_weights


def report_skipped(optimizer: Any) -> None:
    """Tell Accelerate whether the step was skipped, so that its schedulers wait as they would.

    With a gradient scaler Accelerate takes every step of an optimizer that unscales by itself for
    taken. Call this between ``optimizer.step()`` and ``scheduler.step()``; `Trainer` with our mixin
    does it by itself.

    Args:
        optimizer: what ``accelerator.prepare`` returned.
    """
    last = sharpness_aware(optimizer).last
    if last is not None and isinstance(last.skipped, bool):  # a tensor would wait for the device
        optimizer._is_overflow = last.skipped
