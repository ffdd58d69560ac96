"""Retrieval error against loops over queries, with ties, several captions and batches."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lowland.core.errors import InputError
from lowland.measure.features import cosine as cosine_module
from lowland.measure.features.retrieval import retrieval_error


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    def unit(x: np.ndarray) -> np.ndarray:
        norms = np.linalg.norm(x, axis=1, keepdims=True)
        return np.divide(x, norms, out=np.zeros_like(x), where=norms > 0)

    return unit(a) @ unit(b).T


def loop(similarity: np.ndarray, right: list[set[int]], k: int) -> list[float]:
    """For each row the share of the orders of its ties in which none of `right` is in the first k.

    All orders are gone through, so the table must be small.
    """
    misses = []
    for row, own in zip(np.round(similarity, 10), right, strict=True):
        groups = [np.flatnonzero(row == v) for v in sorted(set(row), reverse=True)]
        orders = itertools.product(*(list(itertools.permutations(g)) for g in groups))
        found = [not own & set(list(itertools.chain(*order))[:k]) for order in orders]
        misses.append(float(np.mean(found)))
    return misses


@settings(deadline=None, max_examples=60)
@given(
    n=st.integers(1, 6),
    m=st.integers(1, 6),
    k=st.integers(1, 4),
    seed=st.integers(0, 10**6),
    table=st.sampled_from([1, 5, 10**6]),
    rows=st.sampled_from([1, 7, 10**6]),
)
def test_equals_the_loop_with_every_order_of_ties(n, m, k, seed, table, rows) -> None:
    """Few whole numbers in two dimensions: many ties, zero vectors, images without captions."""
    rng = np.random.default_rng(seed)
    images, texts = rng.integers(-1, 2, (n, 2)) * 1.0, rng.integers(-1, 2, (m, 2)) * 1.0
    pairs = rng.integers(0, n, m)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cosine_module, "TABLE", table)
        patch.setattr(cosine_module, "ROWS", rows)
        record = retrieval_error(images, texts, pairs=pairs, k=k)
    similarity = cosines(images, texts)
    asked = sorted(set(pairs))
    own = [set(np.flatnonzero(pairs == i)) for i in asked]
    to_text = loop(similarity[asked], own, k)
    to_image = loop(similarity.T, [{int(i)} for i in pairs], k)
    assert record.image_to_text == pytest.approx(np.mean(to_text))
    assert record.text_to_image == pytest.approx(np.mean(to_image))
    assert record.value == pytest.approx((np.mean(to_text) + np.mean(to_image)) / 2)
    assert (record.n, record.captions, record.dimension) == (len(asked), m, 2)


@settings(deadline=None, max_examples=30)
@given(
    n=st.integers(1, 30),
    d=st.integers(1, 8),
    seed=st.integers(0, 10**6),
    dtype=st.sampled_from([torch.bfloat16, torch.float32, torch.float64]),
)
def test_without_ties_it_is_the_place_of_the_own_in_the_order(n, d, seed, dtype) -> None:
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(n, d + 1, generator=generator)
    b = (a + torch.randn(n, d + 1, generator=generator)).to(dtype)
    a = a.to(dtype)
    similarity = cosines(a.double().numpy(), b.double().numpy())
    own = similarity.diagonal()
    if np.unique(np.round(similarity, 9)).size < similarity.size:
        return
    record = retrieval_error(a, b, k=[1, 2, 5])
    for k in (1, 2, 5):
        to_text = ((similarity > own[:, None]).sum(1) >= k).mean()
        to_image = ((similarity > own[None]).sum(0) >= k).mean()
        assert record.by_k[k] == pytest.approx((to_text, to_image))
    e = record.image_to_text
    assert record.image_to_text_uncertainty == pytest.approx(math.sqrt(e * (1 - e) / n))


def test_features_that_are_all_alike_give_the_error_of_guessing() -> None:
    record = retrieval_error(torch.ones(20, 3), torch.ones(20, 3), k=[1, 5, 20])
    assert record.by_k == {
        k: (pytest.approx(1 - k / 20), pytest.approx(1 - k / 20)) for k in (1, 5, 20)
    }


def test_errors_of_an_image_and_its_captions_count_together() -> None:
    """Of two captions of one image the standard error is that of one observation per image."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(40, 3))
    texts = images + rng.normal(size=(40, 3))
    one = retrieval_error(images, texts)
    twice = retrieval_error(images, np.repeat(texts, 2, 0), pairs=np.repeat(np.arange(40), 2))
    assert twice.text_to_image == pytest.approx(one.text_to_image)
    assert twice.text_to_image_uncertainty == pytest.approx(one.text_to_image_uncertainty)
    e = one.text_to_image
    assert one.text_to_image_uncertainty == pytest.approx(math.sqrt(e * (1 - e) / 40))
    similarity = cosines(images, texts)
    wrong = [(similarity.argmax(a) != np.arange(40)).astype(float) for a in (1, 0)]
    both = (wrong[0] + wrong[1]) / 2
    assert one.uncertainty == pytest.approx(np.std(both) / math.sqrt(40))


