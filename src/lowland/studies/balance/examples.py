"""The examples of annotated data as the study uses them: ready to be seen by a network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from lowland.core.errors import InputError
from lowland.data import ImageData, Split, decorrelated

HARD, EASY = "hard", "easy"


@dataclass(frozen=True)
class Part:
    """Some examples.

    Attributes:
        x: (n, c, h, w), normalised.
        y: (n,) labels.
        notes: what the ``hard`` and the ``easy`` feature show, each (n,).
    """

    x: Tensor
    y: Tensor
    notes: Mapping[str, Tensor]

    def __len__(self) -> int:
        return len(self.y)

    def select(self, rows: Tensor) -> Part:
        """These rows."""
        notes = {name: values[rows] for name, values in self.notes.items()}
        return Part(self.x[rows], self.y[rows], notes)

    @property
    def groups(self) -> Tensor:
        """(n,) number of the joint value of both features."""
        easy = self.notes[EASY]
        return self.notes[HARD] * (int(easy.max()) + 1) + easy


@dataclass(frozen=True)
class Annotated:
    """Data with a hard and an easy feature.

    Attributes:
        train: what is trained on.
        validation: distributed as `train`.
        test: every joint value of the features equally often, where the data are made so.
        probing: for fitting probes: every joint value equally often (`lowland.data.decorrelated`).
        classes: number of labels.
    """

    train: Part
    validation: Part
    test: Part
    probing: Part
    classes: int


def annotated(data: ImageData) -> Annotated:
    """The splits, normalised, and examples to fit probes to.

    Which annotation is the hard feature and which the easy one the data say themselves
    (``source["core"]`` and ``source["spurious"]``).

    Args:
        data: annotated images.

    Raises:
        InputError: the data do not say which annotation is which, or a joint value has none.
    """
    names = feature_names(data)
    return Annotated(
        **{name: _part(data, split, names) for name, split in data.splits.items()},
        probing=_part(data, decorrelated(data), names),
        classes=data.classes,
    )


def feature_names(data: ImageData) -> dict[str, str]:
    """The annotations of the hard and the easy feature.

    Raises:
        InputError: the data name none.
    """
    try:
        return {HARD: data.source["core"], EASY: data.source["spurious"]}
    except KeyError:
        raise InputError(
            f"{data.name} is not annotated with a hard and a simple feature: use digit-dominoes, "
            "cifar-mnist-dominoes:..., domains:PATH,spurious=A+B,classes=C+D, waterbirds:FOLDER or "
            "celeba:FOLDER,..."
        ) from None


def _part(data: ImageData, split: Split, names: Mapping[str, str]) -> Part:
    notes = {feature: split.annotations[name] for feature, name in names.items()}
    return Part(data.normalise(split.images), split.labels, notes)
