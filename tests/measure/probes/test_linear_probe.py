"""Linear probes against scikit-learn, against their own certificates, and on bad input."""

import warnings

import numpy as np
import pytest
import torch
from probe_data import classes_in, correlated, skew
from scipy.optimize import minimize
from scipy.special import log_softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from lowland.core.errors import InputError
from lowland.measure.probes import DFR_C, linear_probe
from lowland.measure.probes import fit as fitting
from lowland.measure.probes.design import Design


def objective(x, y, weight, bias, C, penalty, sample_weight=None):
    """F from its formula, in float64."""
    logits = x @ weight.T + bias
    columns = np.searchsorted(np.unique(y), y)
    losses = -log_softmax(logits, axis=1)[np.arange(len(y)), columns]
    if sample_weight is not None:
        losses = losses * sample_weight
    w = weight if len(weight) > 2 else weight[1:] - weight[:1]
    size = 0.5 * (w**2).sum() if penalty == "l2" else np.abs(w).sum()
    return C * losses.sum() + size


def reference(x, y, C, penalty):
    """scikit-learn's optimum, far below the tolerance: its least objective.

    Centring changes no optimum, as the intercept is free, but its solvers' speed a lot.
    """
    x = x - x.mean(0)
    solver = "saga" if penalty == "l1" else "newton-cholesky"
    options = {"C": C, "l1_ratio": 1.0 if penalty == "l1" else 0.0, "max_iter": 20000}
    with warnings.catch_warnings():
        # how far it got is what the comparison shows
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = LogisticRegression(solver=solver, tol=1e-7, **options).fit(x, y)
    weight, bias = model.coef_, model.intercept_
    if len(weight) == 1:
        weight, bias = np.vstack([0 * weight, weight]), np.r_[0.0, bias]
    # saga leaves the intercepts further from their optimum than its tolerance says
    polished = minimize(lambda b: objective(x, y, weight, b, C, penalty), bias, tol=1e-9)
    return polished.fun


@pytest.mark.parametrize("penalty", ["l2", "l1"])
@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("make", [classes_in, correlated, skew])
def test_reaches_scikit_learns_optimum(make, classes, penalty):
    x, y = make(300, 12, classes, seed=1)
    values = (1.0, 0.1, 0.01)
    probe = linear_probe(
        x, y, x, y, C=values, penalty=penalty, standardize="none", validation=(x, y)
    )
    for fit in probe.fits:
        assert fit.converged
        assert fit.gap <= 1e-4
        best = reference(x.double().numpy(), y.numpy(), fit.C, penalty)
        # never below the optimum, and above it by at most the certified gap
        assert fit.objective >= best * (1 - 1e-6)
        assert fit.objective <= best * (1 + 1e-4)


@pytest.mark.parametrize("penalty", ["l2", "l1"])
def test_the_gap_bounds_the_true_distance_also_before_convergence(penalty):
    x, y = correlated(400, 20, 3, seed=2)
    options = {"C": 1.0, "penalty": penalty, "standardize": "none"}
    best = linear_probe(x, y, x, y, tolerance=1e-9, max_reads=5000, **options).fits[0]
    assert best.converged
    seen = []
    for reads in (1, 3, 10, 30, 100):
        fit = linear_probe(x, y, x, y, tolerance=1e-9, max_reads=reads, **options).fits[0]
        distance = (fit.objective - best.objective) / fit.objective
        assert distance <= fit.gap + 1e-9
        assert fit.converged == (fit.gap <= 1e-9)
        seen.append(fit.gap)
    assert seen[0] > 1e-3


@pytest.mark.parametrize("penalty", ["l2", "l1"])
@pytest.mark.parametrize("classes", [2, 3])
def test_coefficients_are_for_features_as_given(penalty, classes):
    x, y = skew(200, 6, classes, seed=3)
    x = x * torch.tensor([1e-3, 1.0, 50.0, 1.0, 1.0, 1.0]) + 100.0
    probe = linear_probe(x, y, x, y, penalty=penalty, C=0.3)
    scaled = StandardScaler().fit(x.double().numpy())
    weight = probe.weight.numpy() * scaled.scale_
    bias = probe.bias.numpy() + probe.weight.numpy() @ scaled.mean_
    z = scaled.transform(x.double().numpy())
    found = objective(z, y.numpy(), weight, bias, 0.3, penalty)
    assert found == pytest.approx(probe.chosen.objective, rel=1e-6)
    assert (probe.predict(x) != y).double().mean() == probe.chosen.train_error == probe.value


def test_optimality_conditions_of_l1():
    x, y = classes_in(300, 15, 3, seed=4)
    probe = linear_probe(
        x, y, x, y, penalty="l1", C=0.05, standardize="none", tolerance=1e-9, max_reads=5000
    )
    x64 = x.double().requires_grad_(False)
    weight = probe.weight.clone().requires_grad_()
    bias = probe.bias.clone().requires_grad_()
    loss = 0.05 * torch.nn.functional.cross_entropy(x64 @ weight.T + bias, y, reduction="sum")
    slope, ends = torch.autograd.grad(loss, (weight, bias))
    zero = probe.weight == 0
    assert 0 < zero.sum() < zero.numel()
    assert slope[zero].abs().max() <= 1 + 1e-3
    torch.testing.assert_close(slope[~zero], -probe.weight[~zero].sign(), atol=2e-3, rtol=0)
    assert ends.abs().max() < 1e-6
    assert probe.chosen.nonzero == int((~zero).sum())


