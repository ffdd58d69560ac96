"""The study of two-layer networks: its rows, its effects on runs made by hand, the whole of it."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from made_runs import make_runs

from lowland import studies
from lowland.core.errors import InputError
from lowland.measure import distinct_units
from lowland.studies.runs import Runs
from lowland.studies.two_layer import ACTIVATIONS, STUDY, draw, figures, findings, pruning, run
from lowland.studies.two_layer.columns import DECAYS, SAM, TEACHERS, decay_group, teacher_group
from lowland.studies.two_layer.draws import Network
from lowland.studies.two_layer.experiment import runs as rows
from lowland.studies.two_layer.readings import distinct, read
from lowland.studies.two_layer.training import Batch
from lowland.train import Local

RELU = SAM["relu"]


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_distinct_units_of_many_runs_are_those_of_the_instrument(name):
    activation = ACTIVATIONS[name]
    generator = torch.Generator().manual_seed(1)
    hidden = activation(torch.randn(3, 20, 12, generator=generator))
    hidden[1, :, 5] = 3 * hidden[1, :, 2]  # a duplicate
    hidden[1, :, 7] = 0.25  # constant: repeats nothing
    hidden[2, :, :4] = 0
    active = activation.active(hidden)
    expected = [
        distinct_units(h[:, a], correlation=0.999, constant="distinct").value
        for h, a in zip(hidden, active, strict=True)
    ]
    assert distinct(hidden, active).tolist() == expected
    assert expected[1] < int(active[1].sum())
    assert distinct(hidden * math.inf, active).tolist() == [0, 0, 0]


def test_teachers_of_all_sizes_say_numbers_of_one_size():
    """Var of the sum of K units times √(3/K) does not depend on K; offsets apart."""
    spreads = []
    for units in (1, 20):
        targets = [
            draw(ACTIVATIONS["relu"], s, steps=1, teacher_units=units).test_y for s in range(60)
        ]
        spreads.append(torch.stack([y.std() for y in targets]).square().mean().sqrt())
    assert 0.7 < spreads[0] / spreads[1] < 1.4


def test_rows_are_the_runs_point_by_point():
    settings = {
        "activation": "relu",
        "regularizer": "sam",
        "radii": [0.0, 0.2],
        "exact": False,
        "steps": 30,
        "units": 8,
        "points": 4,
    }
    found = list(rows(seed=5, rho=0.0, count=2, **settings))
    alone = run("relu", "sam", 0.2, 6, steps=30, units=8, points=4)
    of_it = [row for row in found if (row["rho"], row["seed"]) == (0.2, 6)]
    assert [row["iteration"] for row in of_it] == [p.step for p in alone.curve]
    assert of_it[-1]["train_loss"] == pytest.approx(alone.train_loss, rel=1e-4)
    assert {row["seed"] for row in found} == {5, 6}
    apart = list(rows(seed=5, rho=0.0, count=1, as_rho=False, **settings))
    assert {row["rho"] for row in apart} == {0.0}


def made(values, group=RELU, **options):
    return make_runs(values, group=group, rhos=(0.0, 0.2, 0.6), **options)


def constant(rho, seed, step):
    """Rank 20, 15, 5; active 60, 40, 12; norm 1, 10, 100; loss falls over time."""
    place = (0.0, 0.2, 0.6).index(rho)
    return {
        "iteration": float(10**step),
        "feature_rank": (20, 15, 5)[place] if step == 3 else 20,
        "active_units": (60, 40, 12)[place] if step else 60,
        "distinct_units": 5,
        "weight_norm": 10.0**place,
        "train_loss": 10.0 ** -(2 * step) * (1 + place),
        "test_loss": 0.1 * (3 - place),
        "pull": 10.0**-step,
        "unit_norm": 2.0 + step,
        "inactive_norm": 1.5,
    }


def test_effects_of_known_runs():
    runs = Runs(made(constant))
    assert findings.fall(runs, RELU, "feature_rank").effects == dict.fromkeys(range(3), 0.75)
    assert findings.rise(runs, RELU, "weight_norm").effects == dict.fromkeys(range(3), 2.0)
    assert set(findings.order(runs, RELU, "test_loss", rising=False).effects.values()) == {1.0}
    assert set(findings.half_way(runs, RELU).effects.values()) == {1.0}
    # pull ∝ √(train loss), so the slope is 1
    assert findings.follows_the_loss(runs).effects[0] == pytest.approx(1)
    # SAM ends with the point at 100 of 1000; a tenth of that is the point at 10, all is gone
    assert findings.stronger_at_first(runs).effects[0] == 1.0
    assert findings.shifted(findings.follows_the_loss, -1.0)(runs).effects[0] == pytest.approx(0)


def test_inactive_units_are_read_with_their_norms():
    """Of four units two are negative on all inputs: their weight vectors have norms 3 and 5."""
    weight = torch.tensor([[[1.0, 0, 0, 0], [0, 1, 3, -4], [0, 0, 0, 3], [9, 9, -9, -9]]])
    network = Network(weight, torch.ones(1, 4), torch.zeros(1))
    x = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]])
    y, order = torch.zeros(1, 3), torch.zeros(1, 1, dtype=torch.long)
    data = Batch(x=x[None], y=y, test_x=x[None], test_y=y, order=order)
    found = read(0, network, data, ACTIVATIONS["relu"], "unit")
    assert found.active_units.tolist() == [2]
    assert found.inactive_norm.tolist() == [4.0]
    assert found.unit_norm.tolist() == [2.5]
    alive = Network(weight.abs(), network.outer, network.offset)
    assert read(0, alive, data, ACTIVATIONS["relu"], "unit").inactive_norm.tolist() == [0.0]


def test_what_so_few_active_units_force_is_due_to_pruning():
    """Rank 20 falls to 5 with 12 active units: 8 of 15 dimensions could not have stayed."""
    finding = pruning.forced_fall(Runs(made(constant)), RELU)
    assert finding.effects == dict.fromkeys(range(3), 8 / 15)
    assert set(next(iter(finding.beside.values())).values()) == {1.0}

    def many(rho, seed, step):
        row = constant(rho, seed, step)
        return {**row, "active_units": row["active_units"] + 30}

    # 42 units stay: they fall together with the rank, and force nothing
    finding = pruning.forced_fall(Runs(made(many)), RELU)
    assert set(next(iter(finding.beside.values())).values()) == {1.0}
    assert set(finding.effects.values()) == {0.0}

    def few(rho, seed, step):
        return {**constant(rho, seed, step), "active_units": 2 if rho else 60}

    # weak units that do not count as active hold components, too: no more than the whole fall
    assert set(pruning.forced_fall(Runs(made(few)), RELU).effects.values()) == {1.0}


def test_components_norms_and_first_order_of_known_runs():
    def gentle(rho, seed, step):
        return {**constant(rho, seed, step), "feature_rank": 20 - 10 * (rho == 0.6)}

    runs = Runs([*made(constant), *made(gentle, group="relu/gradient-norm")])
    assert pruning.fewer_components(runs).effects == dict.fromkeys(range(3), 1 - 5 / 12)
    assert pruning.not_shrunk(runs).effects == dict.fromkeys(range(3), 0.75)

    def grown(rho, seed, step):
        return {**constant(rho, seed, step), "inactive_norm": 1e6}

    assert pruning.not_shrunk(Runs(made(grown))).effects == dict.fromkeys(range(3), 1.0)
    assert pruning.first_order(runs).effects[0] == pytest.approx(0.5 / 0.75)
    assert pruning.first_order(runs).beside["of active units"][0] == pytest.approx(1)


def test_a_run_without_a_unit_has_no_fewer_components():
    def dead(rho, seed, step):
        lost = rho == 0.6
        row = constant(rho, seed, step)
        return {**row, "feature_rank": 0, "active_units": 0} if lost else row

    runs = Runs(made(dead))
    assert set(pruning.fewer_components(runs).effects.values()) == {0.0}
    assert set(pruning.forced_fall(runs, RELU).effects.values()) == {1.0}


def test_the_median_of_an_even_number_of_seeds_is_between_the_two_in_the_middle():
    """Seeds 0 to 3 have norms 1, 10, 100 and 1000 at every ρ, one of them infinite at ρ = 0.6."""

    def spread(rho, seed, step):
        lost = rho == 0.6 and seed == 0
        return {**constant(rho, seed, step), "weight_norm": math.nan if lost else 10.0**seed}

    runs = Runs(made(spread, seeds=(0, 1, 2, 3)))
    detail = findings.rise(runs, RELU, "weight_norm").detail
    assert "0: 55, 0.2: 55, 0.6: 550." in detail
    assert figures._median(runs, RELU, 0.0, "weight_norm") == 55
    assert figures._median(runs, RELU, 0.6, "weight_norm") == 550


def test_a_run_that_diverged_counts_against_the_claim():
    def wild(rho, seed, step):
        row = constant(rho, seed, step)
        lost = rho == 0.6 and seed == 1 and step == 3
        return {"iteration": row["iteration"]} if lost else row

    runs = Runs([dataclasses.replace(r, diverged=(r.rho, r.seed) == (0.6, 1)) for r in made(wild)])
    rank = findings.fall(runs, RELU, "feature_rank")
    assert rank.effects == {0: 0.75, 1: 0.0, 2: 0.75}
    assert "Diverged: 1 runs" in rank.detail
    assert findings.rise(runs, RELU, "weight_norm").effects[1] == 0.0
    # 0.3, 0.2, infinite: one pair falls, two rise
    loss = findings.order(runs, RELU, "test_loss", rising=False).effects
    assert loss[1] == pytest.approx(-1 / 3)


def test_weight_decay_is_compared_at_no_larger_train_loss():
    held = made(constant)
    for place, decay in enumerate(DECAYS):

        def values(rho, seed, step, place=place):
            # the strongest decay underfits, and its rank of 1 does not count
            strongest = place == len(DECAYS) - 1
            loss = 1.0 if strongest else 10.0**-8
            return {
                **constant(0.0, seed, step),
                "train_loss": loss,
                "feature_rank": 1 if strongest else 10,
            }

        held += make_runs(values, group=decay_group(decay), rhos=(0.0,))
    runs = Runs(held)
    assert findings.against_weight_decay(runs, "feature_rank").effects[0] == pytest.approx(0.5)
    assert set(findings.weight_decay_prunes(runs).effects.values()) == {0.0}


def test_teachers_are_put_in_order():
    held = []
    for units in sorted({*TEACHERS, 3}):

        def values(rho, seed, step, units=units):
            row = constant(rho, seed, step)
            return {**row, "feature_rank": units, "test_loss": 1 + rho / units}

        held += make_runs(values, group=teacher_group(units), rhos=(0.0, 0.2, 0.6))
    runs = Runs(held)
    assert set(findings.data_adaptive(runs).effects.values()) == {1.0}
    # SAM loses least with most units: the opposite of what is claimed
    assert set(findings.helps_low_rank_targets(runs).effects.values()) == {-1.0}


def test_the_whole_study(tmp_path: Path) -> None:
    small = ("steps=60", "units=8", "points=4")
    choice = STUDY.choose(size="smoke", seeds=2, overrides=small)
    results = studies.execute(STUDY, choice, tmp_path / "out", launcher=Local(workers=1))
    assert results["failures"] == []
    assert results["asked"]["seeds"] == [0, 1]
    assert {c["verdict"] for c in results["claims"]} <= {"holds", "does not hold", "cannot tell"}
    assert len(results["drawings"]) == 5
    published, ends = results["tables"]
    assert [row[1] for row in published["rows"]][:5] == [0.0, 0.1, 0.2, 0.4, 0.6]
    assert len(ends["rows"]) == 15 + len(DECAYS)
    proposition = [c for c in results["claims"] if c["name"] == "step-constant-residual"]
    assert abs(proposition[0]["estimate"]) < 0.01


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"data": "digits"}, "data of their own, not on digits"),
        ({"method": "asam"}, "trained with sam, not with asam"),
        ({"overrides": ("stepz=3",)}, "did you mean 'steps'"),
        ({"overrides": ("steps=none",)}, "give a whole number from 1 on"),
    ],
)
def test_what_it_does_not_have_is_one_line(asked, words):
    with pytest.raises(InputError, match=words):
        STUDY.plan(STUDY.choose(**asked))
