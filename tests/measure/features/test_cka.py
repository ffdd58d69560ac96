"""Centred kernel alignment against n×n Gram matrices, its invariances and its estimators."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lowland.core.errors import InputError
from lowland.measure.features.cka import cka, cka_matrix


def hsic(x: np.ndarray, y: np.ndarray, unbiased: bool) -> float:
    """From the Gram matrices, uncentred features as they are."""
    n = len(x)
    k, m = x @ x.T, y @ y.T
    if not unbiased:
        h = np.eye(n) - 1 / n
        return np.trace(k @ h @ m @ h)
    k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
    one = np.ones(n)
    sums = (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
    return (np.trace(k @ m) + sums - 2 / (n - 2) * (one @ k @ m @ one)) / (n * (n - 3))


def oracle(x: np.ndarray, y: np.ndarray, estimator: str, batch: int = 256) -> float:
    pieces = [slice(0, len(x))]
    if estimator == "minibatch":
        pieces = [slice(i, i + batch) for i in range(0, len(x), batch)]
        pieces = [p for p in pieces if len(x[p]) >= 4]
    found = [
        sum(len(x[p]) * hsic(a[p], b[p], estimator != "biased") for p in pieces)
        for a, b in ((x, y), (x, x), (y, y))
    ]
    return found[0] / math.sqrt(found[1] * found[2])


def pair(n: int, d: int, e: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d)) + 2
    return x, x[:, :1] * rng.normal(size=e) + 0.5 * rng.normal(size=(n, e)) - 1


@settings(deadline=None, max_examples=60)
@given(
    n=st.integers(5, 30),
    d=st.integers(1, 40),
    e=st.integers(1, 40),
    step=st.integers(1, 30),
    batch=st.integers(5, 12),
    seed=st.integers(0, 10**6),
    estimator=st.sampled_from(["unbiased", "biased", "minibatch"]),
)
def test_equals_gram_matrices_wide_or_long(n, d, e, step, batch, seed, estimator) -> None:
    x, y = pair(n, d, e, seed)
    record = cka(x, y, estimator=estimator, batch=batch)
    assert record.value == pytest.approx(oracle(x, y, estimator, batch), rel=1e-8, abs=1e-9)
    assert (record.dimensions, record.estimator) == ((d, e), estimator)
    left, right = torch.from_numpy(x).split(step), torch.from_numpy(y).split(7)
    streamed = cka(lambda: iter(left), lambda: iter(right), estimator=estimator, batch=batch)
    assert streamed.value == pytest.approx(record.value, rel=1e-9, abs=1e-10)
    assert streamed.n == record.n


@pytest.mark.parametrize("estimator", ["unbiased", "biased", "minibatch"])
@pytest.mark.parametrize(("n", "d"), [(40, 6), (20, 50)])
def test_what_it_does_not_change_with(estimator, n, d) -> None:
    x, y = pair(n, d, 5, 0)
    turn, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(d, d)))
    value = cka(x, y, estimator=estimator, batch=10).value
    changed = cka(x @ turn * 7 + 100, y, estimator=estimator, batch=10).value
    assert changed == pytest.approx(value)
    assert cka(y, x, estimator=estimator, batch=10).value == pytest.approx(value)
    assert cka(x, x @ turn - 3, estimator=estimator, batch=10).value == pytest.approx(1.0)


def test_the_estimators_differ_as_they_should() -> None:
    """Independent wide features: the biased one says nearly alike, the others nothing."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 400)), rng.normal(size=(40, 400))
    assert cka(x, y, estimator="biased").value > 0.85
    assert abs(cka(x, y).value) < 0.1
    assert abs(cka(x, y, estimator="minibatch", batch=10).value) < 0.2


def test_the_mean_of_unbiased_estimates_is_what_all_examples_have() -> None:
    """Over all subsets of 4 of 7 examples: the definition of an unbiased estimate."""
    import itertools

    x, y = pair(7, 3, 2, 5)
    subsets = [list(s) for s in itertools.combinations(range(7), 4)]
    for a, b in ((x, y), (x, x)):
        mean = np.mean([hsic(a[s], b[s], True) for s in subsets])
        assert mean == pytest.approx(hsic(a, b, True))


