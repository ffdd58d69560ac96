"""Effects of width sweeps on runs made by hand, whose slopes are known."""

from __future__ import annotations

import dataclasses
import math

import pytest
from made_runs import make_runs

from lowland.studies.runs import NotMeasuredError, Run, Runs
from lowland.studies.study import assess
from lowland.studies.workloads import findings
from lowland.studies.workloads.claims import claims
from lowland.studies.workloads.drawings import figures, panels, tables
from lowland.studies.workloads.kinds import WORKLOADS, Sweep

RHOS = (0.0, 0.01, 0.1)
SWEEP = Sweep(workload=WORKLOADS["lstm"], parameters={4: 100, 8: 1_000, 16: 10_000}, judged=1_000)
BEST = {4: 0.01, 8: 0.1, 16: 0.1}


def made(width: int) -> list[Run]:
    """SAM at its best ρ gains width/400, at the other 0.001 less; test errors are 0.01 above."""

    def values(rho: float, seed: int, step: int) -> dict[str, float]:
        gain = {0.0: 0.0, BEST[width]: width / 400}.get(rho, width / 400 - 0.001)
        error = 0.3 - gain + 0.001 * seed
        return {
            "validation/error": error,
            "validation/loss": 2 * error,
            "test/error": error + 0.01,
            "train/error": 0.1,
            "train/loss": 10.0**-step * (2 if rho else 1),
        }

    return make_runs(values, group=f"lstm/{width}", rhos=RHOS)


def every() -> list[Run]:
    return [run for width in SWEEP.parameters for run in made(width)]


def test_the_slope_of_known_gaps() -> None:
    """Gaps 0.01, 0.02, 0.04 at 2, 3, 4 decades: slope (0.04 - 0.01)/2."""
    found = findings.gain_grows(Runs(every()), SWEEP)
    assert found.effects == pytest.approx(dict.fromkeys(range(3), 0.015))
    assert found.beside["of the test error"] == pytest.approx(found.effects)
    assert found.beside["of the validation loss, in nats"][0] == pytest.approx(0.03)
    assert found.beside["widest minus narrowest"][1] == pytest.approx(0.03)
    assert found.beside["at matched train loss"] == pytest.approx(found.effects)
    assert found.resolution == pytest.approx(0.001 / math.sqrt(2))
    assert "+4.00 points at 10,000 parameters" in found.detail
    assert "mostly 0.01, 0.1, 0.1" in found.detail


def test_the_slope_of_known_best_radii() -> None:
    """log10 ρ* is -2, -1, -1 at 2, 3, 4 decades."""
    found = findings.best_radius_grows(Runs(every()), SWEEP)
    assert found.effects == pytest.approx(dict.fromkeys(range(3), 0.5))
    assert found.beside["by validation loss"] == pytest.approx(found.effects)
    assert found.resolution == pytest.approx(1 / math.sqrt(2))
    assert "0.010, 0.100, 0.100" in found.detail
    assert "in 9 of 9 cases" in found.detail


def test_ties_count_with_the_mean_of_their_logarithms() -> None:
    def values(rho: float, seed: int, step: int) -> dict[str, float]:
        return {"validation/error": 0.2}

    runs = Runs(make_runs(values, group="lstm/4", rhos=RHOS))
    found = findings.best_radii(runs, "lstm/4", "validation/error")
    assert found == pytest.approx(dict.fromkeys(range(3), -1.5))


def with_lost(group: str, rho: float, seed: int) -> Runs:
    """All runs, of which one diverged."""
    nothing = {"validation/error": [None] * 4}
    return Runs(
        [
            dataclasses.replace(run, history={**run.history, **nothing}, diverged=True)
            if (run.group, run.rho, run.seed) == (group, rho, seed)
            else run
            for run in every()
        ]
    )


def test_a_run_that_diverged_is_never_best_and_its_radius_never_chosen() -> None:
    first = with_lost("lstm/4", 0.01, 2)  # wherever in the grid it is
    best = findings.best_radii(first, "lstm/4", "validation/error")
    assert best == pytest.approx({0: -2, 1: -2, 2: -1})
    runs = with_lost("lstm/16", 0.1, 1)
    best = findings.best_radii(runs, "lstm/16", "validation/error")
    assert best == pytest.approx({0: -1, 1: -2, 2: -1})
    tuned = findings.tunings(runs, SWEEP)[-1]
    assert tuned.chosen == {0: 0.01, 1: 0.1, 2: 0.01}  # seed 1 is judged where the others are best
    gain = findings.gain_grows(runs, SWEEP)
    assert math.isnan(gain.effects[1])


def test_what_was_not_measured() -> None:
    few = Runs([run for run in every() if run.rho != 0.01])
    with pytest.raises(NotMeasuredError, match="two values above 0"):
        findings.best_radius_grows(few, SWEEP)
    one = Sweep(workload=SWEEP.workload, parameters={4: 100}, judged=10)
    with pytest.raises(NotMeasuredError, match="two widths"):
        findings.gain_grows(Runs(every()), one)
    with pytest.raises(NotMeasuredError):
        findings.gain_grows(Runs(made(4)), SWEEP)
    (*_, games) = claims([SWEEP])
    finding, verdict = assess(games, Runs(every()), family=3)
    assert (verdict.word, finding.effects) == ("no data here", {})
    assert "emulator" in verdict.reason


def test_no_common_train_loss_is_left_out() -> None:
    flat = [
        dataclasses.replace(run, history={**run.history, "train/loss": [1.0] * 4})
        if run.group == "lstm/8"
        else run
        for run in every()
    ]
    assert "at matched train loss" not in findings.gain_grows(Runs(flat), SWEEP).beside


def test_figures_and_tables_of_known_runs() -> None:
    runs = Runs(every())
    missing = Sweep(workload=WORKLOADS["gcn"], parameters={4: 10, 8: 20}, judged=10)
    gaps, tests, best, heat = figures(runs, [SWEEP, missing])
    assert [line.name for line in gaps.lines] == ["LSTM"]  # what did not run is not drawn
    assert list(gaps.lines[0].x) == [100, 1_000, 10_000]
    assert gaps.lines[0].y == pytest.approx([0.01, 0.02, 0.04])
    assert tests.lines[0].y == pytest.approx([0.01, 0.02, 0.04])
    assert best.lines[0].y == pytest.approx([0.01, 0.1, 0.1])
    assert heat.rows == ["0.01", "0.1"]
    assert heat.columns[0] == "4 (100)"
    assert heat.values[0] == pytest.approx([0.01, 0.019, 0.039])
    assert heat.values[1] == pytest.approx([0.009, 0.02, 0.04])
    (sheet,) = tables(runs, [SWEEP])
    assert sheet.rows[2] == ["LSTM", 16, 10_000, 10.0, 30.1, 31.1, 26.1, 27.1]
    assert len(panels([SWEEP])) == 2
    with pytest.raises(NotMeasuredError):
        figures(runs, [missing])
