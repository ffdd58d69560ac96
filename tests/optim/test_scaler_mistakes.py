"""What can go wrong with a gradient scaler: each is one clear error, at w."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from forms import form_context, make
from problems import data, equal, network, weights
from scaled import Loss, mean_loss, scaler
from torch import Tensor, nn
from torch.amp import GradScaler

from lowland.optim import SharpnessAware


class TestMistakes:
    """Each is one clear error, at w."""

    @pytest.fixture
    def parts(self) -> tuple[nn.Module, SharpnessAware, GradScaler, Loss]:
        model = network(3)
        return model, make("sam", model), scaler(), mean_loss(model)

    def test_unscaled_before_the_pass(self, parts: Any) -> None:
        model, opt, grad_scaler, loss = parts
        before = weights(model)
        grad_scaler.scale(loss(*data(0))).backward()
        grad_scaler.unscale_(opt)
        with (
            pytest.raises(RuntimeError, match="unscaled already"),
            opt.perturbed(scaler=grad_scaler),
        ):
            pass
        assert equal(weights(model), before)

    def test_unscaled_before_first_step(self, parts: Any) -> None:
        _, opt, grad_scaler, loss = parts
        grad_scaler.scale(loss(*data(0))).backward()
        grad_scaler.unscale_(opt)
        with pytest.raises(RuntimeError, match="unscaled already"):
            opt.first_step(scaler=grad_scaler)

    def test_unscaled_in_the_closure(self, parts: Any) -> None:
        model, opt, grad_scaler, loss = parts
        before = weights(model)

        def closure() -> Tensor:
            opt.zero_grad()
            value = loss(*data(0))
            grad_scaler.scale(value).backward()
            grad_scaler.unscale_(opt)
            return value

        with pytest.raises(RuntimeError, match="unscaled already"):
            opt.step(closure, scaler=grad_scaler)
        assert equal(weights(model), before)

    def test_nothing_scaled(self, parts: Any) -> None:
        _, opt, grad_scaler, loss = parts
        loss(*data(0)).backward()
        with pytest.raises(RuntimeError, match="nothing was scaled"):
            opt.first_step(scaler=grad_scaler)

    def test_no_update(self, parts: Any) -> None:
        _, opt, grad_scaler, loss = parts
        for i in range(2):
            grad_scaler.scale(loss(*data(i))).backward()
            if i:
                with pytest.raises(RuntimeError, match="update\\(\\) is missing"):
                    opt.first_step(scaler=grad_scaler)
                break
            with opt.perturbed(scaler=grad_scaler):
                grad_scaler.scale(loss(*data(i))).backward()
            grad_scaler.step(opt)

    def test_step_instead_of_scaler_step(self, parts: Any) -> None:
        model, opt, grad_scaler, loss = parts
        before = weights(model)
        grad_scaler.scale(loss(*data(0))).backward()
        with opt.perturbed(scaler=grad_scaler):
            grad_scaler.scale(loss(*data(0))).backward()
        with pytest.raises(RuntimeError, match=r"scaler\.step\(optimizer\)"):
            opt.step()
        assert equal(weights(model), before)
        grad_scaler.step(opt)  # the right call still works
        assert not equal(weights(model), before)

    def test_a_pass_without_the_scaler(self, parts: Any) -> None:
        """Memory (F-SAM's mean, say) would otherwise take in scaled gradients."""
        model, opt, grad_scaler, loss = parts
        before = weights(model)
        grad_scaler.scale(loss(*data(0))).backward()
        with opt.perturbed():
            grad_scaler.scale(loss(*data(0))).backward()
        with pytest.raises(RuntimeError, match=r"perturbed\(scaler=scaler\)"):
            grad_scaler.step(opt)
        assert equal(weights(model), before)

    def test_scaler_step_without_a_pass(self, parts: Any) -> None:
        model, opt, grad_scaler, loss = parts
        grad_scaler.scale(loss(*data(0))).backward()
        with pytest.raises(RuntimeError, match="without a perturbed pass"):
            grad_scaler.step(opt)
        assert "found_inf" not in vars(opt)
        form_context(opt, model, *data(0))  # an ordinary step is one again

    def test_closure_through_the_scaler(self, parts: Any) -> None:
        _, opt, grad_scaler, loss = parts
        grad_scaler.scale(loss(*data(0)))
        with pytest.raises(RuntimeError, match=r"step\(closure, scaler=scaler\)"):
            grad_scaler.step(opt, lambda: loss(*data(0)))

    def test_scaler_without_closure(self, parts: Any) -> None:
        _, opt, grad_scaler, _ = parts
        with pytest.raises(RuntimeError, match=r"scaler\.step"):
            opt.step(scaler=grad_scaler)

    def test_scaler_in_one_of_two_micro_batches(self, parts: Any) -> None:
        _, opt, grad_scaler, loss = parts
        grad_scaler.scale(loss(*data(0))).backward()
        with opt.perturbed(scaler=grad_scaler, last=False):
            grad_scaler.scale(loss(*data(0))).backward()
        loss(*data(1)).backward()
        with pytest.raises(RuntimeError, match="perturbed\\(scaler=scaler\\)"), opt.perturbed():
            pass

    @pytest.mark.filterwarnings("ignore:.*not finite.*:RuntimeWarning")
    def test_half_precision_parameters(self) -> None:
        model = network(3, torch.float16, norm=False)
        opt, grad_scaler = make("sam", model), scaler()
        x, y = data(0, dtype=torch.float16)
        grad_scaler.scale(mean_loss(model)(x, y)).backward()
        with pytest.raises(ValueError, match="FP16"):
            opt.first_step(scaler=grad_scaler)
        off = make("sam", model, rho=0.0)
        with pytest.raises(ValueError, match="FP16"):
            grad_scaler.step(off)
