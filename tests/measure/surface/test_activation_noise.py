"""Sharpness under activation noise: a slow reference, closed forms, what it may not depend on."""

from __future__ import annotations

import itertools
import math
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from measure_cases import batches, per_example, small_net
from torch import Tensor, nn

from lowland.core.errors import InputError
from lowland.measure import activation_noise_sharpness, mean_loss
from lowland.measure.surface.noise import standard_normal

DOUBLE = torch.float64


def squares(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs.flatten(1) - targets).square().sum(1)


def mlp(seed: int = 0, widths: tuple[int, ...] = (3, 6, 4, 2)) -> nn.Sequential:
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(widths):
        layers += [nn.Linear(a, b), nn.Tanh()]
    return nn.Sequential(*layers[:-1]).double()


def pairs(n: int, size: int, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 3, generator=generator, dtype=DOUBLE)
    y = torch.randn(n, 2, generator=generator, dtype=DOUBLE)
    return list(zip(x.split(size), y.split(size), strict=True))


def slow(model: nn.Sequential, data: Any, names: tuple[str, ...], **own: Any) -> list[float]:
    """The rise of each example, layer by layer, one example and one draw at a time."""
    rises, row = [], 0
    for inputs, targets in data:
        for x, y in zip(inputs, targets, strict=True):
            found = []
            for draw in [None, *range(own["draws"])]:
                a = x.numpy()
                for name, layer in model.named_children():
                    if isinstance(layer, nn.Linear):
                        a = layer.weight.detach().numpy() @ a + layer.bias.detach().numpy()
                    else:
                        a = np.tanh(a)
                    if draw is not None and name in names:
                        address = ("activation noise", own["seed"], draw, name, 0)
                        z = standard_normal(torch.tensor([row]), (len(a),), *address)[0]
                        a = a * (1 + own["sigma"] * z.numpy())
                found.append(float(((a - y.numpy()) ** 2).sum()))
            e, noised = found[0], found[1:]
            worst = max(*noised, e) if own["worst"] else sum(noised) / len(noised)
            rises.append(worst - e)
            row += 1
    return rises


@settings(deadline=None, max_examples=25)
@given(
    sigma=st.sampled_from([0.0, 0.1, 0.3, 2.0]),
    draws=st.integers(1, 4),
    worst=st.booleans(),
    seed=st.integers(0, 3),
    n=st.integers(2, 7),
    size=st.integers(1, 7),
    some=st.sampled_from([None, "1", "0,3"]),
)
def test_it_is_its_formula(
    sigma: float, draws: int, worst: bool, seed: int, n: int, size: int, some: str | None
) -> None:
    model, data = mlp(seed), pairs(n, size, seed)
    own: dict[str, Any] = {"sigma": sigma, "draws": draws, "worst": worst, "seed": seed}
    record = activation_noise_sharpness(model, squares, data, blocks=some, **own)
    names = ("0", "1", "2", "3") if some is None else tuple(some.split(","))
    expected = torch.tensor(slow(model, data, names, **own), dtype=DOUBLE)
    assert record.blocks == names
    assert record.value == pytest.approx(float(expected.mean()), rel=1e-9, abs=1e-12)
    error = float(expected.std()) / math.sqrt(n)
    assert record.uncertainty == pytest.approx(error, rel=1e-9, abs=1e-12)
    assert record.loss == pytest.approx(mean_loss(model, squares, data).value)
    assert (record.n, record.sigma, record.draws, record.worst) == (n, sigma, draws, worst)
    assert (record.seed, record.dtype) == (seed, "float64")
    if worst:
        assert record.value >= 0
    if sigma == 0:
        assert record.value == 0


@pytest.mark.parametrize("make", [mlp, small_net])
def test_no_noise_is_no_rise(make: Any) -> None:
    loss, data = (squares, pairs(6, 4)) if make is mlp else (per_example, batches())
    for worst in (True, False):
        assert activation_noise_sharpness(make(), loss, data, sigma=0.0, worst=worst).value == 0.0


def test_it_does_not_fall_with_the_number_of_draws() -> None:
    """The first draws are those of a smaller K."""
    values = [
        activation_noise_sharpness(small_net(), per_example, batches(), draws=k).value
        for k in (1, 2, 3, 5, 10, 20)
    ]
    assert all(0 <= a <= b for a, b in itertools.pairwise(values))
    assert values[0] < values[-1]


