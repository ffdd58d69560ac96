"""Neural collapse: closed forms of simplices, and dense matrices written from the formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lowland.core.errors import InputError
from lowland.measure.features.collapse import neural_collapse


def simplex(classes: int, d: int, seed: int = 0) -> np.ndarray:
    """(classes, d): an equiangular tight frame, turned at random."""
    frame = np.eye(classes) - 1 / classes
    turn, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(d, classes)))
    return frame @ turn.T


def dense(x: np.ndarray, y: np.ndarray, weigh: str) -> dict[str, float]:
    """NC1 and NC2 with all d×d matrices."""
    names, counts = np.unique(y, return_counts=True)
    means = np.array([x[y == c].mean(0) for c in names])
    p = counts / len(y) if weigh == "examples" else np.full(len(names), 1 / len(names))
    center = p @ means
    centred = means - center
    between = sum(q * np.outer(m, m) for q, m in zip(p, centred, strict=True))
    within = sum(
        q * np.mean([np.outer(v - m, v - m) for v in x[y == c]], axis=0)
        for q, c, m in zip(p, names, means, strict=True)
    )
    lengths = np.linalg.norm(centred, axis=1)
    cosines = (centred @ centred.T) / np.outer(lengths, lengths)
    off = cosines[~np.eye(len(names), dtype=bool)]
    return {
        "within": np.trace(within @ np.linalg.pinv(between, rcond=1e-10)) / len(names),
        "equinorm": lengths.std() / lengths.mean(),
        "equiangularity": off.std(),
        "maximal_angle": np.abs(off + 1 / (len(names) - 1)).mean(),
    }


@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("weigh", ["classes", "examples"])
def test_a_collapsed_simplex_has_no_sign_left(classes, weigh) -> None:
    means = simplex(classes, 12)
    x = np.repeat(means, 3, 0) + 5.0
    y = np.repeat(np.arange(classes), 3)
    bias = -5.0 * means.sum(1)
    record = neural_collapse(x, y, weight=4 * means, bias=4 * bias, weigh=weigh)
    assert record.value == record.within == pytest.approx(0.0, abs=1e-20)
    for sign in ("equinorm", "equiangularity", "maximal_angle", "self_duality"):
        assert getattr(record, sign) == pytest.approx(0.0, abs=1e-12), sign
    assert record.nearest_mean == 0.0
    assert (record.classes, record.smallest_class, record.n) == (classes, 3, 3 * classes)


@pytest.mark.parametrize("s", [0.1, 2.0])
def test_isotropic_noise_on_a_simplex(s) -> None:
    """Every class is its mean ± s along each of C axes of an orthonormal frame: Σ_W = s²/C·I on
    them. The simplex of C means has eigenvalue 1/C on C - 1 directions, so NC1 = s²(C - 1)/C."""
    classes = 4
    frame, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(6, classes)))
    means = (np.eye(classes) - 1 / classes) @ frame.T
    steps = np.concatenate([frame.T, -frame.T]) * s
    x = (means[:, None] + steps[None]).reshape(-1, 6)
    record = neural_collapse(x, np.repeat(np.arange(classes), 2 * classes))
    assert record.within == pytest.approx(s**2 * (classes - 1) / classes)


def test_two_classes_always_lie_opposite() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(11, 4)), np.array([0] * 3 + [1] * 8)
    record = neural_collapse(x, y)
    assert record.equinorm == pytest.approx(0.0, abs=1e-12)
    assert record.maximal_angle == pytest.approx(0.0, abs=1e-12)
    by_examples = neural_collapse(x, y, weigh="examples")
    assert by_examples.equinorm == pytest.approx((8 - 3) / 11)


@settings(deadline=None, max_examples=40)
@given(
    classes=st.integers(2, 6),
    n=st.integers(0, 30),
    d=st.integers(1, 9),
    step=st.integers(1, 30),
    seed=st.integers(0, 10**6),
    weigh=st.sampled_from(["classes", "examples"]),
    shift=st.sampled_from([0.0, 100.0]),
)
def test_equals_the_dense_matrices(classes, n, d, step, seed, weigh, shift) -> None:
    """Unequal classes, some of one example; fewer or more dimensions than classes; streamed."""
    rng = np.random.default_rng(seed)
    y = np.concatenate([np.arange(classes), rng.integers(0, classes, n)]) * 2 - 1
    rng.shuffle(y)
    x = rng.normal(size=(classes, d))[(y + 1) // 2] + 0.5 * rng.normal(size=(len(y), d)) + shift
    record = neural_collapse(x, y, weigh=weigh)
    expected = dense(x, y, weigh)
    for sign, value in expected.items():
        assert getattr(record, sign) == pytest.approx(value, rel=1e-5, abs=1e-7), sign
    assert record.smallest_class == np.unique(y, return_counts=True)[1].min()
    rows = torch.from_numpy(x).split(step)
    streamed = neural_collapse(lambda: iter(rows), y, weigh=weigh)
    assert streamed.within == pytest.approx(record.within, rel=1e-9, abs=1e-15)


def test_the_classifier() -> None:
    """NC3 from its formula; NC4 against a loop; classes without examples can still be chosen."""
    rng = np.random.default_rng(3)
    y = rng.integers(0, 4, 60)
    y[y == 2] = 3
    x = rng.normal(size=(4, 5))[y] + rng.normal(size=(60, 5))
    weight, bias = rng.normal(size=(6, 5)), rng.normal(size=6)
    record = neural_collapse(x, y, weight=torch.tensor(weight), bias=torch.tensor(bias))
    names = np.array([0, 1, 3])
    means = np.array([x[y == c].mean(0) for c in names])
    m, w = means - means.mean(0), weight[names]
    expected = np.linalg.norm(w / np.linalg.norm(w) - m / np.linalg.norm(m))
    assert record.self_duality == pytest.approx(expected)
    chosen = (x @ weight.T + bias).argmax(1)
    nearest = names[((x[:, None] - means) ** 2).sum(2).argmin(1)]
    assert record.nearest_mean == pytest.approx((chosen != nearest).mean())
    assert record.classes == 3
    plain = neural_collapse(x, y)
    assert (plain.self_duality, plain.nearest_mean) == (None, None)


def test_means_that_coincide() -> None:
    record = neural_collapse(torch.ones(4, 3), [0, 0, 1, 1], weight=torch.eye(3)[:2])
    assert record.value == record.within == math.inf
    assert math.isnan(record.equinorm)
    assert math.isnan(record.maximal_angle)
    assert math.isnan(record.self_duality)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_types_and_rounding_of_means(dtype) -> None:
    """A direction in which means differ by rounding alone is not one of Σ_B."""
    means = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    x = torch.cat([means[0] + 0.5 * torch.eye(2), means[1] - 0.5 * torch.eye(2)])
    record = neural_collapse(x.to(dtype), [0, 0, 1, 1])
    expected = dense(x.numpy(), np.array([0, 0, 1, 1]), "classes")
    assert record.within == pytest.approx(expected["within"])


@pytest.mark.parametrize("scale", [1e-200, 1e30, 1e200])
def test_scale_does_not_matter(scale) -> None:
    rng = np.random.default_rng(0)
    x, y, w = rng.normal(size=(20, 3)), np.arange(20) % 3, rng.normal(size=(3, 3))
    plain = neural_collapse(x, y, weight=w, bias=w[0])
    scaled = neural_collapse(x * scale, y, weight=w, bias=w[0] * scale)
    assert scaled.within == pytest.approx(plain.within)
    assert scaled.self_duality == pytest.approx(plain.self_duality)
    assert scaled.nearest_mean == plain.nearest_mean


X, Y = torch.randn(6, 3), [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize(
    ("args", "options", "message"),
    [
        ((X, [1] * 6), {}, "labels: of one class only; give examples of two or more"),
        ((X, Y[:5]), {}, "labels: 5 for 6 or more examples; give one for each"),
        ((X, [*Y, 0]), {}, "labels: 7 for 6 examples; give one for each"),
        ((X, [0.5] * 6), {}, "labels: of type float64; give whole numbers"),
        ((X, [Y]), {}, "labels: shape (1, 6); give one label for each example"),
        ((X, Y), {"weight": X[:3, :2]}, "weight: 2 columns for 3 features; give the classifier"),
        ((X, Y), {"weight": X[:2]}, "labels: 0 to 2 for a weight of 2 rows; label c must be its"),
        ((X, Y), {"weight": X, "bias": [1.0]}, "bias: 1 numbers for a weight of 6 rows"),
        ((X, Y), {"bias": [1.0]}, "bias: given without a weight; give both, or neither"),
        ((X, Y), {"weigh": "class"}, "unknown choice of weigh 'class': did you mean 'classes'?"),
        ((X / 0, Y), {}, "features: NaN or infinity among them"),
    ],
)
def test_bad_input(args, options, message) -> None:
    with pytest.raises(InputError) as caught:
        neural_collapse(*args, **options)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_means_that_coincide_up_to_rounding_coincide_also_far_from_zero(dtype) -> None:
    noise = torch.from_numpy(np.random.default_rng(0).normal(size=(10, 3)))
    x = (torch.cat([noise, -noise, 2 * noise, -2 * noise]) + 1000.1).to(dtype)
    record = neural_collapse(x, [0] * 20 + [1] * 20)
    assert record.within == math.inf
    assert math.isnan(record.equinorm)
