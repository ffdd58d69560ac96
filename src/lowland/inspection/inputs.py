"""Batches of a network's inputs, as often as instruments ask for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from lowland.core.errors import InputError
from lowland.data import Examples
from lowland.inspection.subject import Subject

KEPT = 2**31
"""Inputs of up to so many bytes are kept after the first pass instead of being made again."""


class Inputs:
    """The batches of examples for one network, in their order, readable many times.

    Yields pairs (inputs, labels), or inputs alone where there are no labels. Texts of one length
    are not padded; others are, with an attention mask.

    Args:
        subject: whose inputs are made.
        examples: what they are made of.
        batch_size: examples per batch; the last one may be smaller.
        dtype: floating-point type of images.
        tell: called with the number of batches given so far in this pass, after each.
    """

    def __init__(
        self,
        subject: Subject,
        examples: Examples,
        batch_size: int,
        *,
        dtype: torch.dtype = torch.float32,
        tell: Callable[[int], None] = lambda done: None,
    ) -> None:
        self._subject, self._examples, self._size = subject, examples, batch_size
        self._dtype, self._tell = dtype, tell
        self._kept: dict[int, Any] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return -(-self._examples.n // self._size)

    def __iter__(self) -> Iterator[Any]:
        with ThreadPoolExecutor() as pool:
            for number in range(len(self)):
                places = range(
                    number * self._size, min((number + 1) * self._size, self._examples.n)
                )
                inputs = self._inputs(number, places, pool)
                self._tell(number + 1)
                labels = self._examples.labels
                if labels is None:
                    yield inputs
                else:
                    yield inputs, labels[places.start : places.stop]

    def _inputs(self, number: int, places: range, pool: ThreadPoolExecutor) -> Any:
        if number in self._kept:
            return self._kept[number]
        made: Any
        if self._subject.encode is not None:
            made = self._subject.encode([self._examples.read(place) for place in places])
        else:
            made = _stacked(list(pool.map(self._image, places))).to(self._dtype)
        parts = made.values() if isinstance(made, dict) else [made]
        self._bytes += sum(part.numel() * part.element_size() for part in parts)
        if self._bytes <= KEPT:
            self._kept[number] = made
        return made

    def _image(self, place: int) -> Tensor:
        assert self._subject.preprocessing is not None  # checked before anything is measured
        return self._subject.preprocessing(self._examples.read(place), self._examples.largest)


def _stacked(images: list[Tensor]) -> Tensor:
    shapes = {tuple(image.shape) for image in images}
    if len(shapes) > 1:
        one, other = sorted(shapes)[:2]
        if len({shape[0] for shape in shapes}) > 1:
            raise InputError(
                "some images are grey, others colour: give --mean and --std with one number for "
                "each channel of the network (the grey ones are repeated)"
            )
        raise InputError(f"images are of several sizes, {one} and {other}: give --size")
    return torch.stack(images)
