"""All captions of a split as tensors, from which one is drawn for every image of a batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lowland.data.pairs import Captions


@dataclass(frozen=True, eq=False)
class Texts:
    """What the text tower is called with, for each caption of each image.

    Attributes:
        tensors: for all captions, in the order of the images: tokens and which of them are there,
            or the features of an encoder that is not trained.
        start: (n,) place of each image's first caption.
        count: (n,) how many it has.
    """

    tensors: tuple[Tensor, ...]
    start: Tensor
    count: Tensor

    def first(self, rows: Tensor) -> tuple[Tensor, ...]:
        """The first caption of these images."""
        return self._at(self.start[rows])

    def drawn(self, rows: Tensor, draws: torch.Generator) -> tuple[Tensor, ...]:
        """One caption of each of these images, uniformly among its own; `draws` is on the CPU."""
        shares = torch.rand(len(rows), generator=draws, dtype=torch.float64)
        count = self.count[rows]
        chosen = (shares.to(count.device) * count).long().clamp(max=count - 1)
        return self._at(self.start[rows] + chosen)

    def to(self, device: str) -> Texts:
        """The same on `device`."""
        tensors = tuple(tensor.to(device) for tensor in self.tensors)
        return Texts(tensors, self.start.to(device), self.count.to(device))

    def _at(self, places: Tensor) -> tuple[Tensor, ...]:
        return tuple(tensor[places] for tensor in self.tensors)


def listed(captions: Captions, form: str, *, only_first: bool = False) -> list[str]:
    """All captions one behind the other, as the tokenizer gets them.

    Args:
        captions: of each image.
        form: "plain", or "published": as Python prints the bytes of a text.
        only_first: the first of each image alone.
    """
    chosen = [text for texts in captions for text in (texts[:1] if only_first else texts)]
    return [str(text.encode()) for text in chosen] if form == "published" else chosen


def places(captions: Captions, *, only_first: bool = False) -> tuple[Tensor, Tensor]:
    """Place of each image's first caption in `listed`, and how many it has."""
    count = torch.tensor([1 if only_first else len(texts) for texts in captions])
    return count.cumsum(0) - count, count
