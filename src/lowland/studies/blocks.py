"""The block of a network whose features a study judges."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

from lowland.core.errors import InputError
from lowland.core.selection import match_names

if TYPE_CHECKING:
    from lowland.data import ImageData
    from lowland.train import Recipe


def names_of_blocks(recipe: Recipe, data: ImageData) -> list[str]:
    """All blocks of the recipe's network, in order."""
    import torch

    from lowland.models import block_names, create

    with torch.random.fork_rng(devices=[]):
        narrow = create(
            recipe.model, shape=data.shape, classes=data.classes, width=1, depth=recipe.depth
        )
        return block_names(narrow)


def judged_block(recipe: Recipe, data: ImageData, *, chosen: bool) -> str:
    """The one that `rank_block` names if it was chosen, or the last superblock but one.

    Neural collapse takes the rank of the last one down to the number of classes.

    Raises:
        InputError: what was chosen is not one block.
    """
    names = names_of_blocks(recipe, data)
    if chosen:
        judged = match_names(recipe.rank_block, names)
        if len(judged) > 1:
            raise InputError(
                f"rank_block={recipe.rank_block} matches {len(judged)} blocks: name one"
            )
        return judged[0]
    superblocks = [name for name in names if name.startswith("block")]
    return superblocks[max(len(superblocks) - 2, 0)]


def number_after(depth: int, share: Fraction) -> int:
    """The number of the block, from 1, after which `share` of `depth` blocks have run.

    Raises:
        InputError: that is no whole number.

    >>> number_after(12, Fraction(3, 4))
    9
    """
    number = depth * share
    if number.denominator != 1 or number < 1:
        raise InputError(
            f"a network of {depth} blocks has no block after {share} of them: choose one whose "
            f"number of blocks is a multiple of {share.denominator}"
        )
    return int(number)
