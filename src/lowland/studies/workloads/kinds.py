"""The workloads: what each is, how wide its networks are, how they are trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lowland.core.errors import InputError, unknown

TRAIN_LOSS, TRAIN_ERROR = "train/loss", "train/error"
VALIDATION_ERROR, VALIDATION_LOSS = "validation/error", "validation/loss"
TEST_ERROR = "test/error"


@dataclass(frozen=True, kw_only=True)
class Workload:
    """Networks of one kind on one kind of data.

    Attributes:
        name: short name, with which its groups begin.
        title: for tables and figures.
        does: what its networks do, as the end of a sentence.
        width: what the width is.
        widths: at the default size.
        lr, weight_decay, epochs, batch_size: of the training in stacks. They were chosen on seeds
            from 1000 on, so that the widest networks fit their training examples; those of captions
            so that errors are low after few epochs, with no weight decay, which raises them.
        images: to train on at most, or None for all.
        together: seeds that are computed together, as many as take half a minute.
        published: the setting in the paper, or that there is none at hand.
    """

    name: str
    title: str
    does: str
    width: str
    widths: tuple[int, ...]
    lr: float
    epochs: int
    batch_size: int = 48
    weight_decay: float = 5e-4
    images: int | None = None
    together: int = 10
    published: str = "LSTM, SST-2 and width are named, without numbers"

    @property
    def of_captions(self) -> bool:
        """Whether it needs texts in place of images."""
        return self.name == "captions"


WORKLOADS: Mapping[str, Workload] = {
    workload.name: workload
    for workload in (
        Workload(
            name="lstm",
            title="LSTM",
            does="an LSTM reads images row by row",
            width="units of the state",
            widths=(6, 10, 18, 32),
            lr=0.4,
            epochs=32,
        ),
        Workload(
            name="gcn",
            title="graph network",
            does="two graph convolutions on the nearest-neighbour graph of all images, ten of a "
            "class labelled",
            width="hidden units of a node",
            widths=(12, 24, 48, 96),
            lr=0.1,
            epochs=100,
            batch_size=1_000_000,
            published="a graph network is named, without numbers",
        ),
        Workload(
            name="vit",
            title="ViT",
            does="a vision transformer of two blocks on four patches",
            width="size of a token",
            widths=(8, 12, 16, 24),
            lr=0.05,
            epochs=24,
            published="ViT on CIFAR-10, width; numbers not at hand",
        ),
        Workload(
            name="resnet",
            title="residual network",
            does="a residual network of two blocks without normalisation",
            width="channels of the first block",
            widths=(4, 6, 8, 16),
            lr=0.1,
            epochs=24,
            published="ResNet-18 on CIFAR-10, base filters 64 times a factor; numbers not at hand",
        ),
        Workload(
            name="captions",
            title="LSTM on captions",
            does="an LSTM guesses every next word of captions",
            width="units of embedding and state",
            widths=(8, 16, 32, 64),
            lr=3.0,
            weight_decay=0.0,
            epochs=12,
            batch_size=32,
            images=300,
            together=2,
        ),
    )
}
"""All of them by name. Reinforcement learning has none: there are no data of it here."""


def chosen(names: str | None, *, captions: bool) -> list[Workload]:
    """The workloads of a list of names, or all that fit the data.

    Args:
        names: as ``lstm,vit``; None for all that fit.
        captions: whether the data are captions, or images.

    Raises:
        InputError: an unknown name, or a workload on the wrong kind of data.
    """
    fitting = [one for one in WORKLOADS.values() if one.of_captions == captions]
    if names is None:
        return fitting
    asked = list(dict.fromkeys(part.strip() for part in names.split(",") if part.strip()))
    if not asked:
        raise InputError(f"workloads is empty: name some of {', '.join(w.name for w in fitting)}")
    for name in asked:
        if name not in WORKLOADS:
            raise unknown("workload", name, WORKLOADS)
        if WORKLOADS[name] not in fitting:
            needed = "captions:FILE.parquet" if WORKLOADS[name].of_captions else "images"
            raise InputError(f"workload {name} needs other data: use --data {needed}")
    return [WORKLOADS[name] for name in asked]


def group(workload: Workload, width: int) -> str:
    """The group of the runs of one width."""
    return f"{workload.name}/{width}"


def whole_numbers(key: str, text: str, *, least: int = 1) -> tuple[int, ...]:
    """Numbers of a setting, as ``4,8,16``.

    Raises:
        InputError: something else is in it, or a number below `least`.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or not all(part.isdecimal() for part in parts):
        raise InputError(f"--set {key}={text}: give whole numbers, as {key}=8")
    numbers = tuple(sorted({int(part) for part in parts}))
    if numbers[0] < least:
        raise InputError(f"--set {key}={text}: {key} must be {least} or more, not {numbers[0]}")
    return numbers


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A workload with its widths as they are run.

    Attributes:
        workload: which.
        parameters: number of parameters by width, ascending.
        judged: examples, or words, that its validation error is a share of.
    """

    workload: Workload
    parameters: Mapping[int, int]
    judged: int

    @property
    def groups(self) -> Sequence[str]:
        """Groups, from the narrowest network to the widest."""
        return [group(self.workload, width) for width in self.parameters]
