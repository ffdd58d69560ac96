"""n-SAM, RW-SAM, Agnostic-SAM, Balanced SAM: methods that weigh or add data."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from family import (
    BASE,
    DTYPES,
    SGD,
    Drawn,
    batches,
    close,
    descend,
    drawn,
    each,
    end_of,
    epsilon_in,
    grad,
    moved,
    unit,
    within,
)
from problems import data, equal, losses, network, norm, weights
from torch import Tensor, nn

from lowland.core.errors import InputError
from lowland.optim import NSAM, RWSAM, SAM, AgnosticSAM, BalancedSAM, label_weights

__all__ = ["drawn"]

RHO = 0.3


# n-SAM


@DTYPES
def test_nsam_is_its_formula(dtype: torch.dtype) -> None:
    others = [data(50, n=5, dtype=dtype), data(51, n=9, dtype=dtype)]

    def rule(model: nn.Module, x: Tensor, y: Tensor, memory: dict[str, Any]) -> list[Any]:
        parts = [[len(b) * t for t in grad(model, a, b)] for a, b in others]
        g = [sum(ts) / 14 for ts in zip(*parts, strict=True)]
        return list(grad(moved(model, unit(g), RHO), x, y))

    for source in (others, lambda: iter(others)):
        model = network(1, dtype)
        opt = NSAM(model.parameters(), SGD, ascent_data=source, rho=RHO, model=model, **BASE)
        descend(opt, model, rule, batches(dtype), within(dtype), statistics=False)


def test_nsam_moves_running_statistics() -> None:
    """Some pass of the step has to: evaluation would run on their initial values."""
    model = network(1)
    opt = NSAM(model.parameters(), SGD, ascent_data=[data(50)], model=model, **BASE)
    for x, y in batches(torch.float32):
        opt.step(loss_fn=losses(model), batch=(x, y))
    assert int(model[1].num_batches_tracked) > 0
    assert bool(model[1].running_mean.any())


@DTYPES
def test_nsam_on_its_own_batch_is_sam_bit_for_bit(dtype: torch.dtype) -> None:
    sam = end_of(SAM, dtype, rho=RHO)
    assert equal(end_of(NSAM, dtype, rho=RHO), sam)
    feed = iter(batches(dtype))
    # the running statistics move in no pass at w then
    full = end_of(NSAM, dtype, rho=RHO, ascent_data=lambda: [next(feed)])
    assert equal(full[:-3], sam[:-3])


# RW-SAM


@DTYPES
@pytest.mark.parametrize("lam", [0.0, 1.0, 10.0])
def test_rwsam_is_its_formula(dtype: torch.dtype, lam: float, drawn: Drawn) -> None:
    delta = 1e-3 if dtype == torch.float64 else 0.05

    def rule(model: nn.Module, x: Tensor, y: Tensor, memory: dict[str, Any]) -> list[Any]:
        (z,) = drawn.directions
        assert all(bool((t.abs() == 1).all()) for t in z)
        slopes = (each(moved(model, z, delta), x, y) - each(model, x, y)).abs() / delta
        p = (lam * slopes).exp() / (lam * slopes).exp().sum()
        return list(grad(moved(model, unit(grad(model, x, y, p)), RHO), x, y))

    model = network(2, dtype)
    opt = RWSAM(model.parameters(), SGD, lam=lam, delta=delta, rho=RHO, model=model, **BASE)
    descend(opt, model, rule, batches(dtype), within(dtype), drawn)


@DTYPES
def test_rwsam_with_equal_weights_is_sam(dtype: torch.dtype) -> None:
    sam = end_of(SAM, dtype, rho=RHO)
    close(end_of(RWSAM, dtype, rho=RHO, lam=0.0), sam, within(dtype))
    ways = []
    for kind in (RWSAM, SAM):  # equal slopes: one example, many times
        model, (x, y) = network(3, dtype, norm=False), data(3, n=1, dtype=dtype)
        opt = kind(
            model.parameters(), SGD, rho=RHO, lr=0.1, **({"lam": 5.0} if kind is RWSAM else {})
        )
        opt.step(loss_fn=losses(model), batch=(x.repeat(6, 1), y.repeat(6)))
        ways.append(weights(model))
    close(ways[0], ways[1], within(dtype))


def test_rwsam_with_a_large_lambda_perturbs_along_the_steepest(drawn: Drawn) -> None:
    model, (x, y) = network(4, torch.float64, norm=False), data(4, dtype=torch.float64)
    opt = RWSAM(model.parameters(), SGD, rho=RHO, lam=1e9, lr=0.1)
    twin = moved(model, weights(model), 0.0)
    near, at_w, away = epsilon_in(opt, model, x, y)
    assert not any(t.any() for t in at_w)
    (z,) = drawn.directions
    for a, b in zip(near, z, strict=True):
        torch.testing.assert_close(a, 1e-3 * b, atol=1e-12, rtol=0)
    slopes = (each(moved(twin, z, 1e-3), x, y) - each(twin, x, y)).abs()
    i = int(slopes.argmax())
    one = unit(grad(twin, x[i : i + 1], y[i : i + 1]))
    for a, b in zip(away, one, strict=True):
        torch.testing.assert_close(a, RHO * b, atol=1e-9, rtol=1e-9)


def test_rwsam_compares_losses_in_one_mode() -> None:
    """bn_second="eval" would put the gap between the modes into the slopes."""
    model = network(5, torch.float64)
    with pytest.raises(InputError, match="use 'frozen' or 'update'"):
        RWSAM(model.parameters(), SGD, lr=0.1, model=model, bn_second="eval")


# Agnostic-SAM


@DTYPES
@pytest.mark.parametrize("rho2", [0.0, 0.15, 0.4])
def test_agnostic_with_a_running_mean_is_its_formula(dtype: torch.dtype, rho2: float) -> None:
    def rule(model: nn.Module, x: Tensor, y: Tensor, memory: dict[str, Any]) -> list[Any]:
        g, old = grad(model, x, y), memory.get("m")
        memory["m"] = g if old is None else [0.8 * m + 0.2 * t for m, t in zip(old, g, strict=True)]
        at = moved(model, unit(g), RHO)
        return list(grad(at if old is None else moved(at, unit(old), -rho2), x, y))

    model = network(6, dtype)
    opt = AgnosticSAM(
        model.parameters(), SGD, rho=RHO, rho2=rho2, ema_decay=0.8, model=model, **BASE
    )
    descend(opt, model, rule, batches(dtype), within(dtype))


@DTYPES
def test_agnostic_with_validation_is_its_formula(dtype: torch.dtype) -> None:
    held = [data(60, n=5, dtype=dtype), data(61, n=7, dtype=dtype)]

    def rule(model: nn.Module, x: Tensor, y: Tensor, memory: dict[str, Any]) -> list[Any]:
        parts = [[len(b) * t for t in grad(model, a, b)] for a, b in held]
        v = [sum(ts) / 12 for ts in zip(*parts, strict=True)]
        at = moved(moved(model, unit(grad(model, x, y)), RHO), unit(v), -RHO / 2)
        return list(grad(at, x, y))

    model = network(6, dtype)
    opt = AgnosticSAM(
        model.parameters(), SGD, rho=RHO, validation=lambda: held, model=model, **BASE
    )
    descend(opt, model, rule, batches(dtype), within(dtype))


@DTYPES
def test_agnostic_reductions(dtype: torch.dtype) -> None:
    sam = end_of(SAM, dtype, rho=RHO)
    assert equal(end_of(AgnosticSAM, dtype, rho=RHO, rho2=0.0), sam)
    other = [data(70, dtype=dtype)]
    assert equal(end_of(AgnosticSAM, dtype, rho=RHO, rho2=0.0, validation=lambda: other), sam)
    feed = iter(batches(dtype))
    same = end_of(AgnosticSAM, dtype, rho=RHO, rho2=0.1, validation=lambda: [next(feed)])
    close(same, end_of(SAM, dtype, rho=RHO - 0.1), within(dtype))


def test_agnostic_epsilon_lies_between_its_radii() -> None:
    model = network(8, torch.float64, norm=False)
    held = [data(80, dtype=torch.float64)]
    kind = {"rho": RHO, "rho2": 0.1, "lr": 0.1}
    for own in ({}, {"validation": lambda: held}):
        opt = AgnosticSAM(model.parameters(), SGD, **kind, **own)
        for i in range(3):
            size = float(norm(epsilon_in(opt, model, *data(i, dtype=torch.float64))[-1]))
            assert RHO - 0.1 - 1e-9 <= size <= RHO + 0.1 + 1e-9


# Balanced SAM


@DTYPES
def test_balanced_is_its_formula(dtype: torch.dtype) -> None:
    omega = label_weights(torch.tensor([0] * 9 + [1] * 4 + [2]))
    assert torch.equal(omega, torch.tensor([1 / 3, 1 / 2, 1.0]))

    def rule(model: nn.Module, x: Tensor, y: Tensor, memory: dict[str, Any]) -> list[Any]:
        p = omega.to(dtype)[y] / len(y)
        return list(grad(moved(model, unit(grad(model, x, y, p)), RHO), x, y, p))

    model = network(9, dtype)
    opt = BalancedSAM(model.parameters(), SGD, weights=omega, rho=RHO, model=model, **BASE)
    descend(opt, model, rule, batches(dtype), within(dtype))


@DTYPES
def test_balanced_with_equal_weights_is_sam_bit_for_bit(dtype: torch.dtype) -> None:
    equal_weights = end_of(BalancedSAM, dtype, rho=RHO, weights=torch.ones(3))
    assert equal(equal_weights, end_of(SAM, dtype, rho=RHO))


def test_scaling_balanced_weights_scales_u_alone() -> None:
    """Powers of two, so that the comparison is exact but for the guard."""
    moves, epsilons = [], []
    for c in (1.0, 4.0):
        model, (x, y) = network(9, torch.float64), data(9, dtype=torch.float64)
        omega, before = c * torch.tensor([0.3, 1.0, 0.7]), weights(model)
        opt = BalancedSAM(model.parameters(), SGD, weights=omega, rho=RHO, lr=0.1, model=model)
        epsilons.append(epsilon_in(opt, model, x, y)[-1])
        moves.append([a - b for a, b in zip(weights(model), before, strict=True)])
    for e, f in zip(*epsilons, strict=True):
        torch.testing.assert_close(e, f, rtol=1e-9, atol=1e-12)
    for a, b in zip(*moves, strict=True):
        torch.testing.assert_close(4 * a, b, rtol=1e-8, atol=1e-12)


def test_label_weights_count_rounded_bins() -> None:
    out = label_weights(torch.tensor([0.4, 0.2, 1.6, 2.4, 2.0, 1.8]), mean_one=False)
    torch.testing.assert_close(out, torch.tensor([2**-0.5, 0.0, 0.5]))
    labels = torch.tensor([0, 0, 0, 3, 3, 5])
    scaled, raw = label_weights(labels, mean_one=True), label_weights(labels)
    torch.testing.assert_close(scaled[labels].mean(), torch.ones(()))
    torch.testing.assert_close(scaled / scaled[0], raw / raw[0])
    with pytest.raises(InputError, match="shift them"):
        label_weights(torch.tensor([0, -1]))
    with pytest.raises(InputError, match="label_weights"):
        BalancedSAM([nn.Parameter(torch.ones(2))], SGD, lr=0.1)
    model, (x, y) = network(), data()
    opt = BalancedSAM(model.parameters(), SGD, lr=0.1, weights=torch.ones(3))
    with pytest.raises(InputError, match="reduction='none'"):
        opt.step(loss_fn=lambda x, y: losses(model)(x, y).mean(), batch=(x, y))
