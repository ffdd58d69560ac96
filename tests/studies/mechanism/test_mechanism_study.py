"""The study of the mechanism: toy, readings, grid, and claims on runs whose effects are known."""

from __future__ import annotations

import math

import pytest
import torch
from made_runs import make_runs

from lowland import InputError
from lowland.data import load
from lowland.measure import linear_probe
from lowland.studies.balance.examples import EASY, HARD
from lowland.studies.mechanism import STUDY, Head, columns
from lowland.studies.mechanism.arms import IMPORTANCE, LSAM, RATE
from lowland.studies.mechanism.claims import claims
from lowland.studies.mechanism.columns import ALONE, POINTS, TRAINED, Place, lorenz_column, of
from lowland.studies.mechanism.drawings import figures, panels, tables
from lowland.studies.mechanism.experiment import arms_runs, sam_runs
from lowland.studies.mechanism.reading import leaning
from lowland.studies.mechanism.toy import toy
from lowland.studies.runs import Run, Runs
from lowland.studies.study import Finding, Plan, assess
from lowland.studies.verdict import Verdict
from lowland.train import Experiment

PLACE = Place("toy, redundant", "toy", 1.0, "toy", 2000)
RHOS, SEEDS = (0.0, 0.1, 0.3), (0, 1, 2, 3)
HARD_ERRORS = {IMPORTANCE: 0.28, RATE: 0.27, LSAM: 0.25}
SMALL = {"lr": 0.1, "epochs": 1, "batch_size": 250, "evaluations": 2, "width": 8}


def made() -> Runs:
    """Plain training has a hard-feature error of 0.3; ρ = 0.3 has the lowest validation loss."""

    def arms(rho: float, seed: int, step: int) -> dict[str, float]:
        row = {columns.CORNER_SGD: 1e-16, columns.CORNER_LSAM: 2e-6 if seed == 2 else 1e-15}
        for arm in TRAINED:
            found = {
                columns.TRAIN: math.exp(-step - rho),
                columns.VALIDATION: 0.0,
                columns.VALIDATION_LOSS: 0.1 if rho == 0.3 else 0.2,
                columns.HARD: HARD_ERRORS[arm] if rho == 0.3 else 0.3,
                columns.EASY: 0.01,
                columns.WORST: 0.4,
                columns.GINI: 0.5,
                columns.GINI_PHANTOM: 0.5 - rho / 10 if step else 0.9,
                columns.HEAD: 0.2,
                columns.HEAD_PHANTOM: 0.2 + rho / 10 if step else 0.9,
                columns.RATIO: rho if step else 9.0,
            }
            for k in range(POINTS):
                share = k / (POINTS - 1)
                found[lorenz_column(columns.LORENZ, k)] = share**3
                found[lorenz_column(columns.LORENZ_PHANTOM, k)] = share**2
            row |= {of(arm, name): value for name, value in found.items()}
        return row

    def sam(rho: float, seed: int, step: int) -> dict[str, float]:
        return {
            columns.TRAIN: math.exp(-step),
            columns.VALIDATION: 0.0,
            columns.VALIDATION_LOSS: 0.2 - rho,
            columns.HARD: 0.3 - rho / 2,
        }

    found: list[Run] = make_runs(arms, group=PLACE.name, rhos=RHOS, seeds=SEEDS)
    found += make_runs(sam, group=PLACE.sam, rhos=(0.0, 0.02, 0.06), seeds=SEEDS)
    found += make_runs(lambda *_: {columns.HARD: 0.05}, group=ALONE, rhos=(0.0,), seeds=SEEDS)
    return Runs(found)


def judged(name: str, runs: Runs) -> tuple[Finding, Verdict]:
    by_name = {claim.name: claim for claim in claims((PLACE,))}
    return assess(by_name[name], runs, family=len(by_name))


def values(name: str) -> list[float]:
    finding, _ = judged(name, made())
    return list(finding.effects.values())


def test_every_arm_is_judged_at_the_rho_of_last_layer_sam() -> None:
    assert values("toy-redundant-importance") == pytest.approx([0.02] * 4)
    assert values("toy-redundant-rate") == pytest.approx([0.03] * 4)
    finding, verdict = judged("toy-redundant-lsam", made())
    assert list(finding.effects.values()) == pytest.approx([0.05] * 4)
    assert verdict.word == "holds"
    assert "ρ = 0.3 (4 of 4 seeds)" in finding.detail
    beside = {label: list(effects.values()) for label, effects in finding.beside.items()}
    assert beside["ρ = 0.1"] == pytest.approx([0.0] * 4)
    assert beside["SAM on all parameters, at its own ρ"] == pytest.approx([0.03] * 4)
    assert beside["both effects alone, added up"] == pytest.approx([0.05] * 4)
    assert beside["at equal train loss"] == pytest.approx([0.05] * 4)


