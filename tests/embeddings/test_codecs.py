"""Quantizers: what they store, and that faiss searches what they decode to."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from made_vectors import low_rank

from lowland.core.errors import InputError
from lowland.embeddings import CODECS, open_vectors
from lowland.embeddings.codecs import allocated, choose_codecs
from lowland.embeddings.indexes import fill, with_transform
from lowland.embeddings.metric import Metric
from lowland.embeddings.space import Space, find_space
from lowland.embeddings.truth import Nearest

faiss = pytest.importorskip("faiss")
X = low_rank(2000, 24, 24) + 0.3


def space_of(metric: str) -> Space:
    return find_space(open_vectors(X), Metric(metric))


def usable() -> list[str]:
    return [codec.name for codec in choose_codecs("", len(X))]


@pytest.mark.parametrize("metric", ["cosine", "l2"])
@pytest.mark.parametrize("name", usable())
def test_an_index_finds_what_decoded_codes_give(name: str, metric: str) -> None:
    """A search measured on decoded codes, and the same in an index of faiss with the transform."""
    space = space_of(metric)
    codec, k = CODECS[name], 16
    prepared = space.prepare(X.copy(), 0, "x")
    sample = prepared @ space.axes.T.astype(np.float32)
    fitted = codec.fit(space, k, sample, seed=0)
    axes = fitted.axes(space).T
    nearest = Nearest(prepared[:50] @ axes, 10, space)
    nearest.add(0, fitted.stored(prepared @ axes))
    scores, ids = nearest.result()
    index = with_transform(
        space, fitted, fill(faiss.clone_index(fitted.index), open_vectors(X), space, fitted)
    )
    found, places = index.search(X[:50], 10)
    assert np.mean([len(set(a) & set(b)) for a, b in zip(ids, places, strict=True)]) > 9.8
    np.testing.assert_allclose(found, scores, rtol=2e-3, atol=2e-3)
    assert index.ntotal == 2000


@pytest.mark.parametrize("name", usable())
def test_bytes_are_those_of_the_file(name: str) -> None:
    space = space_of("l2")
    codec, k = CODECS[name], 16
    sample = space.prepare(X.copy(), 0, "x") @ space.axes.T.astype(np.float32)
    fitted = codec.fit(space, k, sample, seed=0)
    index = fill(faiss.clone_index(fitted.index), open_vectors(X), space, fitted)
    size = len(faiss.serialize_index(with_transform(space, fitted, index)))
    assert codec.bytes_per_vector(k, 24, 2000) == pytest.approx(size / 2000, rel=0.04)
    assert codec.code_bytes(k) * 8 == pytest.approx(codec.bits * k, abs=8)


def test_more_bits_lose_less() -> None:
    space = space_of("l2")
    z = space.prepare(X.copy(), 0, "x") @ space.axes.T.astype(np.float32)
    lost: dict[str, float] = {}
    for name in usable():
        fitted = CODECS[name].fit(space, 24, z, seed=0)
        y = fitted.coordinates(z)
        lost[name] = float(((fitted.stored(y) - y) ** 2).sum() / (y**2).sum())
    assert lost["float32"] == 0
    by_bits = sorted((c for c in lost if not c.startswith("pq")), key=lambda c: -CODECS[c].bits)
    errors = [lost[name] for name in by_bits if name != "sq4"]
    assert errors == sorted(errors)
    # the best levels for a normal coordinate lose 0.0095 at 4 bits and 0.1175 at 2 (Max 1960)
    if "tq4" in lost:
        assert lost["tq4"] == pytest.approx(0.0095, rel=0.35)
        assert lost["tq2"] == pytest.approx(0.1175, rel=0.2)


@pytest.mark.parametrize("name", usable())
def test_transforms_keep_distances(name: str) -> None:
    space = space_of("l2")
    z = space.prepare(X.copy(), 0, "x") @ space.axes.T.astype(np.float32)
    fitted = CODECS[name].fit(space, 16, z, seed=0)
    axes = fitted.axes(space) / fitted.scale
    np.testing.assert_allclose(axes @ axes.T, np.eye(16), atol=1e-5)
    prepared = space.prepare(X[:50].copy(), 0, "x")
    np.testing.assert_allclose(
        prepared @ fitted.axes(space).T, fitted.coordinates(z[:50]), atol=1e-4
    )


def test_allocation_balances_products() -> None:
    variances = np.exp(-np.arange(32) / 4.0)
    groups = np.array(allocated(variances, 4)).reshape(4, 8)
    assert sorted(groups.ravel().tolist()) == list(range(32))
    logs = np.log(variances)[groups].sum(1)
    in_order = np.log(variances).reshape(4, 8).sum(1)
    assert np.ptp(logs) < 0.1 * np.ptp(in_order)


def test_the_seed_decides() -> None:
    space = space_of("l2")
    z: Any = space.prepare(X.copy(), 0, "x") @ space.axes.T.astype(np.float32)
    a, b, c = (CODECS["pq2x4"].fit(space, 16, z, seed=s).stored(z[:, :16]) for s in (0, 0, 1))
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)


def test_names() -> None:
    assert [c.name for c in choose_codecs("sq8, float32", 100)] == ["float32", "sq8"]
    with pytest.raises(InputError, match="unknown quantizer 'sq9': did you mean 'sq8'"):
        choose_codecs("sq9", 100)
    with pytest.raises(InputError, match="quantizer for 100 training vectors and this faiss 'pq2'"):
        choose_codecs("pq2", 100)
    assert "pq2" in [c.name for c in choose_codecs("", 10_000)]
