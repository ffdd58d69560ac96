"""Table 1 of the paper: ten public networks, and the ranks that were published for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

STANDARD, SAM = "standard", "sam"
TRAININGS = (STANDARD, SAM)
LAST, THREE_QUARTERS, HALF = Fraction(1), Fraction(3, 4), Fraction(1, 2)
SHARES = (LAST, THREE_QUARTERS, HALF)
"""After which shares of the blocks the paper says that it measured."""
RELEASED = {THREE_QUARTERS: Fraction(2, 3), HALF: Fraction(1, 3)}
"""And after which the released commands measure, for the same rows: blocks 16 and 8 of 24."""
EXAMPLES = 12_800
"""Images of the published ranks."""


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A column of the table.

    Attributes:
        name: as the paper has it; its second "ViT-L/16" is taken to be ViT-L/32.
        file: name of the checkpoints of both trainings, without ``.npz``.
        ranks: (standard, SAM) by share of the blocks.
    """

    name: str
    file: str
    ranks: Mapping[Fraction, tuple[int, int]]

    @property
    def token(self) -> str:
        """What stands for an image: the class token of a ViT, a Mixer's mean token."""
        return "mean" if self.file.startswith("Mixer") else "class"


def _ranks(
    last: tuple[int, int], three_quarters: tuple[int, int], half: tuple[int, int]
) -> Mapping[Fraction, tuple[int, int]]:
    return {LAST: last, THREE_QUARTERS: three_quarters, HALF: half}


ARCHITECTURES = (
    Architecture(
        name="ViT-B/16", file="ViT-B_16", ranks=_ranks((680, 617), (467, 426), (412, 346))
    ),
    Architecture(
        name="ViT-B/32", file="ViT-B_32", ranks=_ranks((672, 654), (484, 440), (390, 362))
    ),
    Architecture(
        name="ViT-L/16", file="ViT-L_16", ranks=_ranks((903, 820), (595, 314), (387, 250))
    ),
    Architecture(
        name="ViT-L/32", file="ViT-L_32", ranks=_ranks((898, 844), (595, 442), (469, 318))
    ),
    Architecture(
        name="Mixer-B/16", file="Mixer-B_16", ranks=_ranks((695, 620), (301, 477), (425, 369))
    ),
)
MIXER = len(ARCHITECTURES) - 1
"""Place of the Mixer."""
FOLDERS: Mapping[str, tuple[str, ...]] = {
    STANDARD: ("standard", "imagenet21k+imagenet2012", "imagenet1k"),
    SAM: ("sam",),
}
"""Folders that checkpoints of a training are looked for in: ours, and the names of the buckets."""
