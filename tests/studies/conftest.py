"""Runs made by hand, whose effects are known, and one smoke study that really ran."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lowland import studies
from lowland.studies.runs import Run

Values = Callable[[float, int, int], dict[str, float]]

MakeRuns = Callable[..., list[Run]]


@pytest.fixture
def make_runs() -> MakeRuns:
    """`make(values)`: a grid of runs; `values(rho, seed, evaluation)` gives the columns."""

    def make(
        values: Values,
        *,
        group: str = "main",
        rhos: tuple[float, ...] = (0.0, 0.1, 0.4),
        seeds: tuple[int, ...] = (0, 1, 2),
        evaluations: int = 4,
        **facts: Any,
    ) -> list[Run]:
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

    return make


@pytest.fixture(scope="session")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a smoke study, run once."""
    folder = tmp_path_factory.mktemp("studies") / "smoke"
    choice = studies.Choice(size="smoke")
    studies.execute(studies.get("low-rank"), choice, folder, workers=2)
    return folder
