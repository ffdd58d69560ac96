"""Does each member of the universal class lower its own functional of the Hessian?

Functionals S = φ(E ψ(½·uᵀHu)) of Tahmasebi et al. 2024 (arXiv 2406.03682), of the loss on the
training examples, from the whole Hessian H of a small tanh network in float64:

    trace        φ = ψ = identity, u Gaussian: ½·tr H
    determinant  φ(x) = x⁻², ψ(x) = exp(−x/2), u uniform on [−0.01, 0.01]: log S is given, which is
                 0 for a flat loss; to second order in u it is 0.01²/6·tr H
    frobenius    the variance of ½·uᵀHu under Gaussian u is ½·‖H‖_F²; ‖H‖_F² is given

The members train as their authors' code has it (λ = 1, one draw, two for a variance), which takes
the factor 1/ρ² of the objective into λ, so that the grid of ρ is one of strengths: the penalty is
ρ² times the functional for the first two, and ½·‖g‖² + ¼·ρ²·‖H‖_F² for the last, whose first part
does most. ρ of the determinant's is in units of a cube that is a hundred times smaller.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call, hessian
from torch.nn.functional import avg_pool2d, cross_entropy

from lowland import optim
from lowland.core.seeds import derived_seed, generator
from lowland.studies.effects import mean, relative_fall
from lowland.studies.matched import at_equal_loss
from lowland.studies.methods.experiments.training import (
    Digits,
    Pair,
    batches,
    digits,
    error,
    network,
    update,
)
from lowland.studies.runs import Runs
from lowland.studies.study import Claim, Effects, Finding, Planned
from lowland.studies.verdict import AtLeast
from lowland.train import Experiment
from lowland.train.history import Row

MEMBERS = {"trace-sam": "trace", "det-sam": "determinant", "frob-sam": "frobenius"}
"""Members, and the column of each one's own functional."""

OPTIONS = {"trace-sam": {}, "det-sam": {}, "frob-sam": {"lam": 1.0}}
RHOS = {"trace-sam": (0.1, 0.2), "det-sam": (10.0, 20.0), "frob-sam": (0.05, 0.1)}
CUBE = 0.01
DRAWS = 4096
SHARE = 0.1
"""Smallest fall that matters."""

_SIZES = {
    "smoke": {"examples": 64, "hidden": 3, "steps": 8, "evaluations": 2},
    "default": {"examples": 512, "hidden": 8, "steps": 320, "evaluations": 4},
    "paper": {"examples": 1024, "hidden": 16, "steps": 3200, "evaluations": 10},
}


