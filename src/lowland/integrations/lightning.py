"""Lightning: a callback that checks and logs, and precision plugins.

In automatic optimization Lightning passes a closure to ``optimizer.step``, so in float32 and
bfloat16 a sharpness-aware optimizer from ``configure_optimizers`` needs nothing from here. What
does: float16 (a plugin), clipping that should act once per step (a plugin), and a clear word before
training starts where a setting cannot work (the callback).

``training_step`` and the hooks around it run in both passes. ``self.log(..., on_step=True)`` then
shows the value at w+ε, which is the later one, and ``on_epoch=True`` the mean of both; metrics that
count are updated twice. Ask ``lowland.integrations.at_perturbed_weights(self.optimizers())`` and
leave the second pass out. ``trainer.global_step`` counts steps, not passes.

Works with ``lightning.pytorch`` and with ``pytorch_lightning``: whichever is imported first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from lowland.core.errors import InputError
from lowland.integrations.packages import of_loaded
from lowland.integrations.wrapped import find
from lowland.optim import SharpnessAware

PACKAGES = ("lightning.pytorch", "pytorch_lightning")
_Callback: Any = of_loaded(PACKAGES, "callbacks").Callback
_Precision: Any = of_loaded(PACKAGES, "plugins.precision").Precision
_MixedPrecision: Any = of_loaded(PACKAGES, "plugins.precision").MixedPrecision
_do_nothing = of_loaded(PACKAGES, "core.optimizer").do_nothing_closure

LOGGED = ("perturbed_loss", "sharpness", "grad_norm", "perturbation_norm", "skipped_total")


class SharpnessAwareCallback(_Callback):  # type: ignore[misc]
    """Checks the trainer's settings before training starts, and logs what each step measured.

    Logged per step, under "sam/": ``loss`` (at w), ``perturbed_loss``, ``sharpness``,
    ``grad_norm`` (at w), ``perturbation_norm`` and ``skipped_total``; with several optimizers under
    "sam/0/", "sam/1/" and so on. They are handed over as tensors, so nothing waits for the device.

    Args:
        log: whether to log.

    Raises:
        InputError: when training starts: ``accumulate_grad_batches`` above 1 or a method that needs
            the batch, with automatic optimization; float16 without
            `SharpnessAwareMixedPrecision`; a strategy that takes the step itself.
    """

    def __init__(self, log: bool = True) -> None:
        self._log = log

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        for optimizer in _members(trainer):
            _check(trainer, pl_module, optimizer)

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == 0 and _members(trainer):  # a schedule may change it from epoch to epoch
            _check_accumulation(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        members = _members(trainer)
        for i, optimizer in enumerate(members if self._log else ()):
            where = "sam/" if len(members) == 1 else f"sam/{i}/"
            pl_module.log_dict(_measured(optimizer, where), on_step=True, on_epoch=False)


class _OnceAStep:
    """Runs the whole sharpness-aware step; ``on_before_optimizer_step`` and clipping see u."""

    scaler: Any = None

    def optimizer_step(
        self, optimizer: Any, model: Any, closure: Callable[[], Any], **kwargs: Any
    ) -> Any:
        """The step, unscaled by ``self.scaler`` if there is one."""
        if find(optimizer) is None:
            return super().optimizer_step(optimizer, model=model, closure=closure, **kwargs)  # type: ignore[misc]
        with self._hooked(optimizer, model):
            result = self._step(optimizer, closure, kwargs)
        if self.scaler is not None:
            self.scaler.update()
        return result

    def _step(self, optimizer: Any, closure: Callable[[], Any], kwargs: dict[str, Any]) -> Any:
        if closure is not _do_nothing:
            return optimizer.step(closure, scaler=self.scaler, **kwargs)
        # Manual optimization, step() without a closure: the passes have been run.
        if kwargs or self.scaler is None:
            return optimizer.step(**kwargs, **({"scaler": self.scaler} if kwargs else {}))
        return self.scaler.step(optimizer)

    @contextmanager
    def _hooked(self, optimizer: Any, model: Any) -> Iterator[None]:
        def before(opt: Any, args: Any, kwargs: Any) -> None:
            self._after_closure(model, optimizer)  # type: ignore[attr-defined]

        hook = optimizer.register_step_pre_hook(before)
        try:
            yield
        finally:
            hook.remove()

    def clip_gradients(self, optimizer: Any, *args: Any, **kwargs: Any) -> None:
        """Clip; in automatic optimization what an optimizer of ours has here is unscaled."""
        if find(optimizer) is None:
            return super().clip_gradients(optimizer, *args, **kwargs)  # type: ignore[misc, no-any-return]
        _Precision.clip_gradients(self, optimizer, *args, **kwargs)
        return None


class SharpnessAwarePrecision(_OnceAStep, _Precision):  # type: ignore[misc]
    """Full precision, where clipping and ``on_before_optimizer_step`` act once per step, on u.

    Without it they act in both passes. For SAM and ASAM, and clipping by norm, that is the same
    step; by value, or for methods that keep the gradient at w, it is not.
    """


class SharpnessAwareMixedPrecision(_OnceAStep, _MixedPrecision):  # type: ignore[misc]
    """Mixed precision for sharpness-aware optimizers; others are treated as Lightning does.

    Both passes are unscaled before anything is made of them, overflow in either skips the step,
    and clipping acts once per step, on the unscaled u::

        Trainer(plugins=[SharpnessAwareMixedPrecision("16-mixed", "cuda")], gradient_clip_val=1.0)

    Args:
        precision: "16-mixed" or "bf16-mixed".
        device: where autocast acts.
        scaler: a ``torch.amp.GradScaler``; default one with torch's settings, for "16-mixed".
    """


def _members(trainer: Any) -> list[SharpnessAware]:
    found = [find(optimizer) for optimizer in trainer.optimizers]
    return [optimizer for optimizer in found if optimizer is not None]


def _measured(optimizer: SharpnessAware, where: str) -> dict[str, Any]:
    record = optimizer.last
    if record is None:
        return {}
    values = {name: getattr(record, name) for name in ("loss", *LOGGED)}
    return {
        where + name: value if isinstance(value, Tensor) else float(value)
        for name, value in values.items()
        if value is not None
    }


def _check(trainer: Any, pl_module: Any, optimizer: SharpnessAware) -> None:
    plugin = trainer.precision_plugin
    ours = isinstance(plugin, _OnceAStep)
    if "DeepSpeed" in type(trainer.strategy).__name__:
        raise InputError("DeepSpeed takes the step by itself: train with DDP or FSDP2")
    if getattr(plugin, "scaler", None) is not None and not ours:
        raise InputError(
            "Lightning's own fp16 runs one pass and leaves the closure out: replace precision="
            "'16-mixed' by plugins=[SharpnessAwareMixedPrecision('16-mixed', 'cuda')] of "
            "lowland.integrations.lightning"
        )
    _check_accumulation(trainer, pl_module)
    if not pl_module.automatic_optimization:
        return
    if optimizer.needs_batch:
        raise InputError(
            f"{type(optimizer).__name__} evaluates parts of the batch, which Lightning's closure "
            "does not show: set self.automatic_optimization = False and call "
            "opt.optimizer.step(loss_fn=..., batch=..., backward=self.manual_backward)"
        )


def _check_accumulation(trainer: Any, pl_module: Any) -> None:
    if pl_module.automatic_optimization and trainer.accumulate_grad_batches != 1:
        raise InputError(
            f"accumulate_grad_batches={trainer.accumulate_grad_batches}: Lightning's closure has "
            "the last micro-batch alone, so the second pass would miss the others; set "
            "self.automatic_optimization = False and accumulate in one closure (see "
            "examples/lightning_trainer.py)"
        )
