"""Every instrument that is given a model, as the test that none does harm calls it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lowland import measure as m
from lowland.measure import INSTRUMENTS

Run = Callable[[nn.Module, Any, Any], object]


@dataclass(frozen=True)
class Case:
    """How to call an instrument with (model, loss, batches), and what of them it uses.

    Attributes:
        run: the call.
        loss: whether it calls the loss.
        data: whether it reads the batches and runs the model.
        repeats: whether it asks that two passes give the same, and says so where they do not.
    """

    run: Run
    loss: bool = True
    data: bool = True
    repeats: bool = False


QUICK: dict[str, dict[str, Any]] = {
    "average-sharpness": {"draws": 3},
    "worst-sharpness": {"steps": 3, "restarts": 2},
    "eigenvalue": {"max_products": 12},
    "trace": {"max_products": 30},
    "hessian-moments": {"max_products": 6},
}
"""Options that make an instrument of the table quick."""


def _inspect(name: str, model: nn.Module, loss: Any, data: Any) -> object:
    options = {name: QUICK[name]} if name in QUICK else {}
    return m.inspect_model(model, data, [name], loss_fn=loss, options=options)


def other(model: nn.Module, power: float = 1.1) -> dict[str, Tensor]:
    """Another checkpoint of the same network."""
    found = copy.deepcopy(model.state_dict())
    for tensor in found.values():
        if tensor.is_floating_point():
            tensor.copy_(tensor.sign() * tensor.abs() ** power)
    return found


OF_FEATURES: dict[str, Run] = {
    "capture": lambda model, loss, data: m.capture(model, data),
    "capture of inputs": lambda model, loss, data: m.capture(
        model, data, where=["input", "output"]
    ),
    "rank of a stream": lambda model, loss, data: m.feature_rank(m.stream(model, data, "block2")),
    "bounds of a stream": lambda model, loss, data: m.rank_bounds(m.stream(model, data, "block1")),
    "bounds of a stream, at random": lambda model, loss, data: m.rank_bounds(
        m.stream(model, data, "block2"), size=4, sketch="random"
    ),
    "all ranks of a stream": lambda model, loss, data: m.feature_spectrum(
        m.stream(model, data, "block2")
    ).all(),
    "published rank of a stream": lambda model, loss, data: m.feature_rank(
        m.stream(model, data, "block2"), rule="published"
    ),
    "active units of a stream": lambda model, loss, data: m.active_units(
        m.stream(model, data, "block1")
    ),
    "cka of two streams": lambda model, loss, data: m.cka(
        m.stream(model, data, "block1"), m.stream(model, data, "block2"), estimator="biased"
    ),
    "units of a stream": lambda model, loss, data: m.distinct_units(
        m.stream(model, data, "block1")
    ),
}
OF_THE_LOSS: dict[str, Run] = {
    "mean_loss": lambda model, loss, data: m.mean_loss(model, loss, data),
    "one_step_sharpness in training mode": lambda model, loss, data: m.one_step_sharpness(
        model, loss, data, rho=0.5, training_mode=True
    ),
    "one_step_sharpness, adaptive": lambda model, loss, data: m.one_step_sharpness(
        model, loss, data, rho=0.5, p=4.0, adaptive="filterwise", m=3
    ),
    "activation_noise_sharpness": lambda model, loss, data: m.activation_noise_sharpness(
        model, loss, data, draws=2, blocks="block1,block2"
    ),
    "average_sharpness": lambda model, loss, data: m.average_sharpness(
        model, loss, data, rho=0.1, draws=3, antithetic=True, m="batch"
    ),
    "worst_sharpness": lambda model, loss, data: m.worst_sharpness(
        model, loss, data, rho=0.1, steps=3, restarts=2, m=None
    ),
    "loss_line": lambda model, loss, data: m.loss_line(
        model, loss, data, points=3, batch_norm="reestimated"
    ),
    "loss_plane": lambda model, loss, data: m.loss_plane(model, loss, data, points=3),
    "linear_path": lambda model, loss, data: m.linear_path(
        model, loss, data, other(model), points=3
    ),
    "bezier_path": lambda model, loss, data: m.bezier_path(
        model, loss, data, other(model), points=3, steps=4
    ),
}
OF_MEMBERSHIP: dict[str, Run] = {
    "membership_advantage": lambda model, loss, data: m.membership_advantage(
        model, loss, data, data
    ),
}
OF_SHADOWS: dict[str, Run] = {
    "likelihood_ratio_advantage": lambda model, loss, data: m.likelihood_ratio_advantage(
        model,
        [model, model, model, model],
        data,
        members=torch.arange(10) % 2 == 0,
        membership=(torch.arange(10)[None] + torch.arange(4)[:, None]) % 2 == 0,
    ),
}
OF_CURVATURE: dict[str, Run] = {
    "hessian_eigenvalues": lambda model, loss, data: m.hessian_eigenvalues(
        model, loss, data, 2, which="magnitude", max_products=12
    ),
    "max_eigenvalue": lambda model, loss, data: m.max_eigenvalue(
        model, loss, data, matrix="ggn", max_products=12
    ),
    "hessian_trace": lambda model, loss, data: m.hessian_trace(model, loss, data, max_products=30),
    "hessian_density": lambda model, loss, data: m.hessian_density(
        model, loss, data, probes=2, steps=4
    ),
    "hessian_moments": lambda model, loss, data: m.hessian_moments(
        model, loss, data, max_products=6
    ),
    "sam_stability": lambda model, loss, data: m.sam_stability(
        model, loss, data, lr=0.1, rho=0.05, max_products=6
    ),
}
OF_WEIGHTS: dict[str, Run] = {
    "weight_norm": lambda model, loss, data: m.weight_norm(model),
    "weight_ranks": lambda model, loss, data: m.weight_ranks(model, split_attention=True),
    "random_direction": lambda model, loss, data: m.random_direction(model),
    "direction_towards": lambda model, loss, data: m.direction_towards(model, other(model)),
    "trajectory_directions": lambda model, loss, data: m.trajectory_directions(
        model, [other(model), other(model, 1.5), model.state_dict()]
    ),
}
REPEATS = ("eigenvalue", "trace", "hessian-moments")

CASES: dict[str, Case] = {
    **{name: Case(run, loss=False) for name, run in OF_FEATURES.items()},
    **{name: Case(run) for name, run in (OF_THE_LOSS | OF_MEMBERSHIP).items()},
    **{name: Case(run, loss=False) for name, run in OF_SHADOWS.items()},
    **{name: Case(run, repeats=True) for name, run in OF_CURVATURE.items()},
    **{name: Case(run, loss=False, data=False) for name, run in OF_WEIGHTS.items()},
    **{
        f"inspect {name}": Case(
            partial(_inspect, name),
            loss=instrument.looks_at == "loss",
            data=instrument.looks_at != "weights",
            repeats=name in REPEATS,
        )
        for name, instrument in INSTRUMENTS.items()
    },
}
NOT_INSTRUMENTS = {"matching_blocks", "residual_streams"}
"""What takes a model to look up names, or needs blocks of a transformer (it has its own test)."""
