"""Gradients that are not finite: the step is skipped, counted, said (contract 3)."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from forms import (
    FORMS,
    NAMES_AND_FORMS,
    failing,
    make,
    on_batch,
)
from problems import data, equal, losses, network, weights
from torch import Tensor, nn

from lowland.optim import METHODS, SAM, SAMON


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("which", [1, 2])
@pytest.mark.parametrize(("name", "form"), NAMES_AND_FORMS)
@pytest.mark.parametrize("base", ["sgd", "adam fused"])
def test_not_finite_means_skipped(name: str, form: str, which: int, bad: float, base: str) -> None:
    model, reference = network(3), network(3)
    opt, clean = make(name, model, base, rho=0.3), make(name, reference, base, rho=0.3)
    for i in range(3):
        FORMS[form](opt, model, *data(i))
        FORMS[form](clean, reference, *data(i))
    opt.param_groups[0]["start"] = clean.param_groups[0]["start"] = 3  # a full step comes next
    before, state = weights(model), copy.deepcopy(opt.state_dict()["state"])
    statistics = [b.clone() for b in model.buffers()]
    calls = 0

    def poisoned(x: Tensor, y: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        out = losses(model)(x, y)
        return out * bad if calls == which else out

    if name == "esam" and which == 2:
        which = 3  # the second forward is the one that chooses examples
    if name in ("gradient-norm", "saf"):
        which = 1  # there is one pass
    if name == "mesa":
        which = 2  # the first forward is for its logits alone
    with pytest.warns(RuntimeWarning, match="not finite"):
        _failing_step(form, opt, model, poisoned, data(50))
    assert equal(weights(model), before)
    assert _same(opt.state_dict()["state"], state)
    assert opt.last is not None
    assert bool(opt.last.skipped)
    assert int(opt.last.skipped_total) == 1
    for b, old in zip(model.buffers(), statistics, strict=True):
        b.copy_(old)
    opt.zero_grad()
    for group in opt.param_groups:
        group["sam_step"] -= 1
    for i in range(3, 6):
        FORMS[form](opt, model, *data(i))
        FORMS[form](clean, reference, *data(i))
    assert equal(weights(model), weights(reference))


def _failing_step(form: str, opt: Any, model: nn.Module, fn: Any, batch: Any) -> None:
    failing(form, opt, model, fn, batch, True)
    if form == "context":
        opt.step()
    elif form == "two-step":
        opt.second_step()


def _same(left: Any, right: Any) -> bool:
    if isinstance(left, Tensor):
        return torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(_same(left[k], right[k]) for k in left)
    return bool(left == right)


@pytest.mark.parametrize("which", [0, 1, 2])
@pytest.mark.parametrize("name", [n for n, m in METHODS.items() if m.kind != "base optimizer"])
def test_skipping_on_the_device_agrees_with_skipping_on_the_host(name: str, which: int) -> None:
    ends = []
    for nonfinite in ("skip", "device"):
        model = network(3)
        opt = make(name, model, "adam fused", rho=0.3, nonfinite=nonfinite)
        for i in range(6):
            calls = 0

            def fn(x: Tensor, y: Tensor, i: int = i, model: nn.Module = model) -> Tensor:
                nonlocal calls
                calls += 1
                out = losses(model)(x, y)
                return out * float("nan") if i == 3 and calls == which else out

            statistics = [b.clone() for b in model.buffers()]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                on_batch(opt, model, fn, data(i))
            if i == 3:
                for b, old in zip(model.buffers(), statistics, strict=True):
                    b.copy_(old)
        assert opt.last is not None
        ends.append((weights(model), int(opt.last.skipped_total)))
    assert equal(ends[0][0], ends[1][0])
    assert ends[0][1] == ends[1][1]


@pytest.mark.parametrize("form", FORMS)
def test_a_radius_that_leaves_the_number_range_is_skipped(form: str) -> None:
    model = network(3)
    opt = make("sam", model, rho=1e39)
    before = weights(model)
    with pytest.warns(RuntimeWarning, match="not finite"):
        FORMS[form](opt, model, *data(0))
    assert equal(weights(model), before)


def test_device_skipping_is_refused_where_the_base_cannot() -> None:
    with pytest.raises(ValueError, match="fused=True"):
        SAM(network().parameters(), torch.optim.SGD, lr=0.1, nonfinite="device")
    with pytest.raises(ValueError, match="did you mean 'skip'"):
        SAM(network().parameters(), torch.optim.SGD, lr=0.1, nonfinite="skp")


def test_non_finite_gradients_outside_the_selection_are_seen() -> None:
    model, (x, y) = network(3), data()
    opt = SAMON(model.parameters(), torch.optim.SGD, model=model, rho=0.3, lr=0.1)
    before = weights(model)

    def closure() -> Tensor:
        opt.zero_grad()
        loss = losses(model)(x, y).mean()
        loss.backward()
        if not opt.displaced_once:  # type: ignore[attr-defined]
            model[0].weight.grad.fill_(float("inf"))
            opt.displaced_once = True  # type: ignore[attr-defined]
        return loss

    opt.displaced_once = False  # type: ignore[attr-defined]
    with pytest.warns(RuntimeWarning, match="not finite"):
        opt.step(closure)
    assert equal(weights(model), before)
