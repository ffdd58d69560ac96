"""What the study of transformer blocks measures: groups of runs, and columns of their histories."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from lowland.studies.blocks import number_after

VIT, MIXER = "vit", "mixer"
STREAMS = ("before-attention", "after-attention", "after-mlp")
"""Places in the residual stream of a block."""
BRANCHES = ("attention-branch", "before-activation", "after-activation", "mlp-branch")
"""Places in what a block adds to it."""
TOKENS = {VIT: "class", MIXER: "mean"}
"""What stands for an example: the class token of a ViT, the mean token of a Mixer."""
OTHER_TOKENS = {VIT: "mean", MIXER: "class"}
"""What is shown beside it. The first token of a Mixer is that of the top left patch."""
SHARES = {"the last": Fraction(1), "3/4 of": Fraction(3, 4), "1/2 of": Fraction(1, 2)}
"""After how many of the blocks the paper's table reports the rank."""
MATRICES = {VIT: ("attention", "mlp"), MIXER: ("tokens", "channels")}
"""Modules of a block whose weight matrices have ranks."""
GELU_SHARES = (0.1, 0.05)
"""A GELU is active above so much of the largest value: published, and the rule for ReLUs."""
SPARSE = 0.05
"""A coordinate whose values stay below so much of the largest one is sparse."""
CENTERS = {"unit": "", "example": "published centring"}

TRAIN_LOSS = "train/loss"
TEST_ERROR = "test/error"
POOL = "pool"
POOL_RANK = f"rank/train/{POOL}/unit/0.99"
"""Column of the trained recipe: the rank of what the head is given, in every evaluation."""


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What the claims are about.

    Attributes:
        blocks: names of the blocks of each group's network, in order.
        width: size of the ViT's tokens, a quarter of the number of GELUs in each of its blocks.
    """

    blocks: Mapping[str, tuple[str, ...]]
    width: int = 64

    def after(self, group: str, share: Fraction) -> str:
        """The block after which this share of the blocks have run."""
        names = self.blocks[group]
        return names[number_after(len(names), share) - 1]


def rank(
    block: str,
    place: str,
    token: str,
    *,
    center: str = "unit",
    of: str = "end",
) -> str:
    """Column of a feature rank at 99% of the variance.

    Args:
        block: name of the block.
        place: one of `STREAMS` and `BRANCHES`.
        token: "class" (the first) or "mean".
        center: the centring, as in `lowland.measure.feature_rank`.
        of: "end" for the trained network on train images, "test" for the same on test images,
            "start" for the network at its initialisation on train images.
    """
    return f"{of}/rank/{block}/{place}/{token}/{center}"


def mean_energy(block: str, place: str, token: str) -> str:
    """Column of the share of the energy that the mean example holds."""
    return f"end/mean-energy/{block}/{place}/{token}"


def active(block: str, tokens: str, share: float, *, of: str = "end") -> str:
    """Column of the share of the MLP's GELUs that are active; `tokens` is "class" or "rows"."""
    return f"{of}/active/{block}/{tokens}/{share:g}"


def sparse(block: str, place: str, *, of: str = "end", against: str = "largest") -> str:
    """Column of the share of sparse coordinates of the stream; see `lowland.studies.vit_blocks`."""
    return f"{of}/sparse/{block}/{place}/{against}"


def weights(block: str, matrices: str, what: str, *, of: str = "end") -> str:
    """Column of the mean rank over full rank of a sub-block's matrices: "threshold", "stable"."""
    return f"{of}/weights/{block}/{matrices}/{what}"
