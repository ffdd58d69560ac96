"""k-nearest-neighbour error: do the features put examples of one class close together?"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lowland.core.errors import InputError
from lowland.core.records import Measurement
from lowland.measure.features.cosine import TIE, pieces, starts
from lowland.measure.features.labels import whole_labels
from lowland.measure.features.matrices import as_matrix

STEPS = round(1 / TIE)
"""Cosine similarities are compared in steps of 1/`STEPS`: closer ones are ties."""

WORD = 2**62
"""Room in a whole number for step and place together; past 2 million examples steps get wider."""


@dataclass(frozen=True, kw_only=True)
class NeighborError(Measurement):
    """The share of queries that their nearest neighbours misclassify (`uncertainty`: binomial).

    Attributes:
        k: neighbours that vote.
        reference_size: number of reference examples; `n` is the number of queries.
        dimension: number of features.
    """

    k: int
    reference_size: int
    dimension: int


def knn_error(
    reference: Any,
    reference_labels: Any,
    queries: Any,
    query_labels: Any,
    *,
    k: int = 10,
) -> NeighborError:
    """The share of queries whose k nearest reference examples vote for a wrong label.

    Distance is 1 - cosine similarity of the raw (uncentred) features, flattened per example; a
    zero vector has similarity 0 with everything. Every neighbour has one vote; of labels with
    equally many the smallest wins; of equally near examples (within 1e-12) the first ones count.
    This is the transfer error of arXiv 2305.16292, there with k = 10. The result does not depend
    on how the work is split. The standard error is √(e(1 - e)/n) over n queries.

    Args:
        reference: (r, …) features, any real type.
        reference_labels: (r,) integers.
        queries: (q, …) features of the same shape per example.
        query_labels: (q,) integers; labels that the reference lacks count as errors.
        k: neighbours, at most r.

    Cost: r·q·d multiply-adds in float64; memory beside the features for 2^22 similarities and two
    pieces of 2^24 features, however many examples there are.

    Raises:
        InputError: sizes that do not fit, labels that are not integers, k outside [1, r].

    >>> knn_error([[1.0, 0.0], [0.0, 1.0]], [0, 1], [[2.0, 0.1], [3.0, 0.0]], [0, 1], k=1).value
    0.5
    """
    start = time.perf_counter()
    known = as_matrix(reference, "reference")
    asked = as_matrix(queries, "queries").to(known.device)
    known_labels = whole_labels(reference_labels, len(known), "reference_labels").to(known.device)
    asked_labels = whole_labels(query_labels, len(asked), "query_labels").to(known.device)
    _check(known, asked, k)
    classes, votes = torch.unique(known_labels, return_inverse=True)
    wrong = 0
    step, block = pieces(len(asked), len(known), known.shape[1])
    for begin, part in starts(asked, step):
        votes_of = votes[_nearest(part, known, block, k)]
        truth = asked_labels[begin : begin + len(part)]
        wrong += int((classes[_winners(votes_of, len(classes))] != truth).sum())
    error = wrong / len(asked)
    return NeighborError(
        name="knn_error",
        value=error,
        definition=(
            f"error of the majority of the {k} nearest by cosine distance of raw features; "
            "ties of the vote go to the smallest label"
        ),
        n=len(asked),
        dtype="float64",
        seconds=time.perf_counter() - start,
        uncertainty=math.sqrt(error * (1 - error) / len(asked)),
        k=k,
        reference_size=len(known),
        dimension=known.shape[1],
    )


def _nearest(queries: Tensor, reference: Tensor, block: int, k: int) -> Tensor:
    """Places (q, k) of the nearest of the reference, gone through block by block.

    Order is by whole numbers, similarity step first and place in the reference second. No two are
    equal, so the k smallest are the same ones however the rows were grouped and multiplied.
    """
    size = len(reference)
    best: Tensor | None = None
    for start, part in starts(reference, block):
        similarity = queries @ part.T
        order = ((1.0 - similarity) * min(STEPS, WORD // (3 * size))).round_().long()
        order = order.mul_(size).add_(torch.arange(start, start + len(part), device=order.device))
        order = order if best is None else torch.cat([best, order], dim=1)
        best = order.topk(min(k, order.shape[1]), dim=1, largest=False, sorted=False).values
    assert best is not None  # an empty reference is refused
    return (best % size).to(reference.device)


def _winners(votes: Tensor, classes: int) -> Tensor:
    """The class (its number) with most of the votes (q, k); of equal ones the smallest."""
    counts = votes.new_zeros(len(votes), classes)
    counts.scatter_add_(1, votes, torch.ones_like(votes))
    return counts.argmax(1)  # the first of equal counts


def _check(reference: Tensor, queries: Tensor, k: int) -> None:
    if reference.shape[1] != queries.shape[1]:
        raise InputError(
            f"queries: {queries.shape[1]} features per example, the reference has "
            f"{reference.shape[1]}; take both from the same block"
        )
    if not 1 <= k <= len(reference):
        raise InputError(
            f"k: {k} neighbours of {len(reference)} reference examples; give 1 to {len(reference)}"
        )
