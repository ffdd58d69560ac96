"""Mean loss and error: every example counts once, however the data are cut."""

from __future__ import annotations

import math

import pytest
import torch
from measure_cases import batches, data, per_example, small_net
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from lowland.core.errors import InputError
from lowland.measure import hessian_eigenvalues, mean_loss, one_step_sharpness


@pytest.mark.parametrize("size", [1, 3, 4, 7, 10])
@pytest.mark.parametrize("loss_fn", [per_example, nn.CrossEntropyLoss()])
def test_ragged_batches_are_exact(size, loss_fn) -> None:
    model = small_net().eval()
    images, labels = data()
    with torch.no_grad():
        outputs = model(images)
    expected = functional.cross_entropy(outputs.double(), labels).item()
    record = mean_loss(model.train(), loss_fn, batches(size=size))
    assert record.value == pytest.approx(expected, rel=1e-6)
    assert record.error == pytest.approx((outputs.argmax(1) != labels).double().mean().item())
    assert record.n == 10


def test_averaging_batch_means_would_be_seen() -> None:
    """The mistake of a peer: the mean of batch means differs here by far more than rounding."""
    model = small_net().eval()
    means = [per_example(model(x), y).mean().item() for x, y in batches(size=7)]
    right = mean_loss(model, per_example, batches(size=7)).value
    assert abs(sum(means) / len(means) - right) > 1e-3


def test_the_standard_error_is_that_of_the_mean() -> None:
    model = small_net().eval()
    images, labels = data()
    losses = per_example(model(images), labels).double()
    expected = (losses.std() / math.sqrt(10)).item()
    record = mean_loss(model, per_example, batches())
    assert record.uncertainty == pytest.approx(expected, rel=1e-5)
    assert mean_loss(model, nn.CrossEntropyLoss(), batches()).uncertainty is None
    assert mean_loss(model, per_example, batches(n=1)).uncertainty is None


def test_there_is_no_error_without_classes() -> None:
    pairs = [(torch.ones(3, 2), torch.ones(3, 1))]
    record = mean_loss(nn.Linear(2, 1), nn.MSELoss(), pairs)
    assert record.error is None


def test_outputs_with_nan_are_wrong() -> None:
    model = small_net()
    nn.init.constant_(model.head.bias, math.nan)
    record = mean_loss(model, per_example, batches())
    assert record.error == 1.0
    assert math.isnan(record.value)


def test_a_data_loader_of_lists_and_a_generator_are_read() -> None:
    model = small_net()
    expected = mean_loss(model, per_example, batches()).value
    loader = DataLoader(TensorDataset(*data()), batch_size=4)
    assert mean_loss(model, per_example, loader).value == pytest.approx(expected)
    assert mean_loss(model, per_example, iter(batches())).value == expected


def test_no_graph_is_recorded() -> None:
    model, recorded = small_net(), []
    model.head.register_forward_hook(lambda module, inputs, output: recorded.append(output))
    mean_loss(model, per_example, batches())
    assert not any(output.requires_grad for output in recorded)


def test_empty_batches_count_nothing() -> None:
    model = small_net()
    images, labels = data()
    expected = mean_loss(model, per_example, batches()).value
    pairs = [(images[:0], labels[:0]), *batches()]
    assert mean_loss(model, per_example, pairs).value == expected


USED_UP = iter([])

BAD = [
    (per_example, [], "batches: no examples; an iterator that was read before has none left"),
    (per_example, USED_UP, "batches: no examples"),
    (per_example, [torch.ones(2, 1, 4, 4)], "batches: got Tensor; each batch must be a pair"),
    (per_example, [data()[:1]], "batches: got tuple; each batch must be a pair (inputs, targets)"),
    (per_example, [(torch.ones(1, 1, 4, 4), 3)], "batches: targets must be a tensor with one"),
    (nn.CrossEntropyLoss(reduction="sum"), batches(), "loss_fn: it sums over the batch; give"),
    (lambda o, t: o, batches(), "loss_fn: returned (4, 3) for 4 examples; return their mean, or"),
    (lambda o, t: 1.0, batches(), "loss_fn: returned float for 4 examples"),
]


@pytest.mark.parametrize(("loss_fn", "pairs", "message"), BAD)
def test_bad_input(loss_fn, pairs, message) -> None:
    with pytest.raises(InputError) as caught:
        mean_loss(small_net(), loss_fn, pairs)
    assert str(caught.value).startswith(message)


class Named(torch.nn.Module):
    """A network that takes its inputs by name, as those of transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = small_net()

    def forward(self, *, pixels):
        return self.inner(pixels)


def test_inputs_may_be_a_mapping() -> None:
    model = Named()
    named = [({"pixels": x}, y) for x, y in batches()]
    plain = mean_loss(model.inner, per_example, batches())
    assert mean_loss(model, per_example, named).value == plain.value
    rises = [
        one_step_sharpness(m, per_example, data, rho=0.1).value
        for m, data in ((model, named), (model.inner, batches()))
    ]
    assert rises[0] == rises[1]
    values = [
        hessian_eigenvalues(m, per_example, data, 1, parameters=glob).value
        for m, data, glob in ((model, named, "inner.head"), (model.inner, batches(), "head"))
    ]
    assert values[0] == pytest.approx(values[1], rel=1e-5)
