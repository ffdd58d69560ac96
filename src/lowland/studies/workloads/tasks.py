"""What the networks of a workload are trained on and measured by."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lowland.core.errors import InputError
from lowland.data import ImageData, Pairs, Split, load, places
from lowland.data.split import stratified
from lowland.models.vit import ViT
from lowland.studies.workloads.graph import (
    GraphNetwork,
    Neighbourhood,
    neighbour_graph,
    normalised,
)
from lowland.studies.workloads.lstm import LanguageModel, RowReader
from lowland.studies.workloads.residual import SmallResidual
from lowland.studies.workloads.texts import (
    CAPTIONS,
    Texts,
    as_texts,
    common_words,
    read_captions,
    word_losses,
)
from lowland.train.stack import Stack

HELD_OUT = 0.8
"""Share of the images not kept for the test that is validation: little to train on, much to judge
by, so that networks of a few thousand parameters fit all and errors have fine steps."""

MOST_JUDGED = 2_000
"""Images of a split that errors are taken on, at most."""

NEIGHBOURS, LABELLED = 5, 10
"""Of the graph: neighbours of a node, labelled nodes of a class."""

LONGEST = 16
"""Words of a caption, at most; what goes beyond is left out."""

MOST_CAPTIONS = 500
"""Captions of a split that errors are taken on, at most."""

NUMBERS_AT_ONCE = 2**24
"""Logits of captions that are held at a time."""

Loss = Callable[[Tensor, Tensor], Tensor]


class Task(Protocol):
    """Examples and measurements.

    Attributes:
        inputs, labels: training examples, as `lowland.train.stack.train` takes them.
        loss: of a batch, or None for cross-entropy of logits and labels.
        judged: examples, or words, that the validation error is a share of.
    """

    inputs: Tensor
    labels: Tensor
    judged: int

    @property
    def loss(self) -> Loss | None:
        """See above."""

    def make(self, width: int) -> nn.Module:
        """A network, initialised from torch's global generator."""

    def measure(self, stack: Stack) -> dict[str, Tensor]:
        """Columns ``SPLIT/loss`` and ``SPLIT/error``, (K,) each."""


class ImageTask:
    """Classify images.

    Args:
        data: the images.
        build: (shape, classes, width) -> network.
    """

    loss: Loss | None = None

    def __init__(
        self, data: ImageData, build: Callable[[tuple[int, int, int], int, int], nn.Module]
    ) -> None:
        self._data, self._build = data, build
        self._judged = {
            name: (data.normalise(split.images), split.labels)
            for name, split in judged(data).items()
        }
        self.inputs, self.labels = data.normalise(data.train.images), data.train.labels
        self.judged = len(self._judged["validation"][1])

    def make(self, width: int) -> nn.Module:
        """See `Task.make`."""
        return self._build(self._data.shape, self._data.classes, width)

    def measure(self, stack: Stack) -> dict[str, Tensor]:
        """See `Task.measure`."""
        found: dict[str, Tensor] = {}
        for name, (images, labels) in self._judged.items():
            found |= of_logits(name, stack(images), labels)
        return found


class GraphTask:
    """Classify the nodes of a graph of images, of which a few of train have labels.

    Every image of every split is a node: what is learned may see all inputs, but the labels of
    the labelled nodes alone. A batch is all of those.
    """

    loss: Loss | None = None

    def __init__(self, data: ImageData) -> None:
        splits = judged(data)
        points = torch.cat([split.images.flatten(1) for split in splits.values()])
        mixing = normalised(neighbour_graph(points, NEIGHBOURS))
        features = torch.cat([data.normalise(s.images).flatten(1) for s in splits.values()])
        rows = torch.split(torch.arange(len(points)), [len(split) for split in splits.values()])
        labels = splits["train"].labels
        count = min(LABELLED * data.classes, len(labels))
        self.nodes = stratified(labels, count, name=data.name)
        self.inputs, self.labels = torch.arange(count), labels[self.nodes]
        self._asked = {"train": self.nodes, "validation": rows[1], "test": rows[2]}
        self._wanted = {
            name: self.labels if name == "train" else split.labels for name, split in splits.items()
        }
        self._near = {
            name: Neighbourhood.of(mixing, features, asked) for name, asked in self._asked.items()
        }
        self._classes = data.classes
        self.judged = len(splits["validation"])

    def make(self, width: int) -> nn.Module:
        """See `Task.make`."""
        return GraphNetwork(self._near["train"], self._classes, width=width)

    def measure(self, stack: Stack) -> dict[str, Tensor]:
        """See `Task.measure`."""
        width = stack.parameters["second"].shape[1]
        found: dict[str, Tensor] = {}
        for name, near in self._near.items():
            seen = Stack([GraphNetwork(near, self._classes, width=width)])
            seen.parameters = stack.parameters  # the same networks, asked about other nodes
            labels = self._wanted[name]
            found |= of_logits(name, seen(torch.arange(len(labels))), labels)
        return found


