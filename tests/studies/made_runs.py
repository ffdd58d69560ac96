"""Runs made by hand, whose effects are known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lowland.studies.runs import Run

Values = Callable[[float, int, int], dict[str, float]]


def make_runs(
    values: Values,
    *,
    group: str = "main",
    rhos: tuple[float, ...] = (0.0, 0.1, 0.4),
    seeds: tuple[int, ...] = (0, 1, 2),
    evaluations: int = 4,
    **facts: Any,
) -> list[Run]:
    """A grid of runs; `values(rho, seed, evaluation)` gives the columns."""
    runs = []
    for rho in rhos:
        for seed in seeds:
            rows = [values(rho, seed, step) for step in range(evaluations)]
            names = dict.fromkeys(name for row in rows for name in row)
            runs.append(
                Run(
                    name=f"{group}-{rho}-{seed}",
                    group=group,
                    method="sam" if rho else "none",
                    rho=rho,
                    seed=seed,
                    history={
                        "epoch": list(map(float, range(evaluations))),
                        **{name: [row.get(name) for row in rows] for name in names},
                    },
                    **facts,
                )
            )
    return runs
