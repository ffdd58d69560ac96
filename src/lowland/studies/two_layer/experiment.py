"""The two-layer study's computations, as rows: many runs at once, and Proposition 1."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict

import torch

from lowland.studies.two_layer.activations import get_activation
from lowland.studies.two_layer.draws import TEACHER_UNITS, draw
from lowland.studies.two_layer.proposition import check
from lowland.studies.two_layer.run import Regularizer, run_all
from lowland.studies.two_layer.training import Plan, Trainer

RUNS = "lowland.studies.two_layer.experiment:runs"
PROPOSITION = "lowland.studies.two_layer.experiment:proposition"

CHECKED_AFTER = (0, 1_000)
"""Steps of SGD after which Proposition 1 is checked."""

Row = dict[str, float | int]


def runs(
    *,
    seed: int,
    rho: float,
    count: int,
    activation: str,
    regularizer: Regularizer,
    radii: Sequence[float],
    exact: bool,
    steps: int,
    units: int,
    points: int,
    teacher_units: int = TEACHER_UNITS,
    as_rho: bool = True,
) -> Iterator[Row]:
    """A row for every point of every run: columns ``rho``, ``seed``, ``iteration``, and `Point`'s.

    Args:
        seed: the first seed.
        rho: not used; the radii are.
        count: seeds from the first one on.
        activation, regularizer, radii, exact, steps, units, points, teacher_units: of `run_all`.
        as_rho: whether a run's radius is its ρ in the study; 0 otherwise.
    """
    found = run_all(
        activation,
        regularizer,
        list(radii),
        list(range(seed, seed + count)),
        exact,
        steps=steps,
        units=units,
        teacher_units=teacher_units,
        points=points,
    )
    for run in found:
        place = {"rho": run.radius if as_rho else 0.0, "seed": run.seed}
        for point in run.curve:
            values = asdict(point)
            iteration = values.pop("step")
            if values["feature_rank"] < 0:  # features that are not finite
                values = dict.fromkeys(values, float("nan"))
            yield {**place, "iteration": iteration, **values}


def proposition(*, seed: int, rho: float, count: int, units: int) -> Iterator[Row]:
    """A row for every seed: Proposition 1 at initialisation and after some steps of SGD.

    Args:
        seed: the first seed.
        rho: not used; the radii of `check` are.
        count: seeds from the first one on.
        units: of the student.
    """
    relu = get_activation("relu")
    for one in range(seed, seed + count):
        row: Row = {"rho": 0.0, "seed": one}
        with torch.no_grad():
            for steps in CHECKED_AFTER:
                drawn = draw(relu, one, steps=max(steps, 1), units=units)
                trainer = Trainer([drawn], [Plan()], relu, lr=relu.learning_rate)
                if steps:
                    trainer.run([], lambda *_: None)
                found = check(trainer.network, drawn.x, drawn.y, relu)
                row |= {f"{name}/{steps}": value for name, value in found.items()}
        yield row
