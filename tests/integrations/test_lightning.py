"""Lightning: automatic optimization, plugins, accumulation, checkpoints, logs."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_cases import (
    QUIET,
    SETTINGS,
    STEPS,
    Accumulating,
    InContext,
    Module,
    batches,
    by_optimizer,
    equal,
    fit,
    half,
    network,
    pl,
)
from tiny_trainers import farthest, sam_by_hand, same, twin, weights
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lowland import FSAM, MSAM, SAM, InputError
from lowland.integrations import at_perturbed_weights
from lowland.integrations.lightning import (
    SharpnessAwareCallback,
    SharpnessAwareMixedPrecision,
    SharpnessAwarePrecision,
)

pytestmark = QUIET


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_automatic_optimization_needs_nothing(tmp_path: Path, precision: Any, norm: bool) -> None:
    module = Module(norm=norm)
    trainer = fit(module, tmp_path, precision=precision)
    dtype = torch.bfloat16 if precision == "bf16-mixed" else None
    assert equal(module.trail, by_optimizer(norm=norm, dtype=dtype))
    assert trainer.global_step == STEPS, "a step with two passes is one step"
    if norm:
        assert int(module.net[1].num_batches_tracked) == STEPS


def test_it_equals_the_loop_by_hand(tmp_path: Path) -> None:
    module, model = Module(), network()
    fit(module, tmp_path)
    base = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for (x, y), ours in zip(batches(), module.trail, strict=True):
        sam_by_hand(model, base, [lambda x=x, y=y: cross_entropy(model(x), y)], 0.3)
        assert farthest(ours, weights(model)) < 1e-6


def test_schedulers_step_once_a_step(tmp_path: Path) -> None:
    module = Module(decay=True)
    trainer = fit(module, tmp_path)
    assert trainer.optimizers[0].param_groups[0]["lr"] == 0.1 * 0.5**STEPS


@pytest.mark.parametrize("callback", [True, False])
def test_accumulation_is_refused_with_and_without_the_callback(
    tmp_path: Path, callback: bool
) -> None:
    """With it before training starts; without it at the first step, where the optimizer sees
    gradients that its closure did not make."""
    begun: list[bool] = []

    class Begins(Module):
        def on_train_start(self) -> None:
            begun.append(True)

    module = Begins()
    start = weights(module.net)
    callbacks = [SharpnessAwareCallback()] if callback else []
    kind, words = (InputError, "manual_?|automatic_optimization") if callback else (
        RuntimeError, "Lightning|found gradients",
    )  # fmt: skip
    with pytest.raises(kind, match=words):
        fit(module, tmp_path, accumulate_grad_batches=2, callbacks=callbacks)
    assert bool(begun) != callback
    assert len(module.trail) == (0 if callback else 1)
    assert same(weights(module.net), start)


def test_accumulation_that_a_schedule_turns_on_is_refused(tmp_path: Path) -> None:
    later = pl.callbacks.GradientAccumulationScheduler({1: 2})
    with pytest.raises(InputError, match="accumulate_grad_batches=2"):
        fit(Module(), tmp_path, max_epochs=2, callbacks=[later, SharpnessAwareCallback()])


@pytest.mark.parametrize("plugin", [False, True])
def test_accumulation_in_manual_optimization(tmp_path: Path, plugin: bool) -> None:
    module, model = Accumulating(), network()
    plugins = [SharpnessAwarePrecision()] if plugin else []
    trainer = fit(module, tmp_path, plugins=plugins, callbacks=[SharpnessAwareCallback()])
    assert trainer.global_step == STEPS // 2
    base = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    given = batches()
    for i in range(0, STEPS, 2):
        x, y = (torch.cat(t) for t in zip(given[i], given[i + 1], strict=True))
        sam_by_hand(model, base, [lambda x=x, y=y: cross_entropy(model(x), y)], 0.3)
        assert farthest(module.trail[i + 1], weights(model)) < 1e-6


@pytest.mark.parametrize("plugin", [False, True])
def test_the_context_in_manual_optimization(tmp_path: Path, plugin: bool) -> None:
    """Lightning calls step with a closure that does nothing."""
    module = InContext()
    trainer = fit(module, tmp_path, plugins=[SharpnessAwarePrecision()] if plugin else [])
    assert equal(module.trail, by_optimizer())
    assert trainer.global_step == STEPS


@pytest.mark.parametrize("kind", [Module, InContext])
def test_float16(tmp_path: Path, kind: Any) -> None:
    """Against the same loop in float16 without a scaler: no gradient here underflows, so a scale
    of 2^10 changes the last bits of float16 at most."""
    module = kind()
    trainer = fit(module, tmp_path, plugins=[half()])
    reference = by_optimizer(dtype=torch.float16)
    assert trainer.global_step == STEPS
    for ours, theirs in zip(module.trail, reference, strict=True):
        assert farthest(ours, theirs) < 2e-3
    assert farthest(reference[0], reference[-1]) > 0.05


def test_float16_overflow_skips_and_backs_off(tmp_path: Path) -> None:
    module = Module()
    start, plugin = weights(module.net), half(2.0**60)
    with pytest.warns(RuntimeWarning, match="skipped"):
        trainer = fit(module, tmp_path, plugins=[plugin])
    assert same(weights(module.net), start)
    assert plugin.scaler.get_scale() == 2.0 ** (60 - STEPS)
    assert trainer.optimizers[0].last.skipped_total == STEPS


def test_float16_of_lightning_is_refused(tmp_path: Path) -> None:
    scaler = torch.amp.GradScaler("cpu")
    stock = pl.plugins.MixedPrecision("16-mixed", "cpu", scaler)
    with pytest.raises(InputError, match="SharpnessAwareMixedPrecision"):
        fit(Module(), tmp_path, plugins=[stock], callbacks=[SharpnessAwareCallback()])
    module = Module()
    start = weights(module.net)
    with pytest.raises(RuntimeError):  # without the callback: no silent plain step either
        fit(module, tmp_path, plugins=[stock])
    assert same(weights(module.net), start)


CLIPS: dict[str, Any] = {
    "norm": functools.partial(torch.nn.utils.clip_grad_norm_, max_norm=0.2),
    "value": functools.partial(torch.nn.utils.clip_grad_value_, clip_value=0.05),
}


class Watching(Module):
    """Counts how often Lightning says that a step is coming."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.before = 0

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        self.before += 1


