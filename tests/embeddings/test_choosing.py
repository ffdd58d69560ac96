"""The search for the fewest bytes, against trying everything."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_vectors import low_rank

from lowland.embeddings import CODECS, open_vectors
from lowland.embeddings.choosing import Search, _Bracket, grid_of
from lowland.embeddings.metric import Metric
from lowland.embeddings.space import find_space
from lowland.embeddings.truth import find_truth

pytest.importorskip("faiss")


def search(x: Any, *, recall: float, metric: str = "l2", rerank: int = 1, k: int = 5) -> Search:
    vectors = open_vectors(x)
    space = find_space(vectors, Metric(metric))
    own = np.arange(0, len(x), 5)
    queries = find_truth(vectors, space, vectors.take(own), own, k)
    sample = space.prepare(x.copy(), 0, "x") @ space.axes.T.astype(np.float32)
    tell: list[str] = []
    return Search(
        vectors, space, queries, sample, recall=recall, rerank=rerank, seed=0, tell=tell.append
    )


@given(st.integers(1, 3000))
def test_grid(most: int) -> None:
    grid = grid_of(most)
    assert grid == sorted(set(grid))
    assert (grid[0], grid[-1]) == (1, most)
    assert all(b - a == 1 or b <= a * 1.126 for a, b in pairwise(grid))


@given(st.integers(1, 40), st.integers(0, 40))
def test_a_bracket_finds_the_smallest_that_passes(size: int, first: int) -> None:
    bracket = _Bracket(grid=list(range(10, 10 + size)))
    tried = []
    while (k := bracket.propose()) is not None:
        assert k not in tried
        tried.append(k)
        bracket.learn(k, k - 10 >= first)
    assert bracket.high == (first if first < size else None)
    assert len(tried) <= 2 + size.bit_length()


def test_planted_low_rank_is_found() -> None:
    """Vectors in 7 of 40 dimensions: with 7 components recall is 1, with fewer it is not."""
    found = search(low_rank(600, 40, 7), recall=1.0)
    trial = found.fewest_bytes([CODECS["float32"]], np.inf)
    assert trial is not None
    assert trial.k == 7
    assert trial.recall.value == 1
    failed = {t.k for t in found.trials if not t.reaches}
    assert 6 in failed


@pytest.mark.parametrize("rerank", [1, 3])
def test_no_codec_and_number_has_fewer_bytes(rerank: int) -> None:
    x = low_rank(700, 24, 24) * np.exp(-np.arange(24) / 6).astype(np.float32)
    names = ["float32", "float16", "sq8", "sq6", "sq4"]
    codecs = [CODECS[name] for name in names]
    found = search(x, recall=0.9, rerank=rerank)
    best = found.fewest_bytes(codecs, np.inf)
    every = search(x, recall=0.9, rerank=rerank)
    trials = [every._try(codec, k) for codec in codecs for k in grid_of(24)]
    cheapest = min((t for t in trials if t.reaches), key=lambda t: t.bytes)
    assert best is not None
    assert (best.codec.name, best.k) == (cheapest.codec.name, cheapest.k)
    assert len(found.trials) < len(trials) / 3


def test_what_failed_with_more_bits_is_not_tried_with_fewer() -> None:
    found = search(low_rank(700, 24, 24), recall=1.0)
    best = found.fewest_bytes([CODECS[n] for n in ("float32", "sq8", "sq6", "sq4")], np.inf)
    assert best is not None
    assert best.codec.name == "float32"
    assert {t.codec.name for t in found.trials} == {"float32", "sq8"}


def test_what_rules_out_what() -> None:
    """A product quantizer has a quarter of a bit more for its cells, and what spreading gains."""
    even = search(low_rank(700, 24, 24), recall=1.0)
    failed = {name: even._try(CODECS[name], 20) for name in ("sq8", "sq4", "tq2")}
    assert not any(trial.reaches for trial in failed.values())
    for trial, codec, ruled_out in (
        ("sq4", "tq3", True),
        ("sq4", "sq6", False),
        ("sq4", "pq4", False),
        ("sq8", "pq4", True),
        ("tq2", "pq2", False),
    ):
        assert even._rules_out(failed[trial], CODECS[codec]) is ruled_out
    steep = search(low_rank(700, 24, 24) @ np.diag(4.0 ** -np.arange(24)).astype("f4"), recall=1.0)
    assert not steep._rules_out(steep._try(CODECS["sq8"], 10), CODECS["pq4"])


def test_within_too_few_bytes_nothing_reaches_and_the_best_is_said() -> None:
    found = search(low_rank(700, 24, 24), recall=0.99)
    codecs = [CODECS[n] for n in ("float32", "sq8", "sq4")]
    assert found.fewest_bytes(codecs, at_most=6.0) is None
    best = found.best_within(codecs, 6.0)
    assert best is not None
    assert best.bytes <= 6
    assert best.recall.value < 0.99
