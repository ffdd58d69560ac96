"""What loops do when something goes wrong in them, or is done in an unusual place."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from problems import data, equal, losses, network, weights
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

from lowland.optim import SAM
from lowland.optim.engine import Engine

SGD = torch.optim.SGD


def loss_of(model: nn.Module, i: int = 0) -> Tensor:
    return losses(model)(*data(i)).mean()


def backward(opt: Any, model: nn.Module, scaler: GradScaler | None = None) -> Tensor:
    opt.zero_grad()
    loss = loss_of(model)
    (loss if scaler is None else scaler.scale(loss)).backward()
    return loss


@pytest.mark.parametrize("again", range(10))  # ids of what the scaler knows are used again
@pytest.mark.parametrize("form", ["closure", "context"])
def test_a_pass_that_fails_under_a_scaler_costs_one_step(form: str, again: int) -> None:
    """The loop catches it and goes on without an update, as it may without SAM."""
    ends = []
    for fails in (False, True):
        model, scaler, passes = network(0), GradScaler("cpu", init_scale=256.0), 0
        opt = SAM(model.parameters(), SGD, lr=0.1, rho=0.1, model=model)

        def closure(model=model, scaler=scaler, opt=opt, fails=fails) -> Tensor:  # type: ignore[no-untyped-def]
            nonlocal passes
            passes += 1
            if fails and passes == 4:
                raise torch.OutOfMemoryError("no room")
            return backward(opt, model, scaler)

        taken = 0
        for _ in range(6 if fails else 5):
            try:
                if form == "closure":
                    opt.step(closure, scaler=scaler)
                else:
                    closure()
                    with opt.perturbed(scaler=scaler):
                        closure()
                    scaler.step(opt)
                scaler.update()
                taken += 1
            except torch.OutOfMemoryError:
                continue
        assert taken == 5
        ends.append(weights(model))
    assert equal(*ends)


@pytest.mark.parametrize("kind", ["perturbed", "two-step", "step", "closure"])
def test_a_step_within_the_closure_is_an_error_and_leaves_w(kind: str) -> None:
    model = network(0)
    opt = SAM(model.parameters(), SGD, lr=0.0, rho=0.1, model=model)
    before = weights(model)

    def closure() -> Tensor:
        loss = backward(opt, model)
        if kind == "perturbed":
            with opt.perturbed():
                loss_of(model).backward()
        elif kind == "two-step":
            opt.first_step()
            loss_of(model).backward()
            opt.second_step()
        elif kind == "step":
            opt.step()
        else:
            opt.step(closure)
        return loss

    for _ in range(2):
        with pytest.raises(RuntimeError, match="inside the closure of step"):
            opt.step(closure)
        assert equal(weights(model), before)
    assert opt.step(lambda: backward(opt, model)) is not None


def test_unscaling_inside_the_last_micro_batch_is_an_error() -> None:
    model, scaler = network(0), GradScaler("cpu", init_scale=256.0)
    opt = SAM(model.parameters(), SGD, lr=0.1, rho=0.1, model=model)
    before = weights(model)
    backward(opt, model, scaler)
    with opt.perturbed(last=False, scaler=scaler):
        scaler.scale(loss_of(model)).backward()
    backward(opt, model, scaler)
    last = opt.perturbed(scaler=scaler)
    last.__enter__()
    scaler.scale(loss_of(model)).backward()
    scaler.unscale_(opt)
    with pytest.raises(RuntimeError, match="unscaled already"):
        last.__exit__(None, None, None)
    assert equal(weights(model), before)


def test_no_state_dict_in_the_second_pass_of_a_closure() -> None:
    model = network(0)
    opt = SAM(model.parameters(), SGD, lr=0.1, rho=0.1, model=model)
    heard = []

    def closure() -> Tensor:
        loss = backward(opt, model)
        try:
            opt.state_dict()
            heard.append("")
        except RuntimeError as error:
            heard.append(str(error))
        return loss

    opt.step(closure)
    assert heard[0] == ""
    assert "while the weights are at w+ε" in heard[1]


@pytest.mark.parametrize("options", [{}, {"start": 2}, {"rho": 0.0}, {"every": 3}])
def test_filling_the_state_for_a_checkpoint_is_no_step(options: dict[str, Any]) -> None:
    model = network(0)
    opt = SAM(model.parameters(), SGD, **{"lr": 0.1, "rho": 0.1, "momentum": 0.9, **options})
    get_optimizer_state_dict(model, opt)
    assert opt.param_groups[0]["sam_step"] == 0
    assert opt.last is None


def test_a_window_is_given_up() -> None:
    """``zero_grad()`` keeps what micro-batches have accumulated, ``abandon()`` drops it."""
    ends = []
    for cut in (False, True):
        model = network(0)
        opt = SAM(model.parameters(), SGD, lr=0.1, rho=0.1, model=model)
        if cut:
            backward(opt, model)
            with opt.perturbed(last=False):
                loss_of(model, 7).backward()
            opt.abandon()
        for last in (False, True):
            backward(opt, model)
            with opt.perturbed(last=last):
                loss_of(model).backward()
        opt.step()
        ends.append(weights(model))
    assert equal(*ends)


class TestOverflowThatTheHostHasNotSeen:
    """On a GPU nobody waits for the norm of the first pass: the second pass must run at w then."""

    @pytest.fixture(autouse=True)
    def _unread(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Engine, "reads_freely", property(lambda self: False))

    @pytest.mark.parametrize("bad", [torch.inf, torch.nan])
    @pytest.mark.parametrize("adaptive", [False, True])
    def test_the_second_pass_is_at_w(self, bad: float, adaptive: bool) -> None:
        model = network(0)
        opt = SAM(model.parameters(), SGD, lr=0.1, rho=0.1, model=model, adaptive=adaptive)
        before = weights(model)
        backward(opt, model)
        param = next(model.parameters())
        assert param.grad is not None
        param.grad.flatten()[0] = bad
        with opt.perturbed():
            assert equal(weights(model), before)
            loss_of(model).backward()
        with pytest.warns(RuntimeWarning, match="was not finite"):
            opt.step()
        assert equal(weights(model), before)

    def test_what_a_forward_writes_stays_finite(self) -> None:
        torch.manual_seed(0)
        x, y = data(0)
        inner = nn.Linear(x.shape[1], 4)
        norm = nn.BatchNorm1d(4)
        model = nn.Sequential(nn.utils.parametrizations.spectral_norm(inner), norm)
        opt = SAM(model.parameters(), SGD, lr=0.01, rho=0.1, model=model, bn_second="update")
        scaler = GradScaler("cpu", init_scale=2.0**127)
        taken: list[int] = []

        def closure() -> Tensor:
            opt.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            scaler.scale(loss * 1e3).backward()
            return loss

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            for _ in range(40):
                opt.step(closure, scaler=scaler)
                scaler.update()
                assert opt.last is not None
                taken.append(not opt.last.skipped)
        assert taken[-1], "the scale comes down, and training goes on"
        assert not taken[0]
        assert norm.running_mean is not None
        assert torch.isfinite(norm.running_mean).all()

    def test_the_same_bits_as_where_the_host_looks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        ends = []
        for reads in (False, True):
            monkeypatch.setattr(Engine, "reads_freely", property(lambda self, r=reads: r))
            model = network(0, torch.float64)
            x, y = data(0, dtype=torch.float64)
            opt = SAM(model.parameters(), SGD, lr=0.1, rho=0.1, model=model)
            for _ in range(3):
                opt.step(loss_fn=losses(model), batch=(x, y))
            ends.append(weights(model))
        torch.testing.assert_close(*ends, rtol=1e-12, atol=1e-14)


class TestLayersOutsideTheModel:
    @pytest.fixture(autouse=True)
    def _nothing_compiled(self) -> Iterator[None]:
        """Where graphs have been compiled nobody looks for layers."""
        torch.compiler.reset()
        torch._dynamo.utils.counters.clear()
        yield
        torch.compiler.reset()
        torch._dynamo.utils.counters.clear()

    @staticmethod
    def pair() -> tuple[nn.Module, nn.Module, SAM]:
        own, other = network(0), network(1, norm=True)
        params = [*own.parameters(), *other.parameters()]
        return own, other, SAM(params, SGD, lr=0.1, rho=0.1, model=own)

    @staticmethod
    def closure(opt: SAM, *models: nn.Module) -> Callable[[], Tensor]:
        def run() -> Tensor:
            opt.zero_grad()
            loss = torch.stack([loss_of(model) for model in models]).sum()
            loss.backward()
            return loss

        return run

    @staticmethod
    def batches(model: nn.Module) -> int:
        found = [m for m in model.modules() if isinstance(m, nn.BatchNorm1d)]
        return int(found[0].num_batches_tracked)  # type: ignore[arg-type]

    def test_a_copy_protects_them_too(self) -> None:
        own, other, opt = self.pair()
        with pytest.warns(RuntimeWarning, match="outside model="):
            opt.step(self.closure(opt, own, other))
        own, other, opt = copy.deepcopy((own, other, opt))
        with pytest.warns(RuntimeWarning, match="outside model="):
            opt.step(self.closure(opt, own, other))
        assert self.batches(other) == 2

    def test_one_that_joins_later_is_found(self) -> None:
        own, other, opt = self.pair()
        opt.step(self.closure(opt, own))
        with pytest.warns(RuntimeWarning, match="outside model="):
            opt.step(self.closure(opt, own, other))
        assert self.batches(other) == 1

    def test_a_compiled_function_without_a_model_is_a_warning(self) -> None:
        model = network(0, norm=True)
        opt = SAM(model.parameters(), SGD, lr=0.1, rho=0.1)
        compiled = torch.compile(lambda: loss_of(model), backend="aot_eager")

        def closure() -> Tensor:
            opt.zero_grad()
            loss: Tensor = compiled()
            loss.backward()
            return loss

        with pytest.warns(RuntimeWarning, match="no module was seen running"):
            opt.step(closure)


def test_no_reference_to_a_gradient_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """``model.to()`` may swap tensors in place, which references forbid."""
    model = network(0)
    opt = SAM(model.parameters(), SGD, lr=0.1, rho=0.1, model=model)
    opt.step(lambda: backward(opt, model))
    monkeypatch.setattr(torch.__future__, "_swap_module_params_on_conversion", True)
    model.double()
    assert next(model.parameters()).dtype == torch.float64


def test_a_closure_that_skips_its_batch() -> None:
    """As trainers let their users do: None, and no gradients. It is said once, and no step."""
    model = network(0)
    opt = SAM(model.parameters(), SGD, lr=0.1, rho=0.1, model=model)
    with pytest.raises(RuntimeError, match="end it with `return loss`"):
        opt.step(lambda: None)  # it never worked: this is a mistake
    opt.step(lambda: backward(opt, model))
    before = weights(model)
    opt.zero_grad()
    with pytest.warns(RuntimeWarning, match="nothing was done"):
        assert opt.step(lambda: None) is None
    assert opt.step(lambda: None) is None  # said once
    assert equal(weights(model), before)
    assert opt.param_groups[0]["sam_step"] == 1

    def forgotten() -> None:
        backward(opt, model)

    with pytest.raises(RuntimeError, match="end it with `return loss`"):
        opt.step(forgotten)