@pytest.mark.parametrize("how", ["norm", "value"])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_plugins_clip_once_on_the_gradient_that_is_descended(
    tmp_path: Path, how: str, precision: Any
) -> None:
    module = Watching()
    dtype = None if precision == "32-true" else torch.bfloat16
    plugin = SharpnessAwareMixedPrecision(precision, "cpu") if dtype else SharpnessAwarePrecision()
    limit = 0.2 if how == "norm" else 0.05
    fit(
        module, tmp_path, plugins=[plugin], gradient_clip_val=limit, gradient_clip_algorithm=how
    )  # fmt: skip
    reference = by_optimizer(dtype=dtype, clip=CLIPS[how])
    assert equal(module.trail, reference)
    assert module.before == STEPS
    assert not equal(reference, by_optimizer(dtype=dtype)), "the limit acts"


def test_without_a_plugin_both_passes_are_clipped(tmp_path: Path) -> None:
    """By norm that is the same SAM step up to rounding; by value it is another one, and for F-SAM,
    whose running mean sees the gradient at w, so is clipping by norm."""
    for how, make, close in (("norm", SAM, True), ("value", SAM, False), ("norm", FSAM, False)):
        module = Watching(make=make)
        limit = 0.2 if how == "norm" else 0.05
        fit(module, tmp_path, gradient_clip_val=limit, gradient_clip_algorithm=how)
        assert module.before == 2 * STEPS
        apart = farthest(module.trail[-1], by_optimizer(make, clip=CLIPS[how])[-1])
        assert (apart < 1e-6) == close, (how, make)


def test_float16_clips_the_unscaled_gradient(tmp_path: Path) -> None:
    module = Watching()
    fit(module, tmp_path, plugins=[half()], gradient_clip_val=0.2)
    reference = by_optimizer(dtype=torch.float16, clip=CLIPS["norm"])
    assert farthest(module.trail[-1], reference[-1]) < 2e-3
    assert module.before == STEPS


def test_bf16_with_clipping_needs_no_plugin(tmp_path: Path) -> None:
    """Both passes are clipped; by norm that changes u alone, as with the plugin that clips once."""
    trails = []
    for settings in (
        {"precision": "bf16-mixed"},
        {"plugins": [SharpnessAwareMixedPrecision("bf16-mixed", "cpu")]},
        {"precision": "bf16-mixed", "gradient_clip_val": None},
    ):
        module = Module()
        both: dict[str, Any] = {"gradient_clip_val": 0.05, **settings}
        fit(module, tmp_path, callbacks=[SharpnessAwareCallback()], **both)
        trails.append(module.trail[-1])
    assert farthest(trails[0], trails[1]) < 1e-3
    assert farthest(trails[0], trails[2]) > 1e-2, "clipping acts"


def test_plugins_leave_other_optimizers_alone(tmp_path: Path) -> None:
    class Plain(Module):
        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.net.parameters(), lr=0.1)

    trails = []
    for plugins in ([], [SharpnessAwarePrecision()]):
        module = Plain()
        fit(module, tmp_path, plugins=plugins, gradient_clip_val=0.2)
        trails.append(module.trail)
    assert equal(*trails)
    fit(Plain(), tmp_path, plugins=[half()])


