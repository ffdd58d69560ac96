"""Products with the Hessian and the Gauss-Newton matrix against the matrices themselves."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from curvature_cases import (
    dense_ggn,
    dense_hessian,
    double_batches,
    double_net,
    example_hessians,
    relative,
    tiny_batches,
    tiny_net,
)
from measure_cases import Quadratic, half_squares, per_example
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss, relu

from lowland.core.errors import InputError
from lowland.measure.curvature import HessianOperator


def whole(model: nn.Module, loss: Any, data: Any, **options: Any) -> Tensor:
    with HessianOperator(model, loss, data, **options) as operator:
        return operator @ torch.eye(operator.size, dtype=operator.dtype)


@pytest.mark.parametrize("graph_bytes", [2**30, 5_000, 0])
def test_the_hessian_is_the_dense_one(graph_bytes) -> None:
    """With all graphs kept, with that of the first batch alone, and with none."""
    model, data = double_net(), double_batches()
    with HessianOperator(model, per_example, data, graph_bytes=graph_bytes) as operator:
        found = operator @ torch.eye(65, dtype=torch.float64)
        assert operator.kept_bytes <= graph_bytes
        assert (operator.kept_bytes > 0) == (graph_bytes > 0)
    assert relative(found, dense_hessian(model, data)) < 1e-14


def test_ragged_batches_10_10_4_are_exact_with_a_mean_loss() -> None:
    """A mean of batch means is off by 29% on such batches in a published library."""
    model, data = double_net(), double_batches(24, 10)
    assert [len(y) for _, y in data] == [10, 10, 4]
    found = whole(model, nn.CrossEntropyLoss(), data)
    assert relative(found, dense_hessian(model, data)) < 1e-14
    of_means = sum(dense_hessian(model, [batch]) for batch in data) / 3
    assert relative(of_means, dense_hessian(model, data)) > 0.01


def test_the_gauss_newton_matrix_is_the_dense_one() -> None:
    model, data = double_net(), double_batches()
    expected = dense_ggn(model, data)
    for loss in (cross_entropy, nn.CrossEntropyLoss(label_smoothing=0.1), per_example):
        assert relative(whole(model, loss, data, matrix="ggn"), expected) < 1e-13
    assert float(torch.linalg.eigvalsh(expected)[0]) > -1e-12


def test_the_gauss_newton_matrix_of_any_other_loss() -> None:
    def curious(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs.square() * targets[:, None]).sum(1).sin() + outputs[:, 0] ** 4

    model, data = double_net(), double_batches()
    expected = dense_ggn(model, data, curious)
    assert relative(whole(model, curious, data, matrix="ggn"), expected) < 1e-13


def test_weighted_cross_entropy_takes_the_general_road() -> None:
    weight = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
    model, data = double_net(), double_batches(4, 4)
    found = whole(model, nn.CrossEntropyLoss(weight=weight), data, matrix="ggn")
    share = sum(weight[y] for y in data[0][1]) / 4

    def weighted(outputs: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(outputs, targets, weight=weight, reduction="none") / share

    assert relative(found, dense_ggn(model, data, weighted)) < 1e-13


def test_both_agree_for_a_network_that_is_linear_in_its_weights() -> None:
    torch.manual_seed(0)
    x = torch.randn(7, 3, dtype=torch.float64)
    layer = nn.Linear(3, 2, bias=False).double()
    data = [(x[:4], torch.zeros(4, 2)), (x[4:], torch.zeros(3, 2))]
    data = [(a, b.double()) for a, b in data]
    gram = torch.kron(torch.eye(2, dtype=torch.float64), x.T @ x / 7)
    for matrix in ("hessian", "ggn"):
        assert relative(whole(layer, mse_loss, data, matrix=matrix), gram) < 1e-14


def test_the_sum_is_n_times_the_mean() -> None:
    model, data = double_net(), double_batches()
    summed = whole(model, per_example, data, reduction="sum")
    assert relative(summed, 10 * whole(model, per_example, data)) < 1e-14
    with HessianOperator(model, per_example, data, reduction="sum") as total:
        loss, gradient = total.loss, total.gradient
    with HessianOperator(model, per_example, data) as mean:
        assert loss == pytest.approx(10 * mean.loss)
        assert relative(gradient, 10 * mean.gradient) < 1e-14


def test_loss_and_gradient_are_those_of_all_examples() -> None:
    model, data = double_net().eval(), double_batches()
    with HessianOperator(model, per_example, data) as operator:
        found, gradient, n = operator.loss, operator.gradient, operator.n
    losses = torch.cat([per_example(model(x), y) for x, y in data])
    mean_loss = losses.detach().mean()
    expected = torch.autograd.grad(losses.mean(), list(model.parameters()))
    assert n == 10
    assert found == pytest.approx(float(mean_loss))
    assert relative(gradient, torch.cat([g.flatten() for g in expected])) < 1e-14


@pytest.mark.parametrize("glob", ["head", "block1", "*.bias", "block2,head.weight"])
def test_a_block_is_the_submatrix_of_its_parameters(glob) -> None:
    model, data = double_net(), double_batches()
    with HessianOperator(model, per_example, data, parameters=glob) as operator:
        found = operator @ torch.eye(operator.size, dtype=torch.float64)
        names = operator.layout.names
        free = [name for name, p in model.named_parameters() if p.requires_grad]
    assert free == list(names)  # nothing is differentiated that was not asked for
    assert relative(found, dense_hessian(model, data, names=names)) < 1e-14


def test_one_example() -> None:
    model, data = double_net(), double_batches(1, 1)
    assert relative(whole(model, per_example, data), dense_hessian(model, data)) < 1e-14


def test_vectors_come_back_in_the_shape_they_had() -> None:
    model, data = double_net(), double_batches()
    with HessianOperator(model, per_example, data) as operator:
        columns = torch.randn(operator.size, 3, dtype=torch.float64)
        together = operator @ columns
        assert operator.products == 3
        for column, found in zip(columns.T, together.T, strict=True):
            assert torch.allclose(operator @ column, found, rtol=1e-12, atol=1e-15)
        named = operator.layout.by_name(together[:, 0])
        assert {k: v.shape for k, v in named.items()} == {
            k: p.shape for k, p in model.named_parameters()
        }
        assert torch.equal(operator.layout.vector(named), together[:, 0])
        with pytest.raises(InputError, match=r"give \(65,\) or \(65, k\)"):
            operator @ torch.ones(3)
        with pytest.raises(InputError, match=r"'block1\.0\.bias' is missing"):
            operator.layout.vector({})
        with pytest.raises(InputError, match=r"'head\.bias' has shape"):
            operator.layout.vector({**named, "head.bias": torch.ones(1)})


def test_a_model_of_a_half_type_is_differentiated_in_float32() -> None:
    """Its weights are rounded, the arithmetic is not; the type asked for is used if one is."""
    rounded = tiny_net().bfloat16()
    data = [(x.bfloat16(), y) for x, y in tiny_batches()]
    found = whole(rounded, per_example, data)
    assert found.dtype == torch.float32
    assert rounded.head.weight.dtype == torch.bfloat16
    same = tiny_net().bfloat16().float()
    plain = whole(same, per_example, [(x.float(), y) for x, y in data])
    assert torch.equal(found, plain)
    coarse = whole(rounded, per_example, data, dtype=torch.bfloat16)
    assert coarse.dtype == torch.bfloat16
    assert 1e-4 < relative(coarse.float(), plain) < 0.2


def test_float64_products_of_a_float32_model() -> None:
    model = tiny_net()
    data = tiny_batches()
    found = whole(model, per_example, data, dtype=torch.float64)
    double = tiny_net().double()
    expected = dense_hessian(double, [(x.double(), y) for x, y in data])
    assert relative(found, expected) < 1e-14
    assert model.head.weight.dtype == torch.float32


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(6, 4)
        self.head = nn.Linear(4, 6, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(relu(self.embed(tokens).sum(1), inplace=True))


def test_tied_weights_count_once() -> None:
    torch.manual_seed(0)
    model = Tied().double()
    data = [(torch.tensor([[0, 1], [2, 3]]), torch.tensor([1, 5]))]
    found = whole(model, per_example, data)
    assert found.shape == (24, 24)
    assert relative(found, dense_hessian(model, data)) < 1e-14


def test_frozen_parameters_stay_out_and_stay_frozen() -> None:
    model, data = double_net(), double_batches()
    model.block1.requires_grad_(False)
    with HessianOperator(model, per_example, data) as operator:
        found = operator @ torch.eye(operator.size, dtype=torch.float64)
        names = operator.layout.names
        assert [n for n, p in model.named_parameters() if p.requires_grad] == list(names)
    assert all(name.startswith(("block2", "head")) for name in names)
    assert relative(found, dense_hessian(model, data, names=names)) < 1e-14
    assert [p.requires_grad for p in model.block1.parameters()] == [False] * 4


class Spare(nn.Module):
    """Has a layer that the forward pass never uses."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = nn.Linear(2, 3), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x)


