"""What an optimizer says of itself."""

from __future__ import annotations

from torch.optim import Optimizer

from lowland.optim.engine import Engine
from lowland.optim.record import StepRecord


class Status:
    """The questions that loops, trainers and trackers may ask of a `SharpnessAware` optimizer."""

    _engine: Engine

    @property
    def base_optimizer(self) -> Optimizer:
        """The optimizer that takes the step at w; it shares groups and state with this one."""
        return self._engine.base

    @property
    def last(self) -> StepRecord | None:
        """Losses, norms, sharpness and skips of the last step, as lazy tensors; None before one."""
        return self._engine.last

    @property
    def at_perturbed_weights(self) -> bool:
        """Whether a pass at w+ε is under way: what counts or logs batches may ask."""
        return self._engine.away

    @property
    def across(self) -> str:
        """Whose gradient makes ε, with several devices: "global" or "local"."""
        return self._engine.perturbation.across

    @property
    def _step_supports_amp_scaling(self) -> bool:
        # Tells gradient scalers to leave unscaling and skipping to step(), which sees both passes.
        # Lightning asks too, when it clips inside a closure, and would refuse to.
        return not self._engine.running

    @property
    def needs_perturbation(self) -> bool:
        """Whether the coming step has a pass at w+ε (context users may leave it out if not)."""
        return self._engine.perturbs()

    @property
    def needs_batch(self) -> bool:
        """Whether ``step(loss_fn=, batch=)`` is the only way: parts of the batch, loss terms."""
        return self._engine.plan.splits or bool(self._engine.loss_terms)

    @property
    def needs_closure(self) -> bool:
        """Whether the optimizer must make the passes itself: no ``perturbed``, no two steps."""
        own = getattr(self._engine.plan, "needs_closure", False)
        return self.needs_batch or own or self._engine.replay_rng