def train(
    *,
    seed: int,
    rho: float,
    method: str,
    examples: int,
    hidden: int,
    steps: int,
    evaluations: int,
    lr: float = 0.3,
    batch_size: int = 64,
) -> Iterator[Row]:
    """Train one network, and give losses, errors and functionals as often as asked.

    Args:
        seed: of initialisation, order and directions.
        rho: ρ; 0 is plain SGD.
        method: a member, if ρ is not 0.
        examples: training images, and images that H is the Hessian on.
        hidden: units of the one hidden layer.
        steps: updates.
        evaluations: after the one at the start; `steps` is a multiple of it.
        lr, batch_size: of SGD.
    """
    data = pooled_digits(examples)
    model = network((16, hidden, 10), seed=seed, activation=nn.Tanh, dtype=torch.float64)
    opt: torch.optim.Optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    if rho:
        options = {"rho": rho, "seed": derived_seed(seed, "directions"), **OPTIONS[method]}
        opt = optim.create(method, model, opt, **options)

    def losses(x: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(model(x), y, reduction="none")

    every = steps // evaluations
    yield _row(model, data, step=0)
    for i, batch in enumerate(batches(data.train, batch_size, seed=seed, steps=steps), start=1):
        update(opt, losses, batch)
        if i % every == 0:
            yield _row(model, data, step=i)


def _row(model: nn.Module, data: Digits, *, step: int) -> Row:
    with torch.no_grad():
        loss = cross_entropy(model(data.train[0]), data.train[1])
    matrix = loss_hessian(model, data.train)
    return {
        "step": step,
        "train/loss": float(loss),
        "validation/error": error(model, data.validation),
        "test/error": error(model, data.test),
        **functionals(matrix),
    }


@functools.cache
def pooled_digits(examples: int) -> Digits:
    """Digits of 4 x 4 pixels, standardized by the training ones, which are so many."""
    whole = digits(torch.float64)
    rows = torch.randperm(len(whole.train[1]), generator=generator("cpu", "digits", "rows"))
    splits = {"train": tuple(part[rows[:examples]] for part in whole.train)}
    splits |= {"validation": whole.validation, "test": whole.test}
    small = {name: avg_pool2d(images[:, None], 2) for name, (images, _) in splits.items()}
    center, spread = small["train"].mean(0), small["train"].std(0).clamp_min(1e-12)
    return Digits(**{n: ((small[n] - center) / spread, splits[n][1]) for n in splits})


def loss_hessian(model: nn.Module, pair: Pair) -> Tensor:
    """∇²L of the mean cross-entropy in all parameters, (d, d), in their order."""
    named = dict(model.named_parameters())
    sizes = [p.numel() for p in named.values()]

    def loss(flat: Tensor) -> Tensor:
        parts = zip(named.items(), torch.split(flat, sizes), strict=True)
        weights = {name: part.view_as(p) for (name, p), part in parts}
        return cross_entropy(functional_call(model, weights, (pair[0],)), pair[1])

    flat = torch.cat([p.detach().flatten() for p in named.values()])
    matrix: Tensor = hessian(loss)(flat)
    return matrix


def functionals(matrix: Tensor) -> dict[str, float]:
    """The three functionals of a Hessian; the determinant's from `DRAWS` fixed draws."""
    u = _cube(len(matrix))
    forms = 0.5 * ((u @ matrix) * u).sum(1)
    # -2·log E exp(−q/2) without the loss of digits that log(1 − tiny) would be
    log_det = -2 * float(torch.expm1(-forms / 2).mean().log1p())
    return {
        "trace": 0.5 * float(matrix.trace()),
        "determinant": log_det,
        "frobenius": float(matrix.square().sum()),
    }


@functools.cache
def _cube(dimension: int) -> Tensor:
    draws = generator("cpu", "cube", dimension)
    unit = torch.rand(DRAWS, dimension, generator=draws, dtype=torch.float64)
    return (2 * unit - 1) * CUBE


def planned(size: str, seeds: Sequence[int]) -> list[Planned]:
    """Plain training once for all members, and every member at each ρ."""
    runs = []
    for seed in seeds:
        for member, rhos in RHOS.items():
            for rho in (0.0, *rhos):
                settings = {**_SIZES[size], "method": member if rho else "none"}
                recipe = Experiment(
                    function=f"{__name__}:train",
                    settings=settings,
                    method=member if rho else "none",
                    rho=rho,
                    seed=seed,
                )
                runs.append(Planned(group=_group(member), recipe=recipe))
    return runs


def _group(member: str) -> str:
    return f"universal/{member}"


def claims() -> tuple[Claim, ...]:
    """One for each member."""
    return tuple(
        Claim(
            name=f"{member}-lowers-its-own",
            sentence=f"{member} lowers the sharpness that it is made for: {_WORDS[column]}.",
            source="arXiv 2406.03682, abstract and §4",
            published="the bias towards the functional is proved; no published number",
            effect=(
                f"the smaller of two falls of {_WORDS[column]} from plain training to the "
                "largest ρ: at the end, and where both first reach the lowest train loss that "
                "both reach"
            ),
            unit="percent",
            rule=AtLeast(SHARE),
            reason=(
                "A tenth: less would not pay for the further pass or two that every step takes."
            ),
            find=partial(own_functional, member=member),
        )
        for member, column in MEMBERS.items()
    )


_WORDS = {
    "trace": "the trace of the Hessian",
    "determinant": "the determinant's functional, as its logarithm",
    "frobenius": "the squared Frobenius norm of the Hessian",
}


def own_functional(runs: Runs, member: str) -> Finding:
    """The smaller of the falls at the end and at equal train loss, at the largest ρ."""
    group, column = _group(member), MEMBERS[member]
    top = runs.rhos(group)[-1]
    at_end = _falls(runs, group, column, top)
    at_loss = {seed: _fall_at_loss(runs, group, column, top, seed) for seed in at_end}
    levels = [mean([runs.final(group, r, s, column) for s in at_end]) for r in (0.0, top)]
    return Finding(
        effects={seed: _least(at_end[seed], at_loss[seed]) for seed in at_end},
        detail=f"Mean at the end: {levels[0]:.4g} at ρ = 0, {levels[1]:.4g} at ρ = {top:g}.",
        beside={
            "at the end": at_end,
            "at equal train loss": at_loss,
            **{
                f"at ρ = {rho:g}": _falls(runs, group, column, rho)
                for rho in runs.rhos(group)[1:-1]
            },
            **{
                f"{_WORDS[other]}, at the end": _falls(runs, group, other, top)
                for other in MEMBERS.values()
                if other != column
            },
        },
    )


def _falls(runs: Runs, group: str, column: str, rho: float) -> Effects:
    return {
        seed: relative_fall(
            runs.final(group, 0.0, seed, column), runs.final(group, rho, seed, column)
        )
        for seed in runs.seeds(group)
    }


def _fall_at_loss(runs: Runs, group: str, column: str, rho: float, seed: int) -> float:
    """The fall at the lowest train loss that both runs reach; NaN where they share none."""
    values = at_equal_loss([runs.run(group, r, seed) for r in (0.0, rho)], column)
    return math.nan if values is None else relative_fall(*values)


def _least(*values: float) -> float:
    return math.nan if any(map(math.isnan, values)) else min(values)