def test_evenness_and_scaling_are_means_over_training() -> None:
    assert values("toy-redundant-evener") == pytest.approx([0.03] * 4)
    finding, _ = judged("toy-redundant-scaled", made())
    assert list(finding.effects.values()) == pytest.approx([0.03] * 4)
    logs = finding.beside["log of the ratio ṽ_hard/ṽ_simple over v_hard/v_simple"]
    assert list(logs.values()) == pytest.approx([0.3] * 4)
    assert list(finding.beside["at the weights of plain training"].values()) == [0.0] * 4


def test_last_layer_against_all_layers_and_the_hard_feature_alone() -> None:
    assert values("toy-redundant-as-sam") == pytest.approx([0.02] * 4)
    assert values("toy-redundant-under-learned") == pytest.approx([0.25] * 4)
    beside = judged("toy-redundant-as-sam", made())[0].beside["at equal train loss"]
    assert list(beside.values()) == pytest.approx([0.02] * 4)


def test_a_corner_that_is_off_is_seen() -> None:
    _, verdict = judged("corner-sgd", made())
    assert verdict.word == "holds"
    finding, verdict = judged("corner-lsam", made())
    assert finding.effects[2] == 2e-6
    assert verdict.word != "holds"


def test_a_corner_that_is_no_number_is_never_dropped() -> None:
    """It is the largest over the networks of a seed, of which one is fine."""
    places = (PLACE, Place("mlp, redundant", "mlp", 1.0, "digits", 568))

    def corner(rho: float, seed: int, step: int) -> dict[str, float]:
        return {columns.CORNER_SGD: math.nan if seed == 1 else 1e-15}

    def fine(rho: float, seed: int, step: int) -> dict[str, float]:
        return {columns.CORNER_SGD: 1e-16}

    for one, other in ((fine, corner), (corner, fine)):
        runs = Runs(
            [
                run
                for place, values in zip(places, (one, other), strict=True)
                for run in make_runs(values, group=place.name, rhos=(0.0,), seeds=SEEDS)
            ]
        )
        (claim,) = (c for c in claims(places) if c.name == "corner-sgd")
        finding, verdict = assess(claim, runs, family=1)
        assert math.isnan(finding.effects[1])
        assert verdict.word == "cannot tell"


def test_sentences_keep_their_capitals() -> None:
    sentences = {claim.name: claim.sentence for claim in claims((PLACE,))}
    assert sentences["toy-redundant-lsam"].startswith("Last-layer SAM improves")
    assert sentences["toy-redundant-rate"].startswith("Learning-rate scaling alone improves")


def test_figures_and_the_table_of_shares() -> None:
    drawn = figures(made(), (PLACE,))
    assert drawn[0].title.startswith("Lorenz curves of importance")
    assert drawn[0].lines[1].y[10] == pytest.approx(0.125)
    assert len(drawn[1].lines) == 5
    (table,) = tables(made(), (PLACE,))
    assert table.rows == [["toy, redundant", 2.0, 3.0, 5.0, 0.4, 0.6]]
    assert len(panels((PLACE,))) == 3


def test_the_toy_is_an_exclusive_or_beside_a_half_space() -> None:
    data = toy(0, 0.9)
    assert data.train.x.shape == (1000, 16)
    train = data.train
    assert torch.equal(train.notes[HARD], train.y)
    agree = (train.notes[HARD] == train.notes[EASY]).double().mean().item()
    assert agree == pytest.approx(0.9, abs=0.03)
    test = data.test
    agree = (test.notes[HARD] == test.notes[EASY]).double().mean().item()
    assert agree == pytest.approx(0.5, abs=0.04)
    errors = {}
    for name in (HARD, EASY):
        found = linear_probe(data.probing.x, data.probing.notes[name], test.x, test.notes[name])
        errors[name] = found.value
    assert errors[EASY] < 0.01
    assert errors[HARD] > 0.4, "no linear function of the inputs tells it"


def test_the_toy_alone_has_the_same_hard_half() -> None:
    one, other = toy(3, 1.0), toy(3, 0.95, alone=True)
    assert torch.equal(one.train.x[:, 8:], other.train.x[:, 8:])
    assert torch.equal(one.train.y, other.train.y)
    assert bool((other.train.x[:, :8] == 0).all())
    assert not torch.equal(one.train.x, toy(4, 1.0).train.x)
    assert len(toy(3, 1.0, train=20).train) == 20


