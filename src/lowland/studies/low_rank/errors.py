"""Effects on errors: is SAM better at the ρ that validation data choose?"""

from __future__ import annotations

from dataclasses import replace

from lowland.studies.effects import choose_left_out, chosen_words
from lowland.studies.low_rank.columns import (
    MAIN,
    TEST_ERROR,
    VALIDATION_ERROR,
    Measured,
    knn_column,
    means_by_rho,
)
from lowland.studies.runs import NotMeasuredError, Runs
from lowland.studies.study import Finding


def error_at_chosen_rho(runs: Runs, what: Measured) -> Finding:
    """Test error at ρ = 0 minus at the ρ chosen on validation error."""
    finding = _gain_at_chosen(runs, MAIN, chosen_by=VALIDATION_ERROR, judged_on=TEST_ERROR)
    return replace(finding, resolution=1 / what.test_images)


def error_at_the_largest_rho(runs: Runs, what: Measured) -> Finding:
    """Test error at ρmax minus at the ρ chosen on validation error."""
    seeds = runs.seeds(MAIN)
    rhos = runs.rhos(MAIN)
    if len(rhos) < 3:
        raise NotMeasuredError("a U needs two values of ρ above 0")
    chosen = _choose(runs, MAIN, VALIDATION_ERROR)

    def rise(seed: int, rho: float) -> float:
        largest, at_rho = (runs.final(MAIN, r, seed, TEST_ERROR) for r in (rhos[-1], rho))
        return largest - at_rho

    return Finding(
        effects={seed: rise(seed, rho) for seed, rho in chosen.items()},
        detail=means_by_rho(runs, TEST_ERROR, percent=True) + chosen_words(chosen),
        resolution=1 / what.test_images,
        beside={"largest ρ minus ρ = 0": {seed: rise(seed, 0.0) for seed in seeds}},
    )


def neighbor_error_at_chosen_rho(runs: Runs, what: Measured) -> Finding:
    """kNN error on unseen classes at ρ = 0 minus at the ρ chosen on their validation images."""
    finding = _gain_at_chosen(
        runs,
        what.transfer,
        chosen_by=knn_column(what.block, "validation", what.knn_kind),
        judged_on=knn_column(what.block, "test", what.knn_kind),
    )
    return replace(finding, resolution=1 / what.transfer_images)


def _gain_at_chosen(runs: Runs, group: str, *, chosen_by: str, judged_on: str) -> Finding:
    """Error at ρ = 0 minus error at the chosen ρ > 0, per seed; see `choose_left_out`."""
    seeds = runs.seeds(group)
    chosen = _choose(runs, group, chosen_by)

    def gain(seed: int, rho: float) -> float:
        at_zero, at_rho = (runs.final(group, r, seed, judged_on) for r in (0.0, rho))
        return at_zero - at_rho

    return Finding(
        effects={seed: gain(seed, rho) for seed, rho in chosen.items()},
        detail=means_by_rho(runs, judged_on, group, percent=True) + chosen_words(chosen),
        beside={
            f"at ρ = {rho:g}": {seed: gain(seed, rho) for seed in seeds}
            for rho in runs.rhos(group)[1:]
        },
    )


def _choose(runs: Runs, group: str, chosen_by: str) -> dict[int, float]:
    """The ρ > 0 that each seed is judged at; see `choose_left_out`."""
    seeds = runs.seeds(group)
    errors = {
        rho: {seed: runs.final(group, rho, seed, chosen_by) for seed in seeds}
        for rho in runs.rhos(group)[1:]
    }
    chosen = choose_left_out(errors)
    if seeds and not chosen:
        raise NotMeasuredError("one seed cannot choose ρ: the choice is made on the others")
    return chosen
