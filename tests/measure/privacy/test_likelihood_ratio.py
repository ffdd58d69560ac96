"""LiRA: confidences, scores written from the formula, what it gains, models, faults."""

from __future__ import annotations

import copy
import math
from statistics import NormalDist

import numpy as np
import pytest
import torch
from measure_cases import batches, data, small_net
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lowland.core.errors import InputError
from lowland.measure.privacy import (
    likelihood_ratio_advantage,
    likelihood_ratio_attack,
    likelihood_ratio_scores,
    logit_scaled_confidence,
)


def test_confidence_from_probabilities() -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(20, 5, dtype=torch.float64), torch.randint(0, 5, (20,))
    p = logits.softmax(1)[torch.arange(20), targets]
    found = logit_scaled_confidence(logits, targets)
    torch.testing.assert_close(found, p.log() - (1 - p).log())


def test_confidence_where_probabilities_round_to_one() -> None:
    logits = torch.tensor([[60.0, 0.0, 0.0], [-500.0, 500.0, 0.0]], dtype=torch.bfloat16)
    found = logit_scaled_confidence(logits, torch.tensor([0, 0]))
    assert found.tolist() == pytest.approx([60 - math.log(2), -1000.0])
    assert found.dtype == torch.float64


@pytest.mark.parametrize(
    ("logits", "targets", "message"),
    [
        (torch.zeros(3), torch.zeros(3).long(), "two classes"),
        (torch.zeros(3, 1), torch.zeros(3).long(), "two classes"),
        (torch.zeros(3, 2), torch.zeros(2).long(), "for 3 examples"),
        (torch.zeros(3, 2), torch.zeros(3), "the right class"),
        (torch.zeros(3, 2), torch.tensor([0, 1, 2]), r"0\.\.1"),
        (torch.zeros(3, 2), torch.tensor([0, 1, -100]), r"0\.\.1"),
    ],
)
def test_confidence_faults(logits, targets, message) -> None:
    with pytest.raises(InputError, match=message):
        logit_scaled_confidence(logits, targets)


def world(seed: int, S: int, n: int, gap: float = 1.0):
    """Confidences N(a_j + gap·trained, s²) with a difficulty a_j of each example's own."""
    rng = np.random.default_rng(seed)
    difficulty = rng.normal(size=n) * 3
    trained = np.argsort(rng.random((S + 1, n)), axis=0) < (S + 1) // 2
    confidences = torch.tensor(difficulty + gap * trained + rng.normal(size=(S + 1, n)))
    trained = torch.tensor(trained)
    return confidences[0], trained[0], confidences[1:], trained[1:]


def log_density(x: float, center: float, deviation: float) -> float:
    return math.log(NormalDist(center, deviation).pdf(x))


@pytest.mark.parametrize("variance", ["example", "pooled", "total"])
@pytest.mark.parametrize("center", ["mean", "median"])
@pytest.mark.parametrize("mode", ["online", "offline"])
def test_scores_beside_loops(variance, center, mode) -> None:
    target, _, shadow, trained = world(1, 9, 12)
    options = {"variance": variance, "center": center, "mode": mode}
    found = likelihood_ratio_scores(target, shadow, trained, **options)
    sides = {
        side: [shadow[trained[:, j] == side, j].numpy() for j in range(12)]
        for side in (True, False)
    }

    def deviation(side: bool, j: int) -> float:
        if variance == "example":
            return np.std(sides[side][j], ddof=1)
        if variance == "pooled":
            squares = sum(((x - x.mean()) ** 2).sum() for x in sides[side])
            return math.sqrt(squares / sum(len(x) - 1 for x in sides[side]))
        return np.std(np.concatenate(sides[mode == "online"]))

    for j in range(12):
        x = float(target[j])
        middle = {side: getattr(np, center)(sides[side][j]) for side in sides}
        if mode == "online":
            expected = log_density(x, middle[True], deviation(True, j)) - log_density(
                x, middle[False], deviation(False, j)
            )
        else:
            expected = (x - middle[False]) / deviation(False, j)
        assert float(found[j]) == pytest.approx(expected)


def test_auto_pools_below_64_shadow_models() -> None:
    for shadows, named in ((63, "pooled"), (64, "example")):
        target, members, shadow, trained = world(2, shadows, 10)
        auto = likelihood_ratio_scores(target, shadow, trained)
        same = likelihood_ratio_scores(target, shadow, trained, variance=named)
        assert torch.equal(auto, same)
        record = likelihood_ratio_attack(target, members, shadow, trained)
        assert (record.variance, record.shadows, record.mode) == (named, shadows, "online")
        assert f"{named} variance" in record.definition
        assert "without the noise of training shadow models" in record.definition


def test_it_finds_what_a_threshold_on_confidence_cannot() -> None:
    """With the true Gaussians, gap 1 and deviation 1, the best advantage is 2Φ(½) - 1 = 0.383; with
    63 shadow models nearly so. A threshold on φ alone, blurred by difficulty 3, has 0.126.
    """
    target, members, shadow, trained = world(3, 63, 6000)
    record = likelihood_ratio_attack(target, members, shadow, trained, threshold=0.0)
    assert record.value == pytest.approx(2 * NormalDist().cdf(0.5) - 1, abs=0.05)
    assert record.auc == pytest.approx(NormalDist().cdf(1 / math.sqrt(2)), abs=0.03)
    offline = likelihood_ratio_attack(target, members, shadow, trained, mode="offline")
    assert offline.interval[0] > 0.25
    assert (record.n, record.n_members) == (6000, int(members.sum()))