@pytest.mark.parametrize("matrix", ["hessian", "ggn"])
def test_parameters_that_the_loss_does_not_use_get_zeros(matrix) -> None:
    model = Spare().double()
    data = [(torch.ones(2, 2, dtype=torch.float64), torch.tensor([0, 2]))]
    found = whole(model, per_example, data, matrix=matrix)
    assert found.shape == (15, 15)
    assert not found[9:].any()
    assert found[:9, :9].any()
    assert not whole(model, per_example, data, matrix=matrix, parameters="unused").any()


@pytest.mark.parametrize("matrix", ["hessian", "ggn"])
def test_a_loss_that_is_linear_has_no_curvature(matrix) -> None:
    layer = nn.Linear(2, 1).double()
    data = [(torch.ones(3, 2, dtype=torch.float64), torch.ones(3))]
    assert not whole(layer, lambda z, y: z[:, 0] * y, data, matrix=matrix).any()


def test_negative_curvature_has_its_sign() -> None:
    curvatures = torch.tensor([[2.0, -3.0, 0.5], [4.0, -1.0, 0.5]], dtype=torch.float64)
    data = [(torch.zeros(2, 3, dtype=torch.float64), curvatures)]
    found = whole(Quadratic(1.0, 1.0, 1.0), half_squares, data)
    assert torch.allclose(found, torch.diag(torch.tensor([3.0, -2.0, 0.5], dtype=torch.float64)))