@pytest.mark.parametrize("plugin", [None, half])
def test_resumed_training_equals_uninterrupted_bit_for_bit(tmp_path: Path, plugin: Any) -> None:
    def settings() -> dict[str, Any]:
        return {"plugins": [plugin()]} if plugin else {}

    make = functools.partial(FSAM, lmbda=0.9) if _accepts(FSAM, "lmbda") else FSAM
    whole = Module(make=make, decay=True)
    fit(whole, tmp_path, max_epochs=4, **settings())
    first = Module(make=make, decay=True)
    trainer = fit(first, tmp_path, max_epochs=2, **settings())
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    again = Module(make=make, decay=True)
    for p in again.net.parameters():
        nn.init.zeros_(p)
    fit(again, tmp_path, tmp_path / "half.ckpt", max_epochs=4, **settings())
    assert equal(again.trail, whole.trail[2 * STEPS :])


def _accepts(kind: Any, name: str) -> bool:
    import inspect

    return name in inspect.signature(kind).parameters


class Logging(Module):
    """Logs its loss in the naive way, and in the way that asks which pass it is."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self.loss(batch)
        self.log("naive", loss, on_step=True, on_epoch=True)
        if not at_perturbed_weights(self.optimizers()):
            self.log("asked", loss, on_step=True, on_epoch=True)
        return loss


def test_what_doubled_logging_shows(tmp_path: Path) -> None:
    """Per step a naive log shows the loss at w+ε, per epoch the mean of both passes; a log that
    asks shows the loss at w."""
    seen: list[dict[str, float]] = []

    class Reader(pl.Callback):  # type: ignore[misc]
        def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
            seen.append({k: float(v) for k, v in trainer.callback_metrics.items()})

    trainer = fit(Logging(), tmp_path, callbacks=[SharpnessAwareCallback(), Reader()])
    model = network()
    opt = SAM(model.parameters(), torch.optim.SGD, model=model, **SETTINGS)
    at_w, away = [], []
    for (x, y), logged in zip(batches(), seen, strict=True):

        def closure(x: Tensor = x, y: Tensor = y) -> Tensor:
            opt.zero_grad()
            loss = cross_entropy(model(x), y)
            loss.backward()
            return loss

        opt.step(closure)
        record = opt.last
        assert record is not None
        at_w.append(float(record.loss))
        away.append(float(record.perturbed_loss))
        assert logged["naive_step"] == pytest.approx(away[-1])
        assert logged["asked_step"] == pytest.approx(at_w[-1])
        assert logged["sam/loss"] == pytest.approx(at_w[-1])
        assert logged["sam/perturbed_loss"] == pytest.approx(away[-1])
        assert logged["sam/sharpness"] == pytest.approx(away[-1] - at_w[-1], abs=1e-6)
        assert logged["sam/perturbation_norm"] == pytest.approx(0.3, rel=1e-5)
        assert logged["sam/skipped_total"] == 0
    final = trainer.callback_metrics
    assert float(final["asked_epoch"]) == pytest.approx(sum(at_w) / STEPS)
    assert float(final["naive_epoch"]) == pytest.approx(sum(at_w + away) / STEPS / 2)


def test_methods_that_need_the_batch(tmp_path: Path) -> None:
    make = functools.partial(MSAM, m=3)
    with pytest.raises(InputError, match="automatic_optimization = False"):
        fit(Module(make=make), tmp_path, callbacks=[SharpnessAwareCallback()])

    class Batched(Module):
        def __init__(self) -> None:
            super().__init__(make=make)
            self.automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> None:
            def loss_fn(x: Tensor, y: Tensor) -> Tensor:
                return cross_entropy(self.net(x), y, reduction="none")

            opt = self.optimizers().optimizer
            opt.step(loss_fn=loss_fn, batch=batch, backward=self.manual_backward)

    module, model = Batched(), network()
    fit(module, tmp_path, callbacks=[SharpnessAwareCallback()])
    opt = make(model.parameters(), torch.optim.SGD, model=model, **SETTINGS)
    for batch, ours in zip(batches(), module.trail, strict=True):
        opt.step(
            loss_fn=lambda x, y: cross_entropy(model(x), y, reduction="none"), batch=batch
        )  # fmt: skip
        assert same(ours, weights(model))


def test_a_copy_of_the_model_is_not_needed(tmp_path: Path) -> None:
    """A module whose network was trained before goes on from there."""
    module = Module()
    module.net = twin(module.net)
    fit(module, tmp_path)
    assert equal(module.trail, by_optimizer())
