"""Every claim about ReLUs on runs whose effects are known."""

from __future__ import annotations

import dataclasses
import math

import pytest
from made_runs import make_runs

from lowland.studies.relu import columns
from lowland.studies.relu.claims import claims
from lowland.studies.relu.columns import EXAMPLES, KEPT, TRAIN_LOSS, Setup
from lowland.studies.relu.drawings import figures, tables
from lowland.studies.runs import Run, Runs
from lowland.studies.study import Finding, assess
from lowland.studies.verdict import Verdict

BLOCKS = ("block1", "block2", "block3", "block4")
SETUP = Setup(blocks=BLOCKS, units=(800, 400, 200, 100))
CLAIMS = {claim.name: claim for claim in claims(SETUP)}
DYING = {"block1": 0.0, "block2": 0.1, "block3": 0.5, "block4": 1.0}
"""Active share per block: 1 - this · ρ."""


def measured(name: str, runs: list[Run]) -> tuple[Finding, Verdict]:
    return assess(CLAIMS[name], Runs(runs), family=len(CLAIMS))


def values(rho: float, seed: int, step: int) -> dict[str, float]:
    """Loss 1/2^step, faster in plain training; ranks fall by twice what active shares do."""
    loss = 2.0 ** -(step * (1 if rho else 2))
    row = {TRAIN_LOSS: loss}
    for block, dying in DYING.items():
        row[columns.rank(block)] = 100 * (1 - 2 * dying * rho)
        row[columns.rank(block, center="example")] = 50 * (1 - dying * rho)
        row[columns.rank(block, split="test")] = 100.0
        for share in EXAMPLES:
            row[columns.active(block, share)] = 1 - dying * rho - share
        row[columns.active(block, of="start")] = 0.8
        row[columns.channels(block)] = 1.0
        row[columns.values(block)] = 0.5
        for i in range(4):
            row[columns.curve(block, i)] = 1 - 0.1 * i
        for share in KEPT:
            row[columns.kept(block, share)] = 100 * share**2
    return row


RUNS = make_runs(values)


def test_names_and_thresholds_are_what_they_were_when_the_study_was_fixed() -> None:
    found = {name: dataclasses.astuple(claim.rule)[0] for name, claim in CLAIMS.items()}
    assert found == {
        "active-falls": 0.05,
        "all-active-in-plain-training": 0.05,
        "rank-falls": 0.05,
        "active-falls-more-later": 0.02,
        "rank-falls-more-later": 0.02,
        "pruning-lowers-rank": 0.05,
        "trends-differ": 0.05,
        "active-at-matched-loss": 0.05,
        "rank-at-matched-loss": 0.05,
    }


@pytest.mark.parametrize(
    ("name", "effect"),
    [
        ("active-falls", 0.4 * 0.75),
        ("all-active-in-plain-training", 0.0),
        ("rank-falls", 0.4 * 1.5),
        ("active-falls-more-later", 0.4 * (0.75 - 0.05)),
        ("rank-falls-more-later", 0.4 * (1.5 - 0.1)),
        # of block3 a share of .8 stays, of block4 .6: between subsets of .75 and .9, .5 and .75
        (
            "pruning-lowers-rank",
            1 - (0.75**2 + (0.9**2 - 0.75**2) / 3 + 0.5**2 + (0.75**2 - 0.5**2) * 0.4) / 2,
        ),
        ("trends-differ", 0.4 * 1.6 / 4),
    ],
)
def test_effects(name: str, effect: float) -> None:
    finding, _ = measured(name, RUNS)
    assert finding.effects == pytest.approx(dict.fromkeys(range(3), effect))


def test_other_definitions_stand_beside() -> None:
    beside = measured("active-falls", RUNS)[0].beside
    assert beside["block4"][0] == pytest.approx(0.4)
    assert beside["on more than 10% of the images"][0] == pytest.approx(0.3)
    assert beside["channels"][0] == 0
    beside = measured("rank-falls", RUNS)[0].beside
    assert beside["published centring"][0] == pytest.approx(0.3)
    assert beside["on test images"][0] == 0
    beside = measured("all-active-in-plain-training", RUNS)[0].beside
    assert beside["block4 at initialisation"][0] == pytest.approx(0.2)


def test_matched_loss_reads_the_curves() -> None:
    """The common level is 1/8: plain training is there at 1.5 evaluations, ρ > 0 at 3."""
    finding, _ = measured("active-at-matched-loss", RUNS)
    assert finding.effects == pytest.approx(dict.fromkeys(range(3), 0.15))
    finding, _ = measured("rank-at-matched-loss", RUNS)
    assert finding.effects == pytest.approx(dict.fromkeys(range(3), 0.6))


@pytest.mark.parametrize(("plain", "sam", "rank"), [(0.8, 0.4, 25.0), (0.5, 0.05, 6.25)])
def test_pruning_is_relative_to_plain_training_and_stays_in_range(
    plain: float, sam: float, rank: float
) -> None:
    """A half of what was active stays; less than the smallest subset counts as that subset."""

    def active(rho: float, seed: int, step: int) -> dict[str, float]:
        share = plain if rho == 0 else sam
        return {**values(rho, seed, step), **{columns.active(b): share for b in BLOCKS}}

    finding, _ = measured("pruning-lowers-rank", make_runs(active))
    assert finding.effects == pytest.approx(dict.fromkeys(range(3), 1 - rank / 100))


def test_no_units_lost_is_no_pruning() -> None:
    def alive(rho: float, seed: int, step: int) -> dict[str, float]:
        return {**values(rho, seed, step), **{columns.active(b): 1.0 for b in BLOCKS}}

    finding, verdict = measured("pruning-lowers-rank", make_runs(alive))
    assert finding.effects == pytest.approx(dict.fromkeys(range(3), 0.0))
    assert verdict.word == "does not hold"


def test_diverged_runs_are_never_dropped() -> None:
    runs = [
        dataclasses.replace(run, history={TRAIN_LOSS: [None]}, diverged=True)
        if (run.rho, run.seed) == (0.4, 1)
        else run
        for run in RUNS
    ]
    for name in CLAIMS:
        if name != "all-active-in-plain-training":
            finding, verdict = measured(name, runs)
            assert verdict.word == "cannot tell", name
            assert math.isnan(finding.effects[1])


def test_nothing_measured_is_no_data() -> None:
    runs = make_runs(lambda rho, seed, step: {TRAIN_LOSS: 1.0})
    assert {measured(name, runs)[1].word for name in CLAIMS} == {"no data here"}


def test_a_figure_per_block_and_a_table() -> None:
    drawn = figures(Runs(RUNS), SETUP)
    assert len(drawn) == 4
    active, rank = drawn[3].lines
    assert list(active.x) == [0.0, 0.1, 0.4]
    assert list(active.y) == pytest.approx([1.0, 0.9, 0.6])
    assert list(rank.y) == pytest.approx([1.0, 0.8, 0.2])
    (sheet,) = tables(Runs(RUNS), SETUP)
    assert len(sheet.rows) == 4 * 3
    assert {len(row) for row in sheet.rows} == {len(sheet.head)}
