"""Options that the three kinds of sharpness share: p, adaptive, m, logits, presets."""

from __future__ import annotations

import math

import pytest
import torch
from measure_cases import Quadratic, batches, half_squares, per_example, small_net
from surface_cases import TwoLayers, two_layer_batches
from torch.nn import functional

from lowland.core.errors import InputError
from lowland.measure.surface import (
    SHARPNESS_PRESETS,
    average_sharpness,
    one_step_sharpness,
    sharpness_preset,
    worst_sharpness,
)
from lowland.measure.surface.objective import normalized_logits

KINDS = [
    one_step_sharpness,
    lambda *a, **o: average_sharpness(*a, draws=4, **o),
    lambda *a, **o: worst_sharpness(*a, steps=4, restarts=2, **o),
]
W, X = [1.0, -2.0], [[0.0, 0.0], [1.0, 1.0], [2.0, 0.0], [5.0, 1.0], [0.5, 0.0]]


def quadratic(*sizes: int):
    x = torch.tensor(X, dtype=torch.float64)
    return list(zip(x.split(list(sizes)), torch.ones_like(x).split(list(sizes)), strict=True))


@pytest.mark.parametrize("p", [1.0, 1.5, 2.0, 4.0, math.inf])
@pytest.mark.parametrize("adaptive", [None, "elementwise"])
def test_one_step_in_closed_form(p, adaptive) -> None:
    """g·ε + ½‖ε‖² for L = mean ½‖w - x‖², with ε by the formula of the dual norm."""
    w = torch.tensor(W, dtype=torch.float64)
    g = w - torch.tensor(X, dtype=torch.float64).mean(0)
    t = w.abs() + 0.25 if adaptive else torch.ones_like(w)
    v, q = t * g, {1.0: math.inf, math.inf: 1.0}.get(p, p / (p - 1) if p > 1 else 0)
    if p == 1:
        j = torch.where(v.abs() == v.abs().max(), v.sign(), 0.0)
    else:
        j = v.sign() * v.abs() ** (q - 1) / torch.linalg.vector_norm(v, q) ** (q - 1)
    eps = 0.3 * t * j
    record = one_step_sharpness(
        Quadratic(*W), half_squares, quadratic(5), rho=0.3, p=p, adaptive=adaptive, eta=0.25
    )
    assert record.value == pytest.approx(float(g @ eps + eps @ eps / 2), rel=1e-10)


@pytest.mark.parametrize("measure", KINDS)
@pytest.mark.parametrize("adaptive", ["elementwise", "layerwise", "filterwise"])
def test_adaptive_sharpness_does_not_see_how_layers_are_scaled(measure, adaptive) -> None:
    def of(scale, adaptive):
        model, data = TwoLayers(scale), two_layer_batches(6, 2)
        return measure(model, per_example, data, rho=0.2, adaptive=adaptive).value

    assert of(8.0, adaptive) == pytest.approx(of(1.0, adaptive), rel=1e-6)
    assert abs(of(8.0, None) / of(1.0, None) - 1) > 0.1


@pytest.mark.parametrize("measure", KINDS)
def test_m_regroups_exactly(measure) -> None:
    def of(sizes, m, examples=None):
        record = measure(
            TwoLayers(), per_example, two_layer_batches(*sizes), rho=0.3, m=m, examples=examples
        )
        return record.value, record.m, record.smallest_m, record.n

    assert of((4, 4, 1), "batch") == pytest.approx(of((9,), 4), rel=1e-9)
    assert of((2, 5, 2), 4) == pytest.approx(of((9,), 4), rel=1e-9)
    assert of((9,), 4)[1:] == (4, 1, 9)
    assert of((2, 5, 2), None) == pytest.approx(of((9,), "batch"), rel=1e-9)
    assert of((2, 5, 2), 3, 6)[1:] == (3, 3, 6)


@pytest.mark.parametrize("measure", KINDS)
def test_only_the_chosen_parameters_move(measure) -> None:
    data = two_layer_batches(9)
    whole = measure(TwoLayers(), per_example, data, rho=0.3, m="batch").value
    part = measure(TwoLayers(), per_example, data, rho=0.3, m="batch", parameters="second")
    other = TwoLayers()
    other.first.requires_grad_(False)
    assert part.value == measure(other, per_example, data, rho=0.3, m="batch").value
    assert part.value != whole
    assert "second" in part.definition


