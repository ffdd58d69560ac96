"""Two towers into one space: images and texts, and the loss that makes pairs meet there."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from lowland.core.errors import InputError
from lowland.models.tokens import start


class Embeddings(NamedTuple):
    """What a batch of pairs becomes on its way, images and texts (b, ·) each.

    Attributes:
        features: what the encoders give.
        projected: what the heads make of it, d numbers each.
        normalised: that divided by its length.
    """

    features: tuple[Tensor, Tensor]
    projected: tuple[Tensor, Tensor]
    normalised: tuple[Tensor, Tensor]


class TwoTowers(nn.Module):
    """Encoders of images and texts, each with a linear head, and embeddings of length one.

    With a bottleneck h the matrix of each head is a product W = UV through h numbers, without
    anything between: the rank of what it gives is at most h (about its mean; the bias is behind).
    Heads start Xavier-uniform, U and V each for itself, with zero biases.

    Args:
        image: images -> (b, d₁).
        text: what it is called with -> (b, d₂); `nn.Identity` where the texts are features already,
            as of an encoder that is not trained.
        widths: d₁ and d₂.
        dimension: d, of the common space.
        bottleneck: h, or None for plain heads.
    """

    def __init__(
        self,
        image: nn.Module,
        text: nn.Module,
        *,
        widths: tuple[int, int],
        dimension: int,
        bottleneck: int | None = None,
    ) -> None:
        super().__init__()
        self.image = image
        self.text = text
        self.image_head = linear_head(widths[0], dimension, bottleneck)
        self.text_head = linear_head(widths[1], dimension, bottleneck)

    def forward(self, images: Tensor, *texts: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised embeddings of images and of texts."""
        return self.embed(images, *texts).normalised

    def embed(self, images: Tensor, *texts: Tensor) -> Embeddings:
        """Everything on the way there."""
        features = self.image(images), self.text(*texts)
        projected = self.image_head(features[0]), self.text_head(features[1])
        first, second = (normalize(part, dim=1) for part in projected)
        return Embeddings(features, projected, (first, second))


def linear_head(width: int, dimension: int, bottleneck: int | None) -> nn.Module:
    """A linear map with bias, through `bottleneck` numbers if there is one.

    Raises:
        InputError: a size below 1.
    """
    for name, size in (("dimension", dimension), ("bottleneck", bottleneck)):
        if size is not None and size < 1:
            raise InputError(f"{name} must be 1 or more, not {size}")
    if bottleneck is None:
        head = nn.Linear(width, dimension)
        start(head)
        return head
    narrow = nn.Linear(width, bottleneck, bias=False)
    widen = nn.Linear(bottleneck, dimension)
    nn.init.xavier_uniform_(narrow.weight)
    start(widen)
    return nn.Sequential(narrow, widen)


def info_nce(images: Tensor, texts: Tensor, temperature: float) -> Tensor:
    """InfoNCE: the mean of the cross-entropies of finding the text of an image, and the reverse.

    With s_ij = ⟨x_i, y_j⟩ / T the loss is
    -1/(2b) Σ_i [log softmax_j(s_ij)_i + log softmax_j(s_ji)_i].

    Args:
        images, texts: embeddings (b, d) of length one; pair i is row i of both.
        temperature: T.

    >>> import math
    >>> loss = info_nce(torch.eye(2), torch.eye(2), 1.0)
    >>> math.isclose(float(loss), math.log(1 + math.exp(-1)), rel_tol=1e-6)
    True
    """
    scores = images @ texts.T / temperature
    own = torch.arange(len(scores), device=scores.device)
    return (cross_entropy(scores, own) + cross_entropy(scores.T, own)) / 2
