"""Few-shot probes, probes of several annotations, and errors by group."""

import json
import math

import numpy as np
import pytest
import torch
from probe_data import classes_in

from lowland.core.errors import InputError
from lowland.core.student import student_t
from lowland.measure.probes import (
    feature_probes,
    few_shot_probe,
    group_errors,
    joint_groups,
    linear_probe,
)
from lowland.measure.probes.labels import balanced_rows, stratified_split


def test_few_shots_are_linear_probes_of_the_drawn_rows():
    x, y = classes_in(60, 6, 3, seed=1, apart=0.5)
    tx, ty = classes_in(90, 6, 3, seed=1, apart=0.5, draw=1)
    probe = few_shot_probe(x, y, tx, ty, shots=(5, 2), draws=4, standardize="none", C=0.5, seed=7)
    assert [row.shots for row in probe.by_shots] == [5, 2]
    generator = torch.Generator().manual_seed(7)
    orders = [torch.randperm(60, generator=generator) for _ in range(4)]
    for row in probe.by_shots:
        errors = []
        for order in orders:
            rows = torch.cat([order[y[order] == c][: row.shots] for c in range(3)])
            alone = linear_probe(x[rows], y[rows], tx, ty, C=0.5, standardize="none")
            errors.append(alone.value)
        assert row.errors == tuple(errors)
        assert row.error == pytest.approx(np.mean(errors))
        assert row.standard_error == pytest.approx(np.std(errors, ddof=1) / 2)
        half = student_t(0.95, 3) * row.standard_error
        assert row.low == pytest.approx(max(0, row.error - half))
        assert row.high == pytest.approx(min(1, row.error + half))
    assert probe.value == probe.by_shots[0].error
    assert probe.uncertainty == probe.by_shots[0].standard_error


def test_few_shots_of_one_draw_have_no_interval():
    x, y = classes_in(20, 4, 2, seed=2)
    row = few_shot_probe(x, y, x, y, shots=(1,), draws=1).by_shots[0]
    assert row.standard_error is None
    assert row.low is None


def test_records_are_ready_for_json():
    x, y = classes_in(40, 4, 2, seed=2)
    found = json.loads(json.dumps(linear_probe(x, y, train_groups=y).to_dict()))
    assert found["fits"][0]["groups"]["groups"][1]["group"] == 1
    assert "weight" not in found
    few = json.loads(json.dumps(few_shot_probe(x, y, x, y, shots=(1, 3)).to_dict()))
    assert [row["shots"] for row in few["by_shots"]] == [1, 3]
    notes = {"a": y, "b": torch.arange(40) // 20}
    every = feature_probes(x, notes, x, notes, C=1.0, balance=1).to_dict()
    assert set(json.loads(json.dumps(every))["probes"]) == {"a", "b"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shots": (11,)}, "label 0 has 10"),
        ({"shots": ()}, "shots"),
        ({"shots": (0,)}, "at least 1"),
        ({"draws": 0}, "draws"),
        ({"C": -1.0}, "positive"),
    ],
)
def test_few_shots_refuse(options, message):
    x, y = classes_in(20, 4, 2, seed=3)
    with pytest.raises(InputError, match=message):
        few_shot_probe(x, y, x, y, **{"shots": (1,)} | options)


def spurious(n, seed, share=0.95):
    """A strong feature that goes with a weak one in most examples."""
    generator = torch.Generator().manual_seed(seed)
    core = torch.randint(2, (n,), generator=generator)
    same = torch.rand(n, generator=generator) < share
    easy = torch.where(same, core, 1 - core)
    x = torch.randn(n, 5, generator=generator)
    x[:, 0] += 6 * easy
    return x, core, easy