@pytest.mark.parametrize("measure", KINDS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_types_and_a_single_example(measure, dtype) -> None:
    model = small_net().to(dtype)
    pairs = [(x.to(dtype), y) for x, y in batches(n=1)]
    record = measure(model, per_example, pairs, rho=0.5)
    assert record.dtype == str(dtype).removeprefix("torch.")
    assert math.isfinite(record.value)
    assert (record.n, record.m) == (1, 1)


@pytest.mark.parametrize("measure", KINDS)
def test_a_diverged_model_gives_nan(measure) -> None:
    record = measure(Quadratic(math.nan, 0.0), half_squares, quadratic(5), rho=1.0)
    assert math.isnan(record.value)
    assert math.isnan(record.loss)


def overflowing(outputs, targets):
    """Finite where the weights are small, NaN where they are not, as inf - inf is."""
    return outputs.abs().sum(1) * 1e2 + torch.where(outputs.abs() > 4, math.nan, 0.0).sum(1)


@pytest.mark.parametrize("measure", KINDS)
def test_a_pass_that_overflows_counts_as_infinite(measure) -> None:
    zeros = torch.zeros(2, 2, dtype=torch.float64)
    record = measure(Quadratic(1.0, 1.0), overflowing, [(zeros, zeros)], rho=1e3, m="batch")
    assert record.value == math.inf
    assert math.isfinite(record.loss)


@pytest.mark.parametrize("measure", KINDS)
def test_statistics_of_batches_are_refused(measure) -> None:
    if measure is one_step_sharpness:
        with pytest.raises(InputError, match="m: in train mode the loss depends on the batch"):
            measure(small_net(), per_example, batches(), rho=0.1, m=2, training_mode=True)
        return
    model = small_net()
    model.block1[1] = torch.nn.BatchNorm2d(4, track_running_stats=False)
    with pytest.raises(InputError, match=r"BatchNorm 'block1\.1' uses the statistics of each"):
        measure(model, per_example, batches(), rho=0.1)


@pytest.mark.parametrize("measure", KINDS)
def test_bad_options(measure) -> None:
    model, data = TwoLayers(), two_layer_batches(9)
    for options, message in (
        ({"logits": "std"}, "unknown logits 'std': did you mean 'unit-std'"),
        ({"adaptive": "w"}, "unknown adaptive 'w'"),
        ({"m": -1}, "m: -1; give a whole number"),
        ({"parameters": "third"}, "unknown parameter or module 'third'"),
    ):
        with pytest.raises(InputError) as caught:
            measure(model, per_example, data, rho=0.1, **options)
        assert str(caught.value).startswith(message)


def test_normalized_outputs() -> None:
    f = torch.tensor([[1.0, 2.0, 6.0], [0.0, 0.0, 0.0]])
    std, norm = normalized_logits(f, "unit-std"), normalized_logits(f, "unit-norm")
    assert float(std[0].std(correction=0)) == pytest.approx(1.0)
    assert float(norm[0].norm()) == pytest.approx(1.0)
    assert float(norm[0].sum()) == pytest.approx(0.0, abs=1e-6)
    assert torch.equal(std[1], f[1])
    assert torch.equal(norm[1], f[1])
    softmaxes = functional.softmax(std / math.sqrt(3), 1), functional.softmax(norm, 1)
    assert torch.allclose(*softmaxes)


@pytest.mark.parametrize("measure", KINDS)
@pytest.mark.parametrize("logits", ["unit-std", "unit-norm"])
def test_the_scale_of_normalized_outputs_does_not_matter(measure, logits) -> None:
    """Here only the last layer is scaled; without normalisation the loss is another."""

    def of(scale, logits):
        model = TwoLayers()
        with torch.no_grad():
            model.second.weight *= scale
        options = {"rho": 0.2, "adaptive": "elementwise", "logits": logits}
        record = measure(model, per_example, two_layer_batches(6, 2), **options)
        return record.value, record.loss

    assert of(5.0, logits) == pytest.approx(of(1.0, logits), rel=1e-6)
    assert abs(of(5.0, None)[1] / of(1.0, None)[1] - 1) > 0.1


def test_outputs_that_are_no_logits_are_refused() -> None:
    with pytest.raises(InputError, match=r"logits: the outputs are \(2, 3, 4\), not"):
        normalized_logits(torch.ones(2, 3, 4), "unit-std")


FUNCTIONS = {f.__name__: f for f in (one_step_sharpness, average_sharpness, worst_sharpness)}


@pytest.mark.parametrize("name", SHARPNESS_PRESETS)
def test_presets_run(name) -> None:
    for instrument in SHARPNESS_PRESETS[name]:
        options = sharpness_preset(name, instrument)
        record = FUNCTIONS[instrument](TwoLayers(), per_example, two_layer_batches(9), **options)
        assert record.rho == options["rho"]
        assert math.isfinite(record.value)


def test_presets_that_do_not_exist() -> None:
    with pytest.raises(InputError, match="unknown sharpness preset 'sma': did you mean 'sam'"):
        sharpness_preset("sma", "one_step_sharpness")
    with pytest.raises(InputError, match="unknown instrument of preset 'sam' 'worst_sharpness'"):
        sharpness_preset("sam", "worst_sharpness")
    sharpness_preset("sam", "one_step_sharpness")["rho"] = 9
    assert sharpness_preset("sam", "one_step_sharpness")["rho"] == 0.05


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("measure", KINDS)
def test_it_works_where_gradients_are_off(measure, context) -> None:
    data = two_layer_batches(9)
    expected = measure(TwoLayers(), per_example, data, rho=0.3).value
    model = TwoLayers()
    with context():
        assert measure(model, per_example, data, rho=0.3).value == expected
        assert not torch.is_grad_enabled()
