"""One evaluation of a network in training: a row of its history.

Columns (blocks, centres and variances as the recipe names them):

    SPLIT/loss, SPLIT/error           mean cross-entropy and share misclassified, on train (the
                                      first `rank_examples` images), validation and test (all)
    weight-norm                       Euclidean norm of all parameters
    rank/SPLIT/BLOCK/CENTER/VARIANCE  feature rank on train and test (first `rank_examples` each);
                                      "train-as-test": on as many of train, where test has fewer
    active-units/SPLIT/BLOCK          units above 5% of the largest value, the same examples
    knn-trained/SPLIT/BLOCK           validation and test images (first `rank_examples` each) among
                                      train images, by the features of BLOCK: share misclassified
    knn-transfer/SPLIT/BLOCK          the same for the classes left out of training
    knn-transfer-I/SPLIT/BLOCK        the same for data set I (from 1) of `transfer_data`
    sharpness/one-step                L(w + ρg/‖g‖) - L(w) on train, in batches of the training
                                      size, ρ = `sharpness_rho`

Every evaluation has losses, errors, norm, the ranks of `rank_block` on train in the first centring,
and its neighbours among the classes left out. The first and the last have all ranks and active
units; the last alone has neighbours among the classes trained on, and sharpness.
All images are unaugmented and normalised with the training set's statistics.
The network is in evaluation mode and in its own precision, without autocast.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lowland.core.records import Measurement
from lowland.core.selection import match_names
from lowland.data import ImageData, Split, batches
from lowland.measure import (
    active_units,
    capture,
    feature_rank,
    knn_error,
    mean_loss,
    one_step_sharpness,
    weight_norm,
)
from lowland.models import block_names
from lowland.train.history import Row
from lowland.train.plan import NEIGHBORS, Plan

BATCH = 512
"""Images per forward pass; larger ones leave a processor's caches."""

TOGETHER = 2**30
"""Bytes of features that one pass over a split catches; blocks that have more take several."""


@dataclass(frozen=True, eq=False)
class Inputs:
    """The batches of a split in its own order, as often as asked for."""

    data: ImageData
    split: Split
    dtype: torch.dtype
    batch_size: int = BATCH

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for images, labels in batches(self.split, batch_size=self.batch_size):
            yield self.data.normalise(images).to(self.dtype), labels


