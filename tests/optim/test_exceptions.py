"""An exception anywhere leaves w and a usable state (contract 2)."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from forms import (
    FORMS,
    NAMES_AND_FORMS,
    failing,
    make,
)
from problems import closure_for, data, equal, losses, network, weights
from torch import Tensor

from lowland.optim import SAM


class Stop(BaseException):
    """Like KeyboardInterrupt, not an Exception."""


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, Stop])
@pytest.mark.parametrize(("name", "form"), NAMES_AND_FORMS)
def test_an_exception_in_any_pass_leaves_w(name: str, form: str, error: type) -> None:
    reference = network(3)
    clean = make(name, reference, rho=0.3)
    model = network(3)
    opt = make(name, model, rho=0.3)
    for i in range(4):
        FORMS[form](clean, reference, *data(i))
        FORMS[form](opt, model, *data(i))
        perturbs = opt.needs_perturbation
        fail_at = i % 2 + 1 if perturbs or name == "mesa" else 1
        calls = 0

        def broken(x: Tensor, y: Tensor, fail_at: int = fail_at) -> Tensor:
            nonlocal calls
            calls += 1
            if calls == fail_at:
                raise error
            return losses(model)(x, y)

        before, statistics = weights(model), [b.clone() for b in model.buffers()]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with pytest.raises(error):
                failing(form, opt, model, broken, data(i + 100), perturbs)
            if form == "two-step" and fail_at == 2:
                assert not equal(weights(model), before), "w+ε until the next optimizer call"
                opt._passes.abandon()
        assert equal(weights(model), before)
        for b, old in zip(model.buffers(), statistics, strict=True):
            b.copy_(old)  # the first pass may have updated them, as plain training would
        opt.zero_grad()
    assert equal(weights(model), weights(reference)), "the failed steps left no trace"


def test_two_step_form_restores_at_the_next_call() -> None:
    model, (x, y) = network(3, norm=False), data()
    opt = SAM(model.parameters(), torch.optim.SGD, lr=0.1, rho=0.3)
    before = weights(model)
    losses(model)(x, y).mean().backward()
    opt.first_step(zero_grad=True)
    losses(model)(x, y).mean().backward()  # something fails here; the loop goes on with new data
    with pytest.warns(RuntimeWarning, match="never followed by step"):
        opt.first_step(zero_grad=True)
    assert equal(weights(model), before)
    losses(model)(x, y).mean().backward()
    plain = copy.deepcopy(model)
    for mine, its in zip(plain.parameters(), model.parameters(), strict=True):
        mine.grad = None if its.grad is None else its.grad.clone()
    torch.optim.SGD(plain.parameters(), lr=0.1).step()
    opt.second_step(zero_grad=True)
    assert not equal(weights(plain), before)
    assert equal(weights(model), weights(plain)), "that step is a plain one, at w"


@pytest.mark.parametrize("call", ["closure", "load_state_dict"])
def test_other_calls_restore_too(call: str) -> None:
    model, (x, y) = network(3, norm=False), data()
    opt = SAM(model.parameters(), torch.optim.SGD, lr=0.0, rho=0.3)
    before, state = weights(model), opt.state_dict()
    losses(model)(x, y).mean().backward()
    opt.first_step(zero_grad=True)
    with pytest.warns(RuntimeWarning, match="never followed by step"):
        opt.step(closure_for(opt, model, x, y)) if call == "closure" else opt.load_state_dict(state)
    assert equal(weights(model), before)


def test_zero_grad_between_the_two_steps_is_not_such_a_call() -> None:
    ends = []
    for extra in (False, True):
        model, (x, y) = network(3, norm=False), data()
        opt = SAM(model.parameters(), torch.optim.SGD, lr=0.1, rho=0.3)
        losses(model)(x, y).mean().backward()
        opt.first_step()
        if extra:
            opt.zero_grad()
        losses(model)(x, y).mean().backward()
        opt.second_step()
        ends.append(weights(model))
    assert equal(*ends)


def test_state_dict_refuses_while_weights_are_displaced() -> None:
    model, (x, y) = network(), data()
    opt = SAM(model.parameters(), torch.optim.SGD, lr=0.1, rho=0.3)
    losses(model)(x, y).mean().backward()
    opt.first_step(zero_grad=True)
    with pytest.raises(RuntimeError, match=r"state_dict\(\) while the weights are at w\+ε"):
        opt.state_dict()
    with pytest.raises(RuntimeError, match="under way"):
        copy.deepcopy(opt)
    losses(model)(x, y).mean().backward()
    opt.second_step(zero_grad=True)
    opt.state_dict()