def test_the_mean_over_examples_of_their_hessians() -> None:
    model, data = double_net(), double_batches(5, 2)
    mean = sum(example_hessians(model, data)) / 5
    assert relative(whole(model, per_example, data), mean) < 1e-14


def test_against_curvlinops() -> None:
    curvlinops = pytest.importorskip("curvlinops")
    model, data = double_net().eval(), double_batches(24, 10)
    loss = nn.CrossEntropyLoss()
    parameters = list(model.parameters())
    eye = torch.eye(65, dtype=torch.float64)
    for matrix, peer in (
        ("hessian", curvlinops.HessianLinearOperator),
        ("ggn", curvlinops.GGNLinearOperator),
    ):
        expected = peer(model, loss, parameters, data) @ eye
        assert relative(whole(model, loss, data, matrix=matrix), expected) < 1e-13


class ByFormula(nn.Module):
    """g·v/‖v‖ by hand, with the names of torch's parametrization."""

    def forward(self, g: Tensor, v: Tensor) -> Tensor:
        return g * v / v.norm(dim=1, keepdim=True)


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
@pytest.mark.parametrize("matrix", ["hessian", "ggn"])
@pytest.mark.parametrize("kind", ["parametrization", "hook"])
def test_weight_normalization_has_a_symmetric_hessian(kind, matrix) -> None:
    """The second derivatives of torch's own kernel are wrong."""
    model, data = double_net(), double_batches()
    layer = next(m for m in model.modules() if isinstance(m, nn.Linear))
    before = torch._weight_norm
    if kind == "hook":
        nn.utils.weight_norm(layer)
    else:
        nn.utils.parametrizations.weight_norm(layer)
    found = whole(model, cross_entropy, data, matrix=matrix)
    assert torch._weight_norm is before
    assert relative(found, found.T) < 1e-13
    if kind == "parametrization":
        layer.parametrizations.weight[0] = ByFormula()
        assert relative(found, whole(model, cross_entropy, data, matrix=matrix)) < 1e-12
