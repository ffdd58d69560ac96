"""The networks of the study: sizes, label noise, weight decay and masks, and their group names."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

Hidden = tuple[int, ...]
"""Units of each hidden layer."""

RANDOM, SNIP = "random", "snip"
MASKS = {RANDOM: "random layer-local masks", SNIP: "SNIP masks"}


@dataclass(frozen=True, kw_only=True)
class Arm:
    """Networks of one kind, trained at ρ = 0 and every other ρ.

    Attributes:
        hidden: units of the hidden layers.
        noise: share of wrong training labels.
        decay: with the weight decay that regularises, in place of the usual one.
        mask: of `MASKS`; empty for dense networks.
        sparsity: share of the kernels that is masked.
    """

    hidden: Hidden
    noise: float = 0.0
    decay: bool = False
    mask: str = ""
    sparsity: float = 0.0

    @property
    def group(self) -> str:
        """Its name in the results."""
        words = [
            f"mlp {shown(self.hidden)}",
            f"label noise {self.noise:g}" if self.noise else "",
            "weight decay" if self.decay else "",
            f"{self.mask} mask {self.sparsity:g}" if self.mask else "",
        ]
        return ", ".join(word for word in words if word)


def shown(hidden: Hidden) -> str:
    """Hidden layers in words.

    >>> shown((300, 100))
    '300-100'
    """
    return "-".join(map(str, hidden))


def scaled(hidden: Hidden, factor: float) -> Hidden:
    """Every layer times a factor, one unit at least.

    >>> scaled((300, 100), 0.25)
    (75, 25)
    """
    return tuple(max(1, round(units * factor)) for units in hidden)


def kernel_entries(inputs: int, hidden: Hidden, classes: int) -> int:
    """Entries of all kernels of a fully connected network.

    >>> kernel_entries(64, (200, 200), 10)
    54800
    """
    sizes = (inputs, *hidden, classes)
    return sum(a * b for a, b in itertools.pairwise(sizes))


def parameters(inputs: int, hidden: Hidden, classes: int) -> int:
    """Kernel entries and biases.

    >>> parameters(64, (200, 200), 10)
    55210
    """
    return kernel_entries(inputs, hidden, classes) + sum(hidden) + classes


def twin(inputs: int, hidden: Hidden, classes: int, sparsity: float) -> Hidden:
    """The dense network of the same shape with as many kernel entries as a mask leaves of this one.

    The one with the nearest number among all with layers in the same proportion.

    >>> [twin(64, (200, 200), 10, s) for s in (0.5, 0.8, 0.9, 0.95)]
    [(133, 133), (74, 74), (46, 46), (27, 27)]
    """
    active = (1 - sparsity) * kernel_entries(inputs, hidden, classes)
    smaller = [scaled(hidden, units / hidden[0]) for units in range(1, hidden[0] + 1)]
    return min(smaller, key=lambda h: abs(kernel_entries(inputs, h, classes) - active))


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What the claims read.

    Attributes:
        inputs, classes: of the data.
        validation: validation images.
        sizes: the dense networks, ascending.
        noises: shares of wrong labels, 0 first.
        regularised: the networks that are trained with more weight decay too, ascending.
        sparsities: of the masks on the largest network.
        radii: every ρ > 0 of the dense grid on clean labels, ascending.
        sparse_radii: those of masked networks.
    """

    inputs: int
    classes: int
    validation: int
    sizes: Sequence[Hidden]
    noises: Sequence[float]
    regularised: Sequence[Hidden]
    sparsities: Sequence[float]
    radii: Sequence[float]
    sparse_radii: Sequence[float]

    @property
    def widest(self) -> Hidden:
        """The largest network."""
        return self.sizes[-1]

    def count(self, hidden: Hidden) -> int:
        """Its parameters."""
        return parameters(self.inputs, hidden, self.classes)

    def dense(self, noise: float, *, decay: bool = False) -> list[tuple[int, str]]:
        """Parameters and group of every dense network."""
        sizes = self.regularised if decay else self.sizes
        return [(self.count(h), Arm(hidden=h, noise=noise, decay=decay).group) for h in sizes]

    def extra(self, hidden: Hidden) -> str:
        """The group of further plain solutions of a network."""
        return f"{Arm(hidden=hidden).group}, solutions"

    def active(self, sparsity: float) -> int:
        """Parameters of the largest network that a mask leaves."""
        entries = kernel_entries(self.inputs, self.widest, self.classes)
        return self.count(self.widest) - entries + round((1 - sparsity) * entries)

    def twin(self, sparsity: float) -> Hidden:
        """The dense network of as many active kernel entries."""
        return twin(self.inputs, self.widest, self.classes, sparsity)
