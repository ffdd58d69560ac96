"""Retrieval error: does an image find its caption among all, and a caption its image?"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lowland.core.errors import InputError, unknown
from lowland.core.records import Measurement
from lowland.measure.features.cosine import TIE, directions, pieces, starts
from lowland.measure.features.matrices import as_matrix

Among = Literal["all", "batches"]
AMONG: tuple[Among, ...] = get_args(Among)

Misses = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class RetrievalError(Measurement):
    """Error@k both ways; `value` is their mean, `n` the number of images that were queries.

    Attributes:
        image_to_text: share of images whose k nearest captions hold none of theirs.
        text_to_image: share of captions whose k nearest images do not hold theirs.
        image_to_text_uncertainty: standard error, over images.
        text_to_image_uncertainty: standard error, over images, each with all its captions.
        k: how many are looked at.
        by_k: k -> (image to text, text to image), for all that were asked for.
        captions: number of captions.
        among: "all" or "batches".
        dimension: number of features.
    """

    image_to_text: float
    text_to_image: float
    image_to_text_uncertainty: float
    text_to_image_uncertainty: float
    k: int
    by_k: dict[int, tuple[float, float]] = field(hash=False)
    captions: int
    among: str
    dimension: int


def retrieval_error(
    images: Any,
    texts: Any,
    *,
    pairs: Any = None,
    k: int | Sequence[int] = 1,
    among: str = "all",
    batch: int = 128,
) -> RetrievalError:
    """Error@k of retrieval by cosine similarity, from images to texts and from texts to images.

    A query is found if one of its own is among its k nearest; recall@k is 1 - error@k. Similarities
    closer than 1e-12 are ties. Ties stand in random order: a query counts with the chance to be
    found in it, so that features that are all alike give the error of guessing, in any order of
    the data. A zero vector has similarity 0 with everything.

    Args:
        images: (n, …) features.
        texts: (m, …) features of the same size.
        pairs: (m,) for each text the place of its image; None where text i belongs to image i.
            Images without a text are no queries, but are there to be found.
        k: how many are looked at; of several the first gives `value`.
        among: "all": each query looks at the whole other side; "batches": at those of its own
            batch of `batch` consecutive pairs, which is the error of arXiv 2305.16292 (k = 1 and
            batches of 128). Pairs that do not fill a batch are left out, and of ties the first
            counts, as there.
        batch: for among="batches".

    The standard errors are over images, so captions of one image, which are not independent, count
    as one observation; with one caption each it is √(e(1 - e)/n). In `uncertainty` both directions
    of an image count together.

    Cost: n·m·d multiply-adds in float64; memory beside the features for 2^22 similarities and
    two pieces of 2^24 features.

    Raises:
        InputError: sizes that do not fit, a pair without its image, k < 1, no full batch.

    >>> record = retrieval_error([[1.0, 0.0], [0.0, 1.0]], [[2.0, 0.1], [3.0, 0.0]])
    >>> record.image_to_text, record.text_to_image
    (1.0, 0.5)
    """
    start = time.perf_counter()
    if among not in AMONG:
        raise unknown("choice of among", among, AMONG)
    left = as_matrix(images, "images")
    right = as_matrix(texts, "texts").to(left.device)
    if left.shape[1] != right.shape[1]:
        raise InputError(
            f"texts: {right.shape[1]} features per example, images have {left.shape[1]}; take both "
            "after their projections to the shared space"
        )
    owners = _owners(pairs, len(left), len(right))
    ks = _checked_k(k)
    if among == "batches":
        left, right, owners = _full_batches(left, right, pairs, batch)
    if among == "batches":
        searches = [_within_batches(left, right, j, batch) for j in ks]
    else:
        ranks = _Ranks(left, right, owners)
        searches = [ranks.misses(j) for j in ks]
    errors, uncertainties = _summary(*searches[0], owners)
    where = "all" if among == "all" else f"its batch of {batch}"
    return RetrievalError(
        name="retrieval_error",
        value=(errors[0] + errors[1]) / 2,
        definition=(
            f"mean of image-to-text and text-to-image error@{ks[0]} by cosine similarity, each "
            f"query among {where}; ties: " + ("by chance" if among == "all" else "the first")
        ),
        n=len(np.unique(owners)),
        dtype="float64",
        seconds=time.perf_counter() - start,
        uncertainty=uncertainties[2],
        image_to_text=errors[0],
        text_to_image=errors[1],
        image_to_text_uncertainty=uncertainties[0],
        text_to_image_uncertainty=uncertainties[1],
        k=ks[0],
        by_k={j: _summary(*s, owners)[0] for j, s in zip(ks, searches, strict=True)},
        captions=len(right),
        among=among,
        dimension=left.shape[1],
    )


def _owners(pairs: Any, images: int, texts: int) -> npt.NDArray[np.int64]:
    """For each text the place of its image."""
    if pairs is None:
        if images != texts:
            raise InputError(f"pairs: {images} images and {texts} texts; say which belong together")
        return np.arange(texts)
    array = pairs.detach().cpu().numpy() if isinstance(pairs, Tensor) else np.asarray(pairs)
    if array.shape != (texts,) or array.dtype.kind not in "iu":
        raise InputError(f"pairs: give for each of {texts} texts the place of its image, from 0")
    if array.min() < 0 or array.max() >= images:
        raise InputError(f"pairs: places {array.min()} to {array.max()} of {images} images")
    return array.astype(np.int64)


def _checked_k(k: int | Sequence[int]) -> list[int]:
    ks = [k] if isinstance(k, int) else list(k)
    if not ks or min(ks) < 1:
        raise InputError(f"k: {k!r}; give how many of the nearest to look at, 1 or more")
    return ks


def _full_batches(
    left: Tensor, right: Tensor, pairs: Any, batch: int
) -> tuple[Tensor, Tensor, npt.NDArray[np.int64]]:
    if pairs is not None:
        raise InputError("pairs: among='batches' is of one text per image in order; leave them out")
    count = 0 if batch < 1 else len(left) // batch * batch
    if count == 0:
        raise InputError(f"batch: {batch} pairs of {len(left)}; give a batch that can be filled")
    return left[:count], right[:count], np.arange(count)


def _within_batches(left: Tensor, right: Tensor, k: int, batch: int) -> tuple[Misses, Misses]:
    """1 for each image, and for each text, whose own is not found in its batch."""
    images, texts = [], []
    for a, b in zip(torch.split(left, batch), torch.split(right, batch), strict=True):
        similarity = directions(a) @ directions(b).T
        images.append(_first_misses(similarity, k))
        texts.append(_first_misses(similarity.T, k))
    return np.concatenate(images), np.concatenate(texts)


def _first_misses(similarity: Tensor, k: int) -> Misses:
    """1 where column i is not among the k first of row i; of ties the first columns are first."""
    beyond = similarity - similarity.diagonal()[:, None]
    earlier = torch.ones_like(beyond, dtype=torch.bool).tril(-1)
    before = (beyond > TIE) | ((beyond >= -TIE) & earlier)
    misses: Misses = (before.sum(1) >= k).double().cpu().numpy()
    return misses


class _Ranks:
    """For every query: how many of the other side are nearer than its own nearest, and as near.

    Attributes:
        images: of the images that have texts: counts (nearer, as near, of those its own).
        texts: the same of every text, whose own is one image.
    """

    def __init__(self, left: Tensor, right: Tensor, owners: npt.NDArray[np.int64]) -> None:
        of_texts = torch.from_numpy(owners).to(left.device)
        own = _similarity_of_pairs(left, right, of_texts)
        best = own.new_full((len(left),), -torch.inf)
        best.scatter_reduce_(0, of_texts.to(own.device), own, "amax")
        nearer = torch.zeros(2, len(left), dtype=torch.long, device=own.device)
        nearer_texts = torch.zeros(2, len(right), dtype=torch.long, device=own.device)
        step, block = pieces(len(left), len(right), left.shape[1])
        for i, part in starts(left, step):
            rows = best[i : i + len(part), None]
            for j, other in starts(right, block):
                similarity = part @ other.T
                columns = own[j : j + len(other)]
                for at, shift in enumerate((TIE, -TIE)):
                    nearer[at, i : i + len(part)] += (similarity > rows + shift).sum(1)
                    nearer_texts[at, j : j + len(other)] += (similarity > columns + shift).sum(0)
        asked = torch.unique(of_texts).to(own.device)
        level = own >= best[of_texts.to(own.device)] - TIE
        mine = torch.zeros(len(left), dtype=torch.long, device=own.device)
        mine.scatter_add_(0, of_texts.to(own.device), level.long())
        self.images = _counts(nearer[:, asked], mine[asked])
        self.texts = _counts(nearer_texts, torch.ones_like(nearer_texts[0]))

    def misses(self, k: int) -> tuple[Misses, Misses]:
        """The chance of every image, and of every text, that its own are not among the first k."""
        return _chance_to_miss(self.images, k), _chance_to_miss(self.texts, k)


def _similarity_of_pairs(left: Tensor, right: Tensor, of_texts: Tensor) -> Tensor:
    """(m,) cosine similarity of every text with its own image."""
    step, _ = pieces(len(right), 1, right.shape[1])
    parts = [
        (directions(left[of_texts[j : j + step]]) * texts).sum(1)
        for j, texts in starts(right, step)
    ]
    return torch.cat(parts)


def _counts(nearer: Tensor, own: Tensor) -> npt.NDArray[np.int64]:
    """(3, q): nearer, as near, and of those its own (at least what is as near as itself)."""
    level = torch.maximum(nearer[1] - nearer[0], own)
    counts: npt.NDArray[np.int64] = torch.stack([nearer[0], level, own]).cpu().numpy()
    return counts


def _chance_to_miss(counts: npt.NDArray[np.int64], k: int) -> Misses:
    """Of t others at one distance, in random order after g nearer ones, c are right: the chance
    that none of those is among the first k, C(t - c, s) / C(t, s) with s places left for them."""
    chances: Misses = np.asarray(counts[0] >= k, dtype=np.float64)
    for place in np.flatnonzero((counts[0] < k) & (counts[1] > counts[2])):
        g, t, c = (int(number) for number in counts[:, place])
        s = min(k - g, t)
        chances[place] = math.comb(t - c, s) / math.comb(t, s)
    return chances


def _summary(
    images: Misses, texts: Misses, owners: npt.NDArray[np.int64]
) -> tuple[tuple[float, float], tuple[float, float, float]]:
    """Both errors, and the standard errors of each and of their mean."""
    errors = float(images.mean()), float(texts.mean())
    _, places = np.unique(owners, return_inverse=True)
    of_images = (images - errors[0]) / len(images)
    of_texts = np.bincount(places, texts - errors[1], minlength=len(images)) / len(texts)
    parts = (of_images, of_texts, (of_images + of_texts) / 2)
    spread = tuple(math.sqrt(float(np.square(part).sum())) for part in parts)
    return errors, (spread[0], spread[1], spread[2])
