"""The arms and SAM as rows: every radius and some seeds, trained as one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from lowland.data import batch_count, load
from lowland.studies.balance.evaluation import Row
from lowland.studies.balance.examples import Annotated, annotated
from lowland.studies.balance.experiment import log_steps, rows_of
from lowland.studies.balance.networks import NETWORKS, Network, initialised
from lowland.studies.mechanism.arms import LSAM, SGD
from lowland.studies.mechanism.columns import CORNER_LSAM, CORNER_SGD, STEP, TRAINED, of
from lowland.studies.mechanism.corners import difference
from lowland.studies.mechanism.reading import read
from lowland.studies.mechanism.toy import student, toy
from lowland.studies.mechanism.training import ArmsPlan, train_arms
from lowland.train.stack import Stack, StackPlan, train

ARMS_RUNS = "lowland.studies.mechanism.experiment:arms_runs"
SAM_RUNS = "lowland.studies.mechanism.experiment:sam_runs"
TOY = "toy"


@dataclass(frozen=True)
class Work:
    """Some seeds that share their examples.

    Attributes:
        seeds: which.
        data: the examples.
        make: builds a network.
    """

    seeds: Sequence[int]
    data: Annotated
    make: Callable[[], Network]


def work(
    data: str, network: str, width: int, seeds: Sequence[int], *, correlation: float, alone: bool
) -> Iterator[Work]:
    """What is trained as one: all seeds on images, each by itself on the toy, which is drawn."""
    if network == TOY:
        for seed in seeds:
            yield Work([seed], toy(seed, correlation, alone=alone), partial(student, width))
        return
    images = load(data)
    examples = annotated(images)
    make = partial(NETWORKS[network], images.shape, images.classes, width)
    yield Work(list(seeds), examples, make)


def arms_runs(
    *,
    seed: int,
    rho: float,
    count: int,
    radii: Sequence[float],
    data: str,
    network: str,
    width: int,
    correlation: float,
    lr: float,
    epochs: int,
    batch_size: int,
    evaluations: int,
) -> Iterator[Row]:
    """A row for every evaluation at every radius and seed: columns of all arms side by side.

    At ρ = 0 all arms are plain SGD; its phantom, which moves nothing there, is measured with the
    middle one of the radii.

    Args:
        seed: the first seed.
        rho: not used; the radii are.
        count: seeds from the first one on.
        radii: of the phantom.
        data: images by name; not used by the toy.
        network: ``toy``, or a name in `NETWORKS`.
        width: of the network.
        correlation: of the toy's simple feature with the label.
        lr, epochs, batch_size: of SGD.
        evaluations: after the one at initialisation, evenly in the logarithm of the step.
    """
    for part in work(
        data, network, width, range(seed, seed + count), correlation=correlation, alone=False
    ):
        arms = [(SGD, 0.0), *((arm, radius) for arm in TRAINED for radius in radii)]
        places = [(one, arm, radius) for one in part.seeds for arm, radius in arms]
        stack = Stack([initialised(part.make, one) for one, _, _ in places])
        middle = sorted(radii)[len(radii) // 2]
        measured = torch.tensor([radius or middle for _, _, radius in places])
        steps = _steps(part.data, batch_size, epochs)
        times: list[tuple[int, list[Row]]] = []
        plan = ArmsPlan(
            seeds=[one for one, _, _ in places],
            arms=[arm for _, arm, _ in places],
            rho=[radius for _, _, radius in places],
            lr=lr,
            epochs=epochs,
            batch_size=batch_size,
        )

        def evaluate(
            step: int,
            networks: Stack,
            *,
            part: Work = part,
            measured: torch.Tensor = measured,
            steps: int = steps,
            times: list[tuple[int, list[Row]]] = times,
        ) -> None:
            times.append((step, read(networks, part.data, measured, end=step == steps)))

        train_arms(
            stack,
            part.data.train.x,
            part.data.train.y,
            plan,
            evaluate_at=log_steps(steps, evaluations),
            on_evaluation=evaluate,
        )
        found = {place: k for k, place in enumerate(places)}
        for one in part.seeds:
            for radius in (0.0, *radii):
                for step, rows in times:
                    row: Row = {"rho": radius, "seed": one, STEP: step}
                    for arm in TRAINED:
                        place = (one, arm, radius) if radius else (one, SGD, 0.0)
                        row |= {of(arm, name): v for name, v in rows[found[place]].items()}
                    if step == steps and not radius:
                        row |= _corners(stack, found[one, SGD, 0.0], part, middle, batch_size)
                    yield row


def _corners(stack: Stack, k: int, part: Work, rho: float, batch: int) -> Row:
    """Both corners at the end of plain training, on the first examples."""
    x, y = part.data.train.x[:batch], part.data.train.y[:batch]
    return {
        name: difference(stack.member(k), x, y, arm, rho)
        for name, arm in ((CORNER_SGD, SGD), (CORNER_LSAM, LSAM))
    }


def sam_runs(
    *,
    seed: int,
    rho: float,
    count: int,
    radii: Sequence[float],
    data: str,
    network: str,
    width: int,
    correlation: float,
    alone: bool,
    lr: float,
    epochs: int,
    batch_size: int,
    evaluations: int,
) -> Iterator[Row]:
    """The same for SAM on all parameters, and for plain SGD as its ρ = 0.

    Args:
        seed, rho, count: as for `arms_runs`.
        radii: of SAM, 0 among them.
        alone: train on the hard feature alone.
        data, network, width, correlation, lr, epochs, batch_size, evaluations: as for `arms_runs`.
    """
    for part in work(
        data, network, width, range(seed, seed + count), correlation=correlation, alone=alone
    ):
        places = [(one, radius) for radius in sorted(radii) for one in part.seeds]
        stack = Stack([initialised(part.make, one) for one, _ in places])
        measured = torch.tensor([radius for _, radius in places])
        steps = _steps(part.data, batch_size, epochs)
        times: list[tuple[int, list[Row]]] = []

        def evaluate(
            step: int,
            networks: Stack,
            *,
            part: Work = part,
            measured: torch.Tensor = measured,
            steps: int = steps,
            times: list[tuple[int, list[Row]]] = times,
        ) -> None:
            times.append((step, read(networks, part.data, measured, end=step == steps)))

        trained = train(
            stack,
            part.data.train.x,
            part.data.train.y,
            StackPlan(
                seeds=[one for one, _ in places],
                rho=[radius for _, radius in places],
                lr=lr,
                momentum=0.0,
                schedule="constant",
                epochs=epochs,
                batch_size=batch_size,
            ),
            evaluate_at=log_steps(steps, evaluations),
            on_evaluation=evaluate,
        )
        yield from rows_of(places, times, trained)


def _steps(data: Annotated, batch_size: int, epochs: int) -> int:
    return batch_count(len(data.train), batch_size=batch_size, drop_last=True) * epochs
