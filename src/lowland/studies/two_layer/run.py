"""Runs of the teacher-student experiment of arXiv 2305.16292, section 4."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal, get_args

import torch

from lowland.core.errors import InputError, unknown
from lowland.studies.two_layer.activations import get_activation
from lowland.studies.two_layer.draws import STEPS, TEACHER_UNITS, UNITS, draw
from lowland.studies.two_layer.readings import Convention, Reading, read
from lowland.studies.two_layer.training import Plan, Trainer

Regularizer = Literal["sam", "gradient-norm", "weight-decay"]
REGULARIZERS: tuple[Regularizer, ...] = get_args(Regularizer)


@dataclass(frozen=True, kw_only=True)
class Point:
    """A run at one step: what `TwoLayerRun` has at the last one, and more (see `Reading`)."""

    step: int
    train_loss: float
    test_loss: float
    feature_rank: int
    active_units: int
    distinct_units: int
    weight_norm: float
    pull: float
    unit_norm: float
    inactive_norm: float


@dataclass(frozen=True, kw_only=True)
class TwoLayerRun:
    """One trained two-layer network.

    Attributes:
        activation: "relu", "tanh" or "abs".
        regularizer: "sam", "gradient-norm" or "weight-decay".
        radius: ρ of SAM, λ of the regulariser, or the weight decay.
        seed: of data, student and order of examples.
        exact: whether ranks follow the published conventions.
        steps: steps taken, one example each.
        train_loss: mean (f - y)² over the 20 training examples at the end.
        test_loss: over 1000 test examples.
        feature_rank: components for 99.99 % of the hidden features of the training examples; 0 for
            features that are zero, -1 if the run diverged.
        active_units: units that are active on some training example: |σ| ≥ 0.05, or with ReLU
            σ > 1e-6 of the largest value (σ > 0 if exact, which at large ρ counts units that lie at
            the kink up to rounding: their number depends on the order of additions).
        distinct_units: active units left when one of two that correlate above 0.999 goes.
        weight_norm: √ of the sum of squares of all weights and biases.
        diverged: whether the weights are no longer finite.
        curve: the run over its steps, the end included.
        seconds: wall time; of a batch of runs, its share.
    """

    activation: str
    regularizer: Regularizer
    radius: float
    seed: int
    exact: bool
    steps: int
    train_loss: float
    test_loss: float
    feature_rank: int
    active_units: int
    distinct_units: int
    weight_norm: float
    diverged: bool
    curve: tuple[Point, ...]
    seconds: float


def run(
    activation: str = "relu",
    regularizer: Regularizer = "sam",
    radius: float = 0.6,
    seed: int = 0,
    exact: bool = False,
    *,
    steps: int = STEPS,
    units: int = UNITS,
    teacher_units: int = TEACHER_UNITS,
    learning_rate: float | None = None,
    initial_scale: float | None = None,
    points: int = 71,
) -> TwoLayerRun:
    """Train one student on 20 examples of a teacher, and say what became of its features.

    d = 3 inputs on the unit sphere, a teacher of `teacher_units` with the student's activation,
    ℓ_i = (f(x_i) - y_i)², SGD with one example per step. SAM or the regulariser acts in the first
    half. The published runs are seed 4 with `exact`.

    Args:
        activation: "relu", "tanh" or "abs"; step size and initial scale are the published ones.
        regularizer: "sam"; "gradient-norm", λ‖∇ℓ_i‖ added to the loss; "weight-decay", all along.
        radius: ρ, λ or the weight decay; 0 for plain SGD.
        seed: of everything that is drawn, in the published order (`draw`).
        exact: the published conventions: ranks of uncentred features (one more than the number of
            partial sums up to 99.99 %) and ReLUs active above 0. Otherwise principal components,
            and ReLUs active above rounding.
        steps: steps to take; 19,953 were published.
        units: of the student.
        teacher_units: of the teacher.
        learning_rate: None for the published one.
        initial_scale: standard deviation of initial weights; None for the published one.
        points: how many points of the curve, evenly in the logarithm of the step.

    Cost: about 2 s; see `run_all` for many.

    Raises:
        InputError: an activation or regulariser that does not exist, or numbers out of range.

    >>> record = run("relu", "sam", 0.6, seed=4, exact=True, steps=10)
    >>> len(record.curve), record.diverged
    (11, False)
    """
    return run_all(
        activation,
        regularizer,
        [radius],
        [seed],
        exact,
        steps=steps,
        units=units,
        teacher_units=teacher_units,
        learning_rate=learning_rate,
        initial_scale=initial_scale,
        points=points,
    )[0]


def run_all(
    activation: str,
    regularizer: Regularizer,
    radii: Sequence[float],
    seeds: Sequence[int],
    exact: bool = False,
    *,
    steps: int = STEPS,
    units: int = UNITS,
    teacher_units: int = TEACHER_UNITS,
    learning_rate: float | None = None,
    initial_scale: float | None = None,
    points: int = 71,
) -> list[TwoLayerRun]:
    """Every radius with every seed, trained side by side: radii of the first seed first.

    Runs of one seed have the same data, student and order of examples, whatever the radius. A run
    is the same however many there are beside it, up to the rounding of sums.
    """
    began = time.perf_counter()
    used = get_activation(activation)
    _check(regularizer, radii, seeds, steps, units, teacher_units, points)
    drawn = {
        seed: draw(
            used,
            seed,
            steps=steps,
            units=units,
            teacher_units=teacher_units,
            initial_scale=initial_scale,
        )
        for seed in dict.fromkeys(seeds)
    }
    asked = [(seed, radius) for seed in seeds for radius in radii]
    trainer = Trainer(
        [drawn[seed] for seed, _ in asked],
        [_plan(regularizer, radius) for _, radius in asked],
        used,
        lr=used.learning_rate if learning_rate is None else learning_rate,
    )
    convention: Convention = "published" if exact else "unit"
    readings: list[Reading] = []
    with torch.no_grad():
        trainer.run(
            log_points(steps, points),
            lambda step, net, data: readings.append(read(step, net, data, used, convention)),
        )
    curves = _curves(readings, len(asked))
    seconds = (time.perf_counter() - began) / len(asked)
    found = []
    for (seed, radius), curve in zip(asked, curves, strict=True):
        end = curve[-1]
        found.append(
            TwoLayerRun(
                activation=activation,
                regularizer=regularizer,
                radius=radius,
                seed=seed,
                exact=exact,
                steps=steps,
                train_loss=end.train_loss,
                test_loss=end.test_loss,
                feature_rank=end.feature_rank,
                active_units=end.active_units,
                distinct_units=end.distinct_units,
                weight_norm=end.weight_norm,
                diverged=not math.isfinite(end.weight_norm),
                curve=curve,
                seconds=seconds,
            )
        )
    return found


def log_points(steps: int, count: int) -> list[int]:
    """At most `count` steps from 0 on, evenly in the logarithm; the end is not among them."""
    if count < 2 or steps < 2:
        return [0]
    places = torch.logspace(0, math.log10(steps), count - 1, dtype=torch.float64)
    inner = {round(float(place)) for place in places}
    return sorted({0} | {place for place in inner if place < steps})


def _plan(regularizer: Regularizer, radius: float) -> Plan:
    if regularizer == "sam":
        return Plan(rho=radius)
    if regularizer == "gradient-norm":
        return Plan(penalty=radius)
    return replace(Plan(), weight_decay=radius)


def _curves(readings: Sequence[Reading], runs: int) -> list[tuple[Point, ...]]:
    names = [field.name for field in fields(Point) if field.name != "step"]
    columns = [(r.step, {name: getattr(r, name).tolist() for name in names}) for r in readings]
    return [
        tuple(
            Point(step=step, **{name: values[name][place] for name in names})
            for step, values in columns
        )
        for place in range(runs)
    ]


def _check(
    regularizer: str,
    radii: Sequence[float],
    seeds: Sequence[int],
    steps: int,
    units: int,
    teacher_units: int,
    points: int,
) -> None:
    if regularizer not in REGULARIZERS:
        raise unknown("regularizer", regularizer, REGULARIZERS)
    if not radii or not all(0 <= radius < math.inf for radius in radii):
        raise InputError(f"radius: {list(radii)}; give numbers from 0 on")
    if not seeds or not all(0 <= seed < 2**32 for seed in seeds):
        raise InputError(f"seed: {list(seeds)}; give whole numbers from 0 to 2^32 - 1")
    for name, value in (
        ("steps", steps),
        ("units", units),
        ("teacher_units", teacher_units),
        ("points", points),
    ):
        if value < 1:
            raise InputError(f"{name}: {value}; give at least 1")
