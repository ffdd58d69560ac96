"""What is no fixed function of the weights has no Hessian, and is refused in a line."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from curvature_cases import relative, tiny_batches, tiny_net
from measure_cases import per_example
from torch import Tensor, nn
from torch.nn.functional import dropout
from torch.utils.data import DataLoader, Dataset, TensorDataset

from lowland.core.errors import InputError
from lowland.measure.curvature import (
    HessianOperator,
    hessian_density,
    hessian_eigenvalues,
    hessian_moments,
    hessian_trace,
    sam_stability,
)


def opened(model: nn.Module, data: Any, loss: Any = per_example, **options: Any) -> Tensor:
    with HessianOperator(model, loss, data, **options) as operator:
        return operator @ torch.ones(operator.size, dtype=operator.dtype)


def dataset(n: int = 10) -> TensorDataset:
    return TensorDataset(*tiny_batches(n, n)[0])


def test_a_shuffling_loader_that_drops_the_last_batch() -> None:
    """Two products with one vector differed by 54% in a published library."""
    loader = DataLoader(dataset(), batch_size=4, shuffle=True, drop_last=True)
    with pytest.raises(InputError, match="shuffles"):
        opened(tiny_net(), loader)


class Hidden:
    """Shuffles where no sampler can be seen to."""

    def __init__(self, whole_batches: bool) -> None:
        self.order = torch.Generator().manual_seed(0)
        self.whole_batches = whole_batches

    def __iter__(self) -> Iterator[Any]:
        if self.whole_batches:
            given = tiny_batches()
            yield from (given[int(i)] for i in torch.randperm(3, generator=self.order))
        else:
            x, y = tiny_batches(10, 10)[0]
            rows = torch.randperm(10, generator=self.order)[:8]
            yield from zip(x[rows].split(4), y[rows].split(4), strict=True)


def test_a_hidden_shuffle_with_dropped_examples() -> None:
    with pytest.raises(InputError, match=r"loss of batch 0 is .* in one pass and .*shuffle=False"):
        opened(tiny_net(), Hidden(whole_batches=False))


def test_a_hidden_shuffle_of_whole_batches() -> None:
    """The sum is the same, but kept graphs would belong to other batches than those read later."""
    with pytest.raises(InputError, match=r"loss of batch|examples in"):
        opened(tiny_net(), Hidden(whole_batches=True))


def test_an_iterator() -> None:
    with pytest.raises(InputError, match="read only once"):
        opened(tiny_net(), iter(tiny_batches()))


class Growing:
    def __init__(self) -> None:
        self.passes = 0

    def __iter__(self) -> Iterator[Any]:
        self.passes += 1
        yield from tiny_batches(4 + 4 * self.passes, 4)


def test_other_batches_in_the_next_pass() -> None:
    with pytest.raises(InputError, match="8 examples in 2 batches in one pass, 12 in 3 in the"):
        opened(tiny_net(), Growing())


class Augmented(Dataset[Any]):
    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> Any:
        x, y = tiny_batches(6, 6)[0]
        return x[index] + 0.1 * torch.randn(1, 3, 3), y[index]


def test_an_augmenting_data_set() -> None:
    with pytest.raises(InputError, match="without augmentation"):
        opened(tiny_net(), DataLoader(Augmented(), batch_size=3))


class AlwaysDropping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(9, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(dropout(x.flatten(1)))


def test_dropout_that_stays_on() -> None:
    with pytest.raises(InputError, match="or dropout, or check=False"):
        opened(AlwaysDropping(), tiny_batches())
    opened(AlwaysDropping(), tiny_batches(), check=False)


class NoisyGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        return slope * torch.rand(())


def test_gradients_that_differ_where_losses_do_not() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(9, 3))
    model.register_forward_hook(lambda module, inputs, output: NoisyGradient.apply(output))
    with pytest.raises(InputError, match=r"gradients of two passes differ by \d"):
        opened(model, tiny_batches())


class Later:
    """Behaves for the two passes in which it is looked at."""

    def __init__(self) -> None:
        self.passes = 0

    def __iter__(self) -> Iterator[Any]:
        self.passes += 1
        given = tiny_batches()
        yield from given if self.passes <= 2 else given[::-1]


@pytest.mark.parametrize("graph_bytes", [2**30, 0])
def test_batches_that_change_later(graph_bytes) -> None:
    with pytest.raises(InputError, match="batch 0 is not what it was"):
        opened(tiny_net(), Later(), graph_bytes=graph_bytes)


def test_train_mode_is_no_matter_and_is_put_back() -> None:
    """A published library accepts BatchNorm in train mode and moves its running mean."""
    model = tiny_net().train()
    expected = opened(tiny_net().eval(), tiny_batches())
    mean = model.block1[1].running_mean.clone()
    assert torch.equal(opened(model, tiny_batches()), expected)
    assert model.training
    assert model.block1[1].training
    assert torch.equal(model.block1[1].running_mean, mean)
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_batch_statistics() -> None:
    model = nn.Sequential(nn.BatchNorm2d(1, track_running_stats=False), nn.Flatten())
    model.append(nn.Linear(9, 3))
    with pytest.raises(InputError, match="BatchNorm '0' uses the statistics of each batch"):
        opened(model, tiny_batches())


def test_a_detached_loss_and_a_summed_one() -> None:
    with pytest.raises(InputError, match="does not depend on the weights"):
        opened(tiny_net(), tiny_batches(), lambda z, y: per_example(z.detach(), y))
    with pytest.raises(InputError, match="sums over the batch"):
        opened(tiny_net(), tiny_batches(), nn.CrossEntropyLoss(reduction="sum"))


def test_types_that_have_no_hessian() -> None:
    with pytest.raises(InputError, match=r"dtype: torch\.int64 is no floating-point type"):
        opened(tiny_net(), tiny_batches(), dtype=torch.int64)
    model = nn.Sequential(nn.Flatten(), nn.Linear(9, 3, dtype=torch.complex64))
    with pytest.raises(InputError, match=r"'1\.weight' is complex"):
        opened(model, tiny_batches())


def test_a_closed_operator_and_one_that_is_open_already() -> None:
    operator = HessianOperator(tiny_net(), per_example, tiny_batches())
    with pytest.raises(InputError, match="inside `with`"):
        operator @ torch.ones(65)
    with operator:
        with pytest.raises(InputError, match="open already"), operator:
            pass
        operator @ torch.ones(65)
    with pytest.raises(InputError, match="inside `with`"):
        operator.multiply(torch.ones(1, 65))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"matrix": "hesian"}, "did you mean 'hessian'"),
        ({"reduction": "average"}, "known: mean, sum"),
        ({"parameters": "block9"}, "did you mean 'block2'"),
    ],
)
def test_names_that_do_not_exist(options, message) -> None:
    with pytest.raises(InputError, match=message):
        opened(tiny_net(), tiny_batches(), **options)


class Counted(list[Any]):
    reads = 0

    def __iter__(self) -> Iterator[Any]:
        self.reads += 1
        return super().__iter__()


@pytest.mark.parametrize(("graph_bytes", "reads"), [(2**30, 3), (0, 5)])
def test_data_are_read_again_only_for_graphs_that_are_not_kept(graph_bytes, reads) -> None:
    data = Counted(tiny_batches())
    with HessianOperator(tiny_net(), per_example, data, graph_bytes=graph_bytes) as operator:
        first = operator @ torch.ones(65)
        for _ in range(2):
            assert relative(operator @ torch.ones(65), first) < 1e-6
        assert (operator.kept_bytes > 0) == (graph_bytes > 0)
    assert data.reads == reads


INSTRUMENTS = {
    "eigenvalues": lambda model: hessian_eigenvalues(model, per_example, tiny_batches(), 2),
    "trace": lambda model: hessian_trace(model, per_example, tiny_batches()),
    "density": lambda model: hessian_density(model, per_example, tiny_batches(), probes=2, steps=3),
    "moments": lambda model: hessian_moments(model, per_example, tiny_batches(), orders=(2,)),
    "stability": lambda model: sam_stability(
        model, per_example, tiny_batches(), lr=0.1, rho=0.1, method="products"
    ),
}


@pytest.mark.parametrize("name", INSTRUMENTS)
def test_a_model_that_has_diverged_gives_nan_and_says_so(name) -> None:
    model = tiny_net()
    with torch.no_grad():
        model.head.weight[0, 0] = math.nan
    record = INSTRUMENTS[name](model)
    assert math.isnan(record.value)
    assert not record.converged
    assert math.isnan(record.to_dict()["uncertainty"])


class Cusp(nn.Module):
    """Loss and gradient are finite at w = 0, the second derivative is not."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(40))

    def forward(self, x: Tensor) -> Tensor:
        return (self.w.abs() ** 1.5).sum() + 0 * x.sum(1)


@pytest.mark.parametrize("name", ["eigenvalues", "trace", "density"])
def test_a_second_derivative_that_is_no_number(name) -> None:
    take = {"eigenvalues": hessian_eigenvalues, "trace": hessian_trace, "density": hessian_density}
    data = [(torch.ones(2, 3), torch.zeros(2))]
    record = take[name](Cusp(), lambda z, y: z, data)
    assert math.isnan(record.value)
    assert not record.converged
