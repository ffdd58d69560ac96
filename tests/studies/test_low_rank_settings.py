"""Claims of the low-rank study between groups of runs, on runs whose effects are known."""

from __future__ import annotations

import math

import pytest
from made_runs import make_runs

from lowland.studies.low_rank.claims import claims
from lowland.studies.low_rank.columns import Measured, rank_column
from lowland.studies.low_rank.figures import figures
from lowland.studies.low_rank.settings import drop, rise
from lowland.studies.runs import Run, Runs
from lowland.studies.study import Finding, assess
from lowland.studies.verdict import Verdict

WHAT = Measured(block="block2", others=("block1",), test_images=1000, transfer_images=500)
RANK, POOL = rank_column("block2"), rank_column("pool")


def measured(name: str, runs: list[Run], what: Measured = WHAT) -> tuple[Finding, Verdict]:
    found = {claim.name: claim for claim in claims(what)}
    return assess(found[name], Runs(runs), family=len(found))


def falling(share: float, group: str, column: str = RANK) -> list[Run]:
    """Rank 100 + seed at ρ = 0 and lower by a share at the largest ρ, half of it in between."""

    def values(rho: float, seed: int, step: int) -> dict[str, float]:
        return {column: (100 + seed) * (1 - share * rho / 0.4)}

    rhos = (0.0, 0.1, 0.4) if group == "main" else (0.0, 0.4)
    return make_runs(values, group=group, rhos=rhos)


def test_both_settings_count_by_the_smaller_fall() -> None:
    runs = [*falling(0.3, "main"), *falling(0.1, "other-setting")]
    finding, verdict = measured("rank-in-both-settings", runs)
    assert finding.effects == pytest.approx(dict.fromkeys(range(3), 0.1))
    assert finding.beside["minimal setting"][0] == pytest.approx(0.3)
    assert verdict.word == "holds"
    swapped = Measured(block="block2", test_images=9, transfer_images=9, setting="state-of-the-art")
    finding, _ = measured("rank-in-both-settings", runs, swapped)
    assert finding.beside["state-of-the-art setting"][0] == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("claim", "group"),
    [("augmentation-reveals", "no-augmentation"), ("decay-is-not-enough", "weight-decay-only")],
)
def test_what_augmentation_adds_is_a_difference_of_falls(claim: str, group: str) -> None:
    finding, verdict = measured(claim, [*falling(0.3, "main"), *falling(0.2, group)])
    assert finding.effects == pytest.approx(dict.fromkeys(range(3), 0.1))
    assert verdict.word == "holds"
    finding, verdict = measured(claim, [*falling(0.2, "main"), *falling(0.3, group)])
    assert finding.effects == pytest.approx(dict.fromkeys(range(3), -0.1))
    assert verdict.word == "does not hold"


def curves(group: str, plain: list[float], sam: list[float], column: str = RANK) -> list[Run]:
    def values(rho: float, seed: int, step: int) -> dict[str, float]:
        return {column: (sam if rho else plain)[step] + seed}

    return make_runs(values, group=group, rhos=(0.0, 0.4), evaluations=len(plain))


def test_drop_and_rise_of_a_curve() -> None:
    epochs = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]
    ranks = [100.0, 90.0, 70.0, 60.0, 80.0, 50.0, 60.0, 65.0, 66.0]
    assert drop(epochs, ranks) == pytest.approx(0.3), "epochs 1 and 2 are the first quarter"
    assert rise(epochs, ranks) == pytest.approx(0.1), "epoch 3 is the lowest of the first half"
    assert drop(epochs, [100.0, 120.0, 110.0, *ranks[3:]]) == pytest.approx(-0.1), "a rise"
    assert math.isnan(drop([0.0, 4.0, 8.0], [3.0, 2.0, 1.0])), "nothing was measured at the start"


def test_the_weaker_of_plain_training_and_sam_counts_at_the_start() -> None:
    plain, sam = [100.0, 80.0, 70.0, 75.0, 77.0], [100.0, 50.0, 60.0, 70.0, 80.0]
    finding, _ = measured("sudden-drop", curves("other-setting", plain, sam))
    assert finding.effects[0] == pytest.approx(0.2)
    assert finding.beside["at ρ = 0.4"][0] == pytest.approx(0.5)
    finding, _ = measured("gradual-increase", curves("other-setting", plain, sam))
    assert finding.effects[0] == pytest.approx(0.1)
    assert finding.beside["at ρ = 0.4"][0] == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("large", "small", "effect", "word"),
    [
        (60.0, 130.0, 0.4, "holds"),
        (60.0, 98.0, 0.08, "cannot tell"),  # 2 · 5% minus 2%
        (92.0, 130.0, 0.08, "cannot tell"),
        (60.0, 80.0, -0.1, "does not hold"),  # a drop with small steps, too
        (100.0, 130.0, 0.0, "does not hold"),  # no drop, but a rise with small steps
    ],
)
def test_a_drop_with_large_steps_only(large: float, small: float, effect: float, word: str) -> None:
    runs = [
        *curves("main", [100.0, *[small] * 4], [100.0, 90.0, 90.0, 90.0, 90.0]),
        *curves("large-step", [100.0, *[large] * 4], [100.0, 40.0, 60.0, 60.0, 60.0]),
    ]
    finding, verdict = measured("drop-with-large-steps", runs)
    assert finding.effects[0] == pytest.approx(effect)
    assert finding.beside["the difference"][0] == pytest.approx((small - large) / 100)
    assert finding.beside["the difference at the largest ρ"][0] == pytest.approx(0.6 - 0.1)
    assert verdict.word == word