@pytest.mark.parametrize("size", [1, 3, 10])
def test_it_does_not_depend_on_the_batches(size: int) -> None:
    whole = activation_noise_sharpness(mlp(), squares, pairs(10, 10))
    split = activation_noise_sharpness(mlp(), squares, pairs(10, size))
    assert split.value == pytest.approx(whole.value, rel=1e-12)
    assert split.uncertainty == pytest.approx(whole.uncertainty, rel=1e-10)
    other = activation_noise_sharpness(mlp(), squares, pairs(10, 10), seed=1)
    assert other.value != pytest.approx(whole.value, rel=1e-3)


# Closed forms: a linear network, noise on its hidden layer h = Vx, output w·h, residual r.
# With noise the residual is r + σ·Σ_j w_j h_j z_j: normal around r, variance s² = σ²Σ(w_j h_j)².


class TwoLinear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.hidden, self.head = nn.Linear(3, 5).double(), nn.Linear(5, 1).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.hidden(x))


def linear_case(sigma: float) -> tuple[nn.Module, list[tuple[Tensor, Tensor]], Tensor, Tensor]:
    model, (x, y) = TwoLinear(), pairs(6, 6)[0]
    y = y[:, :1]
    with torch.no_grad():
        h = model.hidden(x)
        r = (model.head(h) - y)[:, 0]
        s = sigma * (model.head.weight * h).norm(dim=1)
    return model, [(x, y)], r, s


def test_the_mean_in_closed_form() -> None:
    """E mean_k e_k − e = s²; five standard errors over 4,000 draws."""
    draws = 4000
    model, data, r, s = linear_case(0.3)
    record = activation_noise_sharpness(model, squares, data, draws=draws, worst=False)
    variance = (4 * r**2 * s**2 + 2 * s**4).mean() / (6 * draws)  # of (r + sz)² − r²
    assert record.blocks == ("hidden",)
    assert abs(record.value - float((s**2).mean())) < 5 * float(variance) ** 0.5


def test_the_worst_of_one_in_closed_form() -> None:
    """E max(e_1, e) − e = E[(2rsz + s²z²)₊], by quadrature; over 400 seeds."""
    model, data, r, s = linear_case(0.5)
    z = torch.linspace(-10, 10, 20_001, dtype=DOUBLE)
    density = torch.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    rise = (2 * (r * s)[:, None] * z + (s**2)[:, None] * z**2).clamp_min(0)
    expected = torch.trapezoid((rise * density), z).mean()
    found = torch.tensor(
        [
            activation_noise_sharpness(model, squares, data, sigma=0.5, draws=1, seed=seed).value
            for seed in range(400)
        ]
    )
    assert abs(found.mean() - expected) < 5 * found.std() / 20


# Which modules have noise


class Shared(nn.Module):
    """A module that runs twice, one that never does, attention with a tuple, a functional end."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.relu = nn.ReLU()
        self.unused = nn.Linear(4, 4)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.second(self.relu(self.first(x))))
        x = self.drop(self.attention(x, x, x)[0])
        return torch.log_softmax(self.head(x.mean(1)), 1)


def sequences() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(6, 5, 4, generator=generator), torch.arange(6) % 3)]


def nll(outputs: Tensor, targets: Tensor) -> Tensor:
    return -outputs[torch.arange(len(targets)), targets]


def test_every_intermediate_module_has_noise_and_the_head_has_none() -> None:
    torch.manual_seed(0)
    record = activation_noise_sharpness(Shared(), nll, sequences())
    assert record.blocks == ("first", "second", "relu", "attention")
    assert record.value > 0
    found = activation_noise_sharpness(small_net(), per_example, batches())
    assert found.blocks == ("block1.0", "block1.1", "relu", "block2.1", "block2.2")
    convolutional = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Tanh(), nn.Conv2d(2, 1, 1))
    data = [(torch.randn(4, 1, 2, 2), torch.randn(4, 4))]
    assert activation_noise_sharpness(convolutional, squares, data).blocks == ("0", "1")


def test_every_call_of_a_block_has_noise_of_its_own() -> None:
    """With the same noise in both calls of this module, a·(1 + σz)² would have no equal."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.same = nn.Hardtanh(-100, 100)
            self.calls: list[Tensor] = []

        def forward(self, x: Tensor) -> Tensor:
            one = self.same(x)
            two = self.same(one)
            self.calls += [one / x, two / one]
            return two.sum(1, keepdim=True)

    model = Twice()
    data = [(torch.ones(3, 4, dtype=DOUBLE), torch.zeros(3, 1, dtype=DOUBLE))]
    activation_noise_sharpness(model, squares, data, draws=2)
    clean, factors = model.calls[:2], model.calls[2:]
    assert all(bool((c == 1).all()) for c in clean)
    assert len({tuple(f.flatten().tolist()) for f in factors}) == 4