def test_many_values_at_once_are_the_single_ones():
    x, y = classes_in(200, 8, 3, seed=5)
    together = linear_probe(x, y, x, y, C=DFR_C, validation=(x, y))
    for fit in together.fits:
        alone = linear_probe(x, y, x, y, C=fit.C).chosen
        assert fit.objective == pytest.approx(alone.objective, rel=2e-4)
        assert fit.error == pytest.approx(alone.error, abs=0.011)


@pytest.mark.parametrize("penalty", ["l2", "l1"])
def test_more_features_than_examples_and_separable_classes(penalty):
    x, y = classes_in(40, 90, 3, seed=6)
    fit = linear_probe(x, y, x, y, penalty=penalty, C=1.0, standardize="none").chosen
    assert fit.converged
    assert fit.train_error == 0
    best = reference(x.double().numpy(), y.numpy(), 1.0, penalty)
    assert fit.objective <= best * (1 + 1.5e-4)


@pytest.mark.parametrize("classes", [2, 3])
def test_working_sets_find_the_optimum_over_all_features(monkeypatch, classes):
    x, y = correlated(200, 60, classes, seed=17)
    options = {"penalty": "l1", "C": (1.0, 0.05), "validation": (x, y), "tolerance": 1e-5}
    whole = linear_probe(x, y, x, y, **options)
    monkeypatch.setattr(fitting, "WORKING", 10)
    monkeypatch.setattr(fitting, "FIRST", 4)
    sizes = []
    columns = Design.columns
    monkeypatch.setattr(
        Design, "columns", lambda self, which: (sizes.append(len(which)), columns(self, which))[1]
    )
    parts = linear_probe(x, y, x, y, **options)
    assert sizes[:2] == [4, 8]
    assert len(sizes) > 2
    for fit, other in zip(parts.fits, whole.fits, strict=True):
        assert fit.converged
        assert fit.objective == pytest.approx(other.objective, rel=2e-5)


def test_many_features_with_l1():
    x, y = classes_in(80, 700, 2, seed=18, apart=0.3)
    fit = linear_probe(x, y, x, y, penalty="l1", C=0.5, standardize="none").chosen
    assert fit.converged
    assert 0 < fit.nonzero < 100
    best = reference(x.double().numpy(), y.numpy(), 0.5, "l1")
    assert best * (1 - 1e-5) <= fit.objective <= best * (1 + 1e-4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16, torch.uint8])
def test_types_of_features(dtype):
    x, y = classes_in(200, 8, 3, seed=7)
    x = (x * 20 + 100).clamp(0, 255).to(dtype)
    same = linear_probe(x.double(), y, x.double(), y)
    probe = linear_probe(x, y, x, y)
    assert probe.converged
    assert probe.chosen.objective == pytest.approx(same.chosen.objective, rel=1e-4)


def test_large_work_in_float32_is_certified_in_float64():
    x, y = correlated(4000, 64, 10, seed=8)
    x = x * 3 + 1000  # float32 products of uncentred features would be useless
    probe = linear_probe(x, y, x, y, C=DFR_C, validation=(x, y))
    assert all(fit.converged for fit in probe.fits)
    one = probe.fits[3]
    z = StandardScaler().fit_transform(x.double().numpy())
    best = reference(z, y.numpy(), one.C, "l2")
    assert best * (1 - 1e-6) <= one.objective <= best * (1 + 1e-4)


def test_constant_features_and_scaling_away():
    x, y = classes_in(100, 5, 2, seed=9)
    x[:, 2] = 7.25
    probe = linear_probe(x, y, x, y, standardize="train")
    assert (probe.weight[:, 2] == 0).all()
    scaled = linear_probe(x * 1e5, y, x * 1e5, y, standardize="train")
    assert scaled.chosen.objective == pytest.approx(probe.chosen.objective, rel=2e-4)


def test_streams_lists_and_labels_of_any_numbers():
    x, y = classes_in(90, 5, 3, seed=10)
    names = torch.tensor([-4, 7, 1000])[y]
    probe = linear_probe(lambda: iter(x.split(20)), names.tolist(), x.numpy(), names.numpy())
    assert probe.classes == (-4, 7, 1000)
    assert set(probe.predict(x).tolist()) <= {-4, 7, 1000}
    assert probe.value == linear_probe(x, y, x, y).value


def test_labels_that_training_lacks_are_errors():
    x, y = classes_in(60, 5, 2, seed=11)
    other = torch.full_like(y, 9)
    assert linear_probe(x, y, x, other).value == 1.0


