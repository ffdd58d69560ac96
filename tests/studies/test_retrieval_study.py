"""Effects of the study of retrieval on runs made by hand, its plan, and all of it at smoke size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from made_runs import make_runs

from lowland.core.errors import InputError
from lowland.studies.retrieval import STUDY, columns, findings, readings
from lowland.studies.retrieval.columns import ERRORS, FEW, MAIN, RECALLS, TRANSFER, Setup
from lowland.studies.retrieval.coordinates import coordinates
from lowland.studies.retrieval.drawings import figures, tables
from lowland.studies.retrieval.searching import Searches
from lowland.studies.runner import execute
from lowland.studies.runs import NotMeasuredError, Runs
from lowland.studies.study import assess
from lowland.train import Local

pytest.importorskip("faiss")
SETUP = Setup(block="block2", database=100, queries=50, transfer_queries=4000, trained=10, few=3)


def main_values(rho: float, seed: int, evaluation: int) -> dict[str, float]:
    """A search needs (1 - ρ) of what it needs in plain training, a little more by seed."""
    level, scale = 1 - rho, 1 + 0.01 * seed
    loss = (2.0 + rho) * 0.5**evaluation
    return {
        "train/loss": loss,
        "validation/error": 0.1 + abs(rho - 0.1),
        columns.training_rank("block2"): (80 + 20 * loss) * level,
        **{columns.dimensions(r): 100 * r * level * scale for r in RECALLS},
        columns.dimensions(metric="l2"): 50 * level,
        columns.dimensions(features=columns.POOLED): 20.0,
        **{columns.bits(r): 800 * r * level for r in RECALLS},
        columns.bits(codec="sq4"): 400 * level,
        columns.operations(): 1000 * level**2,
        columns.comparing(): 400 * level,
        **{columns.components(e): 64 * level for e in ERRORS},
        **{columns.tokens(e): 256 * level for e in ERRORS},
        columns.best_bits(): 4.0,
        columns.width(): 128.0,
        columns.knn(): 0.02,
        columns.knn(dims="rank"): 0.025,
        columns.adaptive(): 40 * level,
        **{columns.curve(k, m): 1 - 0.5**k for k in (1, 2, 4) for m in columns.METRICS},
    }


def transfer_values(rho: float, seed: int, evaluation: int) -> dict[str, float]:
    return {
        columns.knn("validation"): 0.1 + abs(rho - 0.1),
        columns.knn(): 0.05 - 0.02 * (rho == 0.1) + 0.03 * (rho == 0.4),
        columns.knn(dims="rank"): 0.055 - 0.02 * (rho == 0.1) + 0.03 * (rho == 0.4),
        columns.dimensions(): 60 * (1 - rho),
    }


def few_values(rho: float, seed: int, evaluation: int) -> dict[str, float]:
    return {columns.adaptive(): 10.0}


def all_runs() -> Runs:
    return Runs(
        [
            *make_runs(main_values),
            *make_runs(transfer_values, group=TRANSFER),
            *make_runs(few_values, group=FEW, rhos=(0.0, 0.4)),
        ]
    )


@pytest.mark.parametrize(
    ("find", "effect", "beside"),
    [
        (
            findings.fewer_dimensions,
            0.4,
            {"recall 0.9": 0.4, "pooled features": 0.0, "at the ρ chosen on validation error": 0.1},
        ),
        (findings.fewer_operations, 1 - 0.36, {"without the turn to components": 0.4}),
        (findings.fewer_bits, 0.4, {"sq4": 0.4, "recall 0.99": 0.4}),
        (findings.fewer_tokens, 0.4, {"bits alone": 0.0, "components alone": 0.4}),
        (
            findings.threefold,
            128 / 38.4,
            {"in plain training": 2.0, "plain training over ρmax: the part of SAM": 1 / 0.6},
        ),
        (
            findings.labels_preserved,
            0.03,
            {"at ρ = 0.4": -0.02, "classes of training, at the largest ρ": 0.01},
        ),
        (findings.components_suffice, 0.005, {"in plain training": 0.005}),
        (findings.adapts, 1 - 10 / 24, {"in plain training": 0.75}),
    ],
)
def test_effects(find: Any, effect: float, beside: dict[str, float]) -> None:
    found = find(all_runs(), SETUP)
    assert found.effects == pytest.approx(dict.fromkeys((0, 1, 2), effect))
    for name, value in beside.items():
        assert found.beside[name] == pytest.approx(dict.fromkeys((0, 1, 2), value))
    assert found.detail


def test_components_at_matched_loss() -> None:
    """Where all losses are the same, so is the rank but for the factor 1 - ρ."""
    found = findings.at_matched_loss(all_runs(), SETUP)
    for effect in found.effects.values():
        assert effect == pytest.approx(0.4, abs=5e-3)


def test_every_claim_is_judged_and_drawn() -> None:
    from lowland.studies.retrieval.claims import claims

    runs = all_runs()
    family = claims(SETUP)
    words = {c.name: assess(c, runs, family=len(family))[1].word for c in family}
    assert words.pop("fewer-operations") == "holds"
    assert set(words.values()) == {"holds"}
    assert [drawing.title for drawing in figures(runs, SETUP)]
    assert all(line.y for drawing in figures(runs, SETUP) for line in drawing.lines)
    (sheet,) = tables(runs, SETUP)
    assert len(sheet.rows) == 3
    assert all(len(row) == len(sheet.head) for row in sheet.rows)


def test_what_was_not_measured_is_no_data() -> None:
    with pytest.raises(NotMeasuredError):
        findings.fewer_bits(Runs(make_runs(few_values)), SETUP)
    drawn = figures(Runs(make_runs(few_values, group=MAIN)), SETUP)
    assert not drawn[0].lines or not drawn[0].lines[0].x


def test_the_plan() -> None:
    plan = STUDY.plan(STUDY.choose())
    by_group = {name: [p for p in plan.runs if p.group == name] for name in (MAIN, TRANSFER, FEW)}
    assert [len(by_group[name]) for name in (MAIN, TRANSFER, FEW)] == [20, 20, 10]
    few, main = by_group[FEW][0].recipe.recipe, by_group[MAIN][0].recipe.recipe
    assert few.labels == (0, 1, 2)
    assert few.epochs * 320 == pytest.approx(main.epochs * 1078, rel=0.05)  # as many steps
    assert main.rank_block == "block2"
    for planned in plan.runs:
        planned.recipe.check()
    with pytest.raises(InputError, match="the study sets labels itself"):
        STUDY.plan(STUDY.choose(overrides=("labels=1,2",)))


def test_readings_are_the_same_every_time() -> None:
    draws = torch.Generator().manual_seed(0)
    x, q = (torch.randn(n, 24, generator=draws) for n in (700, 30))
    rows = [readings._approximate(coordinates(x, q, "cosine"), seed=3) for _ in range(2)]
    assert rows[0] == rows[1]
    assert rows[0][columns.bits()] is not None
    other = readings._approximate(coordinates(x, q, "cosine"), seed=4)
    assert other != rows[0]


def test_operations_include_the_turn_to_components() -> None:
    draws = torch.Generator().manual_seed(0)
    x, q = (torch.randn(n, 24, generator=draws) for n in (700, 30))
    where = coordinates(x, q, "cosine")
    row = readings._approximate(where, seed=3)
    search = Searches(where, seed=3)
    k = search.crossing(search.exact, 0.975)
    assert k is not None
    comparing = search.operations(round(k), 0.95)
    assert comparing is not None
    assert row[columns.comparing()] == comparing
    assert row[columns.operations()] == comparing + round(k) * 24


@pytest.mark.slow
def test_smoke(tmp_path: Path) -> None:
    """Everything, on small networks: each column that a claim reads is there."""
    choice = STUDY.choose(size="smoke", overrides=("epochs=1", "width=2"))
    results = execute(STUDY, choice, tmp_path, launcher=Local(workers=1))
    assert not results["failures"]
    missing = [c["why"] for c in results["claims"] if c["verdict"] == "no data here"]
    assert all("/0.01 was not measured" in why or "all ρ reach" in why for why in missing)
    runs = [run for run in results["runs"] if run["group"] == MAIN]
    assert len(runs) == 4
    assert (tmp_path / "report.html").exists()
