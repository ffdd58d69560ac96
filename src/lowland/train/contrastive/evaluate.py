"""One evaluation of two towers in training: a row of the history.

Columns, with SPLIT train (the first `rank_examples` pairs), validation or test (all of them for
losses and errors, as many as of train for ranks):

    SPLIT/loss                            mean InfoNCE over whole batches, in the order of the data
    SPLIT/image-to-text, .../text-to-image
                                          share of images whose own text is not the nearest in its
                                          batch, and of texts likewise
    SPLIT/error                           mean of the two
    SPLIT/all/image-to-text, ...          the same among all pairs of the split
    rank/SPLIT/TOWER/PLACE/CENTER/VARIANCE
                                          feature rank of TOWER image or text at PLACE: features
                                          (what the encoder gives), projected (behind the head),
                                          normalised (divided by its length); train and test
    weight-norm                           of all trained parameters

Every evaluation has losses, errors and the ranks of normalised features in the first centring; the
first and the last have all ranks. Always with each image's first caption, in evaluation mode and in
the towers' own precision, without autocast.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lowland.data import Pairs
from lowland.measure import feature_rank, retrieval_error, weight_norm
from lowland.models import TwoTowers, info_nce
from lowland.train.contrastive.images import ImageTower
from lowland.train.contrastive.recipe import ContrastiveRecipe
from lowland.train.contrastive.texts import Texts
from lowland.train.history import Row

CHUNK = 256
"""Pairs per forward pass."""

TOWERS = ("image", "text")
PLACES = ("features", "projected", "normalised")
RANKED = ("train", "test")

Embedded = dict[str, tuple[Tensor, Tensor]]
"""Place -> features of images and of texts."""


class PairEvaluator:
    """Measures the towers of a plan.

    Attributes:
        row: values of the last evaluation by column.
        definitions: what every column measured so far means, in words.
    """

    def __init__(
        self,
        recipe: ContrastiveRecipe,
        module: TwoTowers,
        images: ImageTower,
        data: Pairs,
        texts: dict[str, Texts],
    ) -> None:
        self._recipe, self._module, self._images = recipe, module, images
        self._data, self._texts = data, texts
        self._sizes = {name: len(split) for name, split in data.splits.items()}
        self._sizes["train"] = min(self._sizes["train"], recipe.rank_examples)
        self._ranked = min(self._sizes[name] for name in RANKED)
        self.row: Row = {}
        self.definitions: dict[str, str] = {}

    def __call__(self, *, start: bool = False, end: bool = False) -> Row:
        """A new row; towers whose loss is not finite have losses and norm alone."""
        self.row = {}
        norm = weight_norm(self._module)
        self.row["weight-norm"], self.definitions["weight-norm"] = norm.value, norm.definition
        found = {name: self._embedded(name) for name in self._sizes}
        for name, embedded in found.items():
            self._measure_loss(name, embedded)
        if not self.finite:
            return self.row
        for name, embedded in found.items():
            self._measure_errors(name, embedded)
        for name in RANKED:
            for place in PLACES if start or end else PLACES[-1:]:
                centers = self._recipe.centers if start or end else self._recipe.centers[:1]
                self._measure_ranks(name, place, found[name][place], centers)
        return self.row

    @property
    def finite(self) -> bool:
        """Whether the last evaluation found finite losses."""
        return all(math.isfinite(self.row[f"{name}/loss"] or 0.0) for name in self._sizes)

    def _embedded(self, name: str) -> Embedded:
        """All features of a split, float32, on the CPU."""
        split, texts = self._data.splits[name], self._texts[name]
        training = self._module.training
        dtype = next(self._module.parameters()).dtype
        parts: dict[str, tuple[list[Tensor], list[Tensor]]] = {p: ([], []) for p in PLACES}
        self._module.eval()
        with torch.no_grad():
            for i in range(0, self._sizes[name], CHUNK):
                rows = torch.arange(i, min(i + CHUNK, self._sizes[name]))
                rows = rows.to(split.images.device)
                inputs = self._images.inputs(split.images[rows], self._data.largest).to(dtype)
                called = [t.to(dtype) if t.is_floating_point() else t for t in texts.first(rows)]
                made = self._module.embed(inputs, *called)
                for place in PLACES:
                    for kept, part in zip(parts[place], getattr(made, place), strict=True):
                        kept.append(part.float().cpu())
        self._module.train(training)
        return {place: (torch.cat(a), torch.cat(b)) for place, (a, b) in parts.items()}

    def _measure_loss(self, name: str, embedded: Embedded) -> None:
        size = self._recipe.batch_size
        pairs = zip(*(torch.split(part, size) for part in embedded["normalised"]), strict=True)
        losses = [
            float(info_nce(a.double(), b.double(), self._recipe.temperature))
            for a, b in pairs
            if len(a) == size
        ]
        self.row[f"{name}/loss"] = math.fsum(losses) / len(losses)
        self.definitions[f"{name}/loss"] = (
            f"mean InfoNCE over whole batches of {size} pairs in the order of the data, first "
            "captions, in eval mode"
        )

    def _measure_errors(self, name: str, embedded: Embedded) -> None:
        images, texts = embedded["normalised"]
        inside = retrieval_error(images, texts, among="batches", batch=self._recipe.batch_size)
        among_all = retrieval_error(images, texts)
        for prefix, found in ((name, inside), (f"{name}/all", among_all)):
            self.row[f"{prefix}/image-to-text"] = found.image_to_text
            self.row[f"{prefix}/text-to-image"] = found.text_to_image
            for way in ("image-to-text", "text-to-image"):
                self.definitions[f"{prefix}/{way}"] = f"{way} part of: {found.definition}"
        self.row[f"{name}/error"] = inside.value
        self.definitions[f"{name}/error"] = inside.definition

    def _measure_ranks(
        self, name: str, place: str, pair: tuple[Tensor, Tensor], centers: tuple[str, ...]
    ) -> None:
        for tower, features in zip(TOWERS, pair, strict=True):
            for center in centers:
                found = feature_rank(features[: self._ranked], self._recipe.variances, center)
                for variance, rank in found.ranks.items():
                    column = f"rank/{name}/{tower}/{place}/{center}/{variance:g}"
                    self.row[column] = rank
                    self.definitions[column] = found.definition
