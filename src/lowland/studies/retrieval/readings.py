"""What is read off a trained network: how its features can be searched; `columns` has the names."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lowland.data import ImageData, Split, load
from lowland.measure import capture, feature_rank, knn_error
from lowland.studies.retrieval import columns
from lowland.studies.retrieval.columns import (
    ERRORS,
    FLAT,
    METRIC,
    METRICS,
    NEIGHBORS,
    POOLED,
    RECALL,
    RECALLS,
)
from lowland.studies.retrieval.coordinates import Coordinates, coordinates
from lowland.studies.retrieval.reconstruction import best_for, components_for
from lowland.studies.retrieval.searching import Searches, first
from lowland.train.evaluate import Inputs
from lowland.train.evaluate import first as first_rows

if TYPE_CHECKING:
    from lowland.train import Row
    from lowland.train.reading import Trained


def read(trained: Trained, *, block: str, database: int, queries: int, as_many: int) -> Row:
    """Search the first train images for the neighbours of the first test images.

    Args:
        trained: the trained network.
        block: whose features.
        database: train images that are searched.
        queries: test images.
        as_many: train images for `columns.adaptive`.
    """
    data = trained.data
    splits = [first_rows(data.train, database), first_rows(data.test, queries)]
    x, q = (_features(trained, data, split, block, FLAT) for split in splits)
    spaces = {metric: coordinates(x, q, metric) for metric in METRICS}
    row: Row = {columns.width(): x.shape[1]}
    for where in spaces.values():
        row |= _exact(where, FLAT)
    x_pooled, q_pooled = (_features(trained, data, split, block, POOLED) for split in splits)
    row[columns.width(POOLED)] = x_pooled.shape[1]
    row |= _exact(coordinates(x_pooled, q_pooled, METRIC), POOLED)
    row |= _approximate(spaces[METRIC], trained.recipe.seed)
    row |= _reconstructed(spaces["l2"])
    row[columns.rank()] = spaces["l2"].share(0.99)
    row |= _labels(spaces[METRIC], splits[0], splits[1], "test", spaces["l2"].share(0.99))
    row[columns.adaptive()] = float(feature_rank(x[:as_many]).value)
    return row


def read_rank(trained: Trained, *, block: str, as_many: int) -> Row:
    """The rank alone.

    Args:
        trained: the trained network.
        block: whose features.
        as_many: train images.
    """
    split = first_rows(trained.data.train, as_many)
    features = _features(trained, trained.data, split, block, FLAT)
    return {columns.adaptive(): float(feature_rank(features).value)}


def read_unseen(trained: Trained, *, block: str, labels: tuple[int, ...], database: int) -> Row:
    """Nearest neighbours among images of classes that the network was not trained on.

    Args:
        trained: the trained network.
        block: whose features.
        labels: the classes.
        database: train images of these classes that are searched.
    """
    data = load(trained.recipe.data, labels=labels, held_out=trained.recipe.held_out).to(
        trained.device
    )
    known = first_rows(data.train, database)
    x = _features(trained, data, known, block, FLAT)
    row: Row = {}
    for name in ("validation", "test"):
        split = data.splits[name]
        q = _features(trained, data, split, block, FLAT)
        where, centred = (coordinates(x, q, metric) for metric in METRICS)
        row |= _labels(where, known, split, name, centred.share(0.99))
        if name == "test":
            row |= _exact(where, FLAT)
    return row


def _features(trained: Trained, data: ImageData, split: Split, block: str, how: str) -> Tensor:
    """Features (n, d) of images, normalised as the network's own images are."""
    dtype = next(trained.module.parameters()).dtype
    images = Inputs(_normalised_as(data, trained.data), split, dtype)
    spatial = "flatten" if how == FLAT else "mean"
    caught = capture(trained.module, images, block, spatial=spatial, device="model")
    return caught[block]


def _normalised_as(data: ImageData, other: ImageData) -> ImageData:
    return dataclasses.replace(data, mean=other.mean, std=other.std)


def _exact(where: Coordinates, features: str) -> Row:
    """Components that exact search needs, and for the judged features the whole curve."""
    search = Searches(where)
    row: Row = {
        columns.dimensions(recall, metric=where.metric, features=features): search.crossing(
            search.exact, recall
        )
        for recall in RECALLS
    }
    if features == FLAT:
        row |= {columns.curve(k, where.metric): search.exact(k) for k in search.grid}
    return row


def _approximate(where: Coordinates, seed: int) -> Row:
    """Bits by quantizer, and operations through inverted lists."""
    search = Searches(where, seed=seed)
    row: Row = {}
    for recall in RECALLS:
        found = []
        for codec in search.codecs():
            k = search.crossing(lambda k, c=codec: search.coded(c, k), recall, codec.step)  # type: ignore[misc]
            found.append(None if k is None else k * codec.bits)
            row[columns.bits(recall, codec.name)] = found[-1]
        row[columns.bits(recall)] = first(found)
    # half of what may be lost is left to the lists
    k = search.crossing(search.exact, (1 + RECALL) / 2)
    if k is not None:
        comparing = search.operations(round(k), RECALL)
        row[columns.comparing()] = comparing
        turning = round(k) * where.width
        row[columns.operations()] = None if comparing is None else turning + comparing
    return row


def _reconstructed(where: Coordinates) -> Row:
    row: Row = {}
    for error in ERRORS:
        row[columns.components(error)] = components_for(where, error)
        best = best_for(where, error)
        row[columns.tokens(error)] = None if best is None else best[0] * best[1]
        row[columns.best_bits(error)] = None if best is None else best[1]
    return row


def _labels(where: Coordinates, known: Split, asked: Split, name: str, k: int) -> Row:
    """Error of the nearest neighbours' vote, by all components and by the first k."""

    def error(dims: int) -> float:
        x, q = (torch.from_numpy(rows[:, :dims]) for rows in (where.database, where.queries))
        labels = known.labels.cpu(), asked.labels.cpu()
        return float(knn_error(x, labels[0], q, labels[1], k=NEIGHBORS).value)

    k = min(k, where.rank)
    return {columns.knn(name): error(where.rank), columns.knn(name, dims="rank"): error(k)}
