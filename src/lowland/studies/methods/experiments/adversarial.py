"""Does adversarial weight perturbation help adversarial training?

Wu et al. 2020 (arXiv 2004.05884), on the first digits: every batch is replaced by adversarial
examples made at w, five steps of projected gradient ascent on the pixels inside ±ε, and a step of
SGD or of AWP over SGD follows. The robust error is the error on examples made by twenty smaller
steps against the trained network. Learning rate, updates and the grid of γ, which stands as ρ, were
chosen on seeds from 1000 on, so that training fits its adversarial examples and a gap is left.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lowland.optim import AWP
from lowland.studies.effects import mean
from lowland.studies.methods.experiments.training import (
    Pair,
    batches,
    digits,
    error,
    network,
    update,
)
from lowland.studies.runs import Runs
from lowland.studies.study import Claim, Finding, Planned
from lowland.studies.tuned import Tuned, differences
from lowland.studies.verdict import AtLeast
from lowland.train import Experiment
from lowland.train.history import Row
from lowland.train.schedule import learning_rate

GROUP = "adversarial/awp"
RHOS = {"smoke": (0.01,), "default": (0.005, 0.01, 0.02), "paper": (0.0025, 0.005, 0.01, 0.02)}
POINTS = 0.01
"""Smallest fall of the robust error that matters: one percentage point."""

_SIZES = {
    "smoke": {"examples": 50, "steps": 1, "hidden": 8, "attack_steps": 2},
    "default": {"examples": 500, "steps": 600, "hidden": 64, "attack_steps": 20},
    "paper": {"examples": 1000, "steps": 6000, "hidden": 256, "attack_steps": 100},
}


def train(
    *,
    seed: int,
    rho: float,
    examples: int,
    steps: int,
    hidden: int,
    attack_steps: int,
    epsilon: float = 0.1,
    lr: float = 0.1,
    momentum: float = 0.9,
    batch_size: int = 50,
) -> Iterator[Row]:
    """One row: errors of the trained network on digits and on adversarial digits.

    Args:
        seed: of initialisation and order.
        rho: γ of AWP; 0 is adversarial training alone.
        examples: training images.
        steps: updates.
        hidden: units of each of two hidden layers.
        attack_steps: of the attack on the trained network.
        epsilon: ε, in grey values from 0 to 1.
        lr, momentum, batch_size: of SGD; the learning rate falls along a cosine.
    """
    data = digits()
    pair = data.train[0][:examples], data.train[1][:examples]
    model = network((64, hidden, hidden, 10), seed=seed, activation=nn.ReLU, gain=2**0.5)
    opt: torch.optim.Optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum)
    if rho:
        opt = AWP(model.parameters(), opt, rho=rho)

    def losses(x: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(model(x), y, reduction="none")

    for step, (x, y) in enumerate(batches(pair, batch_size, seed=seed, steps=steps)):
        for group in opt.param_groups:
            group["lr"] = learning_rate("cosine", lr, step=step, steps=steps)
        worst = attacked(model, x, y, epsilon=epsilon, steps=5, size=epsilon / 4)
        update(opt, losses, (worst, y))

    def robust(split: Pair) -> float:
        size = 2.5 * epsilon / attack_steps
        found = attacked(model, *split, epsilon=epsilon, steps=attack_steps, size=size)
        return error(model, (found, split[1]))

    yield {
        "train/robust-error": robust(pair),
        "validation/robust-error": robust(data.validation),
        "test/robust-error": robust(data.test),
        "test/error": error(model, data.test),
    }


def attacked(
    model: nn.Module, x: Tensor, y: Tensor, *, epsilon: float, steps: int, size: float
) -> Tensor:
    """Inputs in [0, 1] within ±ε of `x`, after sign steps up the loss, each projected back."""
    change = torch.zeros_like(x)
    for _ in range(steps):
        change.requires_grad_()
        loss = cross_entropy(model(x + change), y, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, change)
        change = (change.detach() + size * gradient.sign()).clamp(-epsilon, epsilon)
        change = (x + change).clamp(0, 1) - x
    return (x + change).detach()


def planned(size: str, seeds: Sequence[int]) -> list[Planned]:
    """Adversarial training without and with AWP."""
    return [
        Planned(
            group=GROUP,
            recipe=Experiment(
                function=f"{__name__}:train",
                settings=_SIZES[size],
                method="awp" if rho else "none",
                rho=rho,
                seed=seed,
            ),
        )
        for seed in seeds
        for rho in (0.0, *RHOS[size])
    ]


def claims() -> tuple[Claim, ...]:
    """One: the robust error falls."""
    claim = Claim(
        name="awp-robust-error",
        sentence="Adversarial training with AWP has a lower robust error than without.",
        source="arXiv 2004.05884, abstract",
        published="robust accuracy rises for several ways of adversarial training; not verified",
        effect=(
            "error on adversarial test examples without AWP minus with, at the γ with the lowest "
            "error on adversarial validation examples over the other seeds"
        ),
        unit="points",
        rule=AtLeast(POINTS),
        reason="One percentage point, of an error of about 25%: AWP costs a pass more a step.",
        find=robust_gain,
    )
    return (claim,)


def robust_gain(runs: Runs) -> Finding:
    """Robust test error at γ = 0 minus at the chosen γ."""
    tuned = Tuned.of(runs, GROUP, by="validation/robust-error")
    plain, own = tuned.plain("test/robust-error"), tuned.values("test/robust-error")
    gap = differences(plain, tuned.plain("train/robust-error"))
    own_gap = differences(own, tuned.values("train/robust-error"))
    words = [f"{mean(list(v.values())):.2%}" for v in (plain, own, gap, own_gap)]
    return Finding(
        effects=differences(plain, own),
        detail=(
            f"Mean robust error {words[0]} without, {words[1]} with; its excess over the train "
            f"examples' {words[2]} and {words[3]}.{tuned.words()}"
        ),
        resolution=1 / len(digits().test[1]),
        beside={
            "fall of the gap between train and test": differences(gap, own_gap),
            "fall of the error without an adversary": differences(
                tuned.plain("test/error"), tuned.values("test/error")
            ),
            **{
                f"at γ = {rho:g}": differences(plain, tuned.at(rho, "test/robust-error"))
                for rho in tuned.rhos
            },
        },
    )
