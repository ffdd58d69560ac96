"""The base optimizer's step at w, and what goes with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from lowland.core.autocast import own_precision
from lowland.optim.displacement import contained
from lowland.optim.gradient import Gradient, clear

if TYPE_CHECKING:
    from lowland.optim.engine import Engine
    from lowland.optim.step import Step

OWN = "sam_"
"""Prefix of everything of ours in the parameter groups and in the per-parameter state."""


def confirm(engine: Engine, step: Step, u: Gradient | None) -> None:
    """Whether the replicas have exchanged what they must; looked at in the first step."""
    replicas, at_w = engine.devices.replicas, step.grad_norm
    if engine.on_device or not replicas.unconfirmed(engine.devices.params, at_w):
        return
    try:
        said = replicas.confirm(engine.device, at_w, None if u is None else step.norm(u))
    except RuntimeError:
        clear(engine.groups)
        raise
    if said:
        engine.warn_once(said)


def drop_own_state(engine: Engine) -> None:
    """Forget what is ours in the per-parameter state."""
    for slot in engine.state.values():
        for key in [key for key in slot if str(key).startswith(OWN)]:
            del slot[key]
    engine.has_slots = False


def take_base_step(engine: Engine, step: Step, drift: Gradient | None) -> None:
    """The base optimizer's step along ``.grad``, then w ← w − η·drift.

    With ``nonfinite="device"`` both do nothing where anything was not finite.
    """
    # Optimizers like Adam fill state[p] the first time they find it empty, so what is ours steps
    # aside where the base has nothing yet.
    aside = []
    for slot in engine.state.values() if engine.owns_state else ():
        if slot and all(str(key).startswith(OWN) for key in slot):
            aside.append((slot, dict(slot)))
            slot.clear()
    base = engine.base
    if engine.on_device:
        base.found_inf, base.grad_scale = step.found, None  # type: ignore[attr-defined]
    try:
        with own_precision(engine.device.type):
            base.step()
    finally:
        for slot, own in aside:
            slot.update(own)
        if engine.on_device:
            del base.found_inf, base.grad_scale  # type: ignore[attr-defined]
    for part in drift or ():
        lr, weights = part.group["lr"], part.weights
        lr = -lr if part.group.get("maximize") else lr
        if engine.on_device:
            share = torch.where(step.found > 0, 0.0, -lr)
            torch._foreach_add_(weights, contained(part.tensors, share))
        else:
            torch._foreach_add_(weights, torch._foreach_mul(part.tensors, -float(lr)))
    torch.clear_autocast_cache()  # where it is around an epoch, it holds casts of the old weights