def test_the_head_leans_on_directions_of_the_features() -> None:
    """Features are the two values themselves: u is an axis, a the weight along it."""
    corners = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    notes = {HARD: corners[:, 0].long(), EASY: corners[:, 1].long()}
    head, there = (
        Head(torch.tensor([[[0.0, 0.0], [a, b]]]), torch.zeros(1, 2))
        for a, b in ((1.0, -3.0), (2.0, 2.0))
    )
    found = leaning(corners[None], notes, head, there)
    assert found[columns.HEAD].item() == pytest.approx(0.25)
    assert found[columns.HEAD_PHANTOM].item() == pytest.approx(0.5)
    assert found[columns.RATIO].item() == pytest.approx(math.log(3))


def test_rows_of_the_arms_and_of_sam() -> None:
    common = {"seed": 5, "rho": 0.0, "count": 2, "data": "", "network": "toy", **SMALL}
    rows = list(arms_runs(**common, correlation=1.0, radii=[0.3]))  # type: ignore[arg-type]
    places = [(row["rho"], row["seed"], row["step"]) for row in rows]
    assert places == [(r, s, t) for s in (5, 6) for r in (0.0, 0.3) for t in (0, 1, 4)]
    plain, moved = rows[2], rows[5]
    assert plain["lsam/probe/hard"] == plain["rate/probe/hard"], "SGD is the ρ = 0 of every arm"
    assert len({moved[of(arm, columns.TRAIN)] for arm in TRAINED}) == 3
    assert plain[columns.CORNER_SGD] < 1e-9  # type: ignore[operator]
    assert plain[columns.CORNER_LSAM] < 1e-9  # type: ignore[operator]
    assert columns.CORNER_SGD not in moved
    assert plain["lsam/gini-phantom"] != plain["lsam/gini"], "by the middle radius"
    whole = list(sam_runs(**common, correlation=1.0, radii=[0.0, 0.1], alone=False))  # type: ignore[arg-type]
    end = {(row["rho"], row["seed"]): row for row in whole if row["step"] == 4}
    assert end[0.0, 5][columns.TRAIN] == pytest.approx(plain["lsam/train/loss"], rel=1e-5)
    assert end[0.1, 5][columns.TRAIN] != end[0.0, 5][columns.TRAIN]


def test_sam_that_was_stopped_has_no_numbers_from_then_on() -> None:
    """Its gradient at w + ε is not finite: it stays where it was, which is no trained network."""
    common = {"seed": 5, "rho": 0.0, "count": 1, "data": "", "network": "toy", **SMALL}
    rows = list(sam_runs(**common, correlation=1.0, radii=[0.0, 1e38], alone=False))  # type: ignore[arg-type]
    end = {row["rho"]: row for row in rows if row["step"] == 4}
    assert math.isfinite(end[0.0][columns.HARD])  # type: ignore[arg-type]
    assert math.isnan(end[1e38][columns.HARD])  # type: ignore[arg-type]
    assert math.isnan(end[1e38][columns.VALIDATION])  # type: ignore[arg-type]
    assert (end[1e38]["seed"], end[1e38]["step"]) == (5, 4)


def planned(**choice: object) -> Plan:
    chosen = STUDY.choose(**choice)  # type: ignore[arg-type]
    STUDY.check(chosen)
    return STUDY.plan(chosen)


def test_every_place_has_every_seed() -> None:
    seen: dict[str, list[int]] = {}
    plan = planned()
    for run in plan.runs:
        assert isinstance(run.recipe, Experiment)
        run.recipe.check()
        settings = run.recipe.arguments
        held = seen.setdefault(run.group, [])
        held += range(run.recipe.seed, run.recipe.seed + settings["count"])
        if run.group.endswith(", sam"):
            assert settings["radii"] == pytest.approx((0.0, 0.02, 0.06, 0.2))
    assert len(seen) == 11
    assert all(sorted(seeds) == list(range(10)) for seeds in seen.values())
    assert len({claim.name for claim in plan.claims}) == len(plan.claims)
    assert plan.fingerprint == load("digit-dominoes:correlation=1").fingerprint


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"data": "digits"}, "on dominoes of digits, not on digits"),
        ({"method": "asam"}, "taken from sam, not from asam"),
        ({"overrides": ("toy_epochs=x",)}, "give a whole number, as toy_epochs=30"),
    ],
)
def test_what_cannot_be_is_refused(choice: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        planned(**choice)
