"""The runs of the study of workloads: stacks of small networks, or the published networks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch

from lowland.core.errors import InputError, unknown
from lowland.studies.recipes import all_rhos, own_settings
from lowland.studies.study import Choice, Plan, Planned
from lowland.studies.workloads.claims import claims
from lowland.studies.workloads.drawings import figures, panels, tables
from lowland.studies.workloads.kinds import Sweep, Workload, chosen, group, whole_numbers
from lowland.studies.workloads.notes import notes
from lowland.studies.workloads.texts import CAPTIONS, COLUMNS

if TYPE_CHECKING:
    from lowland.studies.workloads.tasks import Task

SETTINGS = ("workloads", "widths", "epochs", "images", "words", *COLUMNS)
"""What ``--set`` changes below the paper size."""

RHOS = {"smoke": (0.03, 0.1), "default": (0.01, 0.03, 0.1, 0.3)}
SEEDS = {"smoke": 2, "default": 10}
EVALUATIONS = 4
WORDS = 500
SMOKE_IMAGES = 60


@dataclass(frozen=True, kw_only=True)
class _Training:
    """What ``--set`` leaves of the defaults.

    Attributes:
        workloads: those that run.
        widths: of all of them, or None for each one's own.
        epochs: of all of them, or None for each one's own.
        images: to train on at most, or None for each one's own number.
        words: of the vocabulary of captions.
        columns: of captions, by `COLUMNS`, where they have no usual names.
    """

    workloads: Sequence[Workload]
    widths: tuple[int, ...] | None
    epochs: int | None
    images: int | None
    words: int
    columns: Mapping[str, str]

    def widths_of(self, workload: Workload) -> tuple[int, ...]:
        """Ascending."""
        return self.widths or workload.widths

    def images_of(self, workload: Workload) -> int | None:
        """The most images to train on; None for all."""
        return self.images or workload.images


def plan(choice: Choice) -> Plan:
    """Lay out the width sweep of every workload that fits the data.

    Raises:
        InputError: unknown names or unusable values, or data that do not fit.
    """
    if choice.size == "paper":
        from lowland.studies.workloads.published import plan as published

        return published(choice)
    if choice.method != "sam":
        raise InputError(
            f"networks are trained side by side with sam, not with {choice.method}: leave --method "
            "out, or use --size paper"
        )
    from lowland.studies.workloads.tasks import open_task

    training = _training(choice)
    rhos = all_rhos(choice, RHOS[choice.size])
    seeds = choice.seed_range(SEEDS[choice.size])
    sweeps, runs = [], []
    fingerprint = ""
    for workload in training.workloads:
        task, fingerprint = open_task(
            workload.name,
            choice.data,
            limit=training.images_of(workload),
            words=training.words,
            columns=training.columns,
        )
        sweeps.append(_sweep(workload, training.widths_of(workload), task))
        runs += list(_runs(choice, workload, training, rhos, seeds, fingerprint))
    return Plan(
        runs=tuple(runs),
        claims=claims(sweeps),
        panels=panels(sweeps),
        fingerprint=fingerprint,
        notes=notes(choice, sweeps),
        figures=partial(figures, sweeps=sweeps),
        tables=partial(tables, sweeps=sweeps),
    )


def _training(choice: Choice) -> _Training:
    """The choice's settings over the size's.

    Raises:
        InputError: unknown or unusable ones.
    """
    own, rest = own_settings(choice.overrides, SETTINGS)
    if rest:
        raise unknown("setting of workloads", rest[0].partition("=")[0].strip(), SETTINGS)
    smoke = choice.size == "smoke"
    numbers = {key: _one(key, own[key]) for key in ("epochs", "images", "words") if key in own}
    workloads = chosen(own.get("workloads"), captions=choice.data.startswith(CAPTIONS))
    columns = {key: own[key] for key in COLUMNS if key in own}
    if columns and not choice.data.startswith(CAPTIONS):
        raise InputError(
            f"--set {next(iter(columns))}=...: images have no captions: leave it out, or use "
            "--data captions:FILE.parquet"
        )
    widths = whole_numbers("widths", own["widths"]) if "widths" in own else None
    if widths is not None and len(widths) < 2:
        raise InputError(f"--set widths={own['widths']}: a slope needs two widths or more")
    return _Training(
        workloads=workloads,
        widths=widths or ((3, 8) if smoke else None),
        epochs=numbers.get("epochs", 2 if smoke else None),
        images=numbers.get("images", SMOKE_IMAGES if smoke else None),
        words=numbers.get("words", WORDS),
        columns=columns,
    )


def _one(key: str, text: str) -> int:
    (number, *more) = whole_numbers(key, text)
    if more:
        raise InputError(f"--set {key}={text}: give one whole number")
    return number


def _sweep(workload: Workload, widths: Sequence[int], task: Task) -> Sweep:
    counts = {}
    with torch.random.fork_rng(devices=[]):
        for width in widths:
            counts[width] = sum(p.numel() for p in task.make(width).parameters())
    return Sweep(workload=workload, parameters=counts, judged=task.judged)


def _runs(
    choice: Choice,
    workload: Workload,
    training: _Training,
    rhos: Sequence[float],
    seeds: range,
    fingerprint: str,
) -> Iterator[Planned]:
    """The widest first, which take longest; some seeds after the others."""
    for first in range(seeds.start, seeds.stop, workload.together):
        for width in reversed(training.widths_of(workload)):
            settings = {
                "count": min(workload.together, seeds.stop - first),
                "radii": rhos,
                "width": width,
                "workload": workload.name,
                "data": choice.data,
                "fingerprint": fingerprint,
                "images": training.images_of(workload),
                "words": training.words,
                "epochs": training.epochs or workload.epochs,
                "evaluations": EVALUATIONS,
                **_of_workload(workload),
                **training.columns,
            }
            yield _planned(workload, width, first, settings, choice.data)


def _of_workload(workload: Workload) -> dict[str, float | int]:
    names = ("lr", "weight_decay", "batch_size")
    return {name: getattr(workload, name) for name in names}


def _planned(
    workload: Workload, width: int, first: int, settings: Mapping[str, object], data: str
) -> Planned:
    from lowland.studies.workloads.experiment import RUNS
    from lowland.studies.workloads.tasks import files
    from lowland.train import Experiment

    experiment = Experiment(
        function=RUNS, settings=settings, seed=first, method="sam", files=files(data)
    )
    return Planned(group=group(workload, width), recipe=experiment, many=True)
