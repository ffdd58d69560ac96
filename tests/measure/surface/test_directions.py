"""Directions: Gaussian, scaled as the weights are, the same everywhere."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from measure_cases import small_net
from scipy.stats import kstest
from torch import nn

from lowland.core.errors import InputError
from lowland.measure.parameters import chosen_parameters
from lowland.measure.surface import Direction, direction_towards, random_direction
from lowland.measure.surface.directions import as_direction, dot, orthogonal_to


def test_filters_have_the_norms_of_the_weights() -> None:
    model = small_net()
    with torch.no_grad():
        model.head.weight[1] = 0
    steps = random_direction(model).steps
    assert set(steps) == {"block1.0.weight", "block2.1.weight", "head.weight"}
    for name, step in steps.items():
        weight = dict(model.named_parameters())[name]
        found, expected = step.flatten(1).norm(dim=1), weight.detach().flatten(1).norm(dim=1)
        assert torch.allclose(found, expected, rtol=1e-5)
    assert torch.equal(steps["head.weight"][1], torch.zeros(6))


def test_layers_have_the_norms_of_the_weights() -> None:
    model = small_net()
    steps = random_direction(model, normalization="layer").steps
    for name, step in steps.items():
        weight = dict(model.named_parameters())[name]
        assert float(step.norm()) == pytest.approx(float(weight.detach().norm()), rel=1e-5)
    rows = steps["head.weight"].norm(dim=1) / model.head.weight.detach().norm(dim=1)
    assert float(rows.std()) > 0.01


def test_biases_and_normalization_stay_or_are_scaled_as_a_whole() -> None:
    model = small_net()
    kept = random_direction(model, biases="keep").steps
    assert set(kept) == set(dict(model.named_parameters()))
    for name in ("block1.0.bias", "block1.1.weight", "head.bias"):
        weight = dict(model.named_parameters())[name]
        assert float(kept[name].norm()) == pytest.approx(float(weight.detach().norm()), rel=1e-5)
    with pytest.raises(InputError, match="biases and normalization parameters alone"):
        random_direction(model, parameters="block1.1")
    norm = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm([2, 2]))
    assert set(random_direction(norm).steps) == {"0.weight"}


def test_they_are_gaussian_and_not_of_one_sign() -> None:
    """A peer draws from U[0, 1), whose mean is 0.5."""
    steps = random_direction(nn.Linear(200, 100), normalization="none").steps["weight"]
    assert kstest(steps.flatten().numpy(), "norm").pvalue > 1e-3
    assert abs(float(steps.mean())) < 0.05


def test_a_direction_is_a_function_of_seed_number_and_name() -> None:
    model = small_net()
    whole = random_direction(model, seed=3).steps
    block = random_direction(model, seed=3, parameters="block2").steps
    assert torch.equal(whole["block2.1.weight"], block["block2.1.weight"])
    for other in ({"seed": 4}, {"seed": 3, "number": 1}):
        found = random_direction(model, **other).steps
        assert not torch.equal(whole["head.weight"], found["head.weight"])
    half = random_direction(copy.deepcopy(model).bfloat16(), seed=3).steps["head.weight"]
    assert half.dtype == torch.float32
    assert torch.allclose(half, whole["head.weight"], rtol=0.02)
    before = torch.get_rng_state()
    random_direction(model)
    assert torch.equal(torch.get_rng_state(), before)


def test_towards_a_checkpoint() -> None:
    model, other = small_net(0), small_net(1)
    for checkpoint in (other, other.state_dict()):
        steps = direction_towards(model, checkpoint).steps
        for name, parameter in other.named_parameters():
            at = dict(model.named_parameters())[name] + steps[name]
            assert torch.allclose(at, parameter, atol=1e-6)
    assert set(direction_towards(model, other, parameters="head").steps) == {
        "head.weight",
        "head.bias",
    }


def test_given_directions() -> None:
    model = small_net()
    named = chosen_parameters(model)
    flat = torch.arange(sum(p.numel() for p in named.values()), dtype=torch.float64)
    vector = as_direction(model, flat)
    assert torch.equal(torch.cat([t.flatten() for t in vector.steps.values()]), flat)
    parts = vector.parts(named)
    assert all(part.dtype == torch.float32 for part in parts)
    assert as_direction(model, list(parts)).steps.keys() == vector.steps.keys()
    assert as_direction(model, {"_orig_mod.head.bias": torch.ones(3)}).steps.keys() == {"head.bias"}
    assert as_direction(model, vector) is vector


BAD = [
    (torch.ones(5), r"direction: \(5,\); the chosen parameters are \(449,\)"),
    ([torch.ones(1)], "direction: 1 tensors for 8 chosen parameters"),
    ("random", "direction: str; give a Direction, name -> tensor"),
    ({"tail": torch.ones(1)}, "unknown parameter of a direction 'tail'"),
    ({"head.bias": torch.ones(2)}, r"direction: 'head.bias' is \(2,\), the model's is \(3,\)"),
]


@pytest.mark.parametrize(("given", "message"), BAD)
def test_bad_directions(given, message) -> None:
    model = small_net()
    count = sum(p.numel() for p in model.parameters())
    with pytest.raises(InputError, match=message.replace("449", str(count))):
        as_direction(model, given).parts(chosen_parameters(model))


def test_bad_options() -> None:
    for options, message in (
        ({"normalization": "filters"}, "unknown normalization 'filters': did you mean 'filter'"),
        ({"biases": "ignored"}, "unknown biases 'ignored': did you mean 'ignore'"),
    ):
        with pytest.raises(InputError) as caught:
            random_direction(small_net(), **options)
        assert str(caught.value).startswith(message)


def test_the_orthogonal_part() -> None:
    left = [torch.tensor([1.0, 2.0]), None, torch.tensor([3.0])]
    other = [torch.tensor([0.5, 1.0]), torch.tensor([2.0]), None]
    found = orthogonal_to(left, other)
    assert dot(found, other) == pytest.approx(0.0, abs=1e-6)
    share = dot(left, other) / dot(other, other)
    assert dot(found, found) == pytest.approx(dot(left, left) - share * dot(left, other))
    assert not math.isnan(dot(orthogonal_to(left, [None, None, None]), left))
    assert isinstance(Direction({}, "").parts({}), list)
