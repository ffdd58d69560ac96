"""Runs of arms made by hand, whose errors are known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lowland.studies.methods.arms import ALL, PLAIN, SAM, Arm, chosen_arms
from lowland.studies.methods.columns import (
    EQUAL_COMPUTE,
    EQUAL_EPOCHS,
    PEAK,
    SHARPNESS,
    TEST_ERROR,
    TRAIN_LOSS,
    VALIDATION_ERROR,
    Setup,
    footprint,
)
from lowland.studies.runs import Run

SAMS = (0.05, 0.1, 0.2)
SEEDS = (0, 1, 2)

Place = Callable[[Arm, str, float, int], Mapping[str, float]]
"""(arm, protocol, ρ, seed) → columns that differ from the usual ones."""


def make_setup(method: str = ALL, **changes: Any) -> Setup:
    facts: dict[str, Any] = {
        "arms": chosen_arms(method), "block": "block2", "epochs": 10, "batch_size": 64,
        "steps_per_epoch": 16, "test_images": 1000,
    }  # fmt: skip
    return Setup(**{**facts, **changes})


def make_arms(
    values: Place | None = None, *, setup: Setup | None = None, seeds: tuple[int, ...] = SEEDS
) -> list[Run]:
    """All runs of a setup. Errors are 5% everywhere unless told; a step takes `passes` seconds."""
    setup = setup or make_setup()
    runs = []
    for arm in setup.arms:
        for protocol in dict.fromkeys((EQUAL_EPOCHS, EQUAL_COMPUTE)):
            group = setup.group(arm, protocol)
            if protocol == EQUAL_COMPUTE and group == arm.name:
                continue
            for rho in arm.radii(SAMS):
                for seed in seeds:
                    own = values(arm, protocol, rho, seed) if values else {}
                    runs.append(_run(setup, arm, group, rho, seed, own))
        runs.append(_made(footprint(arm.name), arm, 0.1, 0, {PEAK: 1000.0 * (1 + arm.passes)}))
    plain = [run for run in runs if run.group == PLAIN]
    return runs + [_made(SAM, _plain(setup), 0.0, run.seed, _last(run)) for run in plain]


def _plain(setup: Setup) -> Arm:
    return next(arm for arm in setup.arms if arm.name == PLAIN)


def _last(run: Run) -> dict[str, float]:
    return {name: run.final(name) for name in run.history if name != "epoch"}


def _run(
    setup: Setup, arm: Arm, group: str, rho: float, seed: int, own: Mapping[str, float]
) -> Run:
    columns: dict[str, float] = {
        VALIDATION_ERROR: 0.05,
        TEST_ERROR: 0.05,
        TRAIN_LOSS: 0.1,
        SHARPNESS: 0.2,
        setup.rank: 80.0,
        setup.active: 100.0,
        "step": 160.0,
        "seconds/train": 160.0 * arm.passes,
        **own,
    }
    return _made(group, arm, rho, seed, columns)


def _made(group: str, arm: Arm, rho: float, seed: int, columns: Mapping[str, float]) -> Run:
    return Run(
        name=f"{group}-{rho}-{seed}",
        group=group,
        method=arm.method,
        rho=rho,
        seed=seed,
        history={"epoch": [10.0], **{name: [value] for name, value in columns.items()}},
        diverged=any(value != value for value in columns.values()),
    )
