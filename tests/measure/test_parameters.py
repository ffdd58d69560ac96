"""Choosing parameters by one glob, and moving them for a while."""

from __future__ import annotations

import pytest
import torch
from measure_cases import small_net
from torch import nn

from lowland.core.errors import InputError
from lowland.measure import (
    hessian_moments,
    max_eigenvalue,
    one_step_sharpness,
    worst_sharpness,
)
from lowland.measure.evaluation import refuse_batch_statistics
from lowland.measure.parameters import chosen_parameters, gradients_of, moved


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight


@pytest.mark.parametrize(
    ("glob", "expected"),
    [
        ("block1", ["block1.0.weight", "block1.0.bias", "block1.1.weight", "block1.1.bias"]),
        ("block1.*", ["block1.0.weight", "block1.0.bias", "block1.1.weight", "block1.1.bias"]),
        ("block1.0", ["block1.0.weight", "block1.0.bias"]),
        ("block*.0.weight", ["block1.0.weight"]),
        ("head, block2.1", ["block2.1.weight", "block2.1.bias", "head.weight", "head.bias"]),
        ("*.bias", ["block1.0.bias", "block1.1.bias", "block2.1.bias", "head.bias"]),
        ("head.weight", ["head.weight"]),
    ],
)
def test_a_module_stands_for_all_that_is_in_it(glob: str, expected: list[str]) -> None:
    assert list(chosen_parameters(small_net(), glob)) == expected


def test_all_of_them_are_those_that_require_gradients() -> None:
    model = small_net()
    model.head.bias.requires_grad_(False)
    assert list(chosen_parameters(model)) == [
        name for name, _ in model.named_parameters() if name != "head.bias"
    ]
    assert "head.bias" in chosen_parameters(model, "head", frozen=True)


def test_a_shared_parameter_comes_once_whatever_it_is_called_by() -> None:
    assert list(chosen_parameters(Tied())) == ["embed.weight"]
    assert list(chosen_parameters(Tied(), "head")) == ["embed.weight"]


def test_names_are_those_before_compiling() -> None:
    model = torch.compile(small_net(), backend="eager")
    assert list(chosen_parameters(model, "head")) == ["head.weight", "head.bias"]


@pytest.mark.parametrize(
    ("glob", "said"),
    [
        ("blok1", "unknown parameter or module 'blok1': did you mean 'block1"),
        ("head.wieght", "did you mean 'head.weight'"),
        ("relu", "unknown"),
    ],
)
def test_what_matches_nothing_is_said(glob: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        chosen_parameters(small_net(), glob)


def test_frozen_parameters_are_said() -> None:
    model = small_net()
    model.head.requires_grad_(False)
    with pytest.raises(InputError, match="requires_grad_"):
        chosen_parameters(model, "head")
    with pytest.raises(InputError, match="no parameters"):
        chosen_parameters(nn.ReLU())


def test_weights_move_and_come_back_whatever_happens() -> None:
    weights = list(small_net().parameters())
    before = [w.detach().clone() for w in weights]
    memory = [w.data_ptr() for w in weights]
    step = [torch.ones_like(w) for w in weights[:-1]] + [None]

    def interrupted() -> None:
        with moved(weights, step, 0.5):
            assert torch.equal(weights[0], before[0] + 0.5)
            assert torch.equal(weights[-1], before[-1])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert all(torch.equal(w, b) for w, b in zip(weights, before, strict=True))
    assert [w.data_ptr() for w in weights] == memory


def test_gradients_need_a_loss_that_has_them() -> None:
    weight = nn.Parameter(torch.ones(2))
    assert torch.equal(gradients_of(weight.sum(), [weight])[0], torch.ones(2))
    assert weight.grad is None
    with pytest.raises(InputError, match="does not depend on the weights"):
        gradients_of(torch.ones(()), [weight])


@pytest.mark.parametrize("make", [nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm])
def test_batch_statistics_are_refused(make) -> None:
    refuse_batch_statistics(make(3).eval())  # as the model itself
    with pytest.raises(InputError, match="eval mode"):
        refuse_batch_statistics(nn.Sequential(make(3)).train())
    with pytest.raises(InputError, match="running statistics"):
        refuse_batch_statistics(nn.Sequential(make(3, track_running_stats=False)).eval())


@pytest.mark.parametrize(
    "measure",
    [
        lambda *a: one_step_sharpness(*a, rho=0.1),
        lambda *a: worst_sharpness(*a, rho=0.1, steps=3, m=None),
        max_eigenvalue,
        hessian_moments,
    ],
)
def test_embeddings_with_sparse_gradients_are_measured_like_others(measure) -> None:
    model = nn.Sequential(nn.Embedding(9, 4, sparse=True), nn.Flatten(), nn.Linear(8, 3))
    data = [(torch.tensor([[0, 1], [2, 3], [4, 5]]), torch.arange(3))] * 2
    found = measure(model, nn.CrossEntropyLoss(), data).value
    assert model[0].sparse
    model[0].sparse = False
    assert measure(model, nn.CrossEntropyLoss(), data).value == found
