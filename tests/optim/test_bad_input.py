"""What the constructor and `create` refuse: one line that says what to do."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from problems import data, losses, network
from torch import nn

from lowland import InputError
from lowland.optim import (
    FSAM,
    METHODS,
    MSAM,
    SAM,
    SAMON,
    LookSAM,
    Named,
    Perturbation,
    SharpnessAware,
    create,
)

SGD = torch.optim.SGD


def refused(match: str, call: Any) -> None:
    with pytest.raises(InputError, match=match) as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("rho", [-0.1, float("nan"), float("inf"), "0.1", None, True])
def test_rho(rho: Any) -> None:
    refused("give a finite number", lambda: SAM(network().parameters(), SGD, lr=0.1, rho=rho))


def test_rho_of_a_group() -> None:
    groups = [{"params": list(network().parameters()), "rho": -1.0}]
    refused("rho is -1", lambda: SAM(groups, SGD, lr=0.1))


def test_bases() -> None:
    p = list(network().parameters())
    refused("LBFGS", lambda: SAM(p, torch.optim.LBFGS, lr=0.1))
    refused("LBFGS", lambda: SAM(p, torch.optim.LBFGS(p)))
    refused("torch.optim class", lambda: SAM(p, "sgd", lr=0.1))  # type: ignore[arg-type]
    refused("torch.optim class", lambda: SAM(p, lr=0.1))
    refused("already", lambda: SAM(p, SAM(p, SGD, lr=0.1)))
    refused("unexpected lr", lambda: SAM(p, SGD(p, lr=0.1), lr=0.2))
    refused("exactly the ones", lambda: SAM(p[:2], SGD(p, lr=0.1)))
    refused("groups beside", lambda: SAM([{"params": p}], SGD(p, lr=0.1)))
    SAM(p, base_optimizer=SGD, lr=0.1)  # as older code names it


def test_empty_parameter_lists() -> None:
    refused("empty", lambda: SAM([], SGD, lr=0.1))
    refused("empty", lambda: SAM([], SGD(network().parameters(), lr=0.1)))


def test_intervals() -> None:
    p = list(network().parameters())
    refused("every is 0", lambda: SAM(p, SGD, lr=0.1, every=0))
    refused("start is -1", lambda: SAM(p, SGD, lr=0.1, start=-1))
    refused("end is 4 and start 5", lambda: SAM(p, SGD, lr=0.1, start=5, end=4))


def test_settings_of_methods() -> None:
    p = list(network().parameters())
    refused("m is 0", lambda: MSAM(p, SGD, m=0, lr=0.1))
    refused("k is 0", lambda: LookSAM(p, SGD, k=0, lr=0.1))
    refused("ema_decay is 1.0", lambda: FSAM(p, SGD, ema_decay=1.0, lr=0.1))
    refused("ema_decay is 1.0", lambda: FSAM(p, SGD, along="mean", ema_decay=1.0, lr=0.1))
    refused("unknown direction 'full'", lambda: FSAM(p, SGD, along="full", lr=0.1))
    refused("'before' or 'after'", lambda: FSAM(p, SGD, ema="then", lr=0.1))


def test_selections_that_find_nothing() -> None:
    plain = nn.Linear(2, 2)
    refused("pass model=", lambda: SAMON(plain.parameters(), SGD, lr=0.1))
    refused("no normalization", lambda: SAMON(plain.parameters(), SGD, lr=0.1, model=plain))
    other = network()
    refused("nothing to perturb", lambda: SAMON(plain.parameters(), SGD, lr=0.1, model=other))

    def named(glob: str) -> SharpnessAware:
        return SharpnessAware(
            other.parameters(), SGD, lr=0.1, model=other, perturbation=Perturbation(Named(glob))
        )

    refused(r"unknown parameter '3\.weigth': did you mean '3\.weight'", lambda: named("3.weigth"))
    named("3.*")


def test_unknown_method() -> None:
    refused(
        "unknown method 'looksan': did you mean 'looksam'",
        lambda: create("looksan", network(), SGD),
    )
    assert next(iter(METHODS)) == "sam"


def test_every_method_says_what_it_costs_and_how_sure_it_is() -> None:
    for method in METHODS.values():
        text = inspect.getdoc(method.optimizer) or ""
        said = ["Args:", "ost", "onfidence", method.source]
        assert all(word in text for word in said), method.name


def test_sparse_gradients() -> None:
    embedding = nn.Embedding(5, 2, sparse=True)
    opt = SAM(embedding.parameters(), SGD, lr=0.1, rho=0.1)
    embedding(torch.tensor([1, 2])).sum().backward()
    with pytest.raises(RuntimeError, match="sparse=False"):
        opt.first_step()
    plain = SAM(embedding.parameters(), SGD, lr=0.1, rho=0.0)
    before = embedding.weight.detach().clone()
    plain.zero_grad()
    embedding(torch.tensor([1, 2])).sum().backward()
    plain.step()
    assert not torch.equal(embedding.weight, before)


def test_loss_terms_need_the_losses() -> None:
    model, (x, y) = network(), data()
    opt = SAM(model.parameters(), SGD, lr=0.1, loss_terms=[lambda v, b, p: v])
    with pytest.raises(RuntimeError, match="loss terms"):
        opt.step(lambda: losses(model)(x, y).mean())


@pytest.mark.parametrize("kind", [FSAM, LookSAM])
def test_an_epsilon_per_device_in_methods_that_keep_the_gradient(kind: Any) -> None:
    """The gradient that they remember would differ between devices."""
    p = list(network().parameters())
    refused(
        "uses the gradient at w for ε alone", lambda: kind(p, SGD, lr=0.1, perturbation="local")
    )
