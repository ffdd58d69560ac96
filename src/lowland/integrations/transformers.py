"""Hugging Face ``Trainer`` with a sharpness-aware step.

`Trainer` runs every micro-batch's backward pass itself, clips, and calls ``optimizer.step()``
without a closure. So the second pass has to come after the last micro-batch of a window and before
clipping: at the end of ``training_step``, which is what the mixin extends.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from lowland.core.errors import InputError, unknown
from lowland.integrations.wrapped import find, report_skipped, sharpness_aware
from lowland.optim import SAM, SharpnessAware

Perturb = Literal["window", "micro-batch"]

LOGGED = ("perturbed_loss", "sharpness", "grad_norm", "perturbation_norm", "skipped_total")
"""What of ``opt.last`` goes into the logs, each under "sam_" + its name."""


@dataclass
class _MicroBatch:
    """One call of ``training_step``, as it was made."""

    inputs: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    divisor: Any  # what Trainer divides a mean loss by


@dataclass
class _Window:
    """The micro-batches of one optimizer step so far, and the sums of their (divided) losses."""

    held: list[_MicroBatch] = field(default_factory=list)
    loss: Any = 0.0
    perturbed_loss: Any = 0.0


class SharpnessAwareTrainerMixin:
    """Put before `Trainer`, it makes every optimizer step sharpness-aware::

        class SAMTrainer(SharpnessAwareTrainerMixin, Trainer):
            pass

        trainer = SAMTrainer(
            model=model, args=args, train_dataset=data, sharpness_aware=partial(SAM, rho=0.05)
        )

    The base optimizer is the one that the training arguments ask for (``optim``, learning rate,
    weight decay), or the one passed as ``optimizers=``. Accumulation, clipping (of the gradient at
    w+ε), ``compute_loss_func``, label smoothing, schedulers, callbacks and checkpoints work as
    without the mixin. The loss in the logs is the one at w. With ``"window"`` the inputs of a
    window's micro-batches run a second time once the window is full, with the same divisors; they
    are kept until then, which `Trainer` does too.

    The logs gain, at every logging step, the last step's ``sam_sharpness``,
    ``sam_perturbed_loss``, ``sam_grad_norm`` (at w, before the perturbation), and
    ``sam_perturbation_norm``, and the number of skipped steps so far. `Trainer`'s own ``grad_norm``
    is the norm of the gradient at w+ε. A skipped step leaves the learning rate's schedule where it
    is.

    ``compute_loss`` and an inherited ``training_step`` run twice per micro-batch. What they count
    or log should ask ``lowland.integrations.at_perturbed_weights(self.optimizer)`` first.

    Args:
        sharpness_aware: called as ``sharpness_aware(params, base, model=model)``; `SAM` or another
            of lowland's methods, with its settings by ``functools.partial``.
        perturb: "window" is full SAM: one ε from the gradient of all micro-batches of a step.
            "micro-batch" is m-SAM: each micro-batch has its own ε.

    Raises:
        InputError: a method, a kind of `Trainer` or a combination that cannot work.

    Cost: a second forward and backward pass per micro-batch, one copy of the parameters; with
    "micro-batch" one further copy of the gradients, and with several devices one reduction per
    pass instead of per window.
    """

    def __init__(
        self,
        *args: Any,
        sharpness_aware: Callable[..., SharpnessAware] = SAM,
        perturb: Perturb = "window",
        **kwargs: Any,
    ) -> None:
        if perturb not in ("window", "micro-batch"):
            raise unknown("perturb", perturb, ("window", "micro-batch"))
        self._make_sharpness_aware = sharpness_aware
        self._perturb = perturb
        self._window = _Window()
        super().__init__(*args, **kwargs)
        self.add_callback(_tell_accelerate())  # type: ignore[attr-defined]

    def create_optimizer(self, *args: Any) -> Any:
        """`Trainer`'s optimizer, as the base of a sharpness-aware one."""
        _check_trainer(self)
        base = super().create_optimizer(*args)  # type: ignore[misc]
        found = find(base)
        if found is None:
            network = args[0] if args else self.model  # type: ignore[attr-defined]
            params = [p for group in base.param_groups for p in group["params"]]
            found = self._make_sharpness_aware(params, base, model=network)
            self.optimizer: Any = found
        _check_method(found)
        if self._perturb == "micro-batch" and self.args.world_size > 1:  # type: ignore[attr-defined]
            # g̃ of each micro-batch leaves .grad before the next one: it has to be reduced there.
            self._sync_settings()["sync_each_batch"] = True
        return self.optimizer

    def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Tensor:
        """`Trainer`'s step on one micro-batch, and the pass at w+ε where it is due."""
        optimizer = sharpness_aware(self.optimizer)
        if not optimizer.needs_perturbation:
            return self._once(model, inputs, args, kwargs)
        # A shallow copy: what is popped from the inputs is there again in the second pass.
        call = _MicroBatch(
            copy.copy(inputs), args, kwargs, getattr(self, "current_gradient_accumulation_steps", 1)
        )
        with self._first_sync(model, optimizer):
            loss = self._once(model, inputs, args, kwargs)
        last = bool(self.accelerator.sync_gradients)  # type: ignore[attr-defined]
        window = self._window
        window.loss = window.loss + loss
        if last:
            self._window = _Window()
        if self._perturb == "micro-batch":
            self._second_pass(model, window, call, last)
        else:
            window.held.append(call)
            if last:
                self._second_passes(model, window)
        return loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """`Trainer`'s log; with the training loss, also what the last step measured."""
        found = find(self.optimizer)
        if "loss" in logs and found is not None and found.last is not None:
            metrics = found.last.metrics()
            logs.update({f"sam_{name}": metrics[name] for name in LOGGED if name in metrics})
        super().log(logs, *args, **kwargs)  # type: ignore[misc]

    def _inner_training_loop(self, *args: Any, **kwargs: Any) -> Any:
        self._window = _Window()  # one that an exception cut short is no part of this run
        return super()._inner_training_loop(*args, **kwargs)  # type: ignore[misc]

    def _second_pass(self, model: Any, window: _Window, call: _MicroBatch, last: bool) -> None:
        """One micro-batch at a w+ε of its own; the last one has the losses of all."""
        losses = {"loss": window.loss} if last else {}
        with self._perturbed(last=last, divided=True, **losses) as second:
            window.perturbed_loss = window.perturbed_loss + self._again(model, call)
            if last:
                second.record(window.perturbed_loss)

    def _second_passes(self, model: Any, window: _Window) -> None:
        """All micro-batches of the window at w+ε; only the last one reduces over devices."""
        state = self.accelerator.gradient_state  # type: ignore[attr-defined]
        total = window.perturbed_loss
        try:
            with self._perturbed(loss=window.loss) as second:
                for call in window.held[:-1]:
                    state._set_sync_gradients(False)
                    with self._unsynced(model):
                        total = total + self._again(model, call)
                state._set_sync_gradients(True)
                second.record(total + self._again(model, window.held[-1]))
        finally:
            state._set_sync_gradients(True)

    def _perturbed(self, **kwargs: Any) -> Any:
        scaler = self.accelerator.scaler  # type: ignore[attr-defined]
        return sharpness_aware(self.optimizer).perturbed(scaler=scaler, **kwargs)

    def _again(self, model: Any, call: _MicroBatch) -> Tensor:
        current = getattr(self, "current_gradient_accumulation_steps", 1)
        self.current_gradient_accumulation_steps = call.divisor
        try:
            return self._once(model, call.inputs, call.args, call.kwargs)
        finally:
            self.current_gradient_accumulation_steps = current

    def _once(
        self, model: Any, inputs: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Tensor:
        loss: Tensor = super().training_step(model, inputs, *args, **kwargs)  # type: ignore[misc]
        return loss

    def _first_sync(self, model: Any, optimizer: SharpnessAware) -> Any:
        """With a local perturbation, the gradient that makes ε is this device's own."""
        local = optimizer.across == "local"
        return self.accelerator.no_sync(model=model) if local else contextlib.nullcontext()  # type: ignore[attr-defined]

    def _unsynced(self, model: Any) -> Any:
        if self._sync_settings().get("sync_each_batch", False):
            return contextlib.nullcontext()
        return self.accelerator.no_sync(model=model)  # type: ignore[attr-defined]

    def _sync_settings(self) -> dict[str, Any]:
        settings: dict[str, Any] = self.accelerator.gradient_state.plugin_kwargs  # type: ignore[attr-defined]
        return settings


def _check_trainer(trainer: Any) -> None:
    if getattr(trainer, "is_deepspeed_enabled", False):
        raise InputError(
            "DeepSpeed keeps the weights and the step to itself, so no second pass fits in: train "
            "with DDP"
        )
    if getattr(trainer, "is_distributed_loading_by_transformers", False):
        raise InputError(
            "a model that transformers shards while loading it is not supported: load it whole and "
            "train with DDP"
        )


def _check_method(optimizer: SharpnessAware) -> None:
    if optimizer.needs_batch:
        raise InputError(
            f"{type(optimizer).__name__} needs the examples of a batch (to split it, or for "
            "loss terms), and Trainer hands over whole losses: for an ε per micro-batch use SAM "
            "with perturb='micro-batch'"
        )
    if optimizer.needs_closure:
        raise InputError("replay_rng=True needs a closure, and Trainer has none: leave it out")


def _tell_accelerate() -> Any:
    """A callback; made here so that importing this module does not import transformers."""
    callback: Any = importlib.import_module("transformers").TrainerCallback

    class SkippedSteps(callback):  # type: ignore[misc]
        """Tells `Trainer` of skipped steps, as a gradient scaler would: no scheduler step then."""

        def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            report_skipped(kwargs["optimizer"])

    return SkippedSteps()
