"""The loss threshold on models and batches: every example once, nothing changed, faults named."""

from __future__ import annotations

import pytest
import torch
from measure_cases import batches, data, per_example, small_net
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from lowland.core.errors import InputError
from lowland.measure.privacy import loss_threshold_attack, membership_advantage


def losses_of(model: nn.Module, images, labels):
    with torch.no_grad():
        return per_example(model.eval()(images), labels)


@pytest.mark.parametrize("threshold", ["split", "mean", "best", 1.0])
def test_from_ragged_batches(threshold) -> None:
    model = small_net().train()
    record = membership_advantage(
        model, per_example, batches(10, 4, 1), iter(batches(7, 3, 2)), threshold=threshold
    )
    assert model.training
    expected = loss_threshold_attack(
        losses_of(model, *data(10, 1)), losses_of(model, *data(7, 2)), threshold=threshold
    )
    assert record.value == pytest.approx(expected.value)
    assert record.auc == pytest.approx(expected.auc)
    assert record.threshold == pytest.approx(expected.threshold)
    assert (record.name, record.n, record.n_members) == ("membership_advantage", 17, 10)


def test_shuffled_members_give_the_same() -> None:
    loader = DataLoader(TensorDataset(*data(10)), batch_size=3, shuffle=True)
    shuffled = membership_advantage(small_net(), per_example, loader, batches(9, 4, 2))
    fixed = membership_advantage(small_net(), per_example, batches(10), batches(9, 4, 2))
    assert (shuffled.value, shuffled.auc) == (fixed.value, fixed.auc)


def test_a_model_that_remembers_is_given_away() -> None:
    """Random labels: they can be fitted, but not foretold."""
    torch.manual_seed(0)
    inputs, labels = torch.randn(80, 100), torch.randint(0, 2, (80,))
    model = nn.Linear(100, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    for _ in range(200):
        optimizer.zero_grad()
        functional.cross_entropy(model(inputs[:40]), labels[:40]).backward()
        optimizer.step()
    seen, unseen = [(inputs[:40], labels[:40])], [(inputs[40:], labels[40:])]
    record = membership_advantage(model, per_example, seen, unseen)
    assert record.interval[0] > 0
    assert record.auc_interval[0] > 0.5


def test_bfloat16() -> None:
    model = small_net().bfloat16()
    half = [(x.bfloat16(), y) for x, y in batches()]
    record = membership_advantage(model, per_example, half, half)
    assert (record.dtype, record.auc) == ("float64", 0.5)


def test_a_mean_is_refused() -> None:
    with pytest.raises(
        InputError, match=r"members: loss_fn: it returned the mean .*reduction='none'"
    ):
        membership_advantage(small_net(), functional.cross_entropy, batches(), batches())


def test_a_diverged_model_is_refused_in_one_line() -> None:
    model = small_net()
    nn.init.constant_(model.head.bias, torch.nan)
    with pytest.raises(InputError, match=r"member_losses: 10 of 10 are NaN.*diverged"):
        membership_advantage(model, per_example, batches(), batches())


def test_other_faults() -> None:
    with pytest.raises(InputError, match="non_members: batches: no examples"):
        membership_advantage(small_net(), per_example, batches(), [])
    with pytest.raises(InputError, match="unknown threshold 'men': did you mean 'mean'"):
        membership_advantage(small_net(), per_example, batches(), batches(), threshold="men")
    statistics = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(16, track_running_stats=False))
    with pytest.raises(InputError, match="BatchNorm '1'"):
        membership_advantage(statistics, per_example, batches(), batches())
