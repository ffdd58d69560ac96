"""What is missing or wrong in a loop is said (contract 8)."""

from __future__ import annotations

import pytest
import torch
from forms import (
    BASES,
    FORMS,
    form_context,
    make,
    run,
)
from problems import closure_for, data, equal, losses, network, weights
from torch import Tensor


def test_what_is_missing_is_said() -> None:
    model, (x, y) = network(3), data()
    opt = make("sam", model, rho=0.3)
    with pytest.raises(RuntimeError, match="without a perturbed pass"):
        opt.step()
    with pytest.raises(RuntimeError, match="call backward"), opt.perturbed():
        pass
    with pytest.raises(RuntimeError, match="without first_step"):
        opt.second_step()
    losses(model)(x, y).mean().backward()
    with opt.perturbed():
        pass
    with pytest.raises(RuntimeError, match="made no gradients"):
        opt.step()
    with (
        pytest.raises(RuntimeError, match="made no gradients"),
        pytest.warns(RuntimeWarning, match="never followed"),
    ):
        opt.step(lambda: torch.zeros(()))
    with pytest.raises(RuntimeError, match="return loss"):
        opt.step(lambda: None)
    off = make("sam", model, rho=0.0)
    off.zero_grad()
    with pytest.raises(RuntimeError, match="no backward"):
        off.step()
    with pytest.raises(ValueError, match="together"):
        opt.step(loss_fn=losses(model))


def test_passes_inside_passes_are_refused() -> None:
    model, (x, y) = network(3), data()
    opt = make("sam", model, rho=0.3)
    before = weights(model)
    losses(model)(x, y).mean().backward()

    def nested() -> None:
        with opt.perturbed(), opt.perturbed():
            pass

    with pytest.raises(RuntimeError, match="inside a perturbed pass"):
        nested()
    assert equal(weights(model), before)
    losses(model)(x, y).mean().backward()
    with pytest.raises(RuntimeError, match="leave the block"), opt.perturbed():
        opt.step()
    assert equal(weights(model), before)


def test_a_pass_that_is_not_needed_is_harmless_and_said_once() -> None:
    model, twin, (x, y) = network(3), network(3), data()
    opt = make("sam", model, rho=0.0)
    plain = torch.optim.SGD(twin.parameters(), **BASES["sgd"][1])
    losses(model)(x, y).mean().backward()
    with pytest.warns(RuntimeWarning, match="needs no second pass"), opt.perturbed():
        losses(model)(x, y).sum().backward()
    opt.step()
    FORMS["closure"](plain, twin, x, y)
    assert equal(weights(model), weights(twin))


def test_a_closure_that_does_not_start_from_zero() -> None:
    """The widely copied closure form, which expects the gradient to be there already."""
    model, (x, y) = network(3), data()
    opt = make("sam", model, rho=0.3)
    before = weights(model)

    def closure() -> Tensor:
        loss = losses(model)(x, y).mean()
        loss.backward()
        return loss

    closure()
    with pytest.raises(RuntimeError, match=r"two lines change: put optimizer.zero_grad\(\) first"):
        opt.step(closure)
    assert equal(weights(model), before)
    opt.zero_grad()
    opt.step(closure)  # nothing was there: fine, and the engine clears between the passes
    expected, _ = run("sam", "closure", steps=1, rho=0.3)
    assert equal(weights(model), list(expected))
    opt.step(closure)  # what the engine itself left behind is not held against it


@pytest.mark.parametrize("to_none", [True, False])
def test_a_closure_that_clears_foreign_gradients_is_fine(to_none: bool) -> None:
    model, (x, y) = network(3), data()
    opt = make("sam", model, rho=0.3)
    losses(model)(2 * x, y).mean().backward()

    def closure() -> Tensor:
        model.zero_grad(set_to_none=to_none)
        loss = losses(model)(x, y).mean()
        loss.backward()
        return loss

    opt.step(closure)
    expected, _ = run("sam", "closure", steps=1, rho=0.3)
    assert equal(weights(model), expected)


def test_methods_that_split_the_batch_say_how_to_call_them() -> None:
    model, (x, y) = network(3), data()
    opt = make("m-sam", model, rho=0.3)
    assert opt.needs_batch
    with pytest.raises(RuntimeError, match=r"step\(loss_fn=..., batch=...\)"):
        opt.step(closure_for(opt, model, x, y))
    losses(model)(x, y).mean().backward()
    with pytest.raises(RuntimeError, match=r"step\(loss_fn=..., batch=...\)"), opt.perturbed():
        pass


def test_loss_functions_of_the_wrong_shape_and_ragged_batches() -> None:
    model, (x, y) = network(3), data()
    opt = make("m-sam", model, rho=0.3)
    with pytest.raises(RuntimeError, match="one loss per example"):
        opt.step(loss_fn=lambda x, y: model(x), batch=(x, y))
    with pytest.raises(ValueError, match="common, positive number"):
        opt.step(loss_fn=losses(model), batch=(x, y[:3]))
    named = {"x": x, "y": y}
    opt.step(loss_fn=lambda x, y: losses(model)(x, y), batch=named)


@pytest.mark.parametrize("form", ["context", "two-step"])
def test_an_empty_closure_finishes_a_step_whose_passes_are_done(form: str) -> None:
    """Trainers pass one where their user calls step() without any."""
    model, twin = network(3), network(3)
    opt, plain = make("sam", model), make("sam", twin)
    for i in range(3):
        x, y = data(i)
        form_context(plain, twin, x, y)
        opt.zero_grad()
        losses(model)(x, y).mean().backward()
        if form == "context":
            with opt.perturbed():
                assert opt.at_perturbed_weights
                losses(model)(x, y).mean().backward()
            opt.step(lambda: None)
        else:
            opt.first_step()
            losses(model)(x, y).mean().backward()
            opt.second_step()
        assert not opt.at_perturbed_weights
    assert equal(weights(model), weights(twin))


def test_a_full_closure_after_a_pass_is_said_and_starts_over() -> None:
    model, twin = network(3, norm=False), network(3, norm=False)
    opt, plain = make("sam", model), make("sam", twin)
    losses(model)(*data(0)).mean().backward()
    with opt.perturbed():
        losses(model)(*data(0)).mean().backward()
    with pytest.warns(RuntimeWarning, match="never followed by step"):
        opt.step(closure_for(opt, model, *data(1)))
    plain.step(closure_for(plain, twin, *data(1)))
    assert equal(weights(model), weights(twin))
