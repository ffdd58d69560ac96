"""Accelerate: accumulation, clipping, schedulers, scalers. (one batch: test_wrappers.py)"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from tiny_trainers import farthest, sam_by_hand, same, weights
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lowland import SAM
from lowland.integrations import report_skipped, sharpness_aware

accelerate = pytest.importorskip("accelerate")

RHO = 0.3


@pytest.fixture(autouse=True)
def _fresh_state() -> Iterator[None]:
    """Accelerate keeps its settings for the whole process."""
    yield
    accelerate.state.AcceleratorState._reset_state()
    accelerate.state.GradientState._reset_state()


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))


def data() -> torch.utils.data.TensorDataset:
    generator = torch.Generator().manual_seed(8)
    x = torch.randn(14, 5, generator=generator)
    return torch.utils.data.TensorDataset(x, torch.randint(0, 3, (14,), generator=generator))


def train(
    clip: float | None, scaler: Any = None, stretch: float = 1.0
) -> tuple[list[list[Tensor]], SAM, Any]:
    """Two epochs of seven micro-batches, three to a step, the last step of an epoch with one."""
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=3)
    accelerator.scaler = scaler
    inner = network()
    opt = SAM(inner.parameters(), torch.optim.SGD, lr=0.1, momentum=0.9, rho=RHO, model=inner)
    decay = torch.optim.lr_scheduler.StepLR(opt, 1, 0.8)
    loader = torch.utils.data.DataLoader(data(), batch_size=2)
    model, optimizer, loader, scheduler = accelerator.prepare(inner, opt, loader, decay)
    trail, window = [], []

    def backward(batch: Any) -> Tensor:
        loss = cross_entropy(model(batch[0] * stretch), batch[1])
        accelerator.backward(loss)
        return loss.detach() / accelerator.gradient_accumulation_steps

    for _ in range(2):
        for batch in loader:
            with accelerator.accumulate(model):
                window.append((batch, backward(batch)))
                if accelerator.sync_gradients:
                    total = torch.stack([loss for _, loss in window]).sum()
                    inside = sharpness_aware(optimizer).perturbed(scaler=scaler, loss=total)
                    with inside as second:
                        for earlier, _ in window[:-1]:
                            with accelerator.no_sync(model):
                                backward(earlier)
                        backward(window[-1][0])
                        second.record(total)
                    window.clear()
                    if scaler is not None and clip is not None:
                        scaler.unscale_(
                            opt
                        )  # what clip_grad_norm_ does where mixed precision is on
                    if clip is not None:
                        accelerator.clip_grad_norm_(model.parameters(), clip)
                optimizer.step()
                if accelerator.sync_gradients:
                    report_skipped(optimizer)
                scheduler.step()
                optimizer.zero_grad()
                if accelerator.sync_gradients:
                    trail.append(weights(inner))
    return trail, opt, accelerator


@pytest.mark.parametrize("clip", [None, 0.1])
def test_accumulation_clipping_and_schedule(clip: float | None) -> None:
    """Accelerate divides by the window's full length in a ragged window too."""
    trail, opt, _ = train(clip)
    model = network()
    base = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    x, y = data().tensors
    windows = [slice(0, 6), slice(6, 12), slice(12, 14)] * 2
    assert len(trail) == len(windows)
    for part, ours in zip(windows, trail, strict=True):
        share = (part.stop - part.start) / 6

        def loss(part: slice = part, share: float = share) -> Tensor:
            return cross_entropy(model(x[part]), y[part]) * share

        sam_by_hand(model, base, [loss], RHO, clip)
        base.param_groups[0]["lr"] *= 0.8
        assert farthest(ours, weights(model)) < 1e-6
    assert opt.param_groups[0]["lr"] == pytest.approx(0.1 * 0.8**6)


@pytest.mark.parametrize("clip", [None, 0.1])
def test_a_gradient_scaler_changes_nothing(clip: float | None) -> None:
    """fp16 needs a GPU there, so the scaler alone is put in its place: a power of two is exact."""
    plain, _, _ = train(clip)
    accelerate.state.AcceleratorState._reset_state()
    accelerate.state.GradientState._reset_state()
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=5)
    scaled, opt, _ = train(clip, scaler)
    assert all(same(a, b) for a, b in zip(plain, scaled, strict=True))
    assert scaler.get_scale() == 2048.0
    assert opt.last is not None
    assert not opt.last.skipped


def test_overflow_skips_and_backs_off() -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, growth_interval=100)
    with pytest.warns(RuntimeWarning, match="skipped"):
        trail, opt, _ = train(0.1, scaler, stretch=64.0)
    still = sum(same(a, b) for a, b in itertools.pairwise([weights(network()), *trail]))
    assert scaler.get_scale() < 2.0**127
    assert opt.last is not None
    skipped = int(opt.last.skipped_total)
    assert 0 < skipped < 6
    assert still == skipped
    assert opt.param_groups[0]["lr"] == pytest.approx(0.1 * 0.8 ** (6 - skipped)), "it waits"


def test_a_closure_under_a_scaler_is_an_error() -> None:
    accelerator = accelerate.Accelerator(cpu=True)
    accelerator.scaler = torch.amp.GradScaler("cpu")
    inner = network()
    opt = SAM(inner.parameters(), torch.optim.SGD, lr=0.1, rho=RHO, model=inner)
    model, optimizer = accelerator.prepare(inner, opt)
    x, y = data().tensors

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = cross_entropy(model(x), y)
        accelerator.backward(loss)
        return loss

    with pytest.raises((RuntimeError, AssertionError)):
        optimizer.step(closure)
    assert same(weights(inner), weights(network()))
    opt.step(closure, scaler=accelerator.scaler)  # past the wrapper, the closure form is there
    accelerator.scaler.update()
    assert not same(weights(inner), weights(network()))