def test_what_rho_adds_to_the_drop_with_large_steps() -> None:
    runs = [
        *curves("main", [100.0, 95.0, 90.0, 90.0, 90.0], [100.0, 90.0, 90.0, 90.0, 90.0]),
        *curves("large-step", [100.0, 60.0, 60.0, 60.0, 60.0], [100.0, 40.0, 60.0, 60.0, 60.0]),
    ]
    finding, _ = measured("drop-by-rho-and-step", runs)
    assert finding.effects[0] == pytest.approx((0.6 - 0.4) - (0.1 - 0.05))


@pytest.mark.parametrize(("at_last", "word"), [(0.1, "holds"), (0.6, "does not hold")])
def test_collapse_interferes_where_the_last_rank_falls_less(at_last: float, word: str) -> None:
    def values(rho: float, seed: int, step: int) -> dict[str, float]:
        return {RANK: 100 * (1 - rho), POOL: 50 * (1 - at_last * rho / 0.4)}

    finding, verdict = measured("collapse-interferes", make_runs(values))
    assert finding.effects == pytest.approx(dict.fromkeys(range(3), 0.4 - at_last))
    assert verdict.word == word


def test_a_group_that_was_not_run_is_no_data() -> None:
    runs = falling(0.3, "main")
    for claim in ("rank-in-both-settings", "sudden-drop", "drop-with-large-steps"):
        finding, verdict = measured(claim, runs)
        assert (verdict.word, finding.effects) == ("no data here", {})
    assert measured("augmentation-reveals", runs)[1].word == "no data here"


def test_error_rises_again_beyond_the_chosen_rho() -> None:
    errors = {0.0: 0.10, 0.1: 0.05, 0.4: 0.08}

    def values(rho: float, seed: int, step: int) -> dict[str, float]:
        return {"test/error": errors[rho], "validation/error": errors[rho] + 0.01 * seed}

    finding, verdict = measured("error-at-large-rho", make_runs(values))
    assert finding.effects == pytest.approx(dict.fromkeys(range(3), 0.03))
    assert finding.beside["largest ρ minus ρ = 0"][0] == pytest.approx(-0.02)
    assert verdict.word == "holds"
    two = make_runs(values, rhos=(0.0, 0.4))
    assert measured("error-at-large-rho", two)[1].word == "no data here"


def test_collapse_is_the_share_of_the_way_to_the_number_of_classes() -> None:
    finding, _ = measured(
        "collapse-at-last-block",
        [
            *curves("other-setting", [110.0, 60.0, 30.0], [110.0, 60.0, 60.0], POOL),
            *curves("main", [110.0, 110.0, 110.0], [110.0, 9.0, 9.0], POOL),
        ],
    )
    assert finding.effects[0] == pytest.approx(0.8)
    assert finding.beside["minimal setting"][0] == pytest.approx(0.0)
    below, _ = measured(
        "collapse-at-last-block",
        [
            *curves("other-setting", [20.0, 5.0, 5.0], [20.0, 5.0, 5.0], POOL),
            *curves("main", [10.0, 10.0, 10.0], [10.0, 9.0, 9.0], POOL),
        ],
    )
    assert below.effects[0] == pytest.approx(0.5), "5 is as far from 10 classes as 15"
    assert math.isnan(below.beside["minimal setting"][0]), "it was there before"


@pytest.mark.parametrize(("ends", "tau"), [((90, 60, 30), 1.0), ((30, 60, 90), -1.0)])
def test_a_cascade_goes_further_the_deeper(ends: tuple[float, ...], tau: float) -> None:
    columns = [rank_column(block) for block in ("block1", "block2", "pool")]

    def values(rho: float, seed: int, step: int) -> dict[str, float]:
        return {c: end if step else 100.0 for c, end in zip(columns, ends, strict=True)}

    finding, _ = measured(
        "collapse-in-a-cascade", make_runs(values, group="other-setting", rhos=(0.0, 0.4))
    )
    assert finding.effects == pytest.approx(dict.fromkeys(range(3), tau))


def both_splits(fewer: bool) -> list[Run]:
    train = "train-as-test" if fewer else "train"

    def values(rho: float, seed: int, step: int) -> dict[str, float]:
        row = {
            rank_column("block2", split="test"): 95.0 + seed,
            rank_column("block2", split=train): 100.0,
        }
        return {rank_column("block2"): 200.0, **row}

    return make_runs(values, group="post-activation", rhos=(0.0, 0.4))


@pytest.mark.parametrize("fewer", [False, True])
def test_ranks_are_compared_on_as_many_images(fewer: bool) -> None:
    finding, _ = measured("rank-on-test-post-activation", both_splits(fewer))
    assert finding.effects == pytest.approx({0: 0.05, 1: 0.04, 2: 0.03})
    (drawing,) = figures(Runs(both_splits(fewer)), WHAT)
    assert "post-activation" in drawing.title
    train, test = drawing.lines
    assert train.y == pytest.approx([100.0, 100.0])
    assert test.y == pytest.approx([96.0, 96.0])


def test_neighbours_of_another_data_set_are_read_from_the_main_runs() -> None:
    what = Measured(block="block2", test_images=100, transfer_images=100, transfer="main")
    errors = {0.0: 0.5, 0.1: 0.3, 0.4: 0.4}

    def values(rho: float, seed: int, step: int) -> dict[str, float]:
        return {f"knn-transfer-1/{s}/block2": errors[rho] for s in ("validation", "test")}

    finding, _ = measured("knn-error", make_runs(values), what)
    assert finding.effects == pytest.approx(dict.fromkeys(range(3), 0.2))