class CaptionTask:
    """Guess every next word of captions of images; no image is in two splits.

    The loss of a caption is the sum over its words, divided by the mean number of words of all, so
    that every word counts alike.
    """

    def __init__(self, data: Pairs, words: int) -> None:
        vocabulary = common_words(data.train, words)
        self._words = len(vocabulary)
        self._train = as_texts(data.train.captions, vocabulary, LONGEST)
        self._judged = {
            name: _first(as_texts(split.captions, vocabulary, LONGEST), MOST_CAPTIONS)
            for name, split in data.splits.items()
        }
        self._mean = float(self._train.asked.sum()) / len(self._train)
        self.inputs, self.labels = self._train.given, torch.arange(len(self._train))
        self.judged = int(self._judged["validation"].asked.sum())

    def loss(self, logits: Tensor, rows: Tensor) -> Tensor:
        """(k, b) from logits (k, b, t, words) and the numbers of the texts."""
        return word_losses(logits, self._train, rows).sum(-1) / self._mean

    def make(self, width: int) -> nn.Module:
        """See `Task.make`."""
        return LanguageModel(self._words, width=width)

    def measure(self, stack: Stack) -> dict[str, Tensor]:
        """See `Task.measure`: losses and errors are means over words."""
        found: dict[str, Tensor] = {}
        for name, texts in self._judged.items():
            length = texts.given.shape[1]
            rows = max(1, NUMBERS_AT_ONCE // (stack.size * length * self._words))
            loss = wrong = torch.zeros(stack.size)
            for part in torch.split(torch.arange(len(texts)), rows):
                logits = stack(texts.given[part])
                everyone = part.expand(stack.size, -1)
                loss = loss + word_losses(logits, texts, everyone).sum((1, 2))
                missed = logits.argmax(-1) != texts.wanted[part]
                wrong = wrong + (missed & texts.asked[part]).sum((1, 2))
            total = texts.asked.sum()
            found |= {f"{name}/loss": loss / total, f"{name}/error": wrong / total}
        return found


def judged(data: ImageData) -> dict[str, Split]:
    """The splits, each with at most `MOST_JUDGED` images, class shares kept."""
    return {
        name: split
        if len(split) <= MOST_JUDGED
        else split.select(stratified(split.labels, MOST_JUDGED, name=data.name))
        for name, split in data.splits.items()
    }


def of_logits(name: str, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Mean cross-entropy and share of errors of each network, from logits (K, n, classes)."""
    size, n, _ = logits.shape
    losses = cross_entropy(logits.flatten(0, 1), labels.repeat(size), reduction="none")
    wrong = logits.argmax(2) != labels
    return {
        f"{name}/loss": losses.view(size, n).mean(1),
        f"{name}/error": wrong.to(logits.dtype).mean(1),
    }


def _first(texts: Texts, most: int) -> Texts:
    return Texts(texts.tokens[:most], texts.asked[:most])


def _row_reader(shape: tuple[int, int, int], classes: int, width: int) -> nn.Module:
    return RowReader(shape[0], shape[2], classes, width=width)


def _residual(shape: tuple[int, int, int], classes: int, width: int) -> nn.Module:
    return SmallResidual(shape[0], classes, width=width)


def _vit(shape: tuple[int, int, int], classes: int, width: int) -> nn.Module:
    if shape[1] != shape[2] or shape[1] % 2:
        raise InputError(
            f"the vit workload cuts images in four squares, got {shape[1]}x{shape[2]}: use square "
            "images of an even side, or leave vit out with --set workloads="
        )
    heads = max(1, width // 8)
    if width % heads:
        raise InputError(
            f"the vit workload has a head for every 8 numbers of a token, and {heads} heads do not "
            f"divide {width}: use widths below 16, or multiples of 8"
        )
    size = {"size": shape[1], "patch": shape[1] // 2}
    return ViT(shape[0], classes, **size, width=width, depth=2, heads=heads, hidden=2 * width)


_OF_IMAGES: Mapping[str, Callable[[ImageData], Task]] = {
    "lstm": functools.partial(ImageTask, build=_row_reader),
    "gcn": GraphTask,
    "vit": functools.partial(ImageTask, build=_vit),
    "resnet": functools.partial(ImageTask, build=_residual),
}


def files(data: str) -> tuple[str, ...]:
    """The files and folders in the name of the data."""
    if not data.startswith(CAPTIONS):
        return places(data)
    path = data.removeprefix(CAPTIONS).rpartition(":")[2]
    return () if path == "digits-captions" or ":hf:" in data else (path,)


def read_images(name: str, *, limit: int | None) -> ImageData:
    """Images with few of them to train on; see `HELD_OUT`."""
    return load(name, held_out=HELD_OUT, limit=limit)


def open_task(
    workload: str,
    data: str,
    *,
    limit: int | None,
    words: int,
    columns: Mapping[str, str] | None = None,
) -> tuple[Task, str]:
    """The task of a workload on some data, and the fingerprint of those.

    Args:
        workload: its name.
        data: images, or captions.
        limit: images to train on, at most; None for all.
        words: of the vocabulary of captions.
        columns: of captions, as `read_captions` takes them.

    Raises:
        InputError: the data cannot be read or do not fit.
    """
    if workload == "captions":
        pairs = read_captions(data, limit=limit, columns=columns)
        return CaptionTask(pairs, words), pairs.fingerprint
    images = read_images(data, limit=limit)
    return _OF_IMAGES[workload](images), images.fingerprint
