"""Autocast around whole steps, or around an epoch of them, as trainers have it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import forms
import problems
import pytest
import torch
from forms import FORMS, NAMES_AND_FORMS, THREE, make
from problems import data, equal, network, weights
from torch import Tensor, nn

from lowland.optim import SAM

SGD = torch.optim.SGD
PLAIN = problems.losses


def half(on: bool = True) -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16, enabled=on)


def inside(model: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    """The losses, by a forward that brings its own autocast."""

    def fn(x: Tensor, y: Tensor) -> Tensor:
        with half():
            return PLAIN(model)(x, y)

    return fn


@contextlib.contextmanager
def entered(where: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        if where == "inside":
            patch.setattr(forms, "losses", inside)
            patch.setattr(problems, "losses", inside)
        with half() if where == "outside" else contextlib.nullcontext():
            yield


@pytest.mark.parametrize(("name", "form"), NAMES_AND_FORMS)
def test_around_an_epoch_it_is_as_inside_every_forward(
    name: str, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Autocast keeps its casts of weights; those of the step before are no weights of this one."""
    found = []
    for where in ("inside", "outside"):
        model = network(3)
        opt = make(name, model)
        with entered(where, monkeypatch):
            for i in range(3):
                FORMS[form](opt, model, *data(i))
        found.append(weights(model))
    assert equal(*found)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("own", [{"rho": 0.0}, {"every": 3}, {"start": 2}], ids=str)
def test_steps_without_a_second_pass_do_not_leave_old_casts(
    form: str, own: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for where in ("inside", "outside"):
        model = network(3)
        opt = make("sam", model, **own)
        with entered(where, monkeypatch):
            for i in range(4):
                FORMS[form](opt, model, *data(i))
            with half():  # as a validation would be
                found.append([*weights(model), model.eval()(data(9)[0])])
            model.train()
    assert equal(*found)


class Island(nn.Module):
    """A network whose output layer is kept in single precision."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.norm, self.head = nn.Linear(5, 64), nn.BatchNorm1d(64), nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.norm(self.body(x)).tanh()
        with half(False):
            out: Tensor = self.head(hidden.float())
        return out


@pytest.mark.parametrize("name", ["sam", "esam", "mesa", "fedsam", "gradient-norm", "logits-sam"])
def test_backward_keeps_the_precision_of_the_forward(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the backward is ours. Inside autocast it would round what the network does not."""
    found = []
    for where in ("inside", "outside"):
        model = Island()
        opt = make(name, model)
        with entered(where, monkeypatch):
            FORMS["batch"](opt, model, *data(n=64))
        found.append(weights(model))
    assert equal(*found)


class Product(torch.optim.SGD):
    """A base optimizer with matrix products in it."""

    def step(self, closure: Any = None) -> Any:
        for p in (p for group in self.param_groups for p in group["params"] if p.ndim == 2):
            p.grad = p.grad @ p.grad.T @ p.grad
        return super().step(closure)


@pytest.mark.parametrize("form", THREE)
def test_the_base_optimizer_computes_in_its_own_precision(
    form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for where in ("inside", "outside"):
        model = network(3)
        opt = SAM(model.parameters(), Product, lr=1.0, rho=0.1, model=model)
        with entered(where, monkeypatch):
            FORMS[form](opt, model, *data())
        found.append(weights(model))
    assert equal(*found)