@pytest.mark.parametrize(
    ("repetitions", "low", "high"),
    [(400, 0.92, 0.98), pytest.param(6000, 0.93, 0.97, marks=pytest.mark.slow)],
)
def test_intervals_cover(repetitions, low, high) -> None:
    """Sets of images drawn anew, three captions each that err together: how often the interval of
    one set holds the mean error of all sets."""
    rng = np.random.default_rng(1)
    values, records = [], []
    for _ in range(repetitions):
        images = rng.normal(size=(60, 4))
        texts = images[np.repeat(np.arange(60), 3)] + 0.8 * rng.normal(size=(180, 4))
        texts += np.repeat(0.8 * rng.normal(size=(60, 4)), 3, axis=0)
        records.append(retrieval_error(images, texts, pairs=np.repeat(np.arange(60), 3)))
        values.append(records[-1].text_to_image)
    truth = np.mean(values)
    covered = sum(
        abs(r.text_to_image - truth) < 1.96 * r.text_to_image_uncertainty for r in records
    )
    assert low <= covered / repetitions <= high


def test_the_published_way_is_within_batches() -> None:
    """Top-1 in each batch, argmax on ties, incomplete batches left out."""
    rng = np.random.default_rng(0)
    a = rng.normal(size=(27, 3))
    b = a + 2 * rng.normal(size=(27, 3))
    record = retrieval_error(a, b, among="batches", batch=8)
    parts = [cosines(a[i : i + 8], b[i : i + 8]) for i in (0, 8, 16)]
    to_text = np.mean([(p.argmax(1) != np.arange(8)).mean() for p in parts])
    to_image = np.mean([(p.argmax(0) != np.arange(8)).mean() for p in parts])
    assert record.image_to_text == pytest.approx(to_text)
    assert record.text_to_image == pytest.approx(to_image)
    assert (record.n, record.captions) == (24, 24)
    assert record.value < retrieval_error(a, b).value
    assert record.definition.endswith("each query among its batch of 8; ties: the first")
    alike = retrieval_error(np.ones((16, 2)), np.ones((16, 2)), among="batches", batch=8)
    assert (alike.image_to_text, alike.text_to_image) == (7 / 8, 7 / 8)


@pytest.mark.parametrize("scale", [1e-200, 1e30, 1e200])
def test_scale_does_not_matter(scale) -> None:
    rng = np.random.default_rng(0)
    a = rng.normal(size=(30, 5))
    b = a + rng.normal(size=(30, 5))
    assert retrieval_error(a * scale, b / scale).value == retrieval_error(a, b).value


X = torch.eye(4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"texts": X[:3]}, "pairs: 4 images and 3 texts; say which belong together"),
        ({"texts": X[:, :2]}, "texts: 2 features per example, images have 4; take both after"),
        ({"pairs": [0, 1, 2]}, "pairs: give for each of 4 texts the place of its image, from 0"),
        ({"pairs": [0.0, 1, 2, 3]}, "pairs: give for each of 4 texts the place of its image"),
        ({"pairs": [0, 1, 2, 4]}, "pairs: places 0 to 4 of 4 images"),
        ({"k": 0}, "k: 0; give how many of the nearest to look at, 1 or more"),
        ({"k": []}, "k: []; give how many of the nearest to look at, 1 or more"),
        ({"among": "batch"}, "unknown choice of among 'batch': did you mean 'batches'?"),
        ({"among": "batches"}, "batch: 128 pairs of 4; give a batch that can be filled"),
        ({"among": "batches", "pairs": [0, 1, 2, 3]}, "pairs: among='batches' is of one text per"),
        ({"images": X / 0}, "images: NaN or infinity among them"),
    ],
)
def test_bad_input(options, message) -> None:
    with pytest.raises(InputError) as caught:
        retrieval_error(**{"images": X, "texts": X, **options})
    assert str(caught.value).startswith(message)
