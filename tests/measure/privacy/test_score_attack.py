"""What an attack achieves, from its scores: definitions, ties, edges, faults."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from lowland.core.errors import InputError
from lowland.measure.privacy import loss_threshold_attack, score_attack


def groups(seed: int = 0, n: int = 37, m: int = 23, digits: int = 1):
    """Rounded, so that there are ties within and between."""
    rng = np.random.default_rng(seed)
    return np.round(rng.normal(size=n) + 0.7, digits), np.round(rng.normal(size=m), digits)


def slow_area(members, others) -> float:
    return float(np.mean([(x > y) + 0.5 * (x == y) for x in members for y in others]))


def slow_best(members, others) -> float:
    cuts = [math.inf, *members, *others]
    return max(np.mean(members >= t) - np.mean(others >= t) for t in cuts)


def slow_rate(members, others, rate) -> float:
    cuts = [math.inf, *members, *others]
    return max(np.mean(members >= t) for t in cuts if np.mean(others >= t) <= rate)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("sizes", [(37, 23), (1, 1), (1, 30), (120, 2)])
def test_beside_loops(seed, sizes) -> None:
    members, others = groups(seed, *sizes)
    record = score_attack(members, others, threshold="best")
    assert record.auc == pytest.approx(slow_area(members, others), abs=1e-12)
    assert record.value == pytest.approx(slow_best(members, others), abs=1e-12)
    assert record.tpr == np.mean(members >= record.threshold)
    assert record.fpr == np.mean(others >= record.threshold)
    for rate, found, (low, high) in zip(
        record.rates, record.tpr_at_rates, record.tpr_at_rates_intervals, strict=True
    ):
        assert found == pytest.approx(slow_rate(members, others, rate), abs=1e-12)
        assert 0 <= low <= found <= high <= 1
    assert record.auc_interval[0] <= record.auc <= record.auc_interval[1]
    assert record.uncertainty > 0


def test_area_and_curve_beside_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    members, others = groups(3, 300, 200)
    truth = np.r_[np.ones(300), np.zeros(200)]
    record = score_attack(members, others, threshold="best")
    scores = np.r_[members, others]
    assert record.auc == pytest.approx(metrics.roc_auc_score(truth, scores), abs=1e-12)
    fpr, tpr, _ = metrics.roc_curve(truth, scores, drop_intermediate=False)
    assert record.value == pytest.approx(np.max(tpr - fpr), abs=1e-12)


def test_split_judges_no_example_by_a_threshold_that_it_chose() -> None:
    """On noise the best threshold gains a lot, the split one nothing on average."""
    rng = np.random.default_rng(0)
    split, best = [], []
    for seed in range(200):
        members, others = rng.normal(size=20), rng.normal(size=20)
        split.append(score_attack(members, others, seed=seed).value)
        best.append(score_attack(members, others, threshold="best").value)
    assert abs(np.mean(split)) < 4 * np.std(split) / math.sqrt(200)
    assert np.mean(best) > 0.1


def test_split_does_not_depend_on_the_order_of_examples() -> None:
    members, others = groups()
    first = score_attack(members, others, seed=3)
    again = score_attack(members[::-1].copy(), torch.tensor(others), seed=3)
    assert first.to_dict() | {"seconds": 0} == again.to_dict() | {"seconds": 0}
    assert first.seed == 3
    assert any(score_attack(members, others, seed=s).value != first.value for s in range(9))


@pytest.mark.parametrize("threshold", ["split", "mean", "best", 0.0, 0.3])
@pytest.mark.parametrize("level", [0.0, 0.1, -2.0, math.inf])
def test_equal_losses_tell_nothing(threshold, level) -> None:
    record = loss_threshold_attack([level] * 7, [level] * 5, threshold=threshold)
    assert record.value == 0
    assert record.auc == 0.5
    assert record.interval[0] <= 0 <= record.interval[1]
    assert record.auc_interval[0] < 0.5 < record.auc_interval[1]
    assert record.tpr_at_rates == (0, 0, 0)


@pytest.mark.parametrize("threshold", ["split", "best", 0.5])
def test_perfect_separation(threshold) -> None:
    record = loss_threshold_attack([0.0, 0.1] * 20, [1.0, 2.0] * 30, threshold=threshold)
    assert (record.value, record.auc, record.tpr_at_rates) == (1, 1, (1, 1, 1))
    assert record.interval[1] == record.auc_interval[1] == 1
    assert 0.5 < record.interval[0] < 1
    assert 0.8 < record.auc_interval[0] < 1
    assert record.uncertainty > 0


def test_members_with_higher_losses() -> None:
    """The attack has a direction: then calling nobody is best, and a fixed threshold loses."""
    best = loss_threshold_attack([1.0, 2.0], [0.0, 0.1], threshold="best")
    assert (best.value, best.threshold, best.auc) == (0, -math.inf, 0)
    assert loss_threshold_attack([1.0, 2.0], [0.0, 0.1], threshold=0.5).value == -1


@pytest.mark.parametrize("threshold", ["mean", "best", 0.5])
def test_one_example_each(threshold) -> None:
    record = loss_threshold_attack([0.1], [0.9], threshold=threshold)
    assert (record.value, record.n, record.n_members, record.n_non_members) == (1, 2, 1, 1)
    assert record.interval[0] <= 0
    assert record.auc_interval[0] < 0.5


def test_the_mean_of_the_members_is_the_threshold() -> None:
    members, others = [0.0, 0.2, 0.7], [0.25, 0.5]
    record = loss_threshold_attack(members, others, threshold="mean")
    assert record.threshold == pytest.approx(0.3)
    assert (record.tpr, record.fpr) == (pytest.approx(2 / 3), 0.5)
    assert record.value == pytest.approx(1 / 6)


def test_the_mean_of_equal_losses_is_that_loss() -> None:
    """A rounded sum would put some below it, and no member would be called."""
    for count in range(1, 60):
        record = loss_threshold_attack([0.1] * count, [0.9, 0.8], threshold="mean")
        assert (record.value, record.threshold) == (1, 0.1)


def test_losses_are_scores_turned_round() -> None:
    members, others = groups()
    by_loss = loss_threshold_attack(members, others)
    by_score = score_attack(-members, -others)
    assert by_loss.value == by_score.value
    assert by_loss.threshold == tuple(-t for t in by_score.threshold)
    assert "loss <=" in by_loss.definition
    assert "score >=" in by_score.definition


def test_infinite_losses_rank_last() -> None:
    record = loss_threshold_attack([0.1, 0.2, math.inf], [math.inf, 3.0], threshold="best")
    assert record.value == pytest.approx(2 / 3)
    assert 0.2 <= record.threshold < 3.0


def test_half_precision_is_ranked_exactly() -> None:
    members, others = (torch.rand(50, dtype=torch.bfloat16) for _ in range(2))
    record = loss_threshold_attack(members, others, threshold="best")
    assert record.auc == pytest.approx(
        slow_area(-members.double().numpy(), -others.double().numpy())
    )


def test_the_record_is_plain() -> None:
    record = score_attack(*groups())
    values = json.loads(json.dumps(record.to_dict()))
    assert values["n"] == values["n_members"] + values["n_non_members"] == 60
    assert len(values["threshold"]) == 2


@pytest.mark.parametrize(
    ("members", "options", "message"),
    [
        ([], {}, "at least one"),
        ([[1.0], [2.0]], {}, "one number per example"),
        ([1.0, math.nan], {}, "member_scores: 1 of 2 are NaN"),
        ([1.0], {}, "'split' needs two members"),
        ([1.0, 2.0], {"threshold": "bset"}, "did you mean 'best'"),
        ([1.0, 2.0], {"threshold": "mean"}, "unknown threshold 'mean'"),
        ([1.0, 2.0], {"threshold": math.nan}, "threshold: got nan"),
    ],
)
def test_faults_in_one_line(members, options, message) -> None:
    with pytest.raises(InputError, match=message) as caught:
        score_attack(members, [0.0, 1.0], **options)
    assert "\n" not in str(caught.value)
