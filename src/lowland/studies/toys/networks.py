"""Membership in the training set of small networks, plain and trained with SAM, over width."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lowland.measure.privacy import loss_threshold_attack
from lowland.train.stack import Stack, StackPlan, train

Row = dict[str, float | int]

INPUTS, CLASSES, TEACHER = 10, 3, 4
NON_MEMBERS = 500
"""Examples for the attack beside the members, and as many to choose ρ on."""


@dataclass(frozen=True)
class Drawn:
    """One seed's data: inputs and labels of members, of others, and of those to choose ρ on."""

    members: tuple[Tensor, Tensor]
    others: tuple[Tensor, Tensor]
    validation: tuple[Tensor, Tensor]


def draw(seed: int, examples: int, flipped: float) -> Drawn:
    """Gaussian inputs, labels of a random network of four tanh units, some replaced at random.

    Members and others are drawn alike, label noise included: an attack that finds a difference has
    found memory.

    Args:
        seed: of the teacher, the inputs and the noise.
        examples: members.
        flipped: share of labels that are replaced by a random class.
    """
    g = torch.Generator().manual_seed(seed)
    first = torch.randn(INPUTS, TEACHER, generator=g)
    last = torch.randn(TEACHER, CLASSES, generator=g)

    def some(n: int) -> tuple[Tensor, Tensor]:
        x = torch.randn(n, INPUTS, generator=g)
        labels = (torch.tanh(x @ first) @ last).argmax(1)
        noisy = torch.rand(n, generator=g) < flipped
        return x, torch.where(noisy, torch.randint(CLASSES, (n,), generator=g), labels)

    return Drawn(some(examples), some(NON_MEMBERS), some(NON_MEMBERS))


def attacks(
    *,
    seed: int,
    rho: float,
    count: int,
    width: int,
    radii: Sequence[float],
    examples: int,
    epochs: int,
    evaluations: int,
    flipped: float = 0.2,
    lr: float = 0.1,
    batch_size: int = 50,
) -> Iterator[Row]:
    """Rows over training: how well the loss of an example tells members from others, by ρ.

    All ρ of a seed have the same data, initialisation and batches. ``advantage`` is at a threshold
    from one half of the examples, on the other, and the other way round; ``auc`` needs none.

    Args:
        seed: the first seed.
        rho: not used; the radii are.
        count: seeds from the first one on.
        width: hidden units.
        radii: ρ of SAM; 0 is plain SGD.
        examples: members.
        epochs: passes over them.
        evaluations: how many times the attack is made.
        flipped: share of labels that are replaced at random.
        lr: at the start; cosine, momentum 0.9.
        batch_size: examples in a batch.
    """
    for one in range(seed, seed + count):
        data = draw(one, examples, flipped)
        yield from _of_seed(
            one, data, width, radii, epochs, evaluations, lr=lr, batch_size=batch_size
        )


def _of_seed(
    seed: int,
    data: Drawn,
    width: int,
    radii: Sequence[float],
    epochs: int,
    evaluations: int,
    *,
    lr: float,
    batch_size: int,
) -> Iterator[Row]:
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(INPUTS, width), nn.ReLU(), nn.Linear(width, CLASSES))
    stack = Stack([network] * len(radii))
    plan = StackPlan(
        seeds=[seed] * len(radii), rho=list(radii), lr=lr, epochs=epochs, batch_size=batch_size
    )
    steps = epochs * (len(data.members[1]) // batch_size)
    wanted = {round(steps * k / evaluations) for k in range(1, evaluations + 1)}
    times: list[tuple[int, list[Row]]] = []

    def evaluate(step: int, networks: Stack) -> None:
        times.append((step, _rows(seed, networks, data, len(radii))))

    trained = train(stack, *data.members, plan, evaluate_at={0, *wanted}, on_evaluation=evaluate)
    for step, found in times:
        for k, (rho, row) in enumerate(zip(radii, found, strict=True)):
            values = dict.fromkeys(row, math.nan) if trained.lost(k, step) else row
            yield {"rho": rho, "seed": seed, "step": step, **values}


def _rows(seed: int, stack: Stack, data: Drawn, count: int) -> list[Row]:
    """What is measured of each network."""
    members, others, validation = (
        _losses(stack, *part) for part in (data.members, data.others, data.validation)
    )
    wrong = _errors(stack, *data.validation)
    rows: list[Row] = []
    for k in range(count):
        advantage = auc = math.nan  # losses that are no numbers cannot be ranked
        if not (members[k].isnan().any() or others[k].isnan().any()):
            attack = loss_threshold_attack(members[k], others[k], seed=seed)
            advantage, auc = attack.value, attack.auc
        rows.append(
            {
                "parameters": stack.parameter_count,
                "advantage": advantage,
                "auc": auc,
                "train_loss": float(members[k].mean()),
                "test_loss": float(others[k].mean()),
                "val_error": float(wrong[k]),
                "val_loss": float(validation[k].mean()),
            }
        )
    return rows


def _losses(stack: Stack, inputs: Tensor, labels: Tensor) -> Tensor:
    """(networks, n) in float64."""
    logits = stack(inputs).double()
    flat = cross_entropy(logits.flatten(0, 1), labels.repeat(stack.size), reduction="none")
    return flat.reshape(stack.size, -1)


def _errors(stack: Stack, inputs: Tensor, labels: Tensor) -> Tensor:
    return (stack(inputs).argmax(2) != labels).double().mean(1)