def test_equal_confidences_tell_nothing() -> None:
    trained = torch.tensor([[True, False], [False, True]] * 3)
    for mode in ("online", "offline"):
        scores = likelihood_ratio_scores(torch.ones(2), torch.ones(6, 2), trained, mode=mode)
        assert scores.tolist() == [0, 0]


def test_offline_needs_no_model_trained_on_the_example() -> None:
    shadow, trained = torch.tensor([[0.0, 1.0], [2.0, 3.0]]), torch.zeros(2, 2)
    scores = likelihood_ratio_scores(torch.tensor([1.0, 4.0]), shadow, trained, mode="offline")
    assert scores.tolist() == pytest.approx([0, math.sqrt(2)])


TRAINED = torch.tensor([[1, 0, 1], [0, 1, 0], [1, 0, 1]])


@pytest.mark.parametrize(
    ("shadow", "trained", "options", "message"),
    [
        (torch.rand(3, 3), torch.ones(3, 3), {}, "no 'out' shadow model, first example 0"),
        (torch.rand(3, 3), torch.zeros(3, 3), {}, "no 'in' shadow model.*mode='offline'"),
        (torch.rand(3, 3), TRAINED, {"variance": "example"}, "a single 'out'.*variance='pooled'"),
        (torch.rand(2, 3), TRAINED[:2], {}, "no example has two 'out' shadow models"),
        (torch.rand(3, 2), TRAINED[:, :2], {}, "for 3 examples"),
        (torch.rand(0, 3), TRAINED[:0], {}, "at least one shadow model"),
        (torch.rand(3, 3), TRAINED[:2], {}, r"give \(S, n\)"),
        (torch.rand(3, 3), TRAINED + 1, {}, "true or false"),
        (torch.full((3, 3), torch.inf), TRAINED, {}, "shadow: 9 of 9 confidences are not finite"),
        (torch.rand(3, 3), TRAINED, {"mode": "of"}, "unknown mode"),
        (torch.rand(3, 3), TRAINED, {"variance": "pool"}, "did you mean 'pooled'"),
        (torch.rand(3, 3), TRAINED, {"center": "mode"}, "unknown center"),
    ],
)
def test_faults_in_one_line(shadow, trained, options, message) -> None:
    with pytest.raises(InputError, match=message) as caught:
        likelihood_ratio_scores(torch.rand(3), shadow, trained, **options)
    assert "\n" not in str(caught.value)


def test_members_of_another_length() -> None:
    with pytest.raises(InputError, match="members: got"):
        likelihood_ratio_attack(torch.rand(3), [True], torch.rand(3, 3), TRAINED)


def models(count: int) -> list[nn.Module]:
    return [small_net(seed).train() for seed in range(count)]


MEMBERSHIP = torch.tensor([[True, False] * 5, [False, True] * 5] * 3)


def test_models_and_ragged_batches() -> None:
    target, *shadows = models(7)
    states = copy.deepcopy([m.state_dict() for m in (target, *shadows)])
    members = [True] * 4 + [False] * 6
    options = {"members": members, "threshold": "best"}
    record = likelihood_ratio_advantage(
        target, iter(shadows), batches(), membership=MEMBERSHIP, **options
    )
    for model, state in zip((target, *shadows), states, strict=True):
        assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
        assert model.training
    images, labels = data()
    with torch.no_grad():
        confidences = torch.stack(
            [logit_scaled_confidence(m.eval()(images), labels) for m in (target, *shadows)]
        )
    expected = likelihood_ratio_attack(
        confidences[0], members, confidences[1:], MEMBERSHIP, threshold="best"
    )
    assert (record.value, record.auc) == (expected.value, expected.auc)
    assert (record.name, record.n_members) == ("likelihood_ratio_advantage", 4)


def test_data_in_another_order_are_refused() -> None:
    target, *shadows = models(7)
    options = {"members": [True, False] * 5, "membership": MEMBERSHIP}
    shuffled = DataLoader(TensorDataset(*data()), shuffle=True)
    with pytest.raises(InputError, match="shuffles"):
        likelihood_ratio_advantage(target, shadows, shuffled, **options)

    class Turning:
        turned = False

        def __iter__(self):
            Turning.turned = not Turning.turned
            return iter(batches()[:: 1 if Turning.turned else -1])

    with pytest.raises(InputError, match="other targets at the second pass"):
        likelihood_ratio_advantage(target, shadows, Turning(), **options)
    with pytest.raises(InputError, match="for 5 shadow models and 10 examples"):
        likelihood_ratio_advantage(target, shadows[:5], batches(), **options)
    with pytest.raises(InputError, match="for 0 shadow models"):
        likelihood_ratio_advantage(target, [], batches(), **options)
