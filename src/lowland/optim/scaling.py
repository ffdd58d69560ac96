"""Gradient scalers: every gradient is unscaled before anything is made of it.

A `torch.amp.GradScaler` divides the gradients of an optimizer once between two updates, and a
sharpness-aware step has two gradients or more. So each of them is shown to the scaler under a name
of its own, by its public ``unscale_``; what overflowed there counts in ``scaler.update()`` like
any other overflow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from lowland.core.perturbation import unscale
from lowland.optim.gradient import Group

NOT_UPDATED = "scaler.update() is missing: it comes after every step"
NOT_SCALED = (
    "a scaler was passed and nothing was scaled: call scaler.scale(loss).backward(), or leave the "
    "scaler out"
)
UNSCALED_ALREADY = (
    "the gradients are unscaled already: call scaler.unscale_(optimizer) after the perturbed pass, "
    "if at all (before it the optimizer unscales by itself)"
)
STEP_BY_SCALER = (
    "this pass was given a scaler, so its gradient is scaled: call scaler.step(optimizer), not "
    "optimizer.step()"
)
SCALER_FOR_PASS = (
    "scaler.step() after a perturbed pass without a scaler: pass it, as in "
    "`with optimizer.perturbed(scaler=scaler):` or first_step(scaler=scaler)"
)
CLOSURE_BY_SCALER = (
    "a closure cannot go through scaler.step(): call optimizer.step(closure, scaler=scaler), then "
    "scaler.update()"
)


class _View:
    """The gradients of one pass, as a scaler sees an optimizer."""

    def __init__(self) -> None:
        self.param_groups: list[Group] = []


class LossScale:
    """The views that one optimizer shows to scalers, one for each pass of a step.

    They are used again in the next step, when ``scaler.update()`` has forgotten them. A step that
    was given up may have had no update, so its views are put aside until the next one.
    """

    def __init__(self) -> None:
        self._views: list[_View] = []
        self._aside: list[_View] = []  # alive: a scaler knows them by id
        self._used = 0
        self._ended = True

    def begin(self) -> None:
        """A new step."""
        if not self._ended:
            self._aside += self._views
            self._views = []
        self._used, self._ended = 0, False

    def end(self) -> None:
        """The step was taken, or skipped: an update follows."""
        self._ended = True

    def of(self, scaler: Any, owner: Any) -> Scaling | None:
        """What a step needs of `scaler`; None without one, or with one that is switched off."""
        if scaler is None or not scaler.is_enabled():
            return None
        return Scaling(scaler, _innermost(owner), self)

    def show(self, scaler: Any, groups: list[Group]) -> None:
        """Let the scaler unscale these parameters' gradients, under the next unused view."""
        again = self._used < len(self._views)
        view = self._views[self._used] if again else _View()
        view.param_groups = groups
        scaler.unscale_(view)
        if again:  # so there was an update
            self._aside.clear()
        else:
            self._views.append(view)
        self._used += 1

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles start with no views."""
        return LossScale().__dict__


def _innermost(optimizer: Any) -> Any:
    """The optimizer that scalers know, inside the wrappers of trainers."""
    while isinstance(inner := getattr(optimizer, "optimizer", None), Optimizer):
        optimizer = inner
    return optimizer


@dataclass(frozen=True)
class Scaling:
    """One scaler in one step of one optimizer."""

    scaler: Any
    owner: Any
    scale: LossScale

    def unscale(self, groups: list[Group]) -> None:
        """Divide the gradients in ``.grad`` by the scale, in place.

        Raises:
            RuntimeError: they are unscaled already, nothing was scaled, or ``update()`` is missing.
        """
        self.check_scaled()
        try:
            self.scale.show(self.scaler, groups)
        except AssertionError:
            raise RuntimeError(NOT_SCALED) from None
        except RuntimeError as error:
            if "since the last update" in str(error):
                raise RuntimeError(NOT_UPDATED) from None
            raise

    def report(self, found: Tensor) -> None:
        """Let the scaler know what another process has found: it backs off as it does for its own.

        Args:
            found: 1 if anything was not finite anywhere, else 0.
        """
        witness = torch.zeros_like(found)
        witness.grad = torch.where(found > 0, torch.inf, 0.0).to(found.dtype)
        self.scale.show(self.scaler, [{"params": [witness]}])

    def check_scaled(self) -> None:
        """Raise if the caller has unscaled the gradients of this step.

        Raises:
            RuntimeError: ``scaler.unscale_(optimizer)`` was called.
        """
        if self._unscaled_by_caller():
            raise RuntimeError(UNSCALED_ALREADY)

    def _unscaled_by_caller(self) -> bool:
        # No public question answers this, and unscaling twice would go unnoticed.
        known = getattr(self.scaler, "_per_optimizer_states", {}).get(id(self.owner))
        return known is not None and getattr(known.get("stage"), "name", "") == "UNSCALED"


@dataclass(frozen=True)
class Handoff:
    """What ``scaler.step(optimizer)`` leaves on an optimizer that unscales by itself.

    Attributes:
        found_inf: above 0 if a gradient overflowed.
        grad_scale: what to divide by; None if the caller has unscaled already.
    """

    found_inf: Tensor
    grad_scale: Tensor | None

    @classmethod
    def of(cls, optimizer: Any) -> Handoff | None:
        """What stands on `optimizer`, if this is a call by a scaler."""
        held = vars(optimizer)
        if "found_inf" not in held:
            return None
        found = held["found_inf"]
        return cls(torch.as_tensor(found, dtype=torch.float32), held.get("grad_scale"))

    @staticmethod
    def drop(optimizer: Any) -> None:
        """Forget it, where the scaler cannot any more because the step failed."""
        for name in ("found_inf", "grad_scale"):
            vars(optimizer).pop(name, None)

    def unscale(self, gradients: Sequence[Tensor], found: Tensor) -> None:
        """Divide by the scale, in place; what is not finite goes into `found`, as what was known.

        Raises:
            ValueError: gradients are float16, as stock optimizers have it.
        """
        torch.maximum(found, (self.found_inf > 0).to(found), out=found)
        if self.grad_scale is None:
            return
        if any(t.dtype == torch.float16 for t in gradients):
            raise ValueError("Attempting to unscale FP16 gradients: keep the parameters in float32")
        unscale(gradients, self.grad_scale, found)
