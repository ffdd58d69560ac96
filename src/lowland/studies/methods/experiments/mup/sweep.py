"""The trainings of one width, and what ε does to each layer."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lowland.core.seeds import generator
from lowland.optim import SAM, MuP2, SharpnessAware, coordinate_check, mup_groups
from lowland.studies.methods.experiments.training import (
    Pair,
    batches,
    centered,
    digits,
    network,
    update,
)
from lowland.train.history import Row

BASE = 64
FACTOR = 2.0
"""One step of both grids."""
LR, RHO = 0.2, 0.4
LAYERS = ("layer1", "layer2", "layer3")
TIMES = ("start", "middle", "end")
WORST = 1e6
"""Loss of a network that diverged: as bad as one can be, which is a result of its place."""


def sweep(
    *,
    seed: int,
    rho: float,
    width: int,
    scaled: bool,
    reach: int,
    steps: int,
    examples: int,
    batch_size: int,
    lr: float = LR,
    noise: float = 0.4,
) -> Iterator[Row]:
    """One row per place of the cross, the middle last: lr, ρ and validation loss after training.

    The middle also has what ε does to each layer, at the start, middle and end of training.

    Args:
        seed: of initialisation, labels and order.
        rho: the middle ρ.
        width: of both hidden layers.
        scaled: muP² rather than standard.
        reach: steps of the grid to each side of the middle; for the learning rate one more below
            and one less above.
        steps: updates.
        examples: training images.
        batch_size: of SGD.
        lr: the middle learning rate, at base width.
        noise: share of training labels that are drawn anew.
    """
    train, validation = noisy_digits(examples, noise, seed)
    # SAM's learning rates fall with the width, so there is more room below
    rates = [lr * FACTOR**k for k in range(-reach - 1, reach) if k]
    radii = [rho * FACTOR**k for k in range(-reach, reach + 1) if k]
    cross = [(rate, rho) for rate in rates] + [(lr, radius) for radius in radii] + [(lr, rho)]
    for i, (rate, radius) in enumerate(cross):
        model, opt = build(seed, width, scaled=scaled, lr=rate, rho=radius)
        times = {0: "start", steps // 2: "middle", steps: "end"} if i == len(cross) - 1 else {}
        changes: Row = {}
        for step, batch in enumerate(batches(train, batch_size, seed=seed, steps=steps)):
            if step in times:
                changes |= _changes(times[step], model, opt, train)
            update(opt, functools.partial(_losses, model), batch)
        if times:
            changes |= _changes(times[steps], model, opt, train)
        with torch.no_grad():
            loss = float(cross_entropy(model(validation[0]), validation[1]))
        loss = loss if loss < WORST else WORST  # NaN too
        yield {"lr": rate, "rho": radius, "validation/loss": loss, **changes}


def build(
    seed: int, width: int, *, scaled: bool, lr: float, rho: float
) -> tuple[nn.Module, SharpnessAware]:
    """A network and its optimizer in one of the two parametrisations."""
    make = functools.partial(network, seed=seed, activation=nn.Tanh, gain=math.sqrt(2))
    model = make((64, width, width, 10))
    if not scaled:
        return model, SAM(model.parameters(), torch.optim.SGD, lr=lr, rho=rho, model=model)
    with torch.no_grad():
        model.get_parameter(f"{LAYERS[-1]}.weight").mul_(math.sqrt(BASE / width))
    base = make((64, BASE, BASE, 10))
    groups: Any = mup_groups(model, base, lr)
    return model, MuP2(groups, torch.optim.SGD, lr=lr, rho=rho, model=model, base_model=base)


def _losses(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return cross_entropy(model(x), y, reduction="none")


def _changes(when: str, model: nn.Module, opt: SharpnessAware, pair: Pair) -> Row:
    """Root mean square by which ε changes each layer's own output, on all training examples."""
    opt.zero_grad()
    width = 0  # the network is there already
    table = coordinate_check(
        lambda _: (model, opt),
        [width],
        lambda network: cross_entropy(network(pair[0]), pair[1]),
        seeds=[0],
    )
    opt.zero_grad()
    return {f"change/{when}/{layer}": change for layer, (change,) in table.items()}


@functools.lru_cache(maxsize=4)
def noisy_digits(examples: int, noise: float, seed: int) -> tuple[Pair, Pair]:
    """The first training digits, some of their labels drawn anew, and the validation split."""
    data = centered(digits())
    images, labels = data.train[0][:examples], data.train[1][:examples].clone()
    draws = generator("cpu", seed, "label noise")
    wrong = torch.rand(len(labels), generator=draws) < noise
    labels[wrong] = torch.randint(10, (int(wrong.sum()),), generator=draws)
    return (images, labels), data.validation