def test_a_named_tuple_stays_one() -> None:
    class Two(NamedTuple):
        features: Tensor
        other: int

    class Inner(nn.Module):
        def forward(self, x: Tensor) -> Two:
            return Two(x, 1)

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Inner()

        def forward(self, x: Tensor) -> Tensor:
            found = self.inner(x)
            return found.features * found.other + 0.0

    assert activation_noise_sharpness(Outer(), squares, [_two()], blocks="inner").value > 0


def _two() -> tuple[Tensor, Tensor]:
    return torch.ones(3, 2), torch.ones(3, 2)


def test_a_compiled_model_has_noise_too() -> None:
    model = mlp()
    compiled: Any = torch.compile(mlp(), backend="eager")
    compiled(pairs(6, 4)[0][0])
    plain = activation_noise_sharpness(model, squares, pairs(6, 4))
    found = activation_noise_sharpness(compiled, squares, pairs(6, 4))
    assert found.value == pytest.approx(plain.value)
    assert found.blocks == plain.blocks


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_type_of_the_model_is_kept(dtype: torch.dtype) -> None:
    data = [(x.to(dtype), y) for x, y in pairs(8, 4)]
    record = activation_noise_sharpness(mlp().to(dtype), squares, data)
    expected = activation_noise_sharpness(mlp(), squares, pairs(8, 4)).value
    tolerance = 1e-5 if dtype == torch.float32 else 0.1
    assert record.value == pytest.approx(expected, rel=tolerance)
    assert record.dtype == str(dtype).removeprefix("torch.")


def test_a_diverged_model_gives_nan() -> None:
    model = mlp()
    with torch.no_grad():
        model[0].weight[0, 0] = math.nan
    assert math.isnan(activation_noise_sharpness(model, squares, pairs(4, 2)).value)


def test_the_record_says_what_was_done() -> None:
    record = activation_noise_sharpness(mlp(), squares, pairs(1, 1), worst=False, seed=4)
    assert record.uncertainty is None
    assert "mean_k e_k - e" in record.definition
    assert "1 + 0.3 N(0, 1)" in record.definition
    assert record.to_dict()["blocks"] == ["0", "1", "2", "3"]


# Wrong use


@pytest.mark.parametrize(
    ("own", "says"),
    [
        ({"sigma": -0.1}, "sigma: -0.1 is not a deviation"),
        ({"sigma": math.nan}, "sigma: nan"),
        ({"draws": 0}, "draws: 0; give a whole number from 1 on"),
        ({"draws": 2.0}, r"draws: 2\.0"),
        ({"seed": -1}, "seed: -1"),
        ({"blocks": "5x"}, "unknown block '5x'"),
    ],
)
def test_arguments_that_make_no_sense(own: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        activation_noise_sharpness(mlp(), squares, pairs(4, 2), **own)


def test_a_mean_loss_is_refused() -> None:
    with pytest.raises(InputError, match="one loss per example"):
        activation_noise_sharpness(small_net(), nn.CrossEntropyLoss(), batches())


def test_no_examples_are_refused() -> None:
    with pytest.raises(InputError, match="no examples"):
        activation_noise_sharpness(mlp(), squares, [])


@pytest.mark.parametrize("model", [nn.Linear(3, 2), nn.Sequential(nn.Flatten(), nn.Linear(3, 2))])
def test_a_model_of_nothing_but_a_head_is_refused(model: nn.Module) -> None:
    with pytest.raises(InputError, match="blocks="):
        activation_noise_sharpness(model.double(), squares, pairs(4, 2))


def test_blocks_that_do_not_run_or_have_no_rows_are_refused() -> None:
    torch.manual_seed(0)
    with pytest.raises(InputError, match="block 'unused' does not run"):
        activation_noise_sharpness(Shared(), nll, sequences(), blocks="unused,first")

    class Turned(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.T

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.turned = Turned()

        def forward(self, x: Tensor) -> Tensor:
            return self.turned(x).T[:, :2] + 0.0

    with pytest.raises(InputError, match=r"block 'turned' returns \(3, 4\) for 4 examples"):
        activation_noise_sharpness(Net(), squares, pairs(4, 4))