class Evaluator:
    """Measures the network of a plan.

    Attributes:
        row: values of the last evaluation by column.
        definitions: what every column measured so far means, in words.
    """

    def __init__(self, plan: Plan, module: nn.Module) -> None:
        self._recipe, self._data, self._module = plan.recipe, plan.data, module
        names = block_names(module)
        self._curve_blocks = match_names(plan.recipe.rank_block, names)
        self._all_blocks = match_names(f"{plan.recipe.rank_block},{plan.recipe.rank_blocks}", names)
        self._dtype = next(module.parameters()).dtype
        n = plan.recipe.rank_examples
        self._trained = {name: first(split, n) for name, split in plan.data.splits.items()}
        self._transfer: dict[str, dict[str, Split]] = {}
        if plan.transfer is not None:
            self._transfer["transfer"] = {
                name: first(s, n) for name, s in plan.transfer.splits.items()
            }
        for number, other in enumerate(plan.others, start=1):
            self._transfer[f"transfer-{number}"] = {
                name: first(s, n) for name, s in other.splits.items()
            }
        self._bytes: dict[str, int] = {}
        self.row: Row = {}
        self.definitions: dict[str, str] = {}

    def __call__(self, *, start: bool = False, end: bool = False) -> Row:
        """A new row: what every evaluation has, and what `start` or `end` has beside it.

        A network whose loss is not finite has losses, errors and norm alone.
        """
        self.row = {}
        for name, split in {**self._data.splits, "train": self._trained["train"]}.items():
            self._measure_loss(name, split)
        self._put("weight-norm", weight_norm(self._module))
        if not self.finite:
            return self.row
        train = {"train": self._trained["train"]}
        if not (start or end):
            for block, features in self._features(train, self._curve_blocks):
                self._measure_rank("train", block, features["train"], self._recipe.centers[:1])
        else:
            both = {**train, "test": self._trained["test"]}
            for block, features in self._features(both, self._all_blocks):
                self._measure_block(block, features)
        for kind, splits in self._transfer.items():
            self._measure_neighbors(kind, splits)
        if end:
            self._measure_neighbors("trained", self._trained)
            self._measure_sharpness()
        return self.row

    @property
    def finite(self) -> bool:
        """Whether the last evaluation found finite losses."""
        return all(math.isfinite(self.row[f"{name}/loss"] or 0.0) for name in self._data.splits)

    def _put(self, column: str, measured: Measurement) -> None:
        self.row[column] = measured.value
        self.definitions[column] = measured.definition

    def _inputs(self, split: Split, batch_size: int = BATCH) -> Inputs:
        return Inputs(self._data, split, self._dtype, batch_size)

    def _features(
        self, splits: Mapping[str, Split], blocks: Sequence[str]
    ) -> Iterator[tuple[str, dict[str, Tensor]]]:
        """Block after block its features on each split.

        One pass over a split catches as many blocks as `TOGETHER` has room for, and at least one.
        """
        most = max(map(len, splits.values()))
        for group in self._groups(most, blocks):
            caught = {name: self._catch(split, group) for name, split in splits.items()}
            for block in group:
                yield block, {name: features.pop(block) for name, features in caught.items()}

    def _groups(self, images: int, blocks: Sequence[str]) -> list[list[str]]:
        """Consecutive blocks whose features on so many images are caught together."""
        if len(blocks) > 1 and not self._bytes:  # learned from two images
            few = self._catch(first(self._trained["train"], 2), self._all_blocks)
            self._bytes = {name: f.shape[1] * f.itemsize for name, f in few.items()}
        groups: list[list[str]] = []
        room = 0
        for block in blocks:
            need = images * self._bytes.get(block, 0)
            if not groups or need > room:
                groups.append([])
                room = TOGETHER
            groups[-1].append(block)
            room -= need
        return groups

    def _catch(self, split: Split, blocks: Sequence[str]) -> dict[str, Tensor]:
        device = str(split.images.device)  # ranks of large features are worth the GPU's while
        return capture(self._module, self._inputs(split), ",".join(blocks), device=device)

    def _measure_loss(self, name: str, split: Split) -> None:
        measured = mean_loss(self._module, per_example, self._inputs(split))
        self._put(f"{name}/loss", measured)
        self.row[f"{name}/error"] = measured.error
        self.definitions[f"{name}/error"] = "share of examples misclassified, in eval mode"

    def _measure_rank(
        self, name: str, block: str, features: Tensor, centers: tuple[str, ...]
    ) -> None:
        for center in centers:
            measured = feature_rank(features, self._recipe.variances, center)
            for variance, rank in measured.ranks.items():
                column = f"rank/{name}/{block}/{center}/{variance:g}"
                self.row[column] = rank
                self.definitions[column] = measured.definition

    def _measure_block(self, block: str, features: Mapping[str, Tensor]) -> None:
        for name, caught in features.items():
            self._measure_rank(name, block, caught, self._recipe.centers)
            fewer = len(self._trained["test"])
            if name == "train" and fewer < len(caught):  # the rank depends on how many there are
                self._measure_rank("train-as-test", block, caught[:fewer], self._recipe.centers)
            self._put(f"active-units/{name}/{block}", active_units(caught))

    def _measure_neighbors(self, kind: str, splits: Mapping[str, Split]) -> None:
        for block, features in self._features(splits, self._curve_blocks):
            for name in list(features)[1:]:
                measured = knn_error(
                    features["train"],
                    splits["train"].labels,
                    features[name],
                    splits[name].labels,
                    k=NEIGHBORS,
                )
                self._put(f"knn-{kind}/{name}/{block}", measured)

    def _measure_sharpness(self) -> None:
        inputs = self._inputs(self._trained["train"], self._recipe.batch_size)
        rho = self._recipe.sharpness_rho
        measured = one_step_sharpness(self._module, per_example, inputs, rho=rho)
        self._put("sharpness/one-step", measured)


def first(split: Split, n: int) -> Split:
    """The first `n` rows of a split, or all."""
    return split.select(slice(n))


def per_example(outputs: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of every example, in float32 at least."""
    wide = outputs.float() if outputs.dtype.itemsize < 4 else outputs
    return cross_entropy(wide, labels, reduction="none")
