"""The small networks of the study: every ρ and some seeds, trained as one, as rows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from lowland.data import ImageData, batch_count, load
from lowland.studies.balance.columns import STEP
from lowland.studies.balance.evaluation import Evaluator, Row
from lowland.studies.balance.examples import Part, annotated, feature_names
from lowland.studies.balance.networks import NETWORKS, initialised
from lowland.train.stack import Stack, StackPlan, Trained, train

RUNS = "lowland.studies.balance.experiment:runs"


def runs(
    *,
    seed: int,
    rho: float,
    count: int,
    radii: Sequence[float],
    data: str,
    balanced: str,
    network: str,
    width: int,
    lr: float,
    momentum: float,
    weight_decay: float,
    epochs: int,
    batch_size: int,
    evaluations: int,
    dfr: bool,
) -> Iterator[Row]:
    """A row for every evaluation of every run: columns ``rho``, ``seed``, and those of `columns`.

    A network whose gradient was not finite has NaN from then on.

    Args:
        seed: the first seed, of initialisation and of the order of the examples.
        rho: not used; the radii are.
        count: seeds from the first one on.
        radii: ρ of the runs of each seed.
        data: the data set by name.
        balanced: the same data with correlation 0.5, for the oracle's choice of ρ.
        network: name of the network (`NETWORKS`).
        width: of it.
        lr, momentum, weight_decay, epochs, batch_size: of SGD, at a constant learning rate.
        evaluations: how many after the one at initialisation, evenly in the logarithm of the step.
        dfr: whether the last one has the probe of last-layer retraining too.
    """
    images = load(data)
    examples = annotated(images)
    places = [(one, radius) for radius in sorted(radii) for one in range(seed, seed + count)]
    make, shape = NETWORKS[network], images.shape
    stack = Stack(
        [initialised(lambda: make(shape, examples.classes, width), one) for one, _ in places]
    )
    measure = Evaluator(
        examples,
        balanced_validation(balanced, images),
        rho=[radius for _, radius in places],
        dfr=dfr,
    )
    steps = batch_count(len(examples.train), batch_size=batch_size, drop_last=True) * epochs
    times: list[tuple[int, list[Row]]] = []

    def evaluate(step: int, networks: Stack) -> None:
        times.append((step, measure(networks, end=step == steps)))

    trained = train(
        stack,
        examples.train.x,
        examples.train.y,
        StackPlan(
            seeds=[one for one, _ in places],
            rho=[radius for _, radius in places],
            lr=lr,
            momentum=momentum,
            weight_decay=weight_decay,
            schedule="constant",
            epochs=epochs,
            batch_size=batch_size,
        ),
        evaluate_at=log_steps(steps, evaluations),
        on_evaluation=evaluate,
    )
    yield from rows_of(places, times, trained)


def rows_of(
    places: Sequence[tuple[int, float]], times: Sequence[tuple[int, list[Row]]], trained: Trained
) -> Iterator[Row]:
    """Rows of a stack with their seed, ρ and step; NaN from when a network was stopped.

    Args:
        places: seed and ρ of each network.
        times: step -> what was measured of each.
        trained: how the training went.
    """
    for step, found in times:
        for k, ((one, radius), row) in enumerate(zip(places, found, strict=True)):
            values = dict.fromkeys(row, math.nan) if trained.lost(k, step) else row
            yield {"rho": radius, "seed": one, STEP: step, **values}


def balanced_validation(name: str, images: ImageData) -> Part:
    """The validation examples of the balanced data, normalised as those that are trained on."""
    other = load(name)
    names = feature_names(other)
    split = other.validation
    notes = {feature: split.annotations[note] for feature, note in names.items()}
    return Part(images.normalise(split.images), split.labels, notes)


def log_steps(steps: int, count: int) -> list[int]:
    """0, the last step, and up to `count` - 1 between, evenly in the logarithm from 1% on.

    >>> log_steps(1000, 3)
    [0, 10, 100, 1000]
    """
    inner = [steps * 100 ** (k / (count - 1) - 1) for k in range(count - 1)]
    return [0, *sorted({steps, *(max(round(place), 1) for place in inner)})]