def test_one_batch_of_all_is_the_unbiased_estimate() -> None:
    x, y = pair(30, 4, 6, 1)
    whole = cka(x, y, estimator="minibatch", batch=30)
    assert whole.value == pytest.approx(cka(x, y).value)
    left_out = cka(x, y, estimator="minibatch", batch=14)
    assert (left_out.n, whole.n) == (28, 30)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_types(dtype) -> None:
    x, y = (torch.from_numpy(v).to(dtype) for v in pair(30, 4, 60, 1))
    expected = oracle(x.double().numpy(), y.double().numpy(), "unbiased")
    assert cka(x, y).value == pytest.approx(expected)
    assert cka(x, y).dtype == "float64"


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_scale_does_not_matter(scale) -> None:
    for d in (4, 60):
        x, y = pair(20, d, 5, 1)
        assert cka(x * scale, y).value == pytest.approx(cka(x, y).value)


@pytest.mark.parametrize("estimator", ["unbiased", "biased", "minibatch"])
def test_constant_features_are_like_nothing(estimator) -> None:
    x, y = pair(20, 3, 30, 0)
    for constant in (np.zeros((20, 3)), np.full((20, 40), 0.1), torch.full((20, 3), 1e6 / 3)):
        assert math.isnan(cka(constant, y, estimator=estimator, batch=10).value)
        assert math.isnan(cka(x, constant, estimator=estimator, batch=10).value)
    matrix = cka_matrix({"a": x, "dead": x * 0}, {"a": x, "b": y}, estimator=estimator)
    assert np.isnan(matrix.matrix[1]).all()
    assert matrix.value == pytest.approx(1.0)


def test_block_by_block() -> None:
    x, y = pair(25, 4, 30, 0)
    first, second = {"block1": x, "block2": y}, {"block2": x + y[:, :4], "block1": x, "head": y}
    record = cka_matrix(first, second)
    assert (record.rows, record.columns) == (("block1", "block2"), ("block2", "block1", "head"))
    for row, a in first.items():
        for column, b in second.items():
            assert record.between(row, column) == pytest.approx(cka(a, b).value), (row, column)
    same = [record.between("block1", "block1"), record.between("block2", "block2")]
    assert record.value == pytest.approx(np.mean(same))
    assert math.isnan(cka_matrix({"a": x}, {"b": x}).value)
    assert record.to_dict()["matrix"][0][1] == pytest.approx(1.0)
    assert record.n == 25


X = np.random.default_rng(0).normal(size=(6, 3))


@pytest.mark.parametrize(
    ("args", "options", "message"),
    [
        ((X, X[:5]), {}, "second: 5 examples, the first has 6; rows must be the same examples"),
        ((X[:3], X[:3]), {}, "first: fewer than 4 examples; the unbiased estimator needs so"),
        ((X[:1], X[:1]), {"estimator": "biased"}, "first: fewer than 2 examples; the biased"),
        ((X, X), {"estimator": "minibatch", "batch": 3}, "batch: 3 examples; the unbiased estima"),
        ((X[:3], X), {"estimator": "minibatch"}, "first: fewer than 4 examples; the minibatch"),
        ((X, X), {"estimator": "debiased"}, "unknown estimator 'debiased': did you mean 'biased'"),
        ((X * np.inf, X), {}, "features: NaN or infinity among them"),
    ],
)
def test_bad_input(args, options, message) -> None:
    with pytest.raises(InputError) as caught:
        cka(*args, **options)
    assert str(caught.value).startswith(message)


def test_matrices_of_nothing_or_of_other_examples() -> None:
    with pytest.raises(InputError, match="cka_matrix: no blocks; give the features of at least"):
        cka_matrix({}, {"a": X})
    with pytest.raises(InputError, match=r"second\['b'\]: 5 examples, the first has 6"):
        cka_matrix({"a": X}, {"a": X, "b": X[:5]})
    with pytest.raises(InputError, match=r"second\[.a.\]: 6 examples, the first has 8"):
        cka_matrix({"a": X, "c": np.ones((8, 2))}, {"a": X})
