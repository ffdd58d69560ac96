"""The one rule by which ρ is chosen, on runs whose errors are known."""

from __future__ import annotations

import math

import pytest
from made_runs import make_runs

from lowland.studies.balance import paired
from lowland.studies.runs import NotMeasuredError, Run, Runs
from lowland.studies.tuned import Tuned, choose_rho, differences

RHOS = (0.0, 0.1, 0.2, 0.4)
ERRORS = {
    # of seeds 0, 1, 2: each seed alone would choose 0.1, 0.2 and 0.4
    0.0: (0.30, 0.30, 0.30),
    0.1: (0.10, 0.28, 0.22),
    0.2: (0.24, 0.10, 0.24),
    0.4: (0.26, 0.26, 0.10),
}


def made(seeds: tuple[int, ...] = (0, 1, 2)) -> Runs:
    def values(rho: float, seed: int, step: int) -> dict[str, float]:
        error = ERRORS[rho][seed]
        return {
            "validation/error": error,
            "first": 1.0 if step else error,
            "test/error": 2 * error,
            "train/loss": 2.0 ** -(step + 10 * rho),
        }

    return Runs(make_runs(values, rhos=RHOS, seeds=seeds))


def test_every_seed_is_judged_at_the_choice_of_the_others() -> None:
    tuned = Tuned.of(made(), "main")
    # the means over the other two: seed 0 (.25, .17, .18), 1 (.16, .24, .18), 2 (.19, .17, .26)
    assert tuned.chosen == {0: 0.2, 1: 0.1, 2: 0.2}
    assert tuned.gain() == pytest.approx({0: 0.06, 1: 0.02, 2: 0.06})
    assert tuned.gain("test/error") == pytest.approx({0: 0.12, 1: 0.04, 2: 0.12})
    assert tuned.at(0.4, "validation/error") == {0: 0.26, 1: 0.26, 2: 0.1}
    assert tuned.rhos == [0.1, 0.2, 0.4]
    assert "0.1 (1 of 3 seeds), 0.2 (2 of 3 seeds)" in tuned.words()


def test_the_edge_of_what_may_be_chosen() -> None:
    assert (Tuned.of(made(), "main").largest, Tuned.of(made(), "main").at_edge) == (0.4, 0)
    few = Tuned.of(made(), "main", among=(0.1, 0.2))
    assert (few.largest, few.at_edge) == (0.2, 2)
    with pytest.raises(NotMeasuredError, match="no ρ of the main runs may be chosen"):
        Tuned.of(made(), "main", among=(0.3,))


def test_plain_training_can_be_among_the_choices() -> None:
    worse = {rho: dict.fromkeys((0, 1, 2), 0.1 + rho) for rho in RHOS}
    runs = Runs(make_runs(lambda rho, s, t: {"validation/error": worse[rho][s]}, rhos=RHOS))
    assert Tuned.of(runs, "main").chosen == {0: 0.1, 1: 0.1, 2: 0.1}
    assert Tuned.of(runs, "main", or_none=True).chosen == {0: 0.0, 1: 0.0, 2: 0.0}


def test_what_chooses_is_read_when_the_run_is_read() -> None:
    def at_start(run: Run, column: str) -> float:
        return run.start(column)

    early = Tuned.of(made(), "main", at_start, by="first")
    assert early.chosen == {0: 0.2, 1: 0.1, 2: 0.2}
    late = Tuned.of(made(), "main", by="first")
    assert late.chosen == {0: 0.1, 1: 0.1, 2: 0.1}, "of equal ones the smallest"


def test_equal_losses_are_those_that_both_reach() -> None:
    tuned = Tuned.of(made(), "main")
    assert tuned.gain_at_equal_loss() == pytest.approx(tuned.gain()), "errors are constant here"
    flat = Runs(make_runs(lambda r, s, t: {"validation/error": 0.1 + r, "train/loss": 1.0}))
    assert all(map(math.isnan, Tuned.of(flat, "main").gain_at_equal_loss().values()))


def test_balance_chooses_by_the_same_rule() -> None:
    runs = made()
    pairs = paired.chosen(runs, "main", lambda run: run.final("validation/error"), "some data")
    assert pairs.rho == Tuned.of(runs, "main").chosen
    assert "Chosen on some data of the other seeds" in pairs.how


def test_one_seed_chooses_nothing_and_a_missing_one_is_out() -> None:
    with pytest.raises(NotMeasuredError, match="one seed cannot choose"):
        choose_rho(made((0,)), "main", lambda run: run.final("validation/error"))
    assert differences({0: 3.0, 1: 1.0}, {1: 0.5, 2: 9.0}) == {1: 0.5}
