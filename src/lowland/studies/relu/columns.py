"""What the study of ReLUs measures: columns of the histories of its runs."""

from __future__ import annotations

from dataclasses import dataclass

MAIN = "main"
TRAIN_LOSS = "train/loss"
TEST_ERROR = "test/error"
EXAMPLES = (0.0, 0.01, 0.05, 0.1)
"""A unit is active on more than this share of the examples; 0 is on at least one."""
KEPT = (0.25, 0.5, 0.75, 0.9)
"""Shares of the units of a block that are kept at random, to see what pruning alone does."""


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What the claims are about.

    Attributes:
        blocks: names of the superblocks, in order.
        units: number of units of each.
    """

    blocks: tuple[str, ...]
    units: tuple[int, ...]

    @property
    def later(self) -> tuple[str, ...]:
        """The second half of the superblocks."""
        return self.blocks[len(self.blocks) // 2 :]

    @property
    def earlier(self) -> tuple[str, ...]:
        """The first half."""
        return self.blocks[: len(self.blocks) // 2]

    def one_unit(self, blocks: tuple[str, ...]) -> float:
        """The smallest step of the mean active share over these blocks."""
        return 1 / (len(blocks) * max(self.units[self.blocks.index(b)] for b in blocks))


def rank(block: str, *, center: str = "unit", split: str = "train") -> str:
    """Column of the recipe: the feature rank at 99% of the variance."""
    return f"rank/{split}/{block}/{center}/0.99"


def active(block: str, examples: float = 0.0, *, of: str = "end") -> str:
    """Share of ReLUs above 5% of the largest value on more than `examples` of all train images."""
    return f"{of}/active/{block}/{examples:g}"


def channels(block: str) -> str:
    """Share of channels with such a ReLU at any position."""
    return f"end/active-channels/{block}"


def values(block: str) -> str:
    """Share of values, over units and examples, above that threshold."""
    return f"end/active-values/{block}"


def curve(block: str, evaluation: int) -> str:
    """The active share at an evaluation, on the examples that ranks are measured on."""
    return f"curve/active/{block}/{evaluation}"


def kept(block: str, share: float) -> str:
    """The rank of a random subset of so large a share of the units; plain training alone."""
    return f"end/rank-kept/{block}/{share:g}"
