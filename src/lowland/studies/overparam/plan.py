"""The runs of the study: stacks of networks."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from lowland.core.errors import InputError, unknown
from lowland.studies.overparam.arms import MASKS, Arm, Measured, shown
from lowland.studies.overparam.claims import claims
from lowland.studies.overparam.drawings import figures, panels, tables
from lowland.studies.overparam.sizes import SIZES, SMALL, Size, hidden_layers, resized
from lowland.studies.overparam.sweep import SWEEP
from lowland.studies.recipes import all_rhos, own_settings
from lowland.studies.study import Choice, Plan, Planned
from lowland.train import Experiment
from lowland.train.stack import StackPlan

if TYPE_CHECKING:
    from lowland.data import ImageData

HIDDEN = "hidden"
"""``--set hidden=19-6,75-25``: other networks."""

_KINDS: Mapping[str, Any] = {
    "epochs": int,
    "batch_size": int,
    "lr": float,
    "momentum": float,
    "weight_decay": float,
    "schedule": str,
    "held_out": float | None,
    "limit": int | None,
    "evaluations": int,
}


def plan(choice: Choice) -> Plan:
    """Lay out every group on the data that was chosen.

    Raises:
        InputError: another method than SAM, unknown settings, or data that do not fit.
    """
    from lowland.data import load

    if choice.method != "sam":
        raise InputError(f"overparam trains stacks with sam, not with {choice.method}: see methods")
    size = _changed(SIZES[choice.size], choice)
    training = size.training
    data = load(choice.data, limit=training["limit"], held_out=training["held_out"])
    _check(training, data)
    what = Measured(
        inputs=data.shape[0] * data.shape[1] * data.shape[2],
        classes=data.classes,
        validation=len(data.validation),
        sizes=size.sizes,
        noises=size.noises,
        regularised=size.regularised,
        sparsities=size.sparsities,
        radii=size.radii,
        sparse_radii=size.sparse_radii,
    )
    seeds = choice.seed_range(size.seeds)
    told = {**training, "fingerprint": data.fingerprint}
    size = dataclasses.replace(size, training=told)
    runs = [*_stacks(choice, size, what, seeds)]
    runs += _solutions(choice, size, what, seeds)
    return Plan(
        runs=tuple(runs),
        claims=claims(what),
        panels=panels(what),
        fingerprint=data.fingerprint,
        notes=_notes(data, size, what),
        figures=partial(figures, what=what),
        tables=partial(tables, what=what),
        aside=tuple(what.extra(hidden) for hidden in size.sizes),
    )


def _changed(size: Size, choice: Choice) -> Size:
    """The size with what the caller set."""
    from lowland.train.settings import parse

    names = (HIDDEN, *_KINDS)
    own, rest = own_settings(choice.overrides, names)
    for setting in rest:
        raise unknown("setting of overparam", setting.partition("=")[0].strip(), names)
    if HIDDEN in own:
        size = resized(size, hidden_layers(own.pop(HIDDEN)))
    changes = {key: parse(key, text, _KINDS[key]) for key, text in own.items()}
    changed = dataclasses.replace(size, training={**size.training, **changes})
    if choice.rhos is None:
        return changed
    radii = tuple(all_rhos(choice, ())[1:])
    return dataclasses.replace(changed, radii=radii, noisy_radii=radii, sparse_radii=radii)


def _check(training: Mapping[str, Any], data: ImageData) -> None:
    """Refuse what no stack can be trained with, before processes are started."""
    from lowland.train.fields import at_least

    names = ("lr", "momentum", "weight_decay", "schedule", "epochs", "batch_size")
    StackPlan(seeds=[0], **{name: training[name] for name in names})
    at_least("evaluations", training["evaluations"], 1)
    if len(data.train) < training["batch_size"]:
        raise InputError(
            f"{data.name}: {len(data.train)} training images are fewer than a batch of "
            f"{training['batch_size']}: set batch_size or limit"
        )


def _arms(size: Size, what: Measured) -> Iterator[Arm]:
    """Every kind of network, the dense twins of masked ones included."""
    twins = [what.twin(s) for s in size.sparsities]
    for hidden in dict.fromkeys([*size.sizes, *twins]):
        yield Arm(hidden=hidden)
    for noise in size.noises[1:]:
        for hidden in size.sizes if noise == size.noises[-1] else size.few:
            yield Arm(hidden=hidden, noise=noise)
    for hidden in size.regularised:
        yield Arm(hidden=hidden, noise=size.noises[-1], decay=True)
    for mask in MASKS:
        for sparsity in size.sparsities:
            yield Arm(hidden=size.sizes[-1], mask=mask, sparsity=sparsity)


def _stacks(choice: Choice, size: Size, what: Measured, seeds: range) -> Iterator[Planned]:
    """Some seeds after the others, so that a study that stops early has whole seeds."""
    twice = 2 * size.together
    for start in range(seeds.start, seeds.stop, twice):
        stop = min(start + twice, seeds.stop)
        for arm in _arms(size, what):
            together = twice if max(arm.hidden) <= SMALL else size.together
            for first in range(start, stop, together):
                count = min(together, stop - first)
                yield _planned(choice, size, arm, arm.group, first, count, _radii(size, arm))


def _radii(size: Size, arm: Arm) -> list[float]:
    radii = size.sparse_radii if arm.mask else size.noisy_radii if arm.noise else size.radii
    return [0.0, *radii]


def _solutions(choice: Choice, size: Size, what: Measured, seeds: range) -> Iterator[Planned]:
    """Further seeds of plain training alone."""
    start, stop = seeds.stop, seeds.start + size.solutions
    if start >= stop:
        return
    for hidden in size.sizes:
        arm = Arm(hidden=hidden)
        yield _planned(choice, size, arm, what.extra(hidden), start, stop - start, [0.0])


def _planned(
    choice: Choice,
    size: Size,
    arm: Arm,
    group: str,
    first: int,
    count: int,
    radii: Sequence[float],
) -> Planned:
    from lowland.data import places

    settings = {
        **size.training,
        "count": count,
        "radii": list(radii),
        "hidden": list(arm.hidden),
        "noise": arm.noise,
        "data": choice.data,
    }
    if arm.decay:
        settings["weight_decay"] = size.decay
    if arm.mask:
        settings |= {"mask": arm.mask, "sparsity": arm.sparsity}
    if arm == Arm(hidden=arm.hidden):
        settings |= {"products": size.products, "level": size.level}
    experiment = Experiment(
        function=SWEEP,
        settings=settings,
        seed=first,
        method="sam",
        device=size.device,
        files=places(choice.data),
    )
    return Planned(group=group, recipe=experiment, many=True)


def _notes(data: ImageData, size: Size, what: Measured) -> tuple[str, ...]:
    training = size.training
    sizes = f"{len(data.train)} train, {len(data.validation)} validation, {len(data.test)} test"
    networks = ", ".join(f"{shown(h)} ({what.count(h)})" for h in what.sizes)
    return (
        f"Data: {data.name}, {sizes} images; one fixed split for all seeds, so intervals speak "
        "about the randomness of training, not about the choice of images.",
        f"Hidden layers (parameters): {networks}. Weights start as N(0, 1/fan-in), biases at 0.",
        f"SGD with momentum {training['momentum']:g}, learning rate {training['lr']:g} "
        f"({training['schedule']}), batch {training['batch_size']}, {training['epochs']} epochs, "
        f"weight decay {training['weight_decay']:g}; groups with weight decay have "
        f"{size.decay:g}. SAM moves all parameters.",
        "Wrong labels are fixed at the start, another class each; validation and test labels are "
        "clean. Gains are of validation errors as in the paper; those of test images are beside.",
        f"Early stopping takes the evaluation with the lowest of {training['evaluations']} "
        "validation errors, of SGD and of every ρ alike.",
        f"λ_max: the largest Ritz value of {size.products} products with the Hessian of the train "
        f"loss. Solutions at one train loss: at the end of the first epoch at or below "
        f"{size.level:g}.",
        "The claims on moments of Hessians and on the rate of convergence are overparam/minima; "
        "residual networks, transformers, other data and, without data here, reinforcement "
        "learning are overparam/workloads.",
    )
