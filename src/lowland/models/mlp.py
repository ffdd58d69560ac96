"""A fully connected network."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn


class MLP(nn.Sequential):
    """Flatten, `depth` hidden layers of `width` ReLU units, linear head.

    The children are `flatten`, `block1`, `block2`, ... (outputs after the ReLU), and `head`
    (logits).
    """

    def __init__(self, inputs: int, classes: int, *, width: int, depth: int = 2) -> None:
        sizes = [inputs, *[width] * depth]
        hidden = {
            f"block{number}": nn.Sequential(nn.Linear(before, width), nn.ReLU())
            for number, before in enumerate(sizes[:-1], start=1)
        }
        super().__init__(
            OrderedDict(flatten=nn.Flatten(), **hidden, head=nn.Linear(sizes[-1], classes))
        )