def test_held_out_share_is_by_class_and_by_seed():
    x, y = classes_in(100, 5, 2, seed=12)
    probe = linear_probe(x, y, held_out=0.25)
    assert probe.n + probe.train_size == 100
    assert "error on 25% held out" in probe.definition
    assert "held out" not in linear_probe(x, y, x, y).definition
    assert probe.n == sum(round(0.25 * int((y == c).sum())) for c in (0, 1))
    assert linear_probe(x, y, held_out=0.25).value == probe.value
    low, high = probe.low, probe.high
    assert low <= probe.value <= high


def test_the_value_of_c_is_chosen_on_validation_alone():
    x, y = classes_in(60, 30, 2, seed=13, apart=0.7)
    vx, vy = classes_in(200, 30, 2, seed=13, apart=0.7, draw=1)
    tx, ty = classes_in(200, 30, 2, seed=13, apart=0.7, draw=2)
    probe = linear_probe(x, y, tx, ty, C=(10.0, 1e-4), validation=(vx, vy))
    errors = [fit.validation_error for fit in probe.fits]
    assert errors[0] != errors[1]
    assert probe.chosen.validation_error == min(errors)
    alone = linear_probe(x, y, vx, vy, C=probe.C)
    assert alone.value == probe.chosen.validation_error
    # a tie goes to the smallest C, and a held-out share is used again for the fit
    assert linear_probe(x, y, tx, ty, C=(1.0, 0.5), validation=(vx[:1], vy[:1])).C in (1.0, 0.5)
    again = linear_probe(x, y, tx, ty, C=(10.0, 1e-4), validation=0.3)
    assert again.train_size == 60
    assert {fit.objective for fit in again.fits} == {fit.objective for fit in probe.fits}


def test_worst_group_choice_and_balanced_refits():
    x, y = classes_in(300, 6, 2, seed=14, apart=0.8)
    spurious = torch.where(torch.rand(300, generator=torch.manual_seed(0)) < 0.9, y, 1 - y)
    x[:, 0] += 4 * spurious
    groups = 2 * y + spurious
    probe = linear_probe(
        x,
        y,
        x,
        y,
        C=(1.0, 0.01),
        validation=(x, y, groups),
        choose="worst group",
        train_groups=groups,
        test_groups=groups,
        balance=5,
    )
    for fit in probe.fits:
        assert fit.validation_error == fit.groups.worst_error
    assert probe.chosen.groups.worst_error == min(f.groups.worst_error for f in probe.fits)
    smallest = int(torch.bincount(groups).min())
    one = linear_probe(x, y, x, y, C=1.0, train_groups=groups, balance=1, seed=3)
    from lowland.measure.probes.labels import balanced_rows

    rows = balanced_rows(groups, torch.Generator().manual_seed(3))
    assert len(rows) == 4 * smallest
    z = StandardScaler().fit(x.double().numpy())
    best = reference(z.transform(x.double().numpy())[rows], y[rows].numpy(), 1.0, "l2")
    assert one.chosen.objective == pytest.approx(best, rel=1.5e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": [0] * 60}, "at least two classes"),
        ({"C": 0.0}, "positive"),
        ({"C": ()}, "positive"),
        ({"C": (1.0, 2.0)}, "validation=0.2"),
        ({"C": (1.0, 2.0), "validation": 1.5}, "not in"),
        ({"C": (1.0, 2.0), "validation": 3}, "validation: give"),
        ({"penalty": "elastic"}, "penalty"),
        ({"standardize": "test"}, "standardize"),
        ({"choose": "luck"}, "choice"),
        ({"balance": 3}, "train_groups"),
        ({"balance": -1}, "balance"),
        ({"tolerance": 0.0}, "tolerance"),
        ({"max_reads": 0}, "max_reads"),
        ({"held_out": 0.0}, "held_out"),
        ({"test_features": torch.zeros(3, 5)}, "go together"),
        ({"test_features": torch.zeros(3, 4), "test_labels": [0, 1, 0]}, "same block"),
        ({"test_groups": [0, 1]}, "test_groups"),
        ({"train_groups": [0, 1]}, "train_groups"),
        (
            {"C": (1.0, 2.0), "validation": (torch.zeros(2, 5), [0, 1]), "choose": "worst group"},
            "no groups",
        ),
        ({"features": torch.full((60, 5), torch.nan)}, "NaN"),
        ({"labels": [0.5] * 60}, "whole numbers"),
    ],
)
def test_bad_input_is_one_line(change, message):
    x, y = classes_in(60, 5, 2, seed=15)
    options = {"features": x, "labels": y} | change
    with pytest.raises(InputError, match=message) as caught:
        linear_probe(**options)
    assert "\n" not in str(caught.value)


def test_what_is_not_certified_says_so():
    x, y = correlated(300, 40, 4, seed=16)
    probe = linear_probe(x, y, x, y, penalty="l1", C=100.0, max_reads=2)
    assert not probe.converged
    assert probe.chosen.gap > 1e-4
    assert not probe.to_dict()["converged"]
    assert "weight" not in probe.to_dict()
