"""Reading runs by place: whole seeds only, and what is missing said or passed on."""

from __future__ import annotations

import math

import pytest

from lowland.studies.runs import NotMeasuredError, Run, Runs


def run(rho: float, seed: int, history: dict, *, diverged: bool = False) -> Run:
    return Run(
        name="r", group="main", method="sam", rho=rho, seed=seed, history=history, diverged=diverged
    )


def test_only_whole_seeds_count() -> None:
    history = {"x": [1.0]}
    runs = Runs([run(rho, seed, history) for rho in (0.0, 0.1) for seed in (0, 1)])
    assert runs.seeds("main") == [0, 1]
    runs = Runs([run(0.0, 0, history), run(0.1, 0, history), run(0.0, 1, history)])
    assert runs.seeds("main") == [0]
    assert runs.rhos("main") == [0.0, 0.1]


@pytest.mark.parametrize("rhos", [(), (0.0,), (0.1, 0.2)])
def test_a_grid_without_a_comparison_is_no_data(rhos: tuple[float, ...]) -> None:
    runs = Runs([run(rho, 0, {"x": [1.0]}) for rho in rhos])
    with pytest.raises(NotMeasuredError, match="need ρ = 0 and another"):
        runs.rhos("main")


def test_missing_values_are_said() -> None:
    whole = run(0.0, 0, {"x": [3.0, None, 1.0]})
    assert (whole.start("x"), whole.final("x")) == (3.0, 1.0)
    with pytest.raises(NotMeasuredError, match="x was not measured"):
        whole.curve("x")
    with pytest.raises(NotMeasuredError, match="y was not measured"):
        whole.final("y")


def test_what_a_diverged_run_lacks_is_not_finite() -> None:
    broken = run(0.4, 0, {"x": [3.0, None]}, diverged=True)
    assert broken.start("x") == 3.0
    assert math.isnan(broken.final("x"))
    assert math.isnan(broken.final("y"))