def test_a_probe_cannot_score_through_another_annotation():
    x, core, easy = spurious(2000, 4)
    tx, tcore, teasy = spurious(1000, 5)
    # the features say nothing of `core` but through `easy`
    plain = linear_probe(x, core, tx, tcore)
    assert plain.value < 0.1
    found = feature_probes(
        x, {"core": core, "easy": easy}, tx, {"core": tcore, "easy": teasy}, balance=3
    )
    assert 0.35 < found.errors["core"] < 0.65
    assert found.errors["easy"] < 0.02
    assert found.value == pytest.approx(sum(found.errors.values()) / 2)
    assert found.groups == 4
    assert found.converged
    probe = found.probes["core"]
    groups = probe.chosen.groups.groups
    assert found.errors["core"] == pytest.approx(sum(g.error for g in groups) / 4)
    spread = math.sqrt(sum(g.error * (1 - g.error) / g.n for g in groups)) / 4
    assert found.uncertainties["core"] == pytest.approx(spread)
    assert set(found.to_dict()["probes"]) == {"core", "easy"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"annotations": {}, "test_annotations": {}}, "at least one"),
        ({"test_annotations": {"a": [0, 1, 0, 1]}}, "same names"),
        ({"annotations": {"a": [0, 1, 0, 1], "b": [1, 1, 1, 1]}}, "b: 1 for all 4"),
        ({"annotations": {"a": [0, 0, 1, 1], "b": [0, 0, 1, 1]}}, "only 2 of 4 combinations"),
        ({"balance": 0}, "balance"),
    ],
)
def test_annotations_that_cannot_be_told_apart_are_refused(change, message):
    notes = {"a": [0, 0, 1, 1], "b": [0, 1, 0, 1]}
    x = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    options = {"annotations": notes, "test_annotations": notes, "C": 1.0} | change
    with pytest.raises(InputError, match=message):
        feature_probes(
            x, options["annotations"], x, options["test_annotations"], C=1.0, **_rest(options)
        )


def _rest(options):
    return {k: v for k, v in options.items() if k not in ("annotations", "test_annotations", "C")}


def test_averages_of_groups_by_name():
    wrong = torch.tensor([True, False, False, False, True, True])
    groups = torch.tensor([0, 0, 0, 0, 5, 5])
    train = torch.tensor([0, 5, 5, 5, 9])
    found = group_errors(wrong, groups, train)
    assert [g.group for g in found.groups] == [0, 5]
    assert found.averages == {
        "examples": 0.5,
        "groups equally": 0.625,
        "training shares": pytest.approx((0.25 * 1 + 1.0 * 3) / 4),
    }
    assert (found.worst_group, found.worst_error) == (5, 1.0)
    assert found.worst_high == 1.0
    assert found.worst_low < 0.5
    assert [g.train_size for g in found.groups] == [1, 3]
    assert "training shares" not in group_errors(wrong, groups, None).averages


def test_draws_are_balanced_and_splits_keep_every_class():
    groups = torch.tensor([0] * 10 + [1] * 4 + [2] * 7)
    rows = balanced_rows(groups, torch.Generator().manual_seed(0))
    assert torch.bincount(groups[rows]).tolist() == [4, 4, 4]
    assert len(rows.unique()) == len(rows)
    kept, out = stratified_split(groups, 0.3, torch.Generator().manual_seed(0))
    assert sorted([*kept.tolist(), *out.tolist()]) == list(range(21))
    assert torch.bincount(groups[out]).tolist() == [3, 1, 2]
    with pytest.raises(InputError, match="holds none out"):
        stratified_split(torch.tensor([0, 1]), 0.1, torch.Generator())


def test_joint_groups_number_combinations():
    a, b = [0, 1, 1, 0], [2, 2, 3, 2]
    assert joint_groups(a, b).tolist() == [0, 1, 2, 0]
    with pytest.raises(InputError, match="no annotations"):
        joint_groups()


def test_intervals_of_the_error_cover_other_test_sets():
    """Of one test set: it holds the error over the distribution about 95 % of times."""
    x, y = classes_in(60, 4, 2, seed=8, apart=0.6)
    wide, labels = classes_in(200_000, 4, 2, seed=8, apart=0.6, draw=1)
    truth = linear_probe(x, y, wide, labels).value
    hits = 0
    for draw in range(400):
        tx, ty = classes_in(100, 4, 2, seed=8, apart=0.6, draw=2 + draw)
        probe = linear_probe(x, y, tx, ty)
        hits += probe.low <= truth <= probe.high
    assert 0.92 <= hits / 400 <= 0.98
